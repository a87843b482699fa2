//! What is kept of a secret, and which secrets are not kept.

use std::net::SocketAddr;

use kuberewind_packet::Timestamp;
use kuberewind_tls::{KeyLogLine, Pin};

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
    pub(super) fn has(&self, server: SocketAddr, server_name: Option<&str>) -> bool {
        let named = |name: &str| {
            NAMES.contains(&name)
                || name.strip_prefix(NAMES[1]).is_some_and(|rest| rest.starts_with('.'))
        };
        self.is_at(&server) || server_name.is_some_and(named)
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

/// The hellos of a connection, when packets of it were last seen, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeptPin {
    pub(super) seen: Timestamp,
    pub(super) owner: String,
    pub(super) pin: Pin,
}

/// As text, one a line.
pub(super) fn write(kept: &[Kept]) -> Vec<u8> {
    let line = |kept: &Kept| {
        let Kept { hello, owner, line } = kept;
        format!("{} {line} {owner}\n", hello.as_nanos())
    };
    kept.iter().map(line).collect::<String>().into_bytes()
}

/// As text, one a line; who reads lines of secrets passes them over.
pub(super) fn write_pins(kept: &[KeptPin]) -> Vec<u8> {
    let line = |kept: &KeptPin| {
        let KeptPin { seen, owner, pin } = kept;
        format!("{} {pin} {owner}\n", seen.as_nanos())
    };
    kept.iter().map(line).collect::<String>().into_bytes()
}

/// How long such a line is, at most.
pub(super) fn pin_len(owner: &str, pin: &Pin) -> usize {
    const NANOS_AND_SPACES: usize = 23;
    pin.to_string().len() + owner.len() + NANOS_AND_SPACES
}

/// From that text.
pub(super) fn read_pins(bytes: &[u8]) -> Vec<KeptPin> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let kept = |line: &str| {
        let (seen, rest) = line.split_once(' ')?;
        // Behind the eight words of a pin.
        let (owner_at, _) = rest.match_indices(' ').nth(7)?;
        Some(KeptPin {
            seen: Timestamp::from_nanos(seen.parse().ok()?),
            owner: rest[owner_at + 1..].to_owned(),
            pin: rest[..owner_at].parse().ok()?,
        })
    };
    text.lines().filter_map(kept).collect()
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
pub(super) fn pin(number: u64) -> Pin {
    let message = |kind: u8, rest: &[u8]| {
        let len = u8::try_from(34 + rest.len()).expect("short");
        let mut random = [kind; 32];
        random[..8].copy_from_slice(&number.to_le_bytes());
        [&[kind, 0, 0, len, 3, 3][..], &random, rest].concat()
    };
    Pin {
        hello: Timestamp::from_nanos(number),
        netns: kuberewind_packet::NetnsId(7),
        client: "10.0.0.1:40000".parse().expect("an address"),
        server: "10.0.0.2:443".parse().expect("an address"),
        client_hello: message(1, &[0, 0, 2, 0x13, 1, 1, 0, 0, 0]),
        server_hello: message(2, &[0, 0x13, 1, 0]),
    }
}

#[cfg(test)]
mod tests {
    use kuberewind_tls::{KeyLogLabel, SecretBytes};

    use super::*;

    #[test]
    fn what_is_kept_is_read_back() {
        let (time, owner) = (Timestamp::from_nanos(5), "a name with spaces".to_owned());
        let line = KeyLogLine {
            label: KeyLogLabel::ClientTraffic,
            client_random: [1; 32],
            secret: SecretBytes(vec![2; 48]),
        };
        let kept = [Kept { hello: time, owner: owner.clone(), line }];
        let pins = [KeptPin { seen: time, owner, pin: pin(1) }];
        let text = [write(&kept), write_pins(&pins)].concat();
        assert_eq!((read(&text).as_slice(), read_pins(&text).as_slice()), (&kept[..], &pins[..]));
        assert!(write_pins(&pins).len() <= pin_len(&pins[0].owner, &pins[0].pin));
        assert_eq!(read(b"5 SOMETHING_NEW 00 00 host\n\xff"), []);
    }

    #[test]
    fn connections_of_the_control_plane_are_known_by_address_port_and_name() {
        let api = "10.96.0.1:443".parse().unwrap();
        let control_plane = ControlPlane { api_servers: vec![api] };
        let has = |server: &str, name| control_plane.has(server.parse().unwrap(), name);
        assert!(has("10.96.0.1:443", None));
        assert!(has("10.0.0.9:10250", None));
        assert!(has("[fd00::1]:6443", None));
        assert!(has("10.0.0.9:443", Some("kubernetes.default.svc")));
        assert!(!has("10.0.0.9:443", Some("kubernetes.example")));
        assert!(!has("10.96.0.1:8443", Some("shop.example")));
    }
}
