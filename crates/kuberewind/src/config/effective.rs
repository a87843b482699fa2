//! The layers, and what comes out of them.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::Config;
use super::earlier::Earlier;
use super::error::ConfigError;
use super::file::{self, Node};
use super::keys::{KEYS, Key};
use super::listing::yaml;
use super::origin::Origin;
use super::set::{self, Step};

/// Looked for when no file is named: here, then below the home directory.
const FILE_HERE: &str = "kuberewind.yaml";
const FILE_AT_HOME: &str = ".kuberewind/config.yaml";

/// What the user gave; later fields win.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// What an earlier `tap` left in the cluster.
    pub(crate) earlier: Earlier,
    /// `-f`, in order. With none, `kuberewind.yaml` or `~/.kuberewind/config.yaml` is read if there.
    pub(crate) values: Vec<PathBuf>,
    /// `--set`, in order.
    pub(crate) set: Vec<String>,
    /// Flags that stand for a key: the key, the value, the flag's name as it is shown.
    pub(crate) flags: Vec<(&'static str, Value, &'static str)>,
    /// Relative files begin here; empty is the process's own.
    pub(crate) working_dir: PathBuf,
    /// `~`
    pub(crate) home: Option<PathBuf>,
}

impl Sources {
    /// Nothing given yet, in this process's directory, with its user's home.
    pub(crate) fn here() -> Self {
        let home = env::home_dir().filter(|home| !home.as_os_str().is_empty());
        Self { home, ..Self::default() }
    }

    /// The files to read, in order, each with what is in it.
    fn files(&self) -> Result<Vec<(PathBuf, Node)>, ConfigError> {
        if self.values.is_empty() {
            return self.found();
        }
        let named = self.values.iter().map(|path| self.working_dir.join(path));
        named.map(|path| file::read(&path).map(|node| (path, node))).collect()
    }

    /// The first of the usual files that exists.
    fn found(&self) -> Result<Vec<(PathBuf, Node)>, ConfigError> {
        let here = self.working_dir.join(FILE_HERE);
        let at_home = self.home.as_ref().map(|home| home.join(FILE_AT_HOME));
        for path in [Some(here), at_home].into_iter().flatten() {
            match file::read(&path) {
                Ok(node) => return Ok(vec![(path, node)]),
                Err(ConfigError::ReadFile { cause, .. }) if is_absent(&cause) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Vec::new())
    }
}

/// Not there; `HOME=/dev/null` is a usual way to have none.
fn is_absent(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The configuration in force, and where each value came from.
#[derive(Clone, Debug)]
pub(crate) struct Effective {
    given: Given,
    config: Config,
    tree: Value,
}

impl Effective {
    /// Defaults, then what an earlier `tap` left, then files, then `--set`, then flags.
    pub(crate) fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut given = Given::default();
        for (key, value) in &sources.earlier.values {
            given.0.insert(key, (value.clone(), Origin::Earlier));
        }
        for (path, node) in sources.files()? {
            given.take_tree(node, &|line| Origin::File { path: path.clone(), line })?;
            given.read()?;
        }
        for argument in &sources.set {
            given.take_set(argument)?;
        }
        given.read()?;
        for (key, value, flag) in &sources.flags {
            given.take(&path_of(key), value.clone(), Origin::Flag(flag))?;
        }
        given.check()
    }

    /// What an agent is told: values as text, from where `name` says, and flags over them.
    pub(crate) fn of_values(
        name: &str,
        text: &str,
        flags: &[(&'static str, Value, &'static str)],
    ) -> Result<Self, ConfigError> {
        let path = PathBuf::from(name);
        let node = file::parse(text)
            .map_err(|cause| ConfigError::Yaml { path: path.clone(), cause: Box::new(cause) })?;
        let mut given = Given::default();
        given.take_tree(node, &|line| Origin::File { path: path.clone(), line })?;
        for (key, value, flag) in flags {
            given.take(&path_of(key), value.clone(), Origin::Flag(flag))?;
        }
        given.check()
    }

    /// The values of `newer`, but for the keys that are fixed while recording; and of those the ones
    /// that differ.
    pub(crate) fn replaced_by(
        &self,
        newer: &Self,
    ) -> Result<(Self, Vec<&'static str>), ConfigError> {
        let mut given = newer.given.clone();
        let mut differing = Vec::new();
        for key in KEYS.iter().filter(|key| !key.live && self.value(key) != newer.value(key)) {
            differing.push(key.name);
            match self.given.0.get(key.name) {
                Some(kept) => drop(given.0.insert(key.name, kept.clone())),
                None => drop(given.0.remove(key.name)),
            }
        }
        Ok((given.check()?, differing))
    }

    /// What an earlier `tap` left, and nothing else.
    pub(crate) fn of(earlier: &Earlier) -> Result<Self, ConfigError> {
        let earlier = earlier.values.iter();
        let earlier = earlier.map(|(key, value)| (*key, (value.clone(), Origin::Earlier)));
        Given(earlier.collect()).check()
    }

    /// These values with a JSON merge patch (RFC 7396) over them: null takes a key back to its
    /// default. Keys that are fixed while recording may be named, if they keep their value.
    pub(crate) fn with_changes(&self, changes: &Value) -> Result<Self, ConfigError> {
        let mut given = self.given.clone();
        given.take_tree(changes.clone().into(), &|_| Origin::Change)?;
        let after = given.check()?;
        match KEYS.iter().find(|key| !key.live && self.value(key) != after.value(key)) {
            Some(key) => Err(ConfigError::NotLive { key: key.name }),
            None => Ok(after),
        }
    }

    /// The values.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Where the value of this key came from; [`Origin::Default`] too for what is no key.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.given.origin(key)
    }

