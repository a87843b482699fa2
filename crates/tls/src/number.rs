//! A record's number, computed from the record.
//!
//! Who comes in mid-stream does not know how many records there were. With AES-GCM the record itself
//! says it, since both halves of the tag's computation can be undone by who has the key (NIST SP
//! 800-38D section 7): TLS 1.3 has the number in the nonce, which is what AES made the tag's mask of;
//! TLS 1.2 has it in the additional data, which is one unknown in a sum that is linear in it.
//!
//! A number told here is only a good guess: the record is still opened with it.

use std::sync::OnceLock;

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes256, Block};
use ghash::GHash;
use ghash::universal_hash::UniversalHash;

use crate::SecretBytes;
use crate::open::{EXPLICIT_NONCE_LEN, NONCE_LEN, Record, TAG_LEN};

const BLOCK: usize = 16;
/// What stands behind the nonce in the block that a tag's mask is made of.
const FIRST: [u8; 4] = [0, 0, 0, 1];

/// A key, and what undoes tags made with it once that is asked for: few directions need it.
#[derive(Debug)]
pub(crate) struct GcmKey {
    key: SecretBytes,
    gcm: OnceLock<Option<Box<Gcm>>>,
}

impl GcmKey {
    pub(crate) fn new(key: &[u8]) -> Self {
        Self { key: SecretBytes(key.to_vec()), gcm: OnceLock::new() }
    }

    pub(crate) fn gcm(&self) -> Option<&Gcm> {
        self.gcm.get_or_init(|| Gcm::new(&self.key.0).map(Box::new)).as_deref()
    }
}

/// What undoes tags made with one key.
pub(crate) struct Gcm {
    cipher: Cipher,
    /// The key of GHASH: an element of GF(2¹²⁸), as all blocks here.
    h: Block,
    /// 1 divided by it; made when it is needed first.
    inverse: OnceLock<Block>,
}

enum Cipher {
    Aes128(Aes128),
    Aes256(Aes256),
}

impl std::fmt::Debug for Gcm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gcm")
    }
}

impl Gcm {
    /// Of a key of 16 or 32 bytes.
    pub(crate) fn new(key: &[u8]) -> Option<Self> {
        let cipher = match key.len() {
            16 => Cipher::Aes128(Aes128::new_from_slice(key).ok()?),
            _ => Cipher::Aes256(Aes256::new_from_slice(key).ok()?),
        };
        let h = cipher.encrypt(Block::default());
        Some(Self { cipher, h, inverse: OnceLock::new() })
    }

    /// The number of a record of TLS 1.3, if it is one of this key with this initialization vector.
    pub(crate) fn tls13(&self, iv: &[u8; NONCE_LEN], record: &Record<'_>) -> Option<u64> {
        let (sealed, tag) = record.body.split_last_chunk::<TAG_LEN>()?;
        let sum = self.sum(&[&record.header, sealed], lengths(record.header.len(), sealed.len()));
        let mask = self.cipher.decrypt(xor(Block::from(*tag), sum));
        let (nonce, counter) = mask.split_first_chunk::<NONCE_LEN>()?;
        (nonce[..4] == iv[..4] && counter == FIRST).then(|| eight(&nonce[4..]) ^ eight(&iv[4..]))
    }

    /// The number of a record of TLS 1.2, if it is one of this key with this salt.
    pub(crate) fn tls12(&self, salt: [u8; 4], record: &Record<'_>) -> Option<u64> {
        const AAD_LEN: usize = 13;
        let (explicit, rest) = record.body.split_first_chunk::<EXPLICIT_NONCE_LEN>()?;
        let (sealed, tag) = rest.split_last_chunk::<TAG_LEN>()?;
        let mut nonce = Block::default();
        nonce[..4].copy_from_slice(&salt);
        nonce[4..NONCE_LEN].copy_from_slice(explicit);
        nonce[NONCE_LEN..].copy_from_slice(&FIRST);
        let sum = xor(Block::from(*tag), self.cipher.encrypt(nonce));
        // The sum without the additional data, whose block is multiplied once more than the first of
        // the others.
        let rest = self.sum(&[sealed], lengths(AAD_LEN, sealed.len()));
        let blocks = sealed.len().div_ceil(BLOCK) + 2;
        let data = times(xor(sum, rest), power(self.inverse(), blocks));
        let len = u16::try_from(sealed.len()).ok()?.to_be_bytes();
        let expected = [&record.header[..3], &len, &[0; BLOCK - AAD_LEN]].concat();
        (data[8..] == expected).then(|| eight(&data))
    }

