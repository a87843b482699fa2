//! What Wireshark lists, and what its dialog asks.

use std::fmt::Write as _;

use crate::VERSION;
use crate::cli::ExtcapArgs;

/// One line of Wireshark's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Interface {
    /// This machine's recording.
    Local,
    /// A whole cluster.
    Cluster,
    /// One of its nodes.
    Node(String),
}

const LOCAL: &str = "kuberewind-local";
const CLUSTER: &str = "kuberewind-cluster";
const NODE: &str = "kuberewind-node-";

impl Interface {
    /// By the name that Wireshark knows it by.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            LOCAL => Some(Self::Local),
            CLUSTER => Some(Self::Cluster),
            name => name
                .strip_prefix(NODE)
                .filter(|node| !node.is_empty())
                .map(|node| Self::Node(node.to_owned())),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Local => LOCAL.to_owned(),
            Self::Cluster => CLUSTER.to_owned(),
            Self::Node(node) => format!("{NODE}{node}"),
        }
    }

    fn display(&self) -> String {
        match self {
            Self::Local => "kuberewind: this machine's recording".to_owned(),
            Self::Cluster => "kuberewind: the whole cluster".to_owned(),
            Self::Node(node) => format!("kuberewind: node {node}"),
        }
    }
}

/// The answer to `--extcap-interfaces`.
pub(super) fn interfaces(found: &[Interface]) -> String {
    let mut text = format!("extcap {{version={VERSION}}}{{display=kuberewind}}\n");
    for interface in found {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "interface {{value={}}}{{display={}}}",
            interface.name(),
            escaped(&interface.display())
        );
    }
    text
}

/// The answer to `--extcap-dlts`: every recorded packet has an Ethernet header.
pub(super) fn link_types() -> &'static str {
    "dlt {number=1}{name=EN10MB}{display=Ethernet}\n"
}

/// One box of the dialog.
struct Box<'a> {
    call: &'a str,
    display: &'a str,
    kind: &'a str,
    default: &'a str,
    tooltip: &'a str,
    group: &'a str,
    /// Of a selector: what is passed, and what is shown.
    choices: &'a [(&'a str, &'a str)],
}

/// The answer to `--extcap-config`.
pub(super) fn options(interface: &Interface, args: &ExtcapArgs) -> String {
    let text = |call, display, default, tooltip, group| Box {
        call,
        display,
        kind: "string",
        default,
        tooltip,
        group,
        choices: &[],
    };
    let mut boxes = vec![text(
        "--time",
        "Last",
        "5m",
        "How far back: 5m, 1h30m; all is everything that is held, 0 with Follow nothing",
        "Packets",
    )];
    let dir = args.data_dir.as_ref().map(|dir| dir.display().to_string());
    let file = args.kubeconfig.as_ref().map(|file| file.display().to_string());
    if *interface == Interface::Local {
        boxes.push(Box {
            kind: "boolflag",
            ..text("--follow", "Follow", "false", "Go on with packets as they come", "Packets")
        });
        let dir = dir.as_deref().unwrap_or("/var/lib/kuberewind");
        boxes.push(text("--data-dir", "Recording", dir, "Where it lies", "Place"));
    } else {
        let regex = "Only pods whose name this regular expression matches";
        boxes.push(text("--pod", "Pods", "", regex, "Packets"));
        let names = "Only pods of these namespaces, with commas between them";
        boxes.push(text("--namespaces", "Namespaces", "", names, "Packets"));
        let (file, context) =
            (file.as_deref().unwrap_or_default(), args.context.as_deref().unwrap_or_default());
        let found = "Empty: $KUBECONFIG, else ~/.kube/config";
        let kubeconfig = text("--kubeconfig", "Kubeconfig", file, found, "Place");
        boxes.push(Box { kind: "fileselect", ..kubeconfig });
        boxes.push(text("--context", "Context", context, "Empty: the current one", "Place"));
        let namespace = &args.release_namespace;
        let installed = "Where kuberewind is installed";
        boxes.push(text("--release-namespace", "kuberewind in", namespace, installed, "Place"));
    }
    boxes.push(Box {
        kind: "selector",
        choices: &[
            ("auto", "secrets, with which Wireshark decrypts"),
            ("none", "exactly the recorded packets"),
            ("plaintext", "decrypted conversations beside them"),
            ("both", "secrets and decrypted conversations"),
        ],
        ..text("--tls", "TLS", "auto", "What of TLS is added", "Packets")
    });
    boxes.iter().enumerate().map(|(number, asked)| sentence(number, asked)).collect()
}

fn sentence(number: usize, asked: &Box<'_>) -> String {
    let Box { call, display, kind, default, tooltip, group, choices } = asked;
    let mut text = format!(
        "arg {{number={number}}}{{call={call}}}{{display={}}}{{type={kind}}}",
        escaped(display)
    );
    if !default.is_empty() && choices.is_empty() {
        let _ = write!(text, "{{default={}}}", escaped(default));
    }
    let _ = writeln!(text, "{{tooltip={}}}{{group={}}}", escaped(tooltip), escaped(group));
    for (value, shown) in *choices {
        let chosen = value == default;
        let _ = writeln!(
            text,
            "value {{arg={number}}}{{value={value}}}{{display={}}}{{default={chosen}}}",
            escaped(shown)
        );
    }
    text
}

/// Braces end a sentence's part.
fn escaped(text: &str) -> String {
    text.replace('{', "(").replace('}', ")").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_interface() {
        for interface in
            [Interface::Local, Interface::Cluster, Interface::Node("ip-10-0-0-1.internal".into())]
        {
            assert_eq!(Interface::parse(&interface.name()), Some(interface));
        }
        assert_eq!(Interface::parse("kuberewind-node-"), None);
        assert_eq!(Interface::parse("eth0"), None);
    }

    #[test]
    fn the_list_is_one_sentence_a_line() {
        assert_eq!(
            interfaces(&[Interface::Local, Interface::Node("n1".into())]),
            format!(
                "extcap {{version={VERSION}}}{{display=kuberewind}}\n\
                 interface {{value=kuberewind-local}}{{display=kuberewind: this machine's recording}}\n\
                 interface {{value=kuberewind-node-n1}}{{display=kuberewind: node n1}}\n"
            )
        );
    }
}
