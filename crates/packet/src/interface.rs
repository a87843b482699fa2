//! Which interface, of whom, on which node: what pcapng's interface descriptions carry.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The inode number of a network namespace, as in `net:[4026531840]`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NetnsId(pub u64);

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A pod, as Kubernetes names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a name may come again, a UID does not.
    pub uid: String,
}

/// Whose interface it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Owner {
    /// The machine's own network namespace.
    Host,
    /// A network namespace by the name that the user gave it.
    Netns(String),
    /// A pod.
    Pod(Pod),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Netns(name) => f.write_str(name),
            Self::Pod(pod) => write!(f, "{}/{}", pod.namespace, pod.name),
        }
    }
}

/// One recorded interface. In pcapng its `if_name` is `namespace/pod/eth0`, `netns/eth0` or `eth0`,
/// and its `if_description` names node, pod UID and network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Interface {
    /// The node that recorded it.
    pub node: String,
    /// Whose it is.
    pub owner: Owner,
    /// The network namespace that it is in.
    pub netns: NetnsId,
    /// The kernel's name for it: `eth0`; [`Interface::ANY`] for what concerns all of a namespace.
    pub name: String,
}

/// An interface description that we did not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("interface `{if_name}` does not say who it belongs to: `{if_description}`")]
pub struct InterfaceError {
    if_name: String,
    if_description: String,
}

impl Owner {
    /// pcapng's `if_name` of an interface of this owner.
    pub fn if_name(&self, interface: &str) -> String {
        match self {
            Self::Host => interface.to_owned(),
            owner => format!("{owner}/{interface}"),
        }
    }
}

impl Interface {
    /// libpcap's name for "every interface": carries the losses that are known per ring only.
    pub const ANY: &'static str = "any";

    /// pcapng's `if_name`.
    pub fn if_name(&self) -> String {
        self.owner.if_name(&self.name)
    }

    /// pcapng's `if_description`.
    pub fn if_description(&self) -> String {
        let Self { node, owner, netns, .. } = self;
        match owner {
            Owner::Pod(pod) => format!("node={node} pod-uid={} netns={netns}", pod.uid),
            Owner::Host | Owner::Netns(_) => format!("node={node} netns={netns}"),
        }
    }

    /// Reads back what [`Self::if_name`] and [`Self::if_description`] wrote.
    pub fn parse(if_name: &str, if_description: &str) -> Result<Self, InterfaceError> {
        Self::try_parse(if_name, if_description).ok_or_else(|| InterfaceError {
            if_name: if_name.to_owned(),
            if_description: if_description.to_owned(),
        })
    }

    fn try_parse(if_name: &str, if_description: &str) -> Option<Self> {
        let field = |key: &str| {
            if_description.split(' ').find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
        };
        let (prefix, name) = match if_name.rsplit_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, if_name),
        };
        let owner = match (prefix, field("pod-uid")) {
            (None, None) => Owner::Host,
            (Some(prefix), None) => Owner::Netns(prefix.to_owned()),
            (Some(prefix), Some(uid)) => {
                let (namespace, pod) = prefix.split_once('/')?;
                Owner::Pod(Pod {
                    namespace: namespace.to_owned(),
                    name: pod.to_owned(),
                    uid: uid.to_owned(),
                })
            }
            (None, Some(_)) => return None,
        };
        Some(Self {
            node: field("node")?.to_owned(),
            owner,
            netns: NetnsId(field("netns")?.parse().ok()?),
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_read_back_as_they_were_written() {
        let pod = Pod { namespace: "shop".into(), name: "cart-7".into(), uid: "6f0c".into() };
        for owner in [Owner::Host, Owner::Netns("blue".into()), Owner::Pod(pod)] {
            let interface =
                Interface { node: "n1".into(), owner, netns: NetnsId(4), name: "eth0".into() };
            let read = Interface::parse(&interface.if_name(), &interface.if_description());
            assert_eq!(read, Ok(interface));
        }
        assert!(Interface::parse("eth0", "somebody's NIC").is_err());
    }
}
