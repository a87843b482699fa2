//! Certificates for TLS.

use std::path::Path;
use std::process::Command;

use crate::succeed;

/// Makes a key (ECDSA, P-256) and a certificate that it signs itself, for a server or a client of this
/// name.
pub fn self_signed(name: &str, key: &Path, certificate: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")]);
    // Go takes a certificate for a client's only if it says so.
    openssl.args(["-addext", "extendedKeyUsage=clientAuth,serverAuth"]);
    succeed(openssl.arg("-keyout").arg(key).arg("-out").arg(certificate));
}
