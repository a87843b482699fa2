//! What `tap` would install: settings, rules and objects, before anything is changed.

use kuberewind_cluster::ClusterError;
use kuberewind_cluster::chart::{self, Release};
use kuberewind_cluster::control::Recording;
use kuberewind_cluster::release::{self, Installed};
use kuberewind_filter::{CaptureFilter, TargetRules};
use serde_json::{Value, json};

use super::super::cluster::Cluster;
use super::super::settings;
use crate::VERSION;
use crate::agent::target_settings;
use crate::cli::TapArgs;
use crate::config::{self, Config, Earlier, Effective};
use crate::exit::Usage;

/// The release's name, as Helm would have it from its user.
const RELEASE: &str = "kuberewind";

/// A release as it will be.
pub(in crate::commands) struct Planned {
    pub(in crate::commands) settings: Effective,
    pub(super) rules: TargetRules,
    /// Without the namespace, which the chart cannot make.
    pub(in crate::commands) objects: Vec<Value>,
    /// What was installed on demand and no longer is.
    pub(super) gone: Vec<Value>,
    pub(in crate::commands) installed: Option<Installed>,
    /// The values that hold now.
    before: Value,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

impl Planned {
    /// Reads what is installed, lays the user's settings over it, and renders the chart.
    pub(in crate::commands) fn of(cluster: &Cluster, args: &TapArgs) -> anyhow::Result<Self> {
        let mut notes = Vec::new();
        let found = release::find(&cluster.access, &cluster.namespace);
        let installed = match cluster.runtime.block_on(found) {
            Err(error @ ClusterError::Forbidden { .. }) if args.deploy.dry_run => {
                notes.push(format!("earlier settings are not known: {error}"));
                None
            }
            found => found?,
        };
        let earlier = installed.as_ref().and_then(|installed| installed.values.as_ref());
        let earlier = earlier.map(Earlier::read).unwrap_or_default();
        let before = Effective::of(&earlier).map_or_else(
            |_| Effective::of(&Earlier::default()).map(|defaults| defaults.tree().clone()),
            |effective| Ok(effective.tree().clone()),
        )?;
        let settings = load(args, earlier, &mut notes)?;
        let rules = rules(settings.config(), &cluster.namespace)?;
        let release = release(cluster, &mut notes)?;
        let objects = chart::render(&settings.chart_values(), &release)?;
        let gone = match &installed {
            // What an older version's values meant to it is not known here.
            Some(_) => missing(chart::render(&before, &release).unwrap_or_default(), &objects),
            None => Vec::new(),
        };
        Ok(Self { settings, rules, objects, gone, installed, before, notes })
    }

    /// `pcapdump.maxSize: 500MB -> 2GB`, one a line.
    pub(super) fn changes(&self) -> Vec<String> {
        config::changes(&self.before, self.settings.tree())
    }

    /// The command that does the same to a release that Helm manages; none if none does.
    pub(super) fn helm(&self, namespace: &str) -> Option<String> {
        let release = self.installed.as_ref()?.helm.as_ref()?;
        let mut line =
            format!("helm upgrade {release} ./chart --namespace {namespace} --reuse-values");
        for argument in config::for_helm(&self.before, self.settings.tree()) {
            line = format!("{line} {argument}");
        }
        Some(line)
    }

    /// Whether nothing will be recorded although everything runs, and how that ends.
    pub(super) fn stopped(&self) -> Option<&'static str> {
        let said = self.installed.as_ref().and_then(|installed| installed.recording);
        match said {
            Some(Recording::Stopped) => Some(
                "recording was stopped by `kuberewind pcapdump stop` and stays so; `kuberewind pcapdump start` starts it",
            ),
            None if !self.settings.config().pcapdump.enabled => Some(
                "recording begins switched off (pcapdump.enabled: false); `kuberewind pcapdump start` starts it",
            ),
            _ => None,
        }
    }

