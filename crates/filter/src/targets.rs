//! Which pods are recorded, and for those that are not: why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use regex::Regex;

/// The settings that choose pods, as the user wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSettings {
    /// `tap.regex`: part of a pod's name, unanchored. The empty one matches every pod.
    pub regex: String,
    /// `tap.namespaces`: empty is all of them.
    pub namespaces: Vec<String>,
    /// `tap.excludedNamespaces`: wins over everything.
    pub excluded_namespaces: Vec<String>,
    /// `tap.bpfOverride` is set: it stands in for `regex` and `namespaces`, and takes the whole node.
    pub bpf_override: bool,
    /// `tap.capture.hostNetwork`: pods in the node's network namespace are recorded too.
    pub host_network: bool,
    /// `tap.capture.captureSelf`: our own pods are recorded too.
    pub capture_self: bool,
    /// Which pods are our own.
    pub own: OwnPods,
}

/// How our own pods are told from others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnPods {
    /// The release's namespace. Empty: there are no pods of our own.
    pub namespace: String,
    /// Labels that all of ours carry. None: every pod of that namespace counts as ours.
    pub labels: BTreeMap<String, String>,
}

impl OwnPods {
    fn contain(&self, pod: &Candidate<'_>) -> bool {
        self.namespace == pod.namespace
            && self.labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    }
}

/// What a verdict looks at.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// Whether a pod is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Record,
    /// It is not.
    Skip(Reason),
}

/// Why a pod is not recorded: the words for `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Its name or namespace is not known.
    Unknown,
    /// Its namespace is excluded.
    Excluded,
    /// It is one of ours.
    Own,
    /// Namespaces are listed, and its own is not among them.
    OtherNamespace,
    /// Its name does not match.
    OtherName,
    /// It shares the node's network namespace.
    HostNetwork,
}

