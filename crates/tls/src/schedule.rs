//! TLS 1.3's key schedule (RFC 8446 section 7.1).

use ring::{digest, hmac};

/// The hash of a cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
}

impl Hash {
    /// That of a TLS 1.3 suite (RFC 8446 appendix B.4): SHA-384 for one of them.
    pub(crate) const fn of_cipher(cipher: u16) -> Self {
        if cipher == 0x1302 { Self::Sha384 } else { Self::Sha256 }
    }

    /// The one that gives hashes, and so secrets, of this length.
    pub(crate) const fn of_len(len: usize) -> Option<Self> {
        match len {
            32 => Some(Self::Sha256),
            48 => Some(Self::Sha384),
            _ => None,
        }
    }

    pub(crate) const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    pub(crate) fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = digest::Context::new(match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
        });
        for part in parts {
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }

    fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
        };
        let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
        for part in parts {
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }

    /// `HKDF-Extract`.
    pub(crate) fn extract(self, salt: &[u8], secret: &[u8]) -> Vec<u8> {
        self.hmac(salt, &[secret])
    }

    /// `HKDF-Expand-Label`, of at most the hash's length: one block is enough for all that TLS 1.3
    /// derives.
    #[expect(clippy::cast_possible_truncation, reason = "labels and hashes are short")]
    pub(crate) fn expand_label(
        self,
        secret: &[u8],
        label: &str,
        context: &[u8],
        len: usize,
    ) -> Vec<u8> {
        let mut info = (len as u16).to_be_bytes().to_vec();
        info.push(6 + label.len() as u8);
        info.extend(b"tls13 ");
        info.extend(label.as_bytes());
        info.push(context.len() as u8);
        info.extend(context);
        let mut block = self.hmac(secret, &[&info, &[1]]);
        block.truncate(len);
        block
    }

    /// `Derive-Secret`, of a transcript's hash.
    pub(crate) fn derive_secret(self, secret: &[u8], label: &str, transcript: &[u8]) -> Vec<u8> {
        self.expand_label(secret, label, transcript, self.len())
    }

    /// The main secret that follows a handshake secret.
    pub(crate) fn main_secret(self, handshake_secret: &[u8]) -> Vec<u8> {
        let salt = self.derive_secret(handshake_secret, "derived", &self.digest(&[]));
        self.extract(&salt, &vec![0; self.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// The simple 1-RTT handshake of RFC 8448 section 3.
    #[test]
    fn the_main_secret_follows_as_in_rfc_8448() {
        let handshake = hex("1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac");
        let hash = Hash::Sha256;
        assert_eq!(
            hash.main_secret(&handshake),
            hex("18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919")
        );
    }
}