    /// What becomes of agents of another version.
    pub(super) fn replaces(&self) -> Option<String> {
        let version = self.installed.as_ref()?.version.as_ref()?;
        (version != VERSION).then(|| {
            format!(
                "the agents run kuberewind {version}, this is {VERSION}: they are replaced, one node after the other; what was recorded stays"
            )
        })
    }

    /// A recording that will be left where it is.
    pub(super) fn left_behind(&self) -> Option<String> {
        let of = |tree: &Value| tree["tap"]["dataDir"].as_str().map(str::to_owned);
        let (before, after) = (of(&self.before)?, of(self.settings.tree())?);
        (self.installed.is_some() && before != after).then(|| {
            format!(
                "what was recorded so far stays in {before} of each node and is no longer exported"
            )
        })
    }

    /// Settings that `tap.bpfOverride` puts out of force.
    pub(super) fn overridden(&self) -> Option<String> {
        let keys = self.rules.overridden();
        (!keys.is_empty())
            .then(|| format!("tap.bpfOverride is set, so {} has no effect now", keys.join(" and ")))
    }
}

fn load(args: &TapArgs, earlier: Earlier, notes: &mut Vec<String>) -> anyhow::Result<Effective> {
    let mut sources = settings::sources(&args.settings)?;
    sources.flags.extend(flags(args));
    if args.deploy.reset_values {
        return Ok(Effective::load(&sources)?);
    }
    notes.extend(earlier.dropped.iter().map(|what| format!("an earlier tap's {what} is dropped")));
    sources.earlier = earlier;
    Ok(Effective::load(&sources)?)
}

/// The flags that stand for a key.
fn flags(args: &TapArgs) -> Vec<(&'static str, Value, &'static str)> {
    let deploy = &args.deploy;
    let list = |names: &[String]| (!names.is_empty()).then(|| json!(names));
    let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
    let flags = [
        ("tap.regex", text(&args.regex), "POD_REGEX"),
        ("tap.namespaces", list(&deploy.namespaces), "--namespaces"),
        ("tap.excludedNamespaces", list(&deploy.excluded_namespaces), "--excluded-namespaces"),
        ("tap.docker.registry", text(&deploy.docker_registry), "--docker-registry"),
        ("tap.docker.tag", text(&deploy.docker_tag), "--docker-tag"),
    ];
    let given = |(key, value, flag): (_, Option<Value>, _)| Some((key, value?, flag));
    flags.into_iter().filter_map(given).collect()
}

/// Refuses here what the agents could not use.
fn rules(config: &Config, namespace: &str) -> anyhow::Result<TargetRules> {
    let tap = &config.tap;
    if let Some(expression) = &tap.bpf_override {
        CaptureFilter::check(expression)?;
    }
    if !tap.data_dir.is_absolute() {
        let text =
            format!("tap.dataDir is `{}`: on a node it begins with /", tap.data_dir.display());
        return Err(Usage(text).into());
    }
    let settings = target_settings(config, namespace);
    TargetRules::compile(settings).map_err(|error| Usage(error.to_string()).into())
}

/// Those of the first that are not among the second, by kind and name.
fn missing(before: Vec<Value>, after: &[Value]) -> Vec<Value> {
    let same = |a: &Value, b: &Value| {
        let metadata = |key: &str| a["metadata"][key] == b["metadata"][key];
        a["kind"] == b["kind"] && metadata("name") && metadata("namespace")
    };
    before.into_iter().filter(|old| !after.iter().any(|new| same(old, new))).collect()
}

fn release(cluster: &Cluster, notes: &mut Vec<String>) -> anyhow::Result<Release> {
    let access = &cluster.access;
    let asked = async { (access.kube_version().await, access.cluster_id().await) };
    let (kube_version, cluster_id) = cluster.runtime.block_on(asked);
    let cluster_id = match cluster_id {
        Ok(id) => Some(id),
        Err(error @ ClusterError::Forbidden { .. }) => {
            notes.push(format!("files will not be named after the cluster: {error}"));
            None
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Release {
        name: RELEASE.to_owned(),
        namespace: cluster.namespace.clone(),
        kube_version: kube_version?,
        cluster_id,
    })
}
