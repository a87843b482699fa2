//! How far TLS can be decrypted, and why no further, in words.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use kuberewind_export::figures;
use kuberewind_packet::Owner;

use crate::agent::TlsReport;

/// More owners than these are only counted.
const MOST: usize = 10;

/// TLS of one owner's network namespace.
pub(super) struct Coverage<'a> {
    owner: &'a Owner,
    handshakes: u64,
    covered: u64,
    /// Libraries that give secrets, with their versions.
    with: BTreeSet<String>,
    /// Why others give none.
    without: BTreeSet<&'a str>,
}

/// Each owner's that has TLS.
pub(super) fn of(tls: &TlsReport) -> Vec<Coverage<'_>> {
    let coverage = tls.namespaces.iter().map(|namespace| {
        let owner = &namespace.owner;
        let libraries = tls.libraries.iter().filter(|found| found.owners.contains(owner));
        let unsupported = tls.unsupported.iter().filter(|found| found.owners.contains(owner));
        let name = |library: &str, version: Option<&str>| match version {
            Some(version) => format!("{library} {version}"),
            None => library.to_owned(),
        };
        Coverage {
            owner,
            handshakes: namespace.handshakes,
            covered: namespace.covered,
            with: libraries.map(|found| name(&found.library, found.version.as_deref())).collect(),
            without: unsupported.map(|found| found.reason.as_str()).collect(),
        }
    });
    coverage.filter(|of| of.handshakes > 0 || !of.without.is_empty()).collect()
}

impl Coverage<'_> {
    /// Whether connections are without secrets.
    pub(super) const fn has_gap(&self) -> bool {
        self.covered < self.handshakes
    }

    /// For the report of an export, whose packets may be of both ends: why this one gives no secrets.
    fn note(&self) -> Option<String> {
        let Self { owner, without, .. } = self;
        (self.has_gap() && !without.is_empty()).then(|| {
            let why = without.iter().copied().collect::<Vec<_>>().join("; ");
            format!(
                "{owner} gives no TLS secrets ({why}): those of its other ends open what they can"
            )
        })
    }
}

/// `pay/till-1: 0 of 5 TLS connections with secrets; NSS: not supported yet`; why not is said where
/// something is missing: programs often have a library that they do not use.
impl fmt::Display for Coverage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, handshakes, covered, with, without } = self;
        let (covered, handshakes) = (figures::count(*covered), figures::count(*handshakes));
        write!(f, "{owner}: {covered} of {handshakes} TLS connections with secrets")?;
        if !with.is_empty() {
            let with = with.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            write!(f, " ({with})")?;
        }
        let why = without.iter().filter(|_| self.covered < self.handshakes || self.handshakes == 0);
        why.into_iter().try_for_each(|why| write!(f, "; {why}"))
    }
}

/// Notes for the report of an export of these owners' packets.
pub(super) fn notes<'a>(
    reports: impl IntoIterator<Item = &'a TlsReport>,
    wanted: impl Fn(&str) -> bool,
) -> Vec<String> {
    let all = reports.into_iter().flat_map(of).filter(|of| wanted(&of.owner.to_string()));
    first(all.filter_map(|of| of.note()).collect(), "give no TLS secrets")
}

/// What is without secrets, on all nodes.
pub(super) fn gaps<'a>(reports: impl IntoIterator<Item = &'a TlsReport>) -> Vec<String> {
    let all = reports.into_iter().flat_map(of).filter(Coverage::has_gap);
    first(all.map(|of| of.to_string()).collect(), "have TLS connections without secrets")
}

fn first(mut lines: Vec<String>, what: &str) -> Vec<String> {
    let more = lines.len().saturating_sub(MOST);
    lines.truncate(MOST);
    if more > 0 {
        lines.push(format!("{more} more {what}: `kuberewind status --json` names them"));
    }
    lines
}

