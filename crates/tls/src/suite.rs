//! Protocol versions and the cipher suites that can be opened.

use std::fmt;

use ring::{aead, digest, hmac};

/// A version of TLS, by its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u16);

impl Version {
    /// TLS 1.2.
    pub const TLS12: Self = Self(0x0303);
    /// TLS 1.3.
    pub const TLS13: Self = Self(0x0304);
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0x0300 => f.write_str("SSL 3.0"),
            0x0301..=0x0304 => write!(f, "TLS 1.{}", self.0 - 0x0301),
            other => write!(f, "TLS version {other:#06x}"),
        }
    }
}

/// The hash function of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
}

impl Hash {
    pub(crate) const BOTH: [Self; 2] = [Self::Sha256, Self::Sha384];

    /// The function whose output has `len` bytes.
    pub(crate) const fn by_len(len: usize) -> Option<Self> {
        match len {
            32 => Some(Self::Sha256),
            48 => Some(Self::Sha384),
            _ => None,
        }
    }

    /// Bytes of output.
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    pub(crate) fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
        }
    }

    pub(crate) fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
        }
    }

    /// The hash of all parts in a row.
    pub(crate) fn of(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = digest::Context::new(self.digest());
        for part in parts {
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }
}

/// The encryption of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aead {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Aead {
    pub(crate) const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    pub(crate) fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

/// A cipher suite that can be opened. How keys were exchanged does not matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) aead: Aead,
    pub(crate) hash: Hash,
}

impl Suite {
    /// The suite of a number in IANA's registry, if a session of `version` can use it and it can be
    /// opened.
    pub(crate) fn find(version: Version, number: u16) -> Option<Self> {
        let suite = |aead, hash| Some(Self { aead, hash });
        match (version, number) {
            (Version::TLS13, 0x1301) => suite(Aead::Aes128Gcm, Hash::Sha256),
            (Version::TLS13, 0x1302) => suite(Aead::Aes256Gcm, Hash::Sha384),
            // In these blocks AES-128-GCM with SHA-256 and AES-256-GCM with SHA-384 take turns
            // (RFC 5288, 5487, 5289, 8442).
            (Version::TLS12, 0x009c..=0x00ad | 0xc02b..=0xc032 | 0xd001..=0xd002) => {
                let first = match number {
                    0xc02b..=0xc032 | 0xd001..=0xd002 => 1,
                    _ => 0,
                };
                if number % 2 == first {
                    suite(Aead::Aes128Gcm, Hash::Sha256)
                } else {
                    suite(Aead::Aes256Gcm, Hash::Sha384)
                }
            }
            // RFC 8446 appendix B.4, RFC 7905.
            (Version::TLS13, 0x1303) | (Version::TLS12, 0xcca8..=0xccae) => {
                suite(Aead::ChaCha20Poly1305, Hash::Sha256)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_those_of_the_registry() {
        let gcm128 = Some(Suite { aead: Aead::Aes128Gcm, hash: Hash::Sha256 });
        let gcm256 = Some(Suite { aead: Aead::Aes256Gcm, hash: Hash::Sha384 });
        for (number, suite) in [
            (0x009c, gcm128), // RSA
            (0x009d, gcm256),
            (0x009f, gcm256), // DHE-RSA
            (0x00ac, gcm128), // RSA-PSK
            (0xc02b, gcm128), // ECDHE-ECDSA
            (0xc02c, gcm256),
            (0xc02f, gcm128), // ECDHE-RSA
            (0xc030, gcm256),
            (0xd001, gcm128), // ECDHE-PSK
            (0xd002, gcm256),
            (0xc027, None), // CBC
            (0xc09c, None), // CCM
            (0x1301, None),
        ] {
            assert_eq!(Suite::find(Version::TLS12, number), suite, "{number:#06x}");
        }
        assert_eq!(Suite::find(Version::TLS13, 0x1302), gcm256);
        assert_eq!(Suite::find(Version::TLS13, 0xc02f), None);
        assert_eq!(Version(0x0301).to_string(), "TLS 1.0");
        assert_eq!(Version::TLS13.to_string(), "TLS 1.3");
    }
}
