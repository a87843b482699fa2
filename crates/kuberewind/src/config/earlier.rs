//! The values that a cluster's release already has.

use serde_json::Value;

use super::Config;
use super::keys::{KEYS, Key};
use super::listing::yaml;

/// What an earlier `tap`, perhaps of another version, left in the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Earlier {
    /// What differs from this version's defaults.
    pub(super) values: Vec<(&'static str, Value)>,
    /// What this version does not know or cannot use, in words. It is left out.
    pub(crate) dropped: Vec<String>,
}

impl Earlier {
    /// Reads the whole tree, defaults and all. A value that is the default counts as not set: another
    /// version's default would else stay for ever.
    pub(crate) fn read(tree: &Value) -> Self {
        let mut earlier = Self { values: Vec::new(), dropped: unknown("", tree) };
        for key in KEYS {
            let value = key.fields().fold(tree, |tree, name| &tree[name]);
            match shown(key, value) {
                Ok(shown) if shown == key.default() => {}
                Ok(_) => earlier.values.push((key.name, value.clone())),
                Err(why) => {
                    earlier.dropped.push(format!("`{}: {}` ({why})", key.name, yaml(value)));
                }
            }
        }
        earlier
    }
}

/// The value as this version writes it.
fn shown(key: &Key, value: &Value) -> Result<Value, super::setting::Reason> {
    let mut config = Config::default();
    let place = (key.place)(&mut config);
    if !value.is_null() {
        place.read(value)?;
    }
    Ok(place.show())
}

/// Leaves that are no key and stand below none.
fn unknown(path: &str, tree: &Value) -> Vec<String> {
    let is_key = KEYS.iter().any(|key| key.name == path);
    let is_section =
        path.is_empty() || KEYS.iter().any(|key| key.name.starts_with(&format!("{path}.")));
    match tree.as_object() {
        _ if is_key => Vec::new(),
        Some(entries) if is_section => entries
            .iter()
            .flat_map(|(name, tree)| {
                let dot = if path.is_empty() { "" } else { "." };
                unknown(&format!("{path}{dot}{name}"), tree)
            })
            .collect(),
        _ => vec![format!("`{path}` (unknown key)")],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{Effective, Origin, Sources};

    #[test]
    fn what_an_earlier_tap_set_holds_and_its_defaults_do_not() {
        let set = ["tap.regex=^cart,pcapdump.maxSize=2GB,tap.resources.limits.memory="];
        let set = set.map(str::to_owned).to_vec();
        let first = Effective::load(&Sources { set, ..Sources::default() }).unwrap();
        let earlier = Earlier::read(&first.chart_values());
        assert_eq!(earlier.dropped, Vec::<String>::new());
        let names: Vec<_> = earlier.values.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["tap.regex", "tap.resources.limits.memory", "pcapdump.maxSize"]);

        let set = vec!["tap.regex=null".to_owned()];
        let second = Effective::load(&Sources { earlier, set, ..Sources::default() }).unwrap();
        assert_eq!(second.config().tap.regex, None);
        assert_eq!(second.config().tap.resources.limits.memory, None);
        assert_eq!(second.origin("pcapdump.maxSize"), Origin::Earlier);
        assert_eq!(second.tree()["pcapdump"]["maxSize"], "2GB");
    }

    #[test]
    fn what_another_version_left_is_dropped_with_its_name() {
        let tree = json!({
            "tap": { "regex": "a", "colour": "red", "labels": { "team": "net" } },
            "pcapdump": { "maxTime": "1y" },
            "hub": { "port": 1 },
        });
        let earlier = Earlier::read(&tree);
        assert_eq!(earlier.dropped[..2], ["`hub` (unknown key)", "`tap.colour` (unknown key)"]);
        assert!(earlier.dropped[2].starts_with("`pcapdump.maxTime: \"1y\"` (no such unit"));
        let names: Vec<_> = earlier.values.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["tap.regex", "tap.labels"]);
    }
}
