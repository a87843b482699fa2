//! What the probes send, as `bpf/tls.bpf.c` lays it out, made into [`SecretEvent`]s.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use kuberewind_packet::{NetnsId, Timestamp};
use kuberewind_tls::{Derived, KeyLogLabel, Object, Secret, SecretBytes, SecretEvent};
use rustix::time::{ClockId, Timespec, clock_gettime};

const DERIVATION: u32 = 1;
const EXPANSION: u32 = 2;
const KEY_LOG: u32 = 3;
const C_KEY_LOG: u32 = 4;
const IN_OBJECT: u32 = 5;
const RUST_KEY_LOG: u32 = 6;
const RUST_IN_OBJECT: u32 = 7;
const RUST_EXPANSION: u32 = 8;

const FIXED: usize = 40;
const LABEL: usize = 40;
const BYTES: usize = 64;
const LEN: usize = FIXED + LABEL + 2 * BYTES;
const OWN: usize = 1024;
const POINTERS: usize = 64;
const BEHIND: usize = 256;
const POINTER: usize = 8;

/// What stands in the ring `hints`: a process that may have mapped something new.
pub(crate) fn hinted(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

/// Reads what stands in the ring `secrets`. None for a derivation that is no TLS secret.
pub(crate) fn decode(bytes: &[u8], clock: Clock) -> Option<SecretEvent> {
    let (bytes, rest) = bytes.split_first_chunk::<LEN>()?;
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let time = u64::from_ne_bytes(*bytes.first_chunk()?);
    let part = |start: usize, room: usize, len: u32| {
        let len = usize::try_from(len).ok().filter(|len| *len <= room)?;
        bytes.get(start..start + len)
    };
    let label = part(FIXED, LABEL, word(24))?;
    let key = part(FIXED + LABEL, BYTES, word(28))?;
    let data = part(FIXED + LABEL + BYTES, BYTES, word(32))?;
    let (library, secret) = match word(20) {
        DERIVATION => ("OpenSSL", derivation(label, key, data)?),
        EXPANSION => ("OpenSSL", key_log(expansion(label)?, key, data)?),
        KEY_LOG => ("Go", key_log(key_log_label(label)?, key, data)?),
        C_KEY_LOG => ("C", key_log(key_log_label(label)?, key, data)?),
        IN_OBJECT => ("C", in_object(key_log_label(label)?, key, word(36), rest)?),
        RUST_KEY_LOG => ("rustls", key_log(derived(label)?.key_log_label(), key, data)?),
        RUST_IN_OBJECT => {
            let label = derived(label)?.key_log_label();
            ("rustls", in_object(label, key, word(36), rest)?)
        }
        RUST_EXPANSION => ("rustls", key_log(expansion(label)?, key, data)?),
        _ => return None,
    };
    Some(SecretEvent {
        time: clock.real(time),
        netns: NetnsId(word(8).into()),
        pid: word(12),
        library: library.to_owned(),
        secret,
    })
}

fn derivation(label: &[u8], key: &[u8], transcript: &[u8]) -> Option<Secret> {
    let label = derived(label)?;
    let of_one_hash = key.len() == transcript.len() && matches!(key.len(), 32 | 48);
    of_one_hash.then(|| Secret::Derivation {
        label,
        key: SecretBytes(key.to_vec()),
        transcript: transcript.to_vec(),
    })
}

fn derived(label: &[u8]) -> Option<Derived> {
    Some(match label {
        b"c e traffic" => Derived::ClientEarly,
        b"c hs traffic" => Derived::ClientHandshake,
        b"s hs traffic" => Derived::ServerHandshake,
        b"c ap traffic" => Derived::ClientTraffic,
        b"s ap traffic" => Derived::ServerTraffic,
        b"exp master" => Derived::Exporter,
        _ => return None,
    })
}

fn expansion(label: &[u8]) -> Option<KeyLogLabel> {
    (label == b"key expansion").then_some(KeyLogLabel::ClientRandom)
}

fn key_log(label: KeyLogLabel, secret: &[u8], random: &[u8]) -> Option<Secret> {
    let of_main_secret = label == KeyLogLabel::ClientRandom;
    let fits = if of_main_secret { secret.len() == 48 } else { matches!(secret.len(), 32 | 48) };
    let client_random = random.try_into().ok()?;
    fits.then(|| Secret::KeyLog { label, client_random, secret: SecretBytes(secret.to_vec()) })
}

fn key_log_label(label: &[u8]) -> Option<KeyLogLabel> {
    KeyLogLabel::find(str::from_utf8(label).ok()?)
}

fn in_object(label: KeyLogLabel, secret: &[u8], file: u32, object: &[u8]) -> Option<Secret> {
    let secret = SecretBytes(secret.to_vec());
    Some(Secret::InObject { label, secret, object: self::object(file, object)? })
}

fn object(file: u32, bytes: &[u8]) -> Option<Object> {
    let (own, behind) = bytes.split_at_checked(OWN)?;
    let behind = behind.get(..POINTERS * BEHIND)?.chunks(BEHIND).enumerate();
    // What could not be read.
    let behind = behind.filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
    let behind = behind.filter_map(|(number, bytes)| {
        Some((u16::try_from(number * POINTER).ok()?, SecretBytes(bytes.to_vec())))
    });
    Some(Object { file, own: SecretBytes(own.to_vec()), behind: behind.collect() })
}

/// From the clock that BPF programs have (`CLOCK_MONOTONIC`) to the one that packets are stamped with
/// (`CLOCK_REALTIME`). Measured anew for each event, for the second may be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Real time minus monotonic time, in nanoseconds.
    ahead: i128,
}

