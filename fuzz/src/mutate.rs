//! Makes a new input out of old ones.

use std::ops::Range;

use crate::random::Random;

/// Numbers at which programs stumble.
const NUMBERS: [u64; 16] = [
    0,
    1,
    3,
    4,
    7,
    12,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Changes `input` in one to six places. `other` lends it parts, `words` are put in.
pub(crate) fn mutate(
    input: &[u8],
    other: &[u8],
    words: &[&str],
    longest: usize,
    random: &mut Random,
) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..=random.below(6) {
        change(&mut out, other, words, random);
    }
    out.truncate(longest);
    out
}

fn change(out: &mut Vec<u8>, other: &[u8], words: &[&str], random: &mut Random) {
    let at = random.below(out.len() + 1);
    match random.below(12) {
        0 | 1 => flip(out, random),
        2 => overwrite(out, at, &random.next().to_le_bytes()[..1]),
        3 | 4 => {
            let number = random.pick(&NUMBERS).copied().unwrap_or(0);
            let width = 1 << random.below(4);
            overwrite(out, at, &number.to_le_bytes()[..width]);
        }
        5 => nudge(out, at, random),
        6 => drop(out.drain(stretch(out.len(), random))),
        7 => {
            let copied = out[stretch(out.len(), random)].to_vec();
            insert(out, at, &copied);
        }
        8 => out.truncate(at),
        9 => {
            let lent = &other[stretch(other.len(), random)];
            insert(out, at, lent);
        }
        10 => {
            let lent = &other[stretch(other.len(), random)];
            overwrite(out, at, lent);
        }
        _ => match random.pick(words) {
            Some(word) => insert(out, at, word.as_bytes()),
            None => insert(out, at, &random.next().to_le_bytes()),
        },
    }
}

fn flip(out: &mut [u8], random: &mut Random) {
    let at = random.below(out.len());
    if let Some(byte) = out.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

/// Makes a number a little larger or smaller.
fn nudge(out: &mut [u8], at: usize, random: &mut Random) {
    if let Some(byte) = out.get_mut(at) {
        let by = u8::try_from(random.below(9)).unwrap_or(0);
        *byte = byte.wrapping_add(by).wrapping_sub(4);
    }
}

fn overwrite(out: &mut [u8], at: usize, bytes: &[u8]) {
    let len = bytes.len().min(out.len() - at);
    out[at..at + len].copy_from_slice(&bytes[..len]);
}

fn insert(out: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    drop(out.splice(at..at, bytes.iter().copied()));
}

/// Short ones more often than long ones.
fn stretch(len: usize, random: &mut Random) -> Range<usize> {
    let start = random.below(len);
    let longest = (len - start).min(1 << random.below(14));
    start..start + random.below(longest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_input_and_none_is_too_long() {
        for seed in 0..2_000 {
            let make = || mutate(b"one two three", b"other", &["word"], 20, &mut Random::new(seed));
            assert_eq!(make(), make());
            assert!(make().len() <= 20);
        }
        assert!(mutate(&[], &[], &[], 20, &mut Random::new(1)).len() <= 20);
    }
}