    /// The values as the tree of a values file: every key, none as null.
    pub(crate) fn tree(&self) -> &Value {
        &self.tree
    }

    /// The values as the chart takes them: none as an empty text, for null would be its default.
    pub(crate) fn chart_values(&self) -> Value {
        let mut values = self.tree.clone();
        none_as_text(&mut values);
        values
    }

    /// `{"values": …, "origins": {"pcapdump.maxTime": "--set", …}}`; `values` alone is a values file.
    pub(crate) fn to_json(&self) -> Value {
        let origins: Map<String, Value> = KEYS
            .iter()
            .map(|key| (key.name.to_owned(), self.origin(key.name).to_string().into()))
            .collect();
        json!({ "values": self.tree, "origins": origins })
    }

    fn value(&self, key: &Key) -> &Value {
        key.fields().fold(&self.tree, |tree, name| &tree[name])
    }
}

/// What [`Effective::to_json`] gave, here or in another process, as a values file that gives these
/// values again, each with its origin as a comment.
pub(crate) fn listing(settings: &Value) -> String {
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    for key in KEYS {
        let fields: Vec<&str> = key.fields().collect();
        let Some((name, sections)) = fields.split_last() else { continue };
        open.truncate(same(&open, sections));
        for section in &sections[open.len()..] {
            let _ = writeln!(text, "{:1$}{section}:", "", 2 * open.len());
            open.push(section);
        }
        let value = yaml(key.fields().fold(&settings["values"], |tree, name| &tree[name]));
        let origin = settings["origins"][key.name].as_str().unwrap_or("unknown");
        let _ = writeln!(text, "{:1$}{name}: {value} # {origin}", "", 2 * open.len());
    }
    text
}