/// `12 TLS connections, 9 with secrets`, and what was lost of these.
pub(super) fn summary(reports: &[&TlsReport]) -> String {
    let sum = |of: fn(&TlsReport) -> u64| reports.iter().map(|tls| of(tls)).sum::<u64>();
    let mut line = format!(
        "{} TLS connections, {} with secrets",
        figures::count(sum(|tls| tls.handshakes)),
        figures::count(sum(|tls| tls.covered)),
    );
    let losses = [
        ("lost in the kernel", sum(|tls| tls.lost)),
        ("beyond one namespace's share", sum(|tls| tls.refused)),
        ("not written", sum(|tls| tls.unwritten)),
        ("without a recorded handshake", sum(|tls| tls.unmatched)),
        ("of the control plane, not kept", sum(|tls| tls.discarded)),
    ];
    for (what, count) in losses.into_iter().filter(|(_, count)| *count > 0) {
        let _ = write!(line, "; secrets {what}: {}", figures::count(count));
    }
    let others = [
        (
            "packets of handshakes that came too fast to be read",
            sum(|tls| tls.handshake_packets_left_out),
        ),
        ("connections without room for what opens them later", sum(|tls| tls.pins_dropped)),
        ("secrets that exports had no room for", sum(|tls| tls.unsent)),
    ];
    for (what, count) in others.into_iter().filter(|(_, count)| *count > 0) {
        let _ = write!(line, "; {what}: {}", figures::count(count));
    }
    plaintext(reports, &mut line);
    line
}

/// What probes of plaintext see, where they are asked for.
fn plaintext(reports: &[&TlsReport], line: &mut String) {
    let all: Vec<_> = reports.iter().filter_map(|tls| tls.plaintext.as_ref()).collect();
    if all.is_empty() {
        return;
    }
    let conversations: u64 = all.iter().map(|of| of.conversations).sum();
    let _ = write!(line, "; {} conversations as plaintext", figures::count(conversations));
    let losses = [
        ("lost", all.iter().map(|of| of.lost).sum::<u64>()),
        ("of no known connection", all.iter().map(|of| of.unplaced).sum()),
        ("not written", all.iter().map(|of| of.unwritten).sum()),
    ];
    for (what, bytes) in losses.into_iter().filter(|(_, bytes)| *bytes > 0) {
        let _ = write!(line, ", {} {what}", figures::bytes(bytes));
    }
    let files: usize = all.iter().map(|of| of.files_left_out).sum();
    if files > 0 {
        let _ = write!(line, ", {files} files without probes: there are too many");
    }
}

#[cfg(test)]
mod tests {
    use kuberewind_packet::Pod;
    use serde_json::json;

    use super::*;

    fn report() -> TlsReport {
        let pod = |namespace: &str, name: &str| {
            Owner::Pod(Pod { namespace: namespace.into(), name: name.into(), uid: "1".into() })
        };
        let (cart, till, idle) = (pod("shop", "cart-1"), pod("pay", "till-1"), pod("pay", "idle"));
        let coverage = |owner, handshakes, covered| json!({"owner": owner, "handshakes": handshakes, "covered": covered});
        serde_json::from_value(json!({
            "handshakes": 9, "covered": 4, "discarded": 2, "handshakePacketsLeftOut": 3,
            "namespaces": [coverage(&cart, 4, 4), coverage(&till, 5, 0), coverage(&idle, 0, 0)],
            "libraries": [{"library": "OpenSSL", "path": "/lib/x", "version": "3.0.17", "processes": 1, "owners": [cart]}],
            "unsupported": [{"library": "NSS", "path": "/lib/y", "reason": "NSS: not supported yet", "processes": 1, "owners": [till]}],
        }))
        .unwrap()
    }

    #[test]
    fn who_has_tls_is_named_with_what_gives_secrets_and_what_does_not() {
        let report = report();
        let lines: Vec<_> = of(&report).iter().map(ToString::to_string).collect();
        let till = "pay/till-1: 0 of 5 TLS connections with secrets; NSS: not supported yet";
        assert_eq!(
            lines,
            ["shop/cart-1: 4 of 4 TLS connections with secrets (OpenSSL 3.0.17)", till]
        );
        assert_eq!(gaps([&report]), [till]);
        assert_eq!(
            summary(&[&report, &report]),
            "18 TLS connections, 8 with secrets; secrets of the control plane, not kept: 4; packets of \
             handshakes that came too fast to be read: 6"
        );
    }

    #[test]
    fn an_export_says_who_gives_no_secrets_if_his_packets_are_wanted() {
        let note = "pay/till-1 gives no TLS secrets (NSS: not supported yet): those of its other \
                    ends open what they can";
        assert_eq!(notes([&report()], |_| true), [note]);
        assert_eq!(notes([&report()], |owner| owner.starts_with("shop/")), [""; 0]);
        let many = vec![report(); 12];
        assert_eq!(notes(&many, |_| true).len(), MOST + 1);
    }
}
