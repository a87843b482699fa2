//! What is kept of a secret, and which secrets are not kept.

use std::net::SocketAddr;

use kuberewind_packet::Timestamp;
use kuberewind_tls::{Joined, KeyLogLine};

/// Lines in one note: a quarter of what the store takes at once.
pub(super) const MOST_IN_A_NOTE: usize = 1_000;

/// Where kubelets and API servers listen unless told otherwise.
const PORTS: [u16; 2] = [10250, 6443];

/// The API server's name within the cluster, and what begins its longer ones.
const NAMES: [&str; 2] = ["kubernetes", "kubernetes.default"];

/// The Kubernetes API and the kubelets: whoever has their clients' tokens has the cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct ControlPlane {
    /// Where pods reach the API server.
    pub(crate) api_servers: Vec<SocketAddr>,
}

impl ControlPlane {
    /// Whether the connection is one of its.
    pub(super) fn has(&self, joined: &Joined) -> bool {
        let Joined { server, server_name, .. } = joined;
        let named = |name: &String| {
            NAMES.contains(&name.as_str())
                || name.strip_prefix(NAMES[1]).is_some_and(|rest| rest.starts_with('.'))
        };
        self.is_at(server) || server_name.as_ref().is_some_and(named)
    }

    /// Whether one of its servers is there.
    pub(super) fn is_at(&self, server: &SocketAddr) -> bool {
        self.api_servers.contains(server) || PORTS.contains(&server.port())
    }
}

/// A line of a key log, when its connection began, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) hello: Timestamp,
    /// As in a loss: `namespace/pod`, `host`.
    pub(super) owner: String,
    pub(super) line: KeyLogLine,
}

/// As text, one a line.
pub(super) fn write(kept: &[Kept]) -> Vec<u8> {
    let line = |kept: &Kept| {
        let Kept { hello, owner, line } = kept;
        format!("{} {line} {owner}\n", hello.as_nanos())
    };
    kept.iter().map(line).collect::<String>().into_bytes()
}

/// From that text; what is not of this version is passed over.
pub(super) fn read(bytes: &[u8]) -> Vec<Kept> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let kept = |line: &str| {
        let (hello, rest) = line.split_once(' ')?;
        let (owner_at, _) = rest.match_indices(' ').nth(2)?;
        Some(Kept {
            hello: Timestamp::from_nanos(hello.parse().ok()?),
            owner: rest[owner_at + 1..].to_owned(),
            line: rest[..owner_at].parse().ok()?,
        })
    };
    text.lines().filter_map(kept).collect()
}

#[cfg(test)]
mod tests {
    use kuberewind_packet::NetnsId;
    use kuberewind_tls::{KeyLogLabel, SecretBytes};

    use super::*;

    fn joined(server: &str, name: Option<&str>) -> Joined {
        Joined {
            hello: Timestamp::from_nanos(5),
            netns: NetnsId(7),
            client: "10.0.0.1:40000".parse().unwrap(),
            server: server.parse().unwrap(),
            server_name: name.map(str::to_owned),
            line: KeyLogLine {
                label: KeyLogLabel::ClientTraffic,
                client_random: [1; 32],
                secret: SecretBytes(vec![2; 48]),
            },
        }
    }

    #[test]
    fn what_is_kept_is_read_back() {
        let Joined { hello, line, .. } = joined("10.0.0.2:443", None);
        let kept = [Kept { hello, owner: "a name with spaces".into(), line }];
        assert_eq!(read(&write(&kept)), kept);
        assert_eq!(read(b"5 SOMETHING_NEW 00 00 host\n\xff"), []);
    }

    #[test]
    fn connections_of_the_control_plane_are_known_by_address_port_and_name() {
        let api = "10.96.0.1:443".parse().unwrap();
        let control_plane = ControlPlane { api_servers: vec![api] };
        let has = |server, name| control_plane.has(&joined(server, name));
        assert!(has("10.96.0.1:443", None));
        assert!(has("10.0.0.9:10250", None));
        assert!(has("[fd00::1]:6443", None));
        assert!(has("10.0.0.9:443", Some("kubernetes.default.svc")));
        assert!(!has("10.0.0.9:443", Some("kubernetes.example")));
        assert!(!has("10.96.0.1:8443", Some("shop.example")));
    }
}
