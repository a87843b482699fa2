//! Opening one record with one key.

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::cbc::CbcOpener;
use crate::number::GcmKey;
use crate::schedule::{expand_label, next_generation, prf};
use crate::suite::{Aead, Cbc, Cipher, Hash, Suite, Version};

/// Length of a record's header: type, version, length.
pub(crate) const HEADER_LEN: usize = 5;
/// The most that a record's length may say: 2¹⁴ and what encryption adds (RFC 5246 section 6.2.3).
pub(crate) const MAX_BODY: usize = (1 << 14) + 2048;
pub(crate) const TAG_LEN: usize = 16;
pub(crate) const NONCE_LEN: usize = 12;
pub(crate) const EXPLICIT_NONCE_LEN: usize = 8;

/// A whole record as it was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) header: [u8; HEADER_LEN],
    pub(crate) body: &'a [u8],
}

impl Record<'_> {
    pub(crate) fn content_type(&self) -> u8 {
        self.header[0]
    }
}

/// How nonce and additional data are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Construction {
    /// TLS 1.3: the nonce is the IV xor the number, the header is authenticated.
    Tls13,
    /// TLS 1.2 with GCM: half of the nonce is sent (RFC 5288).
    Tls12Explicit,
    /// TLS 1.2 with `ChaCha20`: the nonce as in TLS 1.3 (RFC 7905).
    Tls12,
}

/// What opens the records of one direction.
#[derive(Debug)]
pub(crate) enum Opener {
    Aead(AeadOpener),
    Cbc(CbcOpener),
}

/// A key and what goes with it.
#[derive(Debug)]
pub(crate) struct AeadOpener {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    construction: Construction,
    /// AES-GCM: what tells records' numbers.
    gcm: Option<GcmKey>,
    /// TLS 1.3: what the key was made from, to make the next one.
    origin: Option<(Suite, Vec<u8>)>,
}

/// The randoms of a TLS 1.2 session and what was agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed<'a> {
    pub(crate) suite: Suite,
    pub(crate) client_random: &'a [u8; 32],
    pub(crate) server_random: &'a [u8; 32],
    pub(crate) encrypt_then_mac: bool,
}

/// What TLS 1.2's key block is cut into: for each direction in turn first this, then that (RFC 5246
/// section 6.3).
struct KeyBlock {
    bytes: Vec<u8>,
    at: usize,
}

impl KeyBlock {
    fn pair(&mut self, len: usize) -> Option<[Vec<u8>; 2]> {
        let both = self.bytes.get(self.at..self.at + 2 * len)?;
        self.at += 2 * len;
        let (client, server) = both.split_at(len);
        Some([client.to_vec(), server.to_vec()])
    }
}

impl Opener {
    /// Of a TLS 1.3 traffic secret; none when the secret's length is wrong.
    pub(crate) fn tls13(suite: Suite, secret: &[u8]) -> Option<Self> {
        let Cipher::Aead(aead) = suite.cipher else { return None };
        if secret.len() != suite.hash.len() {
            return None;
        }
        let key = expand_label(suite.hash, secret, "key", &[], aead.key_len());
        let iv = expand_label(suite.hash, secret, "iv", &[], NONCE_LEN);
        Some(Self::Aead(AeadOpener {
            key: key_of(aead, &key)?,
            iv: iv.try_into().ok()?,
            construction: Construction::Tls13,
            gcm: gcm_of(aead, &key),
            origin: Some((suite, secret.to_vec())),
        }))
    }

    /// The client's and the server's key of a TLS 1.2 session.
    pub(crate) fn tls12(agreed: Agreed<'_>, main_secret: &[u8]) -> Option<[Self; 2]> {
        let Agreed { suite, client_random, server_random, .. } = agreed;
        let seed: [&[u8]; 2] = [server_random, client_random];
        let block = |len: usize| KeyBlock {
            bytes: prf(suite.hash, main_secret, "key expansion", &seed, 2 * len),
            at: 0,
        };
        match suite.cipher {
            Cipher::Aead(aead) => {
                let iv_len = if aead == Aead::ChaCha20Poly1305 { NONCE_LEN } else { 4 };
                let mut block = block(aead.key_len() + iv_len);
                let [client, server] = block.pair(aead.key_len())?;
                let [client_iv, server_iv] = block.pair(iv_len)?;
                Some([
                    tls12_aead(aead, &client, &client_iv)?,
                    tls12_aead(aead, &server, &server_iv)?,
                ])
            }
            Cipher::Cbc(cbc) => {
                let mut block = block(cbc.mac.len() + cbc.key_len());
                let [client_mac, server_mac] = block.pair(cbc.mac.len())?;
                let [client, server] = block.pair(cbc.key_len())?;
                let open = |cbc: Cbc, key: &[u8], mac: &[u8]| {
                    CbcOpener::new(cbc, key, mac, agreed.encrypt_then_mac).map(Self::Cbc)
                };
                Some([open(cbc, &client, &client_mac)?, open(cbc, &server, &server_mac)?])
            }
        }
    }

