//! Which kernel can do what.

use std::fmt;

use super::finding::Finding;

/// Major and minor number of a Linux release; what follows is the distribution's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kernel(u32, u32);

/// The oldest that records: `PACKET_FANOUT` with rollover and nanosecond stamps as they are used here.
const RECORDS: Kernel = Kernel(4, 12);

/// The oldest that the TLS probes load on: BPF ring buffers and `CAP_BPF` came with 5.8.
const TLS: Kernel = Kernel(5, 8);

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Kernel {
    /// Of `6.1.0-13-amd64`.
    pub(super) fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next()?.parse().ok();
        Some(Self(number()?, number()?))
    }
}

/// What a kernel hinders, with the name of its machine or of several in `whose`; none if nothing.
pub(super) fn judge(whose: &str, release: &str, tls: bool) -> Option<Finding> {
    let Some(kernel) = Kernel::parse(release) else {
        return Some(Finding::warning("kernel", format!("{whose}kernel `{release}` is not known")));
    };
    let found = format!("{whose}kernel {release}");
    if kernel < RECORDS {
        let mend = format!("Linux {RECORDS} or newer");
        return Some(Finding::blocks("kernel", found).hinders("recording").mend(mend));
    }
    (tls && kernel < TLS).then(|| {
        let mend = format!("Linux {TLS} or newer; --set tap.tls=false does without");
        Finding::warning("kernel", found).hinders("decrypting TLS").mend(mend)
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn releases_are_read_as_distributions_write_them() {
        for (release, kernel) in [
            ("6.1.0-13-amd64", Some(Kernel(6, 1))),
            ("5.10.0", Some(Kernel(5, 10))),
            ("4.18.0-513.el8.x86_64", Some(Kernel(4, 18))),
            ("6.12-rc1+", Some(Kernel(6, 12))),
            ("unknown", None),
        ] {
            assert_eq!(Kernel::parse(release), kernel, "{release}");
        }
    }

    #[test]
    fn an_old_kernel_hinders_tls_first_and_then_everything() {
        let state = |release, tls| judge("", release, tls).map(|finding| finding.state);
        assert_eq!(state("5.8.0", true), None);
        assert_eq!(state("5.4.0", true), Some(State::Warning));
        assert_eq!(state("5.4.0", false), None);
        assert_eq!(state("4.4.0", false), Some(State::Blocks));
    }
}
