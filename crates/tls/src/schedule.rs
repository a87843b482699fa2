//! How secrets become other secrets and keys (RFC 8446 section 7, RFC 5246 section 5).

use ring::hmac;

use crate::suite::Hash;

/// `HKDF-Extract` (RFC 5869 section 2.2).
pub(crate) fn extract(hash: Hash, salt: &[u8], input: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hash.hmac(), salt), input).as_ref().to_vec()
}

/// `HKDF-Expand-Label` (RFC 8446 section 7.1). `len` must be below 255 hashes: all that TLS asks for
/// is below two.
#[expect(clippy::cast_possible_truncation, reason = "labels, contexts and keys are short")]
pub(crate) fn expand_label(
    hash: Hash,
    secret: &[u8],
    label: &str,
    context: &[u8],
    len: usize,
) -> Vec<u8> {
    let key = hmac::Key::new(hash.hmac(), secret);
    let mut info = (len as u16).to_be_bytes().to_vec();
    info.push((6 + label.len()) as u8);
    info.extend(b"tls13 ");
    info.extend(label.as_bytes());
    info.push(context.len() as u8);
    info.extend(context);
    let (mut out, mut block) = (Vec::with_capacity(len + hash.len()), Vec::new());
    for counter in 1..=u8::MAX {
        if out.len() >= len {
            break;
        }
        block.extend(&info);
        block.push(counter);
        block = hmac::sign(&key, &block).as_ref().to_vec();
        out.extend(&block);
    }
    out.truncate(len);
    out
}

/// The main secret from the handshake secret.
pub(crate) fn main_secret(hash: Hash, handshake_secret: &[u8]) -> Vec<u8> {
    let derived = expand_label(hash, handshake_secret, "derived", &hash.of(&[]), hash.len());
    extract(hash, &derived, &vec![0; hash.len()])
}

/// The traffic secret after a `KeyUpdate` (RFC 8446 section 7.2).
pub(crate) fn next_generation(hash: Hash, secret: &[u8]) -> Vec<u8> {
    expand_label(hash, secret, "traffic upd", &[], hash.len())
}

/// TLS 1.2's pseudo-random function.
pub(crate) fn prf(hash: Hash, secret: &[u8], label: &str, seed: &[&[u8]], len: usize) -> Vec<u8> {
    let key = hmac::Key::new(hash.hmac(), secret);
    let seed = [&[label.as_bytes()], seed].concat().concat();
    let mut a = hmac::sign(&key, &seed);
    let mut out = Vec::with_capacity(len + hash.len());
    while out.len() < len {
        out.extend(hmac::sign(&key, &[a.as_ref(), &seed].concat()).as_ref());
        a = hmac::sign(&key, a.as_ref());
    }
    out.truncate(len);
    out
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers written as bytes")]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .map(|byte| char::from(byte).to_digit(16).unwrap() as u8)
            .collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// RFC 8448 section 3.
    #[test]
    fn the_key_schedule_is_that_of_the_specifications_example() {
        let handshake = bytes("1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac");
        let main = main_secret(Hash::Sha256, &handshake);
        assert_eq!(main, bytes("18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919"));
        let transcript = bytes("860c06edc07858ee8e78f0e7428c58edd6b43f2ca3e6e95f02ed063cf0e1cad8");
        let client = expand_label(Hash::Sha256, &handshake, "c hs traffic", &transcript, 32);
        assert_eq!(
            client,
            bytes("b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21")
        );
        let key = expand_label(Hash::Sha256, &client, "key", &[], 16);
        assert_eq!(key, bytes("dbfaa693d1762c5b666af5d950258d01"));
    }
}
