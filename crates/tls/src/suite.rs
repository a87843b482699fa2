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

/// AES in CBC mode, with an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cbc {
    /// Keys have 256 bits, else 128.
    pub(crate) aes256: bool,
    pub(crate) mac: Mac,
}

/// The hash function of an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mac {
    Sha1,
    Sha256,
    Sha384,
}

impl Cbc {
    pub(crate) const fn key_len(self) -> usize {
        if self.aes256 { 32 } else { 16 }
    }
}

impl Mac {
    /// Bytes of the key and of the result.
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    pub(crate) fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
        }
    }
}

/// What records are encrypted and authenticated with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cipher {
    Aead(Aead),
    Cbc(Cbc),
}

/// A cipher suite that can be opened. How keys were exchanged does not matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) cipher: Cipher,
    pub(crate) hash: Hash,
}

impl Suite {
    /// The suite of a number in IANA's registry, if a session of `version` can use it and it can be
    /// opened.
    pub(crate) fn find(version: Version, number: u16) -> Option<Self> {
        let suite = |aead, hash| Some(Self { cipher: Cipher::Aead(aead), hash });
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
            (Version::TLS12, number) => {
                let cbc = cbc(number)?;
                let hash = if cbc.mac == Mac::Sha384 { Hash::Sha384 } else { Hash::Sha256 };
                Some(Self { cipher: Cipher::Cbc(cbc), hash })
            }
            _ => None,
        }
    }
}

/// The suites with AES in CBC mode (RFC 5246 appendix A.5, RFC 4279, 5487, 5489, 8422, 5289).
fn cbc(number: u16) -> Option<Cbc> {
    let (aes256, mac) = match number {
        0x002f..=0x0034
        | 0x008c
        | 0x0090
        | 0x0094
        | 0xc004
        | 0xc009
        | 0xc00e
        | 0xc013
        | 0xc018
        | 0xc035 => (false, Mac::Sha1),
        0x0035..=0x003a
        | 0x008d
        | 0x0091
        | 0x0095
        | 0xc005
        | 0xc00a
        | 0xc00f
        | 0xc014
        | 0xc019
        | 0xc036 => (true, Mac::Sha1),
        0x003c
        | 0x003e..=0x0040
        | 0x0067
        | 0x006c
        | 0x00ae
        | 0x00b2
        | 0x00b6
        | 0xc023
        | 0xc025
        | 0xc027
        | 0xc029
        | 0xc037 => (false, Mac::Sha256),
        0x003d | 0x0068..=0x006b | 0x006d => (true, Mac::Sha256),
        0x00af | 0x00b3 | 0x00b7 | 0xc024 | 0xc026 | 0xc028 | 0xc02a | 0xc038 => {
            (true, Mac::Sha384)
        }
        _ => return None,
    };
    Some(Cbc { aes256, mac })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_those_of_the_registry() {
        let gcm128 = Some(Suite { cipher: Cipher::Aead(Aead::Aes128Gcm), hash: Hash::Sha256 });
        let gcm256 = Some(Suite { cipher: Cipher::Aead(Aead::Aes256Gcm), hash: Hash::Sha384 });
        let cbc =
            |aes256, mac, hash| Some(Suite { cipher: Cipher::Cbc(Cbc { aes256, mac }), hash });
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
            (0x0033, cbc(false, Mac::Sha1, Hash::Sha256)), // DHE-RSA
            (0x0035, cbc(true, Mac::Sha1, Hash::Sha256)),  // RSA
            (0x003d, cbc(true, Mac::Sha256, Hash::Sha256)),
            (0xc027, cbc(false, Mac::Sha256, Hash::Sha256)), // ECDHE-RSA
            (0xc028, cbc(true, Mac::Sha384, Hash::Sha384)),
            (0x003b, None), // NULL
            (0x0041, None), // Camellia
            (0xc012, None), // 3DES
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