    fn inverse(&self) -> Block {
        // Fermat: h to the power of 2¹²⁸ - 2, which is the product of all its squares' squares.
        *self.inverse.get_or_init(|| {
            let square = |last: &Block| Some(times(*last, *last));
            let squares = std::iter::successors(square(&self.h), square).take(127);
            squares.reduce(times).unwrap_or_default()
        })
    }

    /// GHASH of the parts, each filled up with zeros, and one more block.
    fn sum(&self, parts: &[&[u8]], last: Block) -> Block {
        let mut hash = GHash::new(&self.h);
        for part in parts {
            hash.update_padded(part);
        }
        hash.update(&[last]);
        hash.finalize()
    }
}

impl Cipher {
    fn encrypt(&self, mut block: Block) -> Block {
        match self {
            Self::Aes128(key) => key.encrypt_block(&mut block),
            Self::Aes256(key) => key.encrypt_block(&mut block),
        }
        block
    }

    fn decrypt(&self, mut block: Block) -> Block {
        match self {
            Self::Aes128(key) => key.decrypt_block(&mut block),
            Self::Aes256(key) => key.decrypt_block(&mut block),
        }
        block
    }
}

/// The product in GF(2¹²⁸): GHASH of one block is that block times the key.
fn times(one: Block, other: Block) -> Block {
    let mut hash = GHash::new(&one);
    hash.update(&[other]);
    hash.finalize()
}

/// A product of `exponent` factors, of which there is at least one.
fn power(mut square: Block, mut exponent: usize) -> Block {
    let mut product = None;
    while exponent > 0 {
        if exponent & 1 == 1 {
            product = Some(product.map_or(square, |product| times(product, square)));
        }
        square = times(square, square);
        exponent >>= 1;
    }
    product.unwrap_or_default()
}

/// The last block of a sum: the lengths in bits of additional data and sealed bytes.
fn lengths(additional: usize, sealed: usize) -> Block {
    let bits = |len: usize| (len as u64 * 8).to_be_bytes();
    let mut block = Block::default();
    block[..8].copy_from_slice(&bits(additional));
    block[8..].copy_from_slice(&bits(sealed));
    block
}

fn xor(mut one: Block, other: Block) -> Block {
    for (byte, other) in one.iter_mut().zip(other) {
        *byte ^= other;
    }
    one
}

/// The number that the first eight bytes are.
fn eight(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Numbers to try where the record does not tell its own: `first` and up to `more` behind it, those
/// near `likely` before others, each once.
pub(crate) fn outward(first: u64, more: u64, likely: u64) -> impl Iterator<Item = u64> {
    let last = first.saturating_add(more);
    let likely = likely.clamp(first, last);
    let (up, down) = (last - likely, likely - first);
    let both = up.min(down);
    let near = (0..=both).flat_map(move |away| {
        let below = (away > 0).then(|| likely - away);
        std::iter::once(likely + away).chain(below)
    });
    let rest_up = (both < up).then(|| likely + both + 1..=last);
    let rest_down = (both < down).then(|| (first..likely - both).rev());
    near.chain(rest_up.into_iter().flatten()).chain(rest_down.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quotient_times_its_divisor_is_the_dividend(
            key in any::<[u8; 16]>(), block in any::<[u8; 16]>(), exponent in 1..2000_usize,
        ) {
            let gcm = Gcm::new(&key).unwrap();
            let block = Block::from(block);
            let there = times(block, power(gcm.h, exponent));
            prop_assert_eq!(times(there, power(gcm.inverse(), exponent)), block);
        }

        #[test]
        fn each_number_is_tried_once_and_likely_ones_first(
            first in 0..50_u64, more in 0..50_u64, likely in 0..150_u64,
        ) {
            let mut tried: Vec<_> = outward(first, more, likely).collect();
            let likely = likely.clamp(first, first + more);
            prop_assert!(tried.is_sorted_by_key(|number| number.abs_diff(likely)));
            tried.sort_unstable();
            prop_assert_eq!(tried, (first..=first + more).collect::<Vec<_>>());
        }
    }
}