impl Clock {
    /// Good to the time between two readings of a clock: under a microsecond, unless interrupted.
    pub(crate) fn now() -> Self {
        let before = nanos(clock_gettime(ClockId::Monotonic));
        let real = nanos(clock_gettime(ClockId::Realtime));
        let after = nanos(clock_gettime(ClockId::Monotonic));
        Self { ahead: real - i128::midpoint(before, after) }
    }

    pub(crate) fn real(self, monotonic: u64) -> Timestamp {
        let real = (i128::from(monotonic) + self.ahead).clamp(0, u64::MAX.into());
        Timestamp::from_nanos(u64::try_from(real).unwrap_or(u64::MAX))
    }
}

fn nanos(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// Forgets nothing for a short while, so that a secret that two probes saw is told once. Two mounts
/// of an overlay file system can show one file as two, and a Go function starts again after its stack
/// grew.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    recent: VecDeque<u64>,
    hasher: RandomState,
}

impl Repeats {
    const MEMORY: usize = 256;

    /// Whether the same was seen a moment ago.
    pub(crate) fn seen(&mut self, bytes: &[u8]) -> bool {
        // All but the time.
        let hash = self.hasher.hash_one(bytes.get(8..).unwrap_or_default());
        if self.recent.contains(&hash) {
            return true;
        }
        if self.recent.len() == Self::MEMORY {
            self.recent.pop_front();
        }
        self.recent.push_back(hash);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(kind: u32, label: &[u8], key: &[u8], data: &[u8]) -> Vec<u8> {
        let mut bytes = 5_000_u64.to_ne_bytes().to_vec();
        let lens = [label, key, data].map(|part| u32::try_from(part.len()).unwrap());
        for word in [77, 4711, 4712, kind, lens[0], lens[1], lens[2], 0] {
            bytes.extend(word.to_ne_bytes());
        }
        for (part, room) in [(label, LABEL), (key, BYTES), (data, BYTES)] {
            bytes.extend(part);
            bytes.resize(bytes.len() + room - part.len(), 0);
        }
        bytes
    }

    #[test]
    fn a_derivation_is_told_with_its_time_process_and_namespace() {
        let bytes = sent(DERIVATION, b"c hs traffic", &[1; 48], &[2; 48]);
        let event = decode(&bytes, Clock { ahead: 1_000_000 }).unwrap();
        let expected = SecretEvent {
            time: Timestamp::from_nanos(1_005_000),
            netns: NetnsId(77),
            pid: 4711,
            library: "OpenSSL".to_owned(),
            secret: Secret::Derivation {
                label: Derived::ClientHandshake,
                key: SecretBytes(vec![1; 48]),
                transcript: vec![2; 48],
            },
        };
        assert_eq!(event, expected);
    }

    #[test]
    fn an_object_is_told_with_what_it_points_to() {
        let mut bytes = sent(IN_OBJECT, b"CLIENT_RANDOM", &[1; 48], &[]);
        bytes[36] = 7;
        bytes.resize(LEN + OWN + POINTERS * BEHIND, 0);
        let third = LEN + OWN + 2 * BEHIND;
        bytes[third..third + 4].fill(9);
        let told = |bytes: &[u8]| decode(bytes, Clock { ahead: 0 }).map(|event| event.secret);
        let Some(Secret::InObject { label, object, .. }) = told(&bytes) else { panic!("nothing") };
        assert_eq!((label, object.file), (KeyLogLabel::ClientRandom, 7));
        assert_eq!((object.own.0.len(), object.behind.len()), (OWN, 1));
        assert_eq!((object.behind[0].0, &object.behind[0].1.0[..5]), (16, &[9, 9, 9, 9, 0][..]));
        bytes.pop();
        assert_eq!(told(&bytes), None);
    }

    #[test]
    fn only_tls_secrets_of_the_right_length_are_told() {
        let clock = Clock { ahead: 0 };
        let is_told = |bytes: &[u8]| decode(bytes, clock).is_some();
        assert!(is_told(&sent(EXPANSION, b"key expansion", &[1; 48], &[2; 32])));
        assert!(is_told(&sent(KEY_LOG, b"CLIENT_TRAFFIC_SECRET_0", &[1; 32], &[2; 32])));
        assert!(!is_told(&sent(DERIVATION, b"c xx traffic", &[1; 32], &[2; 32])));
        assert!(!is_told(&sent(DERIVATION, b"c hs traffic", &[1; 32], &[2; 48])));
        assert!(!is_told(&sent(EXPANSION, b"key expansion", &[1; 48], &[])));
        assert!(!is_told(&sent(EXPANSION, b"key expansion", &[1; 32], &[2; 32])));
        assert!(!is_told(&sent(KEY_LOG, b"PRIVATE", &[1; 32], &[2; 32])));
        assert!(!is_told(&sent(9, b"c hs traffic", &[1; 32], &[2; 32])));
        assert!(!is_told(&[0; LEN - 1]));
        let mut long = sent(DERIVATION, b"c hs traffic", &[1; 32], &[2; 32]);
        long[24] = 41;
        assert!(!is_told(&long));
    }

    #[test]
    fn what_two_probes_saw_counts_once() {
        let mut repeats = Repeats::default();
        let first = sent(DERIVATION, b"c hs traffic", &[1; 32], &[2; 32]);
        let mut again = first.clone();
        again[0] += 1;
        assert!(!repeats.seen(&first));
        assert!(repeats.seen(&again));
        assert!(!repeats.seen(&sent(DERIVATION, b"s hs traffic", &[1; 32], &[2; 32])));
    }
}