    /// The key after a `KeyUpdate`.
    pub(crate) fn updated(&self) -> Option<Self> {
        let Self::Aead(AeadOpener { origin, .. }) = self else { return None };
        let (suite, secret) = origin.as_ref()?;
        Self::tls13(*suite, &next_generation(suite.hash, secret))
    }

    /// Opens the record as number `number` into `out`; says of what type the content is. `out` holds
    /// the content only if it opened.
    pub(crate) fn open(&self, number: u64, record: &Record<'_>, out: &mut Vec<u8>) -> Option<u8> {
        match self {
            Self::Aead(aead) => aead.open(number, record, out),
            Self::Cbc(cbc) => cbc.open([number], record, out).map(|(_, kind)| kind),
        }
    }

    /// Whether [`Self::number`] knows the number of every record that this opens.
    pub(crate) fn tells_numbers(&self) -> bool {
        matches!(self, Self::Aead(AeadOpener { gcm: Some(_), .. }))
    }

    /// The record's number, computed from it; none if it is not one of this key's. To be proved by
    /// opening it.
    pub(crate) fn number(&self, record: &Record<'_>) -> Option<u64> {
        let Self::Aead(AeadOpener { gcm: Some(key), iv, construction, .. }) = self else {
            return None;
        };
        let gcm = key.gcm()?;
        match construction {
            Construction::Tls13 => gcm.tls13(iv, record),
            Construction::Tls12Explicit => gcm.tls12(*iv.first_chunk()?, record),
            Construction::Tls12 => None,
        }
    }

    /// Opens the record as the first of these numbers that fits.
    pub(crate) fn find(
        &self,
        mut numbers: impl Iterator<Item = u64>,
        record: &Record<'_>,
        out: &mut Vec<u8>,
    ) -> Option<(u64, u8)> {
        match self {
            Self::Aead(aead) => {
                numbers.find_map(|number| Some((number, aead.open(number, record, out)?)))
            }
            Self::Cbc(cbc) => cbc.open(numbers, record, out),
        }
    }
}

fn tls12_aead(aead: Aead, key: &[u8], iv: &[u8]) -> Option<Opener> {
    let construction = match aead {
        Aead::ChaCha20Poly1305 => Construction::Tls12,
        Aead::Aes128Gcm | Aead::Aes256Gcm => Construction::Tls12Explicit,
    };
    let mut whole = [0; NONCE_LEN];
    whole.get_mut(..iv.len())?.copy_from_slice(iv);
    let gcm = gcm_of(aead, key);
    let key = key_of(aead, key)?;
    Some(Opener::Aead(AeadOpener { key, iv: whole, construction, gcm, origin: None }))
}

impl AeadOpener {
    fn open(&self, number: u64, record: &Record<'_>, out: &mut Vec<u8>) -> Option<u8> {
        let explicit = match self.construction {
            Construction::Tls12Explicit => EXPLICIT_NONCE_LEN,
            Construction::Tls12 | Construction::Tls13 => 0,
        };
        let sealed = record.body.get(explicit..)?;
        let len = sealed.len().checked_sub(TAG_LEN)?;
        let mut nonce = self.iv;
        if explicit > 0 {
            nonce[4..].copy_from_slice(&record.body[..explicit]);
        } else {
            for (byte, number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
                *byte ^= number;
            }
        }
        out.clear();
        out.extend_from_slice(sealed);
        let nonce = Nonce::assume_unique_for_key(nonce);
        if self.construction == Construction::Tls13 {
            self.key.open_in_place(nonce, Aad::from(record.header), out).ok()?;
            out.truncate(len);
            return strip_padding(out);
        }
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&number.to_be_bytes());
        aad[8..11].copy_from_slice(&record.header[..3]);
        aad[11..].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
        self.key.open_in_place(nonce, Aad::from(aad), out).ok()?;
        out.truncate(len);
        Some(record.content_type())
    }
}

/// The content's type stands behind it, before any zeros (RFC 8446 section 5.2).
fn strip_padding(content: &mut Vec<u8>) -> Option<u8> {
    let at = content.iter().rposition(|byte| *byte != 0)?;
    let kind = content[at];
    content.truncate(at);
    Some(kind)
}

fn gcm_of(aead: Aead, key: &[u8]) -> Option<GcmKey> {
    (aead != Aead::ChaCha20Poly1305).then(|| GcmKey::new(key))
}

fn key_of(aead: Aead, key: &[u8]) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(aead.algorithm(), key).ok()?))
}

/// The least that a record of this version adds to its content, header included.
pub(crate) const fn least_overhead(version: Version) -> usize {
    match version {
        Version::TLS13 => HEADER_LEN + 1 + TAG_LEN,
        _ => HEADER_LEN + TAG_LEN,
    }
}

/// Whether these bytes can begin a record of SSL 3.0 to TLS 1.3.
pub(crate) fn is_header(header: [u8; HEADER_LEN]) -> bool {
    (20..=23).contains(&header[0])
        && header[1] == 3
        && header[2] <= 4
        && (1..=MAX_BODY).contains(&usize::from(u16::from_be_bytes([header[3], header[4]])))
}

const _: () = assert!(aead::MAX_TAG_LEN == TAG_LEN && Hash::Sha384.len() == 48);