/// How many are the same at the beginning.
fn same(a: &[&str], b: &[&str]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// What was set, by key, not yet read.
#[derive(Clone, Debug, Default)]
struct Given(BTreeMap<&'static str, (Value, Origin)>);

impl Given {
    fn origin(&self, key: &str) -> Origin {
        self.0.get(key).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    fn take_set(&mut self, argument: &str) -> Result<(), ConfigError> {
        let explain = |cause| ConfigError::Set { argument: argument.to_owned(), cause };
        for assignment in set::parse(argument).map_err(explain)? {
            let path = assignment.path;
            let fields = path.iter().take_while(|step| matches!(step, Step::Field(_))).count();
            let (names, indices) = path.split_at(fields);
            match key_at(names) {
                Some(key) if !indices.is_empty() => {
                    let mut list = self.list(key);
                    set::assign(&mut list, indices, assignment.value).map_err(explain)?;
                    self.0.insert(key.name, (list, Origin::Set));
                }
                Some(_) => self.take(names, assignment.value, Origin::Set)?,
                None => self.take(&path, assignment.value, Origin::Set)?,
            }
        }
        Ok(())
    }

    /// What `key[0]=…` adds to.
    fn list(&self, key: &Key) -> Value {
        self.0.get(key.name).map_or_else(|| Value::Array(Vec::new()), |(value, _)| value.clone())
    }

    /// A values file or a patch. Nothing at all is no change.
    fn take_tree(&mut self, node: Node, origin: &dyn Fn(u64) -> Origin) -> Result<(), ConfigError> {
        match node {
            Node::Section(entries) => self.take_entries(&mut Vec::new(), entries, origin),
            Node::Leaf(Value::Null) => Ok(()),
            Node::Leaf(_) => Err(ConfigError::NoKeys { origin: origin(1) }),
        }
    }

    fn take_entries(
        &mut self,
        path: &mut Vec<Step>,
        entries: Vec<file::Entry>,
        origin: &dyn Fn(u64) -> Origin,
    ) -> Result<(), ConfigError> {
        for entry in entries {
            path.push(Step::Field(entry.name));
            match entry.node {
                Node::Section(entries) if key_at(path).is_none() && is_section(path) => {
                    self.take_entries(path, entries, origin)?;
                }
                node => self.take(path, node.into_value(), origin(entry.line))?,
            }
            path.pop();
        }
        Ok(())
    }

    /// One value. Null takes back what was set: a key's value, or all of a section.
    fn take(&mut self, path: &[Step], value: Value, origin: Origin) -> Result<(), ConfigError> {
        if let Some((key, name)) = part_at(path) {
            self.take_parts(key, Map::from_iter([(name.to_owned(), value)]), origin);
            return Ok(());
        }
        if let Some(key) = key_at(path) {
            match value {
                Value::Null => drop(self.0.remove(key.name)),
                Value::Object(parts) if key.is_map() => self.take_parts(key, parts, origin),
                value => drop(self.0.insert(key.name, (value, origin))),
            }
            return Ok(());
        }
        let text = set::path_text(path);
        if !is_section(path) {
            return Err(ConfigError::UnknownKey { key: text, origin });
        }
        if !value.is_null() {
            return Err(ConfigError::SectionIsValue { section: text, origin, value });
        }
        self.0.retain(|name, _| !is_below(name, path));
        Ok(())
    }

    /// Parts of a map that the user names. Null takes one back.
    fn take_parts(&mut self, key: &Key, parts: Map<String, Value>, origin: Origin) {
        let before = self.0.remove(key.name).map(|(value, _)| value);
        let mut map = match before {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        map.extend(parts);
        map.retain(|_, value| !value.is_null());
        if !map.is_empty() {
            self.0.insert(key.name, (Value::Object(map), origin));
        }
    }

    /// Every value, each checked by itself.
    fn read(&self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        for key in KEYS {
            let Some((value, origin)) = self.0.get(key.name) else { continue };
            (key.place)(&mut config).read(value).map_err(|reason| ConfigError::BadValue {
                key: key.name,
                origin: origin.clone(),
                value: value.clone(),
                reason,
            })?;
        }
        Ok(config)
    }

    /// Every value, checked by itself and against the others.
    fn check(self) -> Result<Effective, ConfigError> {
        let config = self.read()?;
        let (interval, max) = (config.pcapdump.time_interval, config.pcapdump.max_time);
        if interval > max {
            return Err(ConfigError::IntervalOverMaxTime {
                interval,
                interval_origin: self.origin("pcapdump.timeInterval"),
                max,
                max_origin: self.origin("pcapdump.maxTime"),
            });
        }
        Ok(Effective { tree: tree(&config), config, given: self })
    }
}

fn none_as_text(tree: &mut Value) {
    match tree {
        Value::Null => *tree = Value::String(String::new()),
        Value::Object(entries) => entries.values_mut().for_each(none_as_text),
        _ => {}
    }
}

fn path_of(name: &str) -> Vec<Step> {
    name.split('.').map(|field| Step::Field(field.to_owned())).collect()
}

fn key_at(path: &[Step]) -> Option<&'static Key> {
    KEYS.iter().find(|key| begins(key, path) && key.fields().count() == path.len())
}

/// The map that the path leads into, and the name of its part.
fn part_at(path: &[Step]) -> Option<(&'static Key, &str)> {
    let (Step::Field(name), above) = path.split_last()? else { return None };
    key_at(above).filter(|key| key.is_map()).map(|key| (key, name.as_str()))
}

fn is_section(path: &[Step]) -> bool {
    KEYS.iter().any(|key| begins(key, path) && key.fields().count() > path.len())
}

fn is_below(name: &str, path: &[Step]) -> bool {
    Key::named(name).is_some_and(|key| begins(key, path))
}

/// Whether the names of `path` are the first ones of the key. Name by name: a file's `"tap.regex"` is
/// one name.
fn begins(key: &Key, path: &[Step]) -> bool {
    let mut fields = key.fields();
    path.iter().all(|step| match step {
        Step::Field(name) => fields.next() == Some(name),
        Step::Index(_) => false,
    })
}

fn tree(config: &Config) -> Value {
    let mut config = config.clone();
    let mut tree = Value::Object(Map::new());
    for key in KEYS {
        let value = (key.place)(&mut config).show();
        *key.fields().fold(&mut tree, |tree, name| &mut tree[name]) = value;
    }
    tree
}
