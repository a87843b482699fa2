//! The configuration as a whole: layers, origins, errors, listings.

use std::fs;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use kuberewind_packet::ByteSize;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::values::Choice;
use super::*;

/// A directory to be in, with another to be at home in.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("home/.kuberewind")).unwrap();
        Self { dir }
    }

    fn with(self, file: &str, text: &str) -> Self {
        fs::write(self.dir.path().join(file), text).unwrap();
        self
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn sources(&self) -> Sources {
        Sources {
            working_dir: self.dir.path().to_owned(),
            home: Some(self.path("home")),
            ..Sources::default()
        }
    }

    fn load(&self) -> Effective {
        Effective::load(&self.sources()).unwrap()
    }

    /// The error's text, with this place left out.
    fn error(&self, sources: &Sources) -> String {
        let error = Effective::load(sources).unwrap_err().to_string();
        error.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn set(arguments: &[&str]) -> Result<Effective, ConfigError> {
    let set = arguments.iter().map(|&argument| argument.to_owned()).collect();
    Effective::load(&Sources { set, ..Place::new().sources() })
}

fn set_error(argument: &str) -> String {
    set(&[argument]).unwrap_err().to_string()
}

fn file_error(text: &str) -> String {
    let place = Place::new().with("kuberewind.yaml", text);
    place.error(&place.sources())
}

/// Nothing in it is the default.
fn all_different() -> Config {
    Config {
        tap: TapConfig {
            bpf_override: Some("tcp".into()),
            snaplen: Snaplen::new(96).unwrap(),
            ring_memory: Some(ByteSize::new(1_000_000)),
            data_dir: "/elsewhere".into(),
            regex: Some("cart".into()),
            namespaces: Namespaces::new(vec!["shop".into(), "null".into()]).unwrap(),
            excluded_namespaces: Namespaces::new(vec!["bank".into()]).unwrap(),
            capture: CaptureConfig { capture_self: true, host_network: true },
            tls: false,
            tls_export: false,
            tls_control_plane: true,
            tls_plaintext: Chosen(vec![Choice {
                namespace: Some("shop".into()),
                regex: Some("^cart".into()),
            }]),
            docker: DockerConfig {
                registry: Registry::new("registry.example:5000/team").unwrap(),
                tag: Some("1.2".into()),
                image_pull_policy: PullPolicy::Never,
                image_pull_secrets: Names(vec!["pull".into()]),
            },
            resources: ResourcesConfig {
                requests: Amounts { cpu: Quantity::new("1.5"), memory: Quantity::new("1Gi") },
                limits: Amounts { cpu: Quantity::new("2"), memory: None },
            },
            node_selector_terms: Objects(vec![json!({"matchFields": [{"key": "a: b", "n": 1}]})]),
            tolerations: Objects(Vec::new()),
            priority_class: Some("high".into()),
            labels: Texts([("team".into(), "net".into()), ("on".into(), "yes".into())].into()),
            annotations: Texts([("example.com/a".into(), "b: #c".into())].into()),
            metrics: MetricsConfig {
                port: NonZeroU16::new(9100).unwrap(),
                pod_monitor: true,
                alerts: true,
                dashboard: true,
            },
            network_policy: true,
            open_shift: true,
        },
        pcapdump: PcapdumpConfig {
            enabled: false,
            time_interval: Duration::from_secs(7),
            max_time: Duration::from_secs(77),
            max_size: ByteSize::new(50_000_000),
            min_free: MinFree::Bytes(ByteSize::new(10_000_000_000)),
        },
        headless: true,
        log_level: LogLevel::Debug,
        log_format: LogFormat::Json,
    }
}

/// As a user would write it in JSON.
fn tree_of(config: &Config) -> Value {
    let mut config = config.clone();
    let mut tree = json!({});
    for key in KEYS {
        let value = (key.place)(&mut config).show();
        *key.name.split('.').fold(&mut tree, |tree, name| &mut tree[name]) = value;
    }
    tree
}

mod layers {
    use super::*;

    #[test]
    fn nothing_given_gives_the_defaults() {
        let effective = Place::new().load();
        assert_eq!(*effective.config(), Config::default());
        assert!(KEYS.iter().all(|key| effective.origin(key.name) == Origin::Default));
    }

    #[test]
    fn every_field_has_a_key_and_comes_through_a_file() {
        let config = all_different();
        let place = Place::new().with("kuberewind.yaml", &tree_of(&config).to_string());
        assert_eq!(*place.load().config(), config);
    }

    #[test]
    fn a_flag_wins_over_set_over_files_over_defaults() {
        let place = Place::new()
            .with("a.yaml", "pcapdump:\n  maxTime: 2h\n  maxSize: 1GB\ntap: {snaplen: 96}\n")
            .with("b.yaml", "pcapdump:\n  maxSize: 2GB\n");
        let sources = Sources {
            values: vec!["a.yaml".into(), "b.yaml".into()],
            set: vec!["tap.snaplen=128,tap.dataDir=/set".into()],
            flags: vec![("tap.dataDir", json!("/flag"), "--data-dir")],
            ..place.sources()
        };
        let effective = Effective::load(&sources).unwrap();
        let origins: Vec<String> =
            ["tap.dataDir", "tap.snaplen", "pcapdump.maxSize", "pcapdump.maxTime", "headless"]
                .map(|key| effective.origin(key).to_string())
                .into();
        let file = |name| place.path(name).display().to_string();
        assert_eq!(
            origins,
            ["--data-dir", "--set", &(file("b.yaml") + ":2"), &(file("a.yaml") + ":2"), "default"]
        );
        let config = effective.config();
        assert_eq!(config.tap.data_dir, PathBuf::from("/flag"));
        assert_eq!(config.tap.snaplen.bytes(), 128);
        assert_eq!(config.pcapdump.max_size, ByteSize::new(2_000_000_000));
        assert_eq!(config.pcapdump.max_time, Duration::from_hours(2));
    }

    #[test]
    fn the_file_here_wins_over_the_one_at_home() {
        let place = Place::new().with("home/.kuberewind/config.yaml", "logLevel: debug\n");
        assert_eq!(place.load().config().log_level, LogLevel::Debug);
        let place = place.with("kuberewind.yaml", "headless: yes\n");
        assert_eq!(place.load().config().log_level, LogLevel::Info);
        assert!(place.load().config().headless);
    }

    #[test]
    fn a_named_file_is_read_alone() {
        let place = Place::new()
            .with("kuberewind.yaml", "logLevel: debug\n")
            .with("mine.yaml", "headless: true\n");
        let sources = Sources { values: vec!["mine.yaml".into()], ..place.sources() };
        let effective = Effective::load(&sources).unwrap();
        assert_eq!(effective.config().log_level, LogLevel::Info);
    }

    #[test]
    fn null_takes_a_value_back() {
        let place = Place::new().with(
            "kuberewind.yaml",
            "tap: {bpfOverride: tcp}\npcapdump: {maxTime: 2h, maxSize: 1GB}",
        );
        let load =
            |set: &str| Effective::load(&Sources { set: vec![set.into()], ..place.sources() });
        assert_eq!(load("tap.bpfOverride=null").unwrap().config().tap.bpf_override, None);
        assert_eq!(load("tap.bpfOverride=").unwrap().config().tap.bpf_override, None);
        let pcapdump = load("pcapdump=null").unwrap();
        assert_eq!(pcapdump.config().pcapdump, Config::default().pcapdump);
        assert_eq!(pcapdump.config().tap.bpf_override.as_deref(), Some("tcp"));
        assert_eq!(pcapdump.origin("pcapdump.maxTime"), Origin::Default);
    }

    #[test]
    fn lists_are_replaced_whole_or_one_place_at_a_time() {
        let place = Place::new().with("kuberewind.yaml", "tap:\n  namespaces: [shop, bank]\n");
        let names = |set: &[&str]| {
            let set = set.iter().map(|&argument| argument.to_owned()).collect();
            let effective = Effective::load(&Sources { set, ..place.sources() }).unwrap();
            effective.config().tap.namespaces.names().to_vec()
        };
        assert_eq!(names(&[]), ["shop", "bank"]);
        assert_eq!(names(&["tap.namespaces={cart}"]), ["cart"]);
        assert_eq!(names(&["tap.namespaces[1]=cart"]), ["shop", "cart"]);
        assert_eq!(
            names(&["tap.namespaces[3]=d", "tap.namespaces[2]=c"]),
            ["shop", "bank", "c", "d"]
        );
        assert!(names(&["tap.namespaces={}"]).is_empty());
        assert!(names(&["tap.namespaces=null"]).is_empty());
    }

    #[test]
    fn labels_are_set_one_by_one_over_those_of_files() {
        let place =
            Place::new().with("kuberewind.yaml", "tap:\n  labels: {team: net, on: 'yes'}\n");
        let labels = |set: &[&str]| {
            let set = set.iter().map(|&argument| argument.to_owned()).collect();
            let effective = Effective::load(&Sources { set, ..place.sources() }).unwrap();
            effective.tree()["tap"]["labels"].clone()
        };
        assert_eq!(labels(&[]), json!({"team": "net", "on": "yes"}));
        assert_eq!(
            labels(&[r"tap.labels.example\.com/a=1,tap.labels.team=null"]),
            json!({"on": "yes", "example.com/a": "1"})
        );
        assert_eq!(labels(&["tap.labels=null"]), json!({}));
        assert_eq!(labels(&["tap.labels=null,tap.labels.a=b"]), json!({"a": "b"}));
    }

    #[test]
    fn objects_are_lists_of_any_shape() {
        let tolerations =
            |argument: &str| set(&[argument]).unwrap().tree()["tap"]["tolerations"].clone();
        assert_eq!(tolerations("headless=true"), json!([{"operator": "Exists"}]));
        assert_eq!(
            tolerations("tap.tolerations[0].key=spot,tap.tolerations[0].tolerationSeconds=30"),
            json!([{"key": "spot", "tolerationSeconds": 30}])
        );
        assert_eq!(tolerations("tap.tolerations={}"), json!([]));
    }

    #[test]
    fn a_file_without_keys_sets_nothing() {
        for text in ["", "# nothing\n", "---\n", "tap:\npcapdump:\n", "tap: {}\n", "null\n"] {
            let place = Place::new().with("kuberewind.yaml", text);
            assert_eq!(*place.load().config(), Config::default(), "{text:?}");
        }
    }

    #[test]
    fn values_read_as_they_are_written() {
        let config =
            set(&["tap.snaplen=0", "tap.regex=5", "pcapdump.minFree=10GB", "logLevel=warning"]);
        let config = config.unwrap().config().clone();
        assert_eq!(config.tap.snaplen.bytes(), 262_144);
        assert_eq!(config.tap.regex.as_deref(), Some("5"));
        assert_eq!(config.pcapdump.min_free, MinFree::Bytes(ByteSize::new(10_000_000_000)));
        assert_eq!(config.log_level, LogLevel::Warn);
    }
}

mod errors {
    use super::*;

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_nearest() {
        insta::assert_snapshot!(set_error("pcapdump.maxTme=1h"), @"unknown key `pcapdump.maxTme` in --set; did you mean `pcapdump.maxTime`?");
        insta::assert_snapshot!(set_error("maxTime=1h"), @"unknown key `maxTime` in --set; did you mean `pcapdump.maxTime`?");
        insta::assert_snapshot!(set_error("colour=red"), @"unknown key `colour` in --set; `kuberewind config` lists all keys");
        insta::assert_snapshot!(set_error("tap.snaplen.bytes=5"), @"unknown key `tap.snaplen.bytes` in --set; did you mean `tap.snaplen`?");
        insta::assert_snapshot!(set_error("pcapdump[0].maxTime=5m"), @"unknown key `pcapdump[0].maxTime` in --set; did you mean `pcapdump.maxTime`?");
        insta::assert_snapshot!(set_error(r"pcapdump\.maxTime=5m"), @"unknown key `pcapdump.maxTime` in --set; in a file each part of `pcapdump.maxTime` is a key of its own");
        insta::assert_snapshot!(file_error("tap:\n  snaplen: 96\n  snaplne: 96\n"), @"unknown key `tap.snaplne` in kuberewind.yaml:3; did you mean `tap.snaplen`?");
        insta::assert_snapshot!(file_error("pcapdump.maxTime: 5m\n"), @"unknown key `pcapdump.maxTime` in kuberewind.yaml:1; in a file each part of `pcapdump.maxTime` is a key of its own");
    }

    #[test]
    fn a_bad_value_is_named_with_its_key_and_place() {
        insta::assert_snapshot!(set_error("pcapdump.maxTime=1d"), @"bad value `1d` for `pcapdump.maxTime` in --set: no such unit `d`: units are h, m, s, ms, us, ns (a day is 24h, a week 168h)");
        insta::assert_snapshot!(set_error("pcapdump.maxTime=300"), @"bad value `300` for `pcapdump.maxTime` in --set: no unit: write it like 90s, 5m or 1h30m");
        insta::assert_snapshot!(set_error("pcapdump.maxTime=-5m"), @"bad value `-5m` for `pcapdump.maxTime` in --set: a duration cannot be negative");
        insta::assert_snapshot!(set_error("pcapdump.timeInterval=0"), @"bad value `0` for `pcapdump.timeInterval` in --set: must be more than 0");
        insta::assert_snapshot!(set_error("pcapdump.maxTime="), @"bad value `` for `pcapdump.maxTime` in --set: not a duration: write it like 90s, 5m or 1h30m");
        insta::assert_snapshot!(set_error("pcapdump.minFree=95%"), @"bad value `95%` for `pcapdump.minFree` in --set: expected a size like 10GB, or 0% to 90%");
        insta::assert_snapshot!(set_error("tap.snaplen=262145"), @"bad value `262145` for `tap.snaplen` in --set: expected bytes from 1 to 262144, or 0 for 262144");
        insta::assert_snapshot!(set_error("tap.snaplen=64KB"), @"bad value `64KB` for `tap.snaplen` in --set: expected bytes from 1 to 262144, or 0 for 262144");
        insta::assert_snapshot!(set_error("tap.dataDir="), @"bad value `` for `tap.dataDir` in --set: expected a path");
        insta::assert_snapshot!(set_error("tap.namespaces=shop"), @"bad value `shop` for `tap.namespaces` in --set: expected a list of names: {shop,cart} with --set, [shop, cart] in a file");
        insta::assert_snapshot!(set_error("tap.namespaces={shop,Bank}"), @r#"bad value `["shop","Bank"]` for `tap.namespaces` in --set: `Bank` cannot be the name of a namespace (a-z, 0-9 and `-`, at most 63)"#);
        insta::assert_snapshot!(set_error("tap.namespaces[1]=shop"), @r#"bad value `[null,"shop"]` for `tap.namespaces` in --set: expected a list of names: {shop,cart} with --set, [shop, cart] in a file"#);
        insta::assert_snapshot!(set_error("pcapdump.enabled=maybe"), @"bad value `maybe` for `pcapdump.enabled` in --set: expected true or false");
        insta::assert_snapshot!(set_error("logLevel=loud"), @"bad value `loud` for `logLevel` in --set: expected error, warn, info, debug or trace");
        insta::assert_snapshot!(set_error("pcapdump=5m"), @"`pcapdump` in --set is `5m`, but it holds keys like `pcapdump.enabled`");
        insta::assert_snapshot!(file_error("\n\npcapdump:\n  maxTime: [1h]\n"), @r#"bad value `["1h"]` for `pcapdump.maxTime` in kuberewind.yaml:4: expected one value, not a list or a section"#);
        insta::assert_snapshot!(file_error("tap:\n  regex:\n    name: cart\n"), @r#"bad value `{"name":"cart"}` for `tap.regex` in kuberewind.yaml:2: expected one value, not a list or a section"#);
        insta::assert_snapshot!(file_error("tap: [a]\n"), @r#"`tap` in kuberewind.yaml:1 is `["a"]`, but it holds keys like `tap.bpfOverride`"#);
    }

    #[test]
    fn a_bad_value_for_the_cluster_is_named_too() {
        insta::assert_snapshot!(set_error("tap.labels=net"), @"bad value `net` for `tap.labels` in --set: expected names, each with a text: {team: net} in a file, key.team=net with --set");
        insta::assert_snapshot!(set_error("tap.labels.team.name=net"), @"unknown key `tap.labels.team.name` in --set; did you mean `tap.labels`?");
        insta::assert_snapshot!(set_error(r"tap.labels.app\.kubernetes\.io/name=net"), @r#"bad value `{"app.kubernetes.io/name":"net"}` for `tap.labels` in --set: `app.kubernetes.io/name` is kuberewind's own"#);
        insta::assert_snapshot!(set_error("tap.tolerations={Exists}"), @r#"bad value `["Exists"]` for `tap.tolerations` in --set: expected a list of objects, as in a pod's spec"#);
        insta::assert_snapshot!(set_error("tap.resources.limits.memory=512MB"), @"bad value `512MB` for `tap.resources.limits.memory` in --set: expected an amount as Kubernetes writes it, like 100m, 2 or 512Mi");
        insta::assert_snapshot!(set_error("tap.docker.registry=registry.example/"), @"bad value `registry.example/` for `tap.docker.registry` in --set: expected what stands before `/kuberewind` in the image's name, like registry.example/team");
        insta::assert_snapshot!(set_error("tap.docker.imagePullPolicy=always"), @"bad value `always` for `tap.docker.imagePullPolicy` in --set: expected Always, IfNotPresent or Never");
        insta::assert_snapshot!(set_error("tap.metrics.port=0"), @"bad value `0` for `tap.metrics.port` in --set: expected a port from 1 to 65535");
        insta::assert_snapshot!(set_error("tap.docker.tga=1"), @"unknown key `tap.docker.tga` in --set; did you mean `tap.docker.tag`?");
        insta::assert_snapshot!(set_error("tap.docker=1"), @"`tap.docker` in --set is `1`, but it holds keys like `tap.docker.registry`");
    }

    #[test]
    fn a_size_needs_its_unit() {
        insta::assert_snapshot!(set_error("pcapdump.maxSize=5"), @"bad value `5` for `pcapdump.maxSize` in --set: `5` is not a size: it has no unit; write 5MB or 5Mi (or 5B for bytes)");
        insta::assert_snapshot!(set_error("pcapdump.maxSize=500m"), @"bad value `500m` for `pcapdump.maxSize` in --set: `500m` is not a size: write 500MB or 500Mi");
        insta::assert_snapshot!(set_error("pcapdump.maxSize={5MB}"), @r#"bad value `["5MB"]` for `pcapdump.maxSize` in --set: expected one value, not a list or a section"#);
        insta::assert_snapshot!(set_error("pcapdump.minFree=12"), @"bad value `12` for `pcapdump.minFree` in --set: `12` is not a size: it has no unit; write 12MB or 12Mi (or 12B for bytes)");
        insta::assert_snapshot!(set_error("tap.ringMemory=lots"), @"bad value `lots` for `tap.ringMemory` in --set: `lots` is not a size: write a number and a unit, like 50MB or 50Mi");
    }

    #[test]
    fn a_value_that_is_overridden_is_still_checked() {
        let place = Place::new().with("kuberewind.yaml", "pcapdump: {maxTime: 1d}");
        let set = vec!["pcapdump.maxTime=24h".into()];
        insta::assert_snapshot!(place.error(&Sources { set, ..place.sources() }), @"bad value `1d` for `pcapdump.maxTime` in kuberewind.yaml:1: no such unit `d`: units are h, m, s, ms, us, ns (a day is 24h, a week 168h)");
    }

    #[test]
    fn an_argument_that_is_no_assignment_is_quoted() {
        insta::assert_snapshot!(set_error("headless"), @r"--set headless: `headless` has no value: write key=value (a comma inside a value is written `\,`)");
        insta::assert_snapshot!(set_error("tap.bpfOverride=host a or (tcp, udp)"), @r"--set tap.bpfOverride=host a or (tcp, udp): ` udp)` has no value: write key=value (a comma inside a value is written `\,`)");
        insta::assert_snapshot!(set_error("tap.namespaces={a"), @"--set tap.namespaces={a: a list begins with `{` and does not end with `}`");
        insta::assert_snapshot!(set_error("tap.regex=x,tap.regex[0]=y"), @"--set tap.regex=x,tap.regex[0]=y: `[0]` does not fit: what was set before is no list");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let place = Place::new();
        let sources = Sources { values: vec!["gone.yaml".into()], ..place.sources() };
        insta::assert_snapshot!(place.error(&sources), @"read values file gone.yaml: No such file or directory (os error 2)");
        insta::assert_snapshot!(file_error("tap: {snaplen: 96"), @"read values file kuberewind.yaml: unclosed bracket '{' at line 1, column 6");
        insta::assert_snapshot!(file_error("tap:\n  snaplen: 96\n  snaplen: 97\n"), @"read values file kuberewind.yaml: duplicate mapping key `snaplen` is not allowed here at line 3, column 3");
        insta::assert_snapshot!(file_error("- tap\n"), @"expected keys and values in kuberewind.yaml:1, like `pcapdump: { maxTime: 1h }`");
        insta::assert_snapshot!(file_error("a: b: c\n"), @"read values file kuberewind.yaml: mapping values are not allowed in this context at line 1, column 5");
        insta::assert_snapshot!(file_error("headless: true\n---\nheadless: false\n"), @"read values file kuberewind.yaml: only single YAML document expected but multiple found at line 3, column 1");
        insta::assert_snapshot!(file_error("1: 2\n"), @"unknown key `1` in kuberewind.yaml:1; `kuberewind config` lists all keys");
    }

    #[test]
    fn every_error_is_one_line() {
        for text in
            ["tap: {snaplen: 96", "a: b: c\n", "tap: *gone\n", "\"a\\nb\": 1\n", "tap: \"a\\nb\""]
        {
            assert!(!file_error(text).contains('\n'), "{}", file_error(text));
        }
    }

    #[test]
    fn a_segment_longer_than_what_is_held_is_refused() {
        insta::assert_snapshot!(set_error("pcapdump.timeInterval=2h"), @"`pcapdump.timeInterval` is 2h (--set), longer than `pcapdump.maxTime`, 1h (default): set pcapdump.timeInterval=1h or less");
        insta::assert_snapshot!(set_error("pcapdump.maxTime=30s"), @"`pcapdump.timeInterval` is 1m (default), longer than `pcapdump.maxTime`, 30s (--set): set pcapdump.timeInterval=30s or less");
        assert!(set(&["pcapdump.maxTime=30s,pcapdump.timeInterval=30s"]).is_ok());
    }
}

mod live {
    use super::*;

    #[test]
    fn a_change_is_merged_and_its_origin_known() {
        let effective = set(&["pcapdump.maxTime=2h", "tap.bpfOverride=tcp"]).unwrap();
        let changes = json!({"pcapdump": {"maxSize": "50MB"}, "tap": {"bpfOverride": null}});
        let after = effective.with_changes(&changes).unwrap();
        assert_eq!(after.config().pcapdump.max_size, ByteSize::new(50_000_000));
        assert_eq!(after.config().pcapdump.max_time, Duration::from_hours(2));
        assert_eq!(after.config().tap.bpf_override, None);
        assert_eq!(after.origin("pcapdump.maxSize"), Origin::Change);
        assert_eq!(after.origin("pcapdump.maxTime"), Origin::Set);
        assert_eq!(after.origin("tap.bpfOverride"), Origin::Default);
    }

    #[test]
    fn what_is_fixed_while_recording_may_be_repeated_but_not_changed() {
        let effective = set(&["tap.snaplen=96"]).unwrap();
        assert!(effective.with_changes(effective.tree()).is_ok());
        let change = |changes| effective.with_changes(&changes).unwrap_err().to_string();
        insta::assert_snapshot!(change(json!({"tap": {"dataDir": "/other"}})), @"`tap.dataDir` cannot change while recording: stop `kuberewind tap`, and start it with the new value");
        insta::assert_snapshot!(change(json!({"tap": {"snaplen": null}})), @"`tap.snaplen` cannot change while recording: stop `kuberewind tap`, and start it with the new value");
        insta::assert_snapshot!(change(json!({"tap": null})), @"`tap.snaplen` cannot change while recording: stop `kuberewind tap`, and start it with the new value");
    }

    #[test]
    fn a_bad_change_is_refused_and_named() {
        let effective = Place::new().load();
        let change = |changes| effective.with_changes(&changes).unwrap_err().to_string();
        insta::assert_snapshot!(change(json!({"pcapdump": {"maxTme": "1h"}})), @"unknown key `pcapdump.maxTme` in a live change; did you mean `pcapdump.maxTime`?");
        insta::assert_snapshot!(change(json!({"pcapdump": {"maxTime": "1d"}})), @"bad value `1d` for `pcapdump.maxTime` in a live change: no such unit `d`: units are h, m, s, ms, us, ns (a day is 24h, a week 168h)");
        insta::assert_snapshot!(change(json!({"pcapdump": {"maxTime": "1s"}})), @"`pcapdump.timeInterval` is 1m (default), longer than `pcapdump.maxTime`, 1s (a live change): set pcapdump.timeInterval=1s or less");
        insta::assert_snapshot!(change(json!([1])), @"expected keys and values in a live change, like `pcapdump: { maxTime: 1h }`");
        assert!(effective.with_changes(&json!({})).is_ok());
    }

    #[test]
    fn these_keys_are_live() {
        let live: Vec<_> = KEYS.iter().filter(|key| key.live).map(|key| key.name).collect();
        let pcapdump = KEYS.iter().map(|key| key.name).filter(|name| name.starts_with("pcapdump."));
        let tap = [
            "tap.bpfOverride",
            "tap.regex",
            "tap.namespaces",
            "tap.excludedNamespaces",
            "tap.capture.captureSelf",
            "tap.capture.hostNetwork",
            "tap.tlsExport",
            "tap.tlsControlPlane",
            "tap.tlsPlaintext",
            "tap.metrics.podMonitor",
            "tap.metrics.alerts",
            "tap.metrics.dashboard",
            "tap.networkPolicy",
            "tap.openShift",
        ];
        assert_eq!(live, tap.into_iter().chain(pcapdump).collect::<Vec<_>>());
    }
}

mod listings {
    use super::*;

    #[test]
    fn the_listing_says_where_each_value_came_from() {
        let place = Place::new()
            .with("kuberewind.yaml", "pcapdump:\n  maxTime: 90m\ntap:\n  regex: '^cart: #1'\n");
        let set = vec!["tap.namespaces={shop,on}".into()];
        let effective = Effective::load(&Sources { set, ..place.sources() }).unwrap();
        let text =
            listing(&effective.to_json()).replace(&format!("{}/", place.dir.path().display()), "");
        insta::assert_snapshot!(text, @r#"
        tap:
          bpfOverride: null # default
          snaplen: 262144 # default
          ringMemory: null # default
          dataDir: /var/lib/kuberewind # default
          regex: "^cart: #1" # kuberewind.yaml:4
          namespaces: [shop, "on"] # --set
          excludedNamespaces: [] # default
          capture:
            captureSelf: false # default
            hostNetwork: false # default
          tls: true # default
          tlsExport: true # default
          tlsControlPlane: false # default
          tlsPlaintext: [] # default
          docker:
            registry: localhost # default
            tag: null # default
            imagePullPolicy: IfNotPresent # default
            imagePullSecrets: [] # default
          resources:
            requests:
              cpu: 100m # default
              memory: 128Mi # default
            limits:
              cpu: "" # default
              memory: 512Mi # default
          nodeSelectorTerms: [{"matchExpressions":[{"key":"kubernetes.io/os","operator":"In","values":["linux"]}]}] # default
          tolerations: [{"operator":"Exists"}] # default
          priorityClass: null # default
          labels: {} # default
          annotations: {} # default
          metrics:
            port: 49100 # default
            podMonitor: false # default
            alerts: false # default
            dashboard: false # default
          networkPolicy: false # default
          openShift: false # default
        pcapdump:
          enabled: true # default
          timeInterval: 1m # default
          maxTime: 1h30m # kuberewind.yaml:2
          maxSize: 500MB # default
          minFree: 12% # default
        headless: false # default
        logLevel: info # default
        logFormat: text # default
        "#);
    }

    #[test]
    fn text_that_looks_like_something_else_is_quoted() {
        let texts = [
            "0x1B",
            "0b1",
            "0o7",
            "1e3",
            "12",
            "1.5",
            "yes",
            "NULL",
            "~",
            "-",
            "- a",
            "a: b",
            "a #b",
            "#a",
            "a ",
            "'a",
            "\"",
            "\\",
            "{a}",
            "[a]",
            "*a",
            "&a",
            "!a",
            "|",
            "a\nb",
            "\u{7f}",
            "\u{1}",
            "\u{85}",
            "\u{2028}",
            "\u{ffff}",
            "\u{1f600}",
            "\u{feff}a",
            "2020-01-01",
            "1:30",
            ".inf",
            "=",
            "<<",
            "?",
            "%a",
            "@a",
            "`a",
            ", a",
            "µ",
        ];
        for text in texts {
            let mut config = Config::default();
            config.tap.regex = Some(text.to_owned());
            let listing = listing(&from_flags(&config).to_json());
            assert_eq!(reread(&listing), config, "{listing}");
            assert!(listing.contains("  regex: \""), "{listing}");
        }
        for text in ["a", "1h", "12%", "5GB", "cart-7.x", "tcp port 80"] {
            let mut config = Config::default();
            config.tap.regex = Some(text.to_owned());
            assert!(
                listing(&from_flags(&config).to_json()).contains(&format!("  regex: {text} #"))
            );
        }
    }

    #[test]
    fn json_has_the_values_and_their_origins() {
        let json = set(&["headless=true"]).unwrap().to_json();
        assert_eq!(json["values"]["headless"], json!(true));
        assert_eq!(json["origins"]["headless"], json!("--set"));
        assert_eq!(json["values"]["tap"]["bpfOverride"], Value::Null);
        assert_eq!(json["origins"].as_object().unwrap().len(), KEYS.len());
    }

    fn from_flags(config: &Config) -> Effective {
        let mut config = config.clone();
        let flag = |key: &'static crate::config::Key| {
            (key.name, (key.place)(&mut config).show(), "--flag")
        };
        let flags = KEYS.iter().map(flag).collect();
        Effective::load(&Sources { flags, ..Place::new().sources() }).unwrap()
    }

    fn reread(text: &str) -> Config {
        Place::new().with("kuberewind.yaml", text).load().config().clone()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn both_listings_are_values_files_that_give_the_same_again(
            filter in "\\PC{1,20}",
            regex in any::<String>(),
            dir in r#"[a-z0-9:#'"{}\[\], ~!&*%@.e_+-]{1,12}"#,
            seconds in 1..100_000_u64,
            size in 1..=u64::from(u32::MAX),
            percent in 0..=MinFree::MOST_PERCENT,
        ) {
            let mut config = all_different();
            config.tap.bpf_override = Some(filter);
            config.tap.regex = Some(regex).filter(|regex| !regex.is_empty());
            config.tap.data_dir = dir.into();
            config.pcapdump.max_time = Duration::from_secs(seconds);
            config.pcapdump.time_interval = Duration::from_secs(seconds);
            config.pcapdump.max_size = ByteSize::new(size);
            config.pcapdump.min_free = MinFree::Percent(percent);
            let effective = from_flags(&config);
            prop_assert_eq!(effective.config(), &config);
            prop_assert_eq!(&reread(&listing(&effective.to_json())), &config);
            prop_assert_eq!(&reread(&effective.to_json()["values"].to_string()), &config);
        }
    }
}

mod merging {
    use super::*;

    fn patch() -> impl Strategy<Value = Value> {
        let time = prop::sample::select(vec![json!("2h"), json!("3h"), Value::Null]);
        let size = prop::sample::select(vec![json!("1GB"), json!("2GB"), Value::Null]);
        let filter = prop::sample::select(vec![json!("tcp"), json!("udp"), json!(""), Value::Null]);
        (prop::option::of(time), prop::option::of(size), prop::option::of(filter)).prop_map(
            |(time, size, filter)| {
                let mut patch = json!({});
                if let Some(time) = time {
                    patch["pcapdump"]["maxTime"] = time;
                }
                if let Some(size) = size {
                    patch["pcapdump"]["maxSize"] = size;
                }
                if let Some(filter) = filter {
                    patch["tap"]["bpfOverride"] = filter;
                }
                patch
            },
        )
    }

    proptest! {
        #[test]
        fn a_change_twice_is_a_change_once(patch in patch()) {
            let once = Place::new().load().with_changes(&patch).unwrap();
            let twice = once.with_changes(&patch).unwrap();
            prop_assert_eq!(once.to_json(), twice.to_json());
        }

        #[test]
        fn the_later_change_wins_and_the_rest_stays(first in patch(), second in patch()) {
            let before = Place::new().load().with_changes(&first).unwrap();
            let after = before.with_changes(&second).unwrap();
            for key in KEYS {
                let at = |tree: &Value| key.fields().fold(tree.clone(), |tree, name| tree[name].clone());
                let section = key.fields().next().unwrap();
                let named = second.get(section).is_some_and(|inner| {
                    key.fields().nth(1).is_some_and(|name| inner.get(name).is_some())
                });
                let from = if named { Place::new().load().with_changes(&second).unwrap() } else { before.clone() };
                prop_assert_eq!(at(after.tree()), at(from.tree()));
            }
        }

        #[test]
        fn files_one_over_the_other_are_changes_one_after_the_other(first in patch(), second in patch()) {
            let place = Place::new()
                .with("a.yaml", &first.to_string())
                .with("b.yaml", &second.to_string());
            let values = vec!["a.yaml".into(), "b.yaml".into()];
            let files = Effective::load(&Sources { values, ..place.sources() }).unwrap();
            let changes = place.load().with_changes(&first).unwrap().with_changes(&second).unwrap();
            prop_assert_eq!(files.tree(), changes.tree());
        }

        #[test]
        fn no_argument_panics(argument in r"(tap|pcapdump|headless|logLevel)?[.\[]?[a-zA-Z0-9.\[\]]{0,12}=?.{0,12}") {
            let _ = set(&[&argument]);
        }

        #[test]
        fn no_file_panics(text in any::<String>()) {
            let place = Place::new().with("kuberewind.yaml", &text);
            let _ = Effective::load(&place.sources());
        }
    }
}

/// A default, as in a table.
fn default_text(key: &crate::config::Key) -> String {
    match key.default() {
        Value::Null => "none".to_owned(),
        Value::String(text) if text.is_empty() => "none".to_owned(),
        Value::String(text) => format!("`{text}`"),
        value => format!("`{value}`"),
    }
}

/// `docs/configuration.md` says what the code does.
mod documentation {
    use super::*;
    use crate::config::set::{Assignment, assign, parse};

    const PAGE: &str = include_str!("../../../../docs/configuration.md");

    fn row(key: &crate::config::Key) -> String {
        let live = if key.live { "yes" } else { "no" };
        let default = default_text(key);
        format!("| `{}` | {default} | {} | {live} | {} |\n", key.name, key.form, key.about)
    }

    #[test]
    fn the_table_of_keys_is_the_code_s() {
        let head = "| key | default | written as | live | meaning |\n|---|---|---|---|---|\n";
        let table: String = KEYS.iter().map(row).collect();
        let (_, after) = PAGE.split_once(head).unwrap();
        let (written, _) = after.split_once("\n\n").unwrap();
        assert!(
            written == table.trim_end(),
            "write this into docs/configuration.md:\n{head}{table}"
        );
    }

    #[test]
    fn the_values_file_can_be_used() {
        let (_, after) = PAGE.split_once("```yaml\n").unwrap();
        let (text, _) = after.split_once("```").unwrap();
        let place = Place::new().with("kuberewind.yaml", text);
        assert_eq!(place.load().config().pcapdump.max_time, Duration::from_hours(24));
    }

    #[test]
    fn the_arguments_of_set_mean_what_the_table_says() {
        let (_, after) = PAGE.split_once("| `--set` | sets |\n|---|---|\n").unwrap();
        let (rows, _) = after.split_once("\n\n").unwrap();
        for row in rows.lines() {
            let (argument, meaning) =
                row.trim_matches(['|', ' ']).trim_matches('`').split_once("` | `").unwrap();
            let mut tree = json!({});
            for Assignment { path, value } in parse(argument).unwrap() {
                assign(&mut tree, &path, value).unwrap();
            }
            assert_eq!(tree, serde_json::from_str::<Value>(meaning).unwrap(), "{argument}");
            assert!(set(&[argument]).is_ok(), "{argument}");
        }
    }

    #[test]
    fn the_errors_shown_are_the_errors_given() {
        assert!(PAGE.contains(&set_error("pcapdump.maxTme=1h")));
        assert!(PAGE.contains(&file_error("pcapdump:\n  maxTime: 1d\n")));
    }
}

/// `chart/` is the same tree of values.
mod chart {
    use super::*;
    use kuberewind_cluster::chart::{self, Release};

    fn render(values: &Value) -> Vec<Value> {
        let release = Release {
            name: "kuberewind".into(),
            namespace: "kuberewind".into(),
            kube_version: "v1.36.1".into(),
            cluster_id: None,
        };
        chart::render(values, &release).unwrap()
    }

    fn pods(objects: &[Value]) -> Value {
        objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap()["spec"].clone()
    }

    #[test]
    fn its_defaults_are_ours() {
        let place = Place::new().with("kuberewind.yaml", &chart::defaults().unwrap().to_string());
        assert_eq!(*place.load().config(), Config::default());
    }

    #[test]
    fn it_has_every_key_and_no_other() {
        let mut defaults = chart::defaults().unwrap();
        for key in KEYS {
            let (name, section) = key
                .fields()
                .collect::<Vec<_>>()
                .split_last()
                .map(|(name, above)| {
                    let section = above.iter().fold(&mut defaults, |tree, name| &mut tree[*name]);
                    ((*name).to_owned(), section.as_object_mut().unwrap())
                })
                .unwrap();
            assert!(section.remove(&name).is_some(), "chart/values.yaml has no {}", key.name);
        }
        assert_eq!(leaves(&defaults), 0, "no keys: {defaults}");
    }

    fn leaves(tree: &Value) -> usize {
        tree.as_object().map_or(1, |section| section.values().map(leaves).sum())
    }

    #[test]
    fn the_values_in_force_render_as_those_that_were_given() {
        assert_eq!(render(&tree_of(&Config::default())), render(&json!({})));
        let given = json!({ "tap": { "resources": { "limits": { "memory": "" } }, "labels": { "team": "net" } } });
        let place = Place::new().with("kuberewind.yaml", &given.to_string());
        assert_eq!(render(place.load().tree()), render(&given));
    }

    #[test]
    fn a_live_setting_restarts_no_agent_and_every_other_does() {
        let different = tree_of(&all_different());
        let before = pods(&render(&json!({})));
        // `headless` is the command line's.
        for key in KEYS.iter().filter(|key| key.name != "headless") {
            let value = key.fields().fold(&different, |tree, name| &tree[name]).clone();
            let mut changed = json!({});
            *key.fields().fold(&mut changed, |tree, name| &mut tree[name]) = value;
            assert_eq!(pods(&render(&changed)) == before, key.live, "{}", key.name);
        }
    }

    /// A row of the table in the chart's README.
    fn row(key: &crate::config::Key) -> String {
        let about = key.about.trim_end_matches(" On a cluster only.");
        format!("| `{}` | {} | {about} |\n", key.name, default_text(key))
    }

    #[test]
    fn its_table_of_values_is_the_code_s() {
        let readme = include_str!("../../../../chart/README.md");
        let head = "| value | default | meaning |\n|---|---|---|\n";
        let table: String = KEYS.iter().map(row).collect();
        let (_, after) = readme.split_once(head).unwrap();
        let (written, _) = after.split_once("\n\n").unwrap();
        assert!(written == table.trim_end(), "write this into chart/README.md:\n{head}{table}");
    }

    #[test]
    fn its_version_is_ours() {
        assert_eq!(chart::version().unwrap(), crate::VERSION);
    }
}
