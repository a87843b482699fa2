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
/// What records of TLS 1.3 are from outside.
const APPLICATION_DATA: u8 = 23;
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

    /// Makes the record of this number: header and body.
    pub(crate) fn seal(&self, number: u64, kind: u8, content: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Aead(aead) => aead.seal(number, kind, content),
            Self::Cbc(cbc) => cbc.seal(number, kind, content),
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
        let nonce = self.nonce(number, &record.body[..explicit]);
        out.clear();
        out.extend_from_slice(sealed);
        if self.construction == Construction::Tls13 {
            self.key.open_in_place(nonce, Aad::from(record.header), out).ok()?;
            out.truncate(len);
            return strip_padding(out);
        }
        let aad = additional(number, record.header, len)?;
        self.key.open_in_place(nonce, Aad::from(aad), out).ok()?;
        out.truncate(len);
        Some(record.content_type())
    }

    fn seal(&self, number: u64, kind: u8, content: &[u8]) -> Option<Vec<u8>> {
        let number_bytes = number.to_be_bytes();
        // What was sent with a number before was sent under another explicit nonce or under none.
        let explicit: &[u8] = match self.construction {
            Construction::Tls12Explicit => &number_bytes,
            Construction::Tls12 | Construction::Tls13 => &[],
        };
        let nonce = self.nonce(number, explicit);
        let mut sealed = content.to_vec();
        let outer = if self.construction == Construction::Tls13 {
            sealed.push(kind);
            APPLICATION_DATA
        } else {
            kind
        };
        let header = header(outer, explicit.len() + sealed.len() + TAG_LEN)?;
        let key = &self.key;
        if self.construction == Construction::Tls13 {
            key.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).ok()?;
        } else {
            let aad = additional(number, header, sealed.len())?;
            key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).ok()?;
        }
        Some([&header, explicit, &sealed].concat())
    }

    fn nonce(&self, number: u64, explicit: &[u8]) -> Nonce {
        let mut nonce = self.iv;
        if explicit.is_empty() {
            for (byte, number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
                *byte ^= number;
            }
        } else {
            nonce[4..].copy_from_slice(explicit);
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// TLS 1.2: what is authenticated beside the content (RFC 5246 section 6.2.3.3).
fn additional(number: u64, header: [u8; HEADER_LEN], len: usize) -> Option<[u8; 13]> {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&number.to_be_bytes());
    aad[8..11].copy_from_slice(&header[..3]);
    aad[11..].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
    Some(aad)
}

/// Of a record with a body of `len` bytes.
pub(crate) fn header(kind: u8, len: usize) -> Option<[u8; HEADER_LEN]> {
    let [high, low] = u16::try_from(len).ok()?.to_be_bytes();
    Some([kind, 3, 3, high, low])
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every suite that differs in how records are made, and a version that has it.
    const SUITES: [(Version, u16); 11] = [
        (Version::TLS13, 0x1301),
        (Version::TLS13, 0x1302),
        (Version::TLS13, 0x1303),
        (Version::TLS12, 0xc02f),
        (Version::TLS12, 0xc030),
        (Version::TLS12, 0xcca8),
        (Version::TLS12, 0xc009),
        (Version::TLS12, 0xc00a),
        (Version::TLS12, 0xc027),
        (Version::TLS12, 0xc028),
        (Version::TLS12, 0x003d),
    ];

    fn opener(number: usize, encrypt_then_mac: bool, secret: u8) -> (Version, Opener) {
        let (version, suite) = SUITES[number % SUITES.len()];
        let suite = Suite::find(version, suite).unwrap();
        if version == Version::TLS13 {
            let secret = vec![secret; suite.hash.len()];
            return (version, Opener::tls13(suite, &secret).unwrap());
        }
        let (client_random, server_random) = (&[1; 32], &[2; 32]);
        let agreed = Agreed { suite, client_random, server_random, encrypt_then_mac };
        let [client, _] = Opener::tls12(agreed, &[secret; 48]).unwrap();
        (version, client)
    }

    fn record(bytes: &[u8]) -> Record<'_> {
        let (header, body) = bytes.split_first_chunk().unwrap();
        Record { header: *header, body }
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_tells_its_number(
            suite in 0..SUITES.len(),
            encrypt_then_mac: bool,
            number in 0..1_u64 << 48,
            content in prop::collection::vec(any::<u8>(), 0..600),
            flip in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let (version, opener) = opener(suite, encrypt_then_mac, 3);
            let mut sealed = opener.seal(number, 23, &content).unwrap();
            prop_assert!(is_header(*sealed.first_chunk().unwrap()));
            let mut out = Vec::new();
            prop_assert_eq!(opener.open(number, &record(&sealed), &mut out), Some(23));
            prop_assert_eq!(&out, &content);
            prop_assert_eq!(opener.open(number + 1, &record(&sealed), &mut out), None);
            let told = opener.number(&record(&sealed));
            prop_assert_eq!(told, opener.tells_numbers().then_some(number), "{}", version);
            let found = opener.find(number.saturating_sub(9)..number + 9, &record(&sealed), &mut out);
            prop_assert_eq!(found, Some((number, 23)));
            let (_, other) = super::tests::opener(suite, encrypt_then_mac, 4);
            prop_assert_eq!(other.number(&record(&sealed)), None);

            let at = 5 + flip.index(sealed.len() - 5);
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(opener.open(number, &record(&sealed), &mut out), None);
            if let Some(told) = opener.number(&record(&sealed)) {
                prop_assert_eq!(opener.open(told, &record(&sealed), &mut out), None);
            }
        }
    }

    /// What a search costs: `cargo test -p kuberewind-tls --lib a_search_costs -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures"]
    fn a_search_costs() {
        for (number, len) in [(2, 30), (2, 1000), (5, 30), (6, 30), (9, 30)] {
            let (version, opener) = opener(number, false, 3);
            let sealed = opener.seal(1_000_000, 23, &vec![7; len]).unwrap();
            let (start, mut out) = (std::time::Instant::now(), Vec::new());
            assert!(opener.find(0..2_000_000, &record(&sealed), &mut out).is_some());
            println!("{version} {:#06x} {len}: {:?}", SUITES[number].1, start.elapsed());
        }
        for (number, len) in [(1, 30), (1, 16000), (3, 30), (3, 16000)] {
            let (version, opener) = opener(number, false, 3);
            let sealed = opener.seal(1_000_000, 23, &vec![7; len]).unwrap();
            let start = std::time::Instant::now();
            for _ in 0..1000 {
                assert!(opener.number(&record(&sealed)).is_some());
            }
            println!("{version} {:#06x} {len}: {:?}", SUITES[number].1, start.elapsed() / 1000);
        }
    }
}
