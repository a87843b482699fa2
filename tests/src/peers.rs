//! Programs that bring TLS libraries of their own, in versions that no distribution has side by side:
//! `cargo xtask setup` or `cargo xtask tls-matrix` installs them.

use std::path::{Path, PathBuf};

/// Node.js of a version.
pub fn node(target: &Path, version: &str) -> PathBuf {
    target.join(format!("peers/node-{version}/package/bin/node"))
}

/// Where Python finds pyOpenSSL with a version of cryptography, which has OpenSSL in it; with or
/// without that module's symbols.
pub fn pyopenssl(target: &Path, cryptography: &str, stripped: bool) -> PathBuf {
    let suffix = if stripped { "-stripped" } else { "" };
    target.join(format!("peers/cryptography-{cryptography}{suffix}"))
}

/// A program of these tests with rustls and one of the two cryptographies that it can have: `ring`,
/// `aws-lc`.
pub fn rustls(target: &Path, cryptography: &str) -> PathBuf {
    target.join(format!("peers/rustls-{cryptography}/release/rustls-peer"))
}

/// Envoy.
pub fn envoy(target: &Path) -> PathBuf {
    target.join("peers/envoy-1.40.0/envoy/_bin/envoy")
}
