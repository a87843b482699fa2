//! The checksums of the Internet protocols and of SCTP.

/// The Internet checksum (RFC 1071) over pieces, of which all but the last have an even length.
pub(super) fn internet(pieces: &[&[u8]]) -> u16 {
    let mut sum: u64 = pieces.iter().copied().map(words).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

fn words(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks_exact(2);
    let odd = pairs.remainder().first().map_or(0, |&byte| u64::from(byte) << 8);
    odd + pairs.map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u64>()
}

/// `CRC32c` (Castagnoli, RFC 9260 appendix A), reflected.
const CRC32C: [u32; 256] = crc32c_table();

const fn crc32c_table() -> [u32; 256] {
    let mut table = [0_u32; 256];
    let mut index = 0;
    while index < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "it is below 256")]
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

/// SCTP's checksum, as the bytes that stand in the header.
pub(super) fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let step = |crc: u32, &byte: &u8| CRC32C[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ crc >> 8;
    (!bytes.iter().fold(!0, step)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283_u32.to_le_bytes());
        assert_eq!(internet(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }
}
