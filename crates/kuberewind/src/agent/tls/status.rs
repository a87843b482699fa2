//! What is seen of TLS, in words and numbers.

use kuberewind_capture::{LibraryStatus, TlsStatus, UnsupportedStatus};
use kuberewind_packet::Owner;
use serde::{Deserialize, Serialize};

use super::{PlaintextReport, Shown};

/// TLS as `kuberewind status --json` shows it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TlsReport {
    /// Connections that began since the recorder started.
    pub(crate) handshakes: u64,
    /// Of these, those that exports can decrypt.
    pub(crate) covered: u64,
    /// The same by network namespace.
    pub(crate) namespaces: Vec<TlsCoverage>,
    /// Where secrets come from.
    pub(crate) libraries: Vec<LibraryStatus>,
    /// Where none come from, and why.
    pub(crate) unsupported: Vec<UnsupportedStatus>,
    /// Secrets that probes told of.
    pub(crate) secrets: u64,
    /// Secrets lost on the way from the kernel.
    pub(crate) lost: u64,
    /// Secrets that came from one namespace faster than any may tell them.
    pub(crate) refused: u64,
    /// Secrets whose connection was not recorded.
    pub(crate) unmatched: u64,
    /// Secrets of the Kubernetes API's and the kubelets' connections, not kept.
    pub(crate) discarded: u64,
    /// Secrets that could not be written.
    pub(crate) unwritten: u64,
    /// Connections whose hellos are kept, so that their later packets can be decrypted.
    pub(crate) pinned: u64,
    /// Hellos for which there was no room: exports that do not reach back to their connections'
    /// beginnings cannot decrypt them.
    pub(crate) pins_dropped: u64,
    /// Secrets that exports had no room for: there were too many connections in their windows.
    pub(crate) unsent: u64,
    /// Packets of handshakes that the joiner had no time for.
    pub(crate) handshake_packets_left_out: u64,
    /// Plaintext from probes, where it is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plaintext: Option<PlaintextReport>,
    /// What does not work.
    pub(crate) problems: Vec<String>,
}

/// How far TLS of one network namespace can be decrypted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TlsCoverage {
    pub(crate) owner: Owner,
    pub(crate) handshakes: u64,
    pub(crate) covered: u64,
}

impl TlsReport {
    pub(super) fn new(probes: TlsStatus, shown: &Shown, left_out: u64) -> Self {
        let coverage = probes.namespaces.iter().map(|namespace| {
            let counts = shown.namespaces.get(&namespace.netns).copied().unwrap_or_default();
            TlsCoverage {
                owner: namespace.owner.clone(),
                handshakes: counts.handshakes,
                covered: counts.covered,
            }
        });
        Self {
            handshakes: shown.all.handshakes,
            covered: shown.all.covered,
            namespaces: coverage.collect(),
            secrets: shown.all.secrets,
            lost: probes.lost,
            refused: probes.refused,
            unmatched: shown.all.unmatched,
            discarded: shown.discarded,
            unwritten: shown.unwritten,
            handshake_packets_left_out: left_out,
            libraries: probes.libraries,
            unsupported: probes.unsupported,
            plaintext: None,
            problems: probes.problems,
            pinned: 0,
            pins_dropped: 0,
            unsent: shown.unsent,
        }
    }

    /// TLS that cannot be seen does not count as a failure of the recording.
    pub(crate) fn failed(why: &str) -> Self {
        Self { problems: vec![format!("TLS stays encrypted: {why}")], ..Self::default() }
    }
}
