//! What is seen of TLS, and what is not.

use kuberewind_packet::{NetnsId, Owner};
use serde::{Deserialize, Serialize};

/// How far TLS secrets are seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsStatus {
    /// Files with a TLS library that is watched.
    pub libraries: Vec<LibraryStatus>,
    /// Files with a TLS library whose secrets cannot be seen.
    pub unsupported: Vec<UnsupportedStatus>,
    /// Dynamic loaders that tell when a process maps a library.
    pub loaders: usize,
    /// Recorded namespaces.
    pub namespaces: Vec<TlsNamespaceStatus>,
    /// Secrets that left the kernel.
    pub secrets: u64,
    /// Secrets that found no room in the kernel's ring.
    pub lost: u64,
    /// Secrets beyond what one namespace may tell in a moment: 4,000, or 32 with objects, in a tenth of a
    /// second.
    pub refused: u64,
    /// Calls whose arguments could not be read.
    pub unreadable: u64,
    /// Calls by processes that are not recorded; nothing of them left the kernel.
    pub not_recorded: u64,
    /// What does not work, in words.
    pub problems: Vec<String>,
}

/// A file with a TLS library that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LibraryStatus {
    /// `OpenSSL`, `Go`.
    pub library: String,
    /// As a process that uses it sees it.
    pub path: String,
    /// As it says itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The linker's hash over the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// How many recorded processes use it.
    pub processes: usize,
    /// Whose.
    pub owners: Vec<Owner>,
}

/// A file with a TLS library whose secrets cannot be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnsupportedStatus {
    /// `Java`, `GnuTLS`.
    pub library: String,
    /// As a process that uses it sees it.
    pub path: String,
    /// Why, in words.
    pub reason: String,
    /// How many recorded processes use it.
    pub processes: usize,
    /// Whose.
    pub owners: Vec<Owner>,
}

/// A recorded namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsNamespaceStatus {
    /// Whose it is.
    pub owner: Owner,
    /// Which it is.
    pub netns: NetnsId,
    /// Secrets seen since it is recorded; a handshake of TLS 1.3 has five on each side, one of TLS 1.2
    /// one.
    pub secrets: u64,
}
