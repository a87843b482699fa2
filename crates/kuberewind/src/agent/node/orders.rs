//! What the `ConfigMap` orders: its text becomes settings, rules, and whether to record.

use std::sync::Arc;

use kuberewind_cluster::control::Recording;
use kuberewind_cluster::names;
use kuberewind_cluster::settings::{SettingsFacts, VALUES_KEY};
use kuberewind_filter::{OwnPods, TargetError, TargetRules, TargetSettings};

use super::NodeConfig;
use crate::config::{Config, ConfigError, Effective};

/// Orders that make sense.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    /// `metadata.resourceVersion` of the `ConfigMap`.
    pub(super) version: String,
    pub(super) settings: Effective,
    pub(super) rules: Arc<TargetRules>,
    pub(super) recording: bool,
}

/// Why a `ConfigMap` cannot be obeyed.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrdersError {
    #[error("it has no key `{VALUES_KEY}`; run `kuberewind tap` again")]
    NoValues,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl Orders {
    /// Reads and checks all of it.
    pub(super) fn read(facts: &SettingsFacts, node: &NodeConfig) -> Result<Self, OrdersError> {
        let text = facts.values().ok_or(OrdersError::NoValues)?;
        let name = format!("ConfigMap {}/{}", node.namespace, names::CONFIG_MAP);
        let dir = node.data_dir.to_string_lossy().into_owned();
        let settings =
            Effective::of_values(&name, text, &[("tap.dataDir", dir.into(), "--data-dir")])?;
        let config = settings.config();
        let rules = Arc::new(TargetRules::compile(target_settings(config, &node.namespace))?);
        let said = facts.recording().map(|said| said == Recording::Started);
        let recording = said.unwrap_or(config.pcapdump.enabled);
        Ok(Self { version: facts.version.clone(), settings, rules, recording })
    }
}

/// Which pods the settings choose, where kuberewind is installed in `namespace`.
pub(crate) fn target_settings(config: &Config, namespace: &str) -> TargetSettings {
    let tap = &config.tap;
    let own = [names::LABEL_NAME].map(|(key, value)| (key.to_owned(), value.to_owned()));
    TargetSettings {
        regex: tap.regex.clone().unwrap_or_default(),
        namespaces: tap.namespaces.names().to_vec(),
        excluded_namespaces: tap.excluded_namespaces.names().to_vec(),
        bpf_override: tap.bpf_override.is_some(),
        host_network: tap.capture.host_network,
        capture_self: tap.capture.capture_self,
        own: OwnPods { namespace: namespace.to_owned(), labels: own.into() },
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use kuberewind_capture::Opener;

    use super::*;
    use crate::config::Origin;

    fn node() -> NodeConfig {
        NodeConfig {
            node: "n1".into(),
            namespace: "kuberewind".into(),
            pod: "agent-1".into(),
            proc: "/host/proc".into(),
            opener: Opener::default(),
            kubeconfig: None,
            data_dir: "/data".into(),
            metrics_port: 49_100,
        }
    }

    fn orders(values: &str, recording: Option<&str>) -> Result<Orders, String> {
        let mut data = vec![(VALUES_KEY.to_owned(), values.to_owned())];
        data.extend(recording.map(|word| ("recording".to_owned(), word.to_owned())));
        let facts = SettingsFacts { version: "7".into(), data: data.into_iter().collect() };
        Orders::read(&facts, &node()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_charts_own_values_are_obeyed_and_the_data_directory_is_the_mounted_one() {
        let orders = orders(include_str!("../../../../../chart/values.yaml"), None).unwrap();
        assert_eq!((orders.version.as_str(), orders.recording), ("7", true));
        assert_eq!(orders.settings.config().tap.data_dir, PathBuf::from("/data"));
        assert_eq!(orders.settings.origin("tap.dataDir"), Origin::Flag("--data-dir"));
    }

    #[test]
    fn the_switch_overrides_whether_recording_is_enabled() {
        let disabled = "pcapdump: {enabled: false}";
        for (values, word, expected) in [
            ("{}", None, true),
            ("{}", Some("stopped"), false),
            (disabled, None, false),
            (disabled, Some("started"), true),
            (disabled, Some("perhaps"), false),
        ] {
            assert_eq!(orders(values, word).unwrap().recording, expected, "{values} {word:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let error = |values| orders(values, None).unwrap_err();
        let wrong = error("\npcapdump:\n  maxSize: 5\n");
        assert!(
            wrong.contains("`pcapdump.maxSize` in ConfigMap kuberewind/kuberewind:3"),
            "{wrong}"
        );
        assert!(error("tap: {regex: '['}").starts_with("tap.regex: "));
        assert!(error("{").contains("ConfigMap kuberewind/kuberewind"));
    }
}
