//! Opening a record of TLS 1.2 that was encrypted with AES in CBC mode and authenticated with an HMAC
//! (RFC 5246 section 6.2.3.2; RFC 7366 where the HMAC is of what was encrypted).

use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit};
use aes::{Aes128, Aes256, Block};
use ring::hmac;

use crate::open::{Record, header};
use crate::suite::Cbc;

const BLOCK: usize = 16;

/// A key, its HMAC's, and what goes with them.
#[derive(Debug)]
pub(crate) struct CbcOpener {
    key: Key,
    mac: hmac::Key,
    mac_len: usize,
    /// The HMAC stands behind what was encrypted, and is of that.
    encrypt_then_mac: bool,
}

enum Key {
    Aes128(Aes128),
    Aes256(Aes256),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Aes128(_) => "AES-128",
            Self::Aes256(_) => "AES-256",
        })
    }
}

impl CbcOpener {
    pub(crate) fn new(cbc: Cbc, key: &[u8], mac: &[u8], encrypt_then_mac: bool) -> Option<Self> {
        let key = match cbc.key_len() {
            16 => Key::Aes128(Aes128::new_from_slice(key).ok()?),
            _ => Key::Aes256(Aes256::new_from_slice(key).ok()?),
        };
        let (mac, mac_len) = (hmac::Key::new(cbc.mac.algorithm(), mac), cbc.mac.len());
        Some(Self { key, mac, mac_len, encrypt_then_mac })
    }

    /// Opens the record as the first of these numbers that fits into `out`, which holds the content
    /// only if it opened.
    pub(crate) fn open(
        &self,
        numbers: impl IntoIterator<Item = u64>,
        record: &Record<'_>,
        out: &mut Vec<u8>,
    ) -> Option<(u64, u8)> {
        let mut numbers = numbers.into_iter();
        let number = if self.encrypt_then_mac {
            let (sealed, mac) =
                record.body.split_at_checked(record.body.len().checked_sub(self.mac_len)?)?;
            let number = numbers.find(|number| self.fits(*number, record, sealed, mac))?;
            self.decrypt(sealed, out)?;
            let content = unpadded(out)?;
            out.truncate(content);
            number
        } else {
            self.decrypt(record.body, out)?;
            let content = unpadded(out)?.checked_sub(self.mac_len)?;
            let (content, mac) = out.split_at(content);
            let mac = mac.get(..self.mac_len)?;
            let number = numbers.find(|number| self.fits(*number, record, content, mac))?;
            let len = content.len();
            out.truncate(len);
            number
        };
        Some((number, record.content_type()))
    }

    /// Makes the record of this number: header and body. Its initialization vector is the number: what
    /// it protects is known.
    pub(crate) fn seal(&self, number: u64, kind: u8, content: &[u8]) -> Option<Vec<u8>> {
        let mut iv = [0; BLOCK];
        iv[..8].copy_from_slice(&number.to_be_bytes());
        let mac = |bytes: &[u8]| {
            let plain = [&number.to_be_bytes()[..], &header(kind, bytes.len())?, bytes].concat();
            Some(hmac::sign(&self.mac, &plain))
        };
        let mut plain = content.to_vec();
        if !self.encrypt_then_mac {
            plain.extend(mac(content)?.as_ref());
        }
        let padding = BLOCK - 1 - plain.len() % BLOCK;
        plain.extend(vec![u8::try_from(padding).ok()?; padding + 1]);
        let mut blocks = blocks(&plain);
        match &self.key {
            Key::Aes128(key) => {
                cbc::Encryptor::inner_iv_init(key, &Block::from(iv)).encrypt_blocks(&mut blocks);
            }
            Key::Aes256(key) => {
                cbc::Encryptor::inner_iv_init(key, &Block::from(iv)).encrypt_blocks(&mut blocks);
            }
        }
        let mut body = iv.to_vec();
        body.extend(blocks.iter().flatten());
        if self.encrypt_then_mac {
            body.extend(mac(&body)?.as_ref());
        }
        Some([&header(kind, body.len())?[..], &body].concat())
    }

    /// Whether the HMAC is that of these bytes in a record of this number: compared in constant time.
    fn fits(&self, number: u64, record: &Record<'_>, bytes: &[u8], mac: &[u8]) -> bool {
        let Ok(len) = u16::try_from(bytes.len()) else { return false };
        let header = [&number.to_be_bytes()[..], &record.header[..3], &len.to_be_bytes()].concat();
        hmac::verify(&self.mac, &[&header, bytes].concat(), mac).is_ok()
    }

    /// What stands behind the first block, which is the initialization vector.
    fn decrypt(&self, sealed: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let (iv, blocks) = sealed.split_first_chunk::<BLOCK>()?;
        if blocks.is_empty() || blocks.len() % BLOCK != 0 {
            return None;
        }
        let iv = &Block::from(*iv);
        let mut blocks = self::blocks(blocks);
        match &self.key {
            Key::Aes128(key) => cbc::Decryptor::inner_iv_init(key, iv).decrypt_blocks(&mut blocks),
            Key::Aes256(key) => cbc::Decryptor::inner_iv_init(key, iv).decrypt_blocks(&mut blocks),
        }
        out.clear();
        out.extend(blocks.iter().flatten());
        Some(())
    }
}

fn blocks(bytes: &[u8]) -> Vec<Block> {
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    blocks.iter().map(|block| Block::from(*block)).collect()
}

/// How much stands before the padding: bytes that all say how many they are, but for the last, which
/// says how many there are before it.
fn unpadded(bytes: &[u8]) -> Option<usize> {
    let last = *bytes.last()?;
    let len = bytes.len().checked_sub(1 + usize::from(last))?;
    bytes[len..].iter().all(|byte| *byte == last).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_says_its_own_length() {
        assert_eq!(unpadded(&[7, 7, 0]), Some(2));
        assert_eq!(unpadded(&[7, 2, 2, 2]), Some(1));
        assert_eq!(unpadded(&[7, 1, 2, 2]), None);
        assert_eq!(unpadded(&[2, 2]), None);
        assert_eq!(unpadded(&[]), None);
    }
}