impl Reason {
    /// Whether no packet of such a pod may be stored, wherever it was seen; the other reasons only say
    /// that nobody asked for it.
    pub const fn forbids(self) -> bool {
        matches!(self, Self::Unknown | Self::Excluded | Self::Own)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "its name or namespace is not known",
            Self::Excluded => "its namespace is in tap.excludedNamespaces",
            Self::Own => "it belongs to kuberewind (tap.capture.captureSelf: true records it)",
            Self::OtherNamespace => "its namespace is not in tap.namespaces",
            Self::OtherName => "its name does not match tap.regex",
            Self::HostNetwork => {
                "it uses the node's network (tap.capture.hostNetwork: true records it)"
            }
        })
    }
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TargetError {
    /// `tap.regex` is not a regular expression.
    #[error("tap.regex: {0}")]
    Regex(#[from] regex::Error),
}

/// The settings that choose pods, ready to judge one.
///
/// A pod is recorded if its name matches `tap.regex` and its namespace is listed in `tap.namespaces`
/// (or none is), unless its namespace is excluded: exclusion wins. `tap.bpfOverride` stands in for the
/// first two. Pods in the node's network and pods of our own need a setting of their own.
#[derive(Clone, Debug)]
pub struct TargetRules {
    name: Regex,
    namespaces: BTreeSet<String>,
    excluded: BTreeSet<String>,
    bpf_override: bool,
    host_network: bool,
    capture_self: bool,
    own: OwnPods,
}

impl TargetRules {
    /// # Errors
    /// [`TargetError::Regex`], also when `tap.bpfOverride` makes the expression idle: it comes back
    /// into force when the override is taken away.
    pub fn compile(settings: TargetSettings) -> Result<Self, TargetError> {
        Ok(Self {
            name: Regex::new(&settings.regex)?,
            namespaces: settings.namespaces.into_iter().collect(),
            excluded: settings.excluded_namespaces.into_iter().collect(),
            bpf_override: settings.bpf_override,
            host_network: settings.host_network,
            capture_self: settings.capture_self,
            own: settings.own,
        })
    }

    /// Whether this pod is recorded. What is not known is not recorded.
    pub fn verdict(&self, pod: &Candidate<'_>) -> Verdict {
        self.objection(pod).map_or(Verdict::Record, Verdict::Skip)
    }

    /// Whether the node's own network namespace is recorded even when no pod asks for it.
    pub const fn whole_node(&self) -> bool {
        self.bpf_override
    }

    /// Whether any namespace is excluded: a pod of which nothing is known may then be one of those.
    pub fn has_exclusions(&self) -> bool {
        !self.excluded.is_empty()
    }

    /// The settings that `tap.bpfOverride` puts out of force, for `tap` and `status` to name.
    pub fn overridden(&self) -> Vec<&'static str> {
        let set = [
            (!self.name.as_str().is_empty() && self.name.as_str() != ".*", "tap.regex"),
            (!self.namespaces.is_empty(), "tap.namespaces"),
        ];
        let idle = |(set, key)| (self.bpf_override && set).then_some(key);
        set.into_iter().filter_map(idle).collect()
    }

    fn objection(&self, pod: &Candidate<'_>) -> Option<Reason> {
        let chosen = self.bpf_override;
        let objections = [
            (pod.namespace.is_empty() || pod.name.is_empty(), Reason::Unknown),
            (self.excluded.contains(pod.namespace), Reason::Excluded),
            (!self.capture_self && self.own.contain(pod), Reason::Own),
            (!chosen && !self.lists(pod.namespace), Reason::OtherNamespace),
            (!chosen && !self.name.is_match(pod.name), Reason::OtherName),
            (!chosen && !self.host_network && pod.host_network, Reason::HostNetwork),
        ];
        objections.into_iter().find_map(|(holds, reason)| holds.then_some(reason))
    }

    fn lists(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings() -> TargetSettings {
        TargetSettings {
            regex: ".*".into(),
            namespaces: vec![],
            excluded_namespaces: vec![],
            bpf_override: false,
            host_network: false,
            capture_self: false,
            own: OwnPods {
                namespace: "kuberewind".into(),
                labels: BTreeMap::from([("app".into(), "kuberewind".into())]),
            },
        }
    }

    fn judge(settings: TargetSettings, pod: &str, host_network: bool) -> Verdict {
        let (namespace, name) = pod.split_once('/').unwrap();
        let labels = BTreeMap::from([("app".to_owned(), name.to_owned())]);
        let candidate = Candidate { namespace, name, host_network, labels: &labels };
        TargetRules::compile(settings).unwrap().verdict(&candidate)
    }

    #[test]
    fn pods_are_chosen_as_documented() {
        use Reason::*;
        use Verdict::*;
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        // regex, namespaces, excluded, bpfOverride, pod → verdict
        let table = [
            (".*", &[][..], &[][..], false, "shop/cart-1", Record),
            ("", &[], &[], false, "shop/cart-1", Record),
            ("art", &[], &[], false, "shop/cart-1", Record),
            ("^art", &[], &[], false, "shop/cart-1", Skip(OtherName)),
            ("^cart-\\d$", &[], &[], false, "shop/cart-1", Record),
            ("shop", &[], &[], false, "shop/cart-1", Skip(OtherName)),
            ("Cart", &[], &[], false, "shop/cart-1", Skip(OtherName)),
            ("(?i)Cart", &[], &[], false, "shop/cart-1", Record),
            (".*", &["shop"], &[], false, "shop/cart-1", Record),
            (".*", &["bank", "shop"], &[], false, "shop/cart-1", Record),
            (".*", &["bank"], &[], false, "shop/cart-1", Skip(OtherNamespace)),
            (".*", &["sho"], &[], false, "shop/cart-1", Skip(OtherNamespace)),
            ("till", &["bank"], &[], false, "shop/cart-1", Skip(OtherNamespace)),
            (".*", &[], &["shop"], false, "shop/cart-1", Skip(Excluded)),
            (".*", &["shop"], &["shop"], false, "shop/cart-1", Skip(Excluded)),
            (".*", &[], &["sho"], false, "shop/cart-1", Record),
            ("till", &["bank"], &[], true, "shop/cart-1", Record),
            ("till", &["bank"], &["shop"], true, "shop/cart-1", Skip(Excluded)),
            (".*", &[], &[], false, "kuberewind/kuberewind", Skip(Own)),
            (".*", &[], &[], true, "kuberewind/kuberewind", Skip(Own)),
            (".*", &[], &["kuberewind"], false, "kuberewind/kuberewind", Skip(Excluded)),
            (".*", &[], &[], false, "kuberewind/guest", Record),
            (".*", &[], &[], false, "other/kuberewind", Record),
            (".*", &[], &[], false, "/cart-1", Skip(Unknown)),
            (".*", &[], &[], true, "shop/", Skip(Unknown)),
        ];
        for (regex, namespaces, excluded, bpf_override, pod, expected) in table {
            let settings = TargetSettings {
                regex: regex.into(),
                namespaces: list(namespaces),
                excluded_namespaces: list(excluded),
                bpf_override,
                ..settings()
            };
            assert_eq!(judge(settings.clone(), pod, false), expected, "{pod} by {settings:?}");
        }
    }

    #[test]
    fn pods_in_the_nodes_network_need_a_setting() {
        let base = settings();
        let host_network = TargetSettings { host_network: true, ..settings() };
        let bpf_override = TargetSettings { bpf_override: true, ..settings() };
        assert_eq!(judge(base, "sys/proxy", true), Verdict::Skip(Reason::HostNetwork));
        assert_eq!(judge(host_network, "sys/proxy", true), Verdict::Record);
        assert_eq!(judge(bpf_override, "sys/proxy", true), Verdict::Record);
    }

    #[test]
    fn our_own_pods_are_recorded_only_on_request() {
        let asked = TargetSettings { capture_self: true, ..settings() };
        assert_eq!(judge(asked, "kuberewind/kuberewind", false), Verdict::Record);
        // Without labels to tell them apart, every pod of the namespace counts as ours.
        let own = OwnPods { namespace: "kuberewind".into(), labels: BTreeMap::new() };
        let unlabelled = TargetSettings { own, ..settings() };
        assert_eq!(judge(unlabelled, "kuberewind/guest", false), Verdict::Skip(Reason::Own));
    }

    #[test]
    fn a_bad_regex_names_its_key_and_what_is_wrong() {
        for bpf_override in [false, true] {
            let bad = TargetSettings { regex: "cart-[0-9".into(), bpf_override, ..settings() };
            let error = TargetRules::compile(bad).unwrap_err().to_string();
            assert!(error.starts_with("tap.regex: "), "{error}");
            assert!(error.contains("unclosed character class"), "{error}");
        }
    }

    #[test]
    fn what_the_override_puts_out_of_force_is_named() {
        let chosen =
            TargetSettings { regex: "cart".into(), namespaces: vec!["shop".into()], ..settings() };
        let overridden = |settings| TargetRules::compile(settings).unwrap().overridden();
        assert!(overridden(chosen.clone()).is_empty());
        assert_eq!(
            overridden(TargetSettings { bpf_override: true, ..chosen }),
            ["tap.regex", "tap.namespaces"]
        );
        assert!(overridden(TargetSettings { bpf_override: true, ..settings() }).is_empty());
    }

    proptest! {
        #[test]
        fn exclusion_wins_over_everything(
            regex in "[a-c.*]{0,4}", namespace in "[ab]", name in "[a-c]{1,3}",
            listed in prop::collection::vec("[ab]", 0..2), excluded in prop::collection::vec("[ab]", 1..3),
            bpf_override: bool, host_network: bool, capture_self: bool, on_host: bool,
        ) {
            let all = TargetSettings {
                regex, namespaces: listed, excluded_namespaces: excluded.clone(),
                bpf_override, host_network, capture_self, own: OwnPods::default(),
            };
            prop_assume!(TargetRules::compile(all.clone()).is_ok());
            let verdict = judge(all, &format!("{namespace}/{name}"), on_host);
            prop_assert_eq!(excluded.contains(&namespace), verdict == Verdict::Skip(Reason::Excluded));
        }

        #[test]
        fn any_regex_is_judged_or_refused(regex in "\\PC{0,12}", name in "\\PC{0,12}") {
            if let Ok(rules) = TargetRules::compile(TargetSettings { regex, ..settings() }) {
                let labels = BTreeMap::new();
                rules.verdict(&Candidate { namespace: "a", name: &name, host_network: false, labels: &labels });
            }
        }
    }
}
