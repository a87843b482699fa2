//! The classic file format, with nanoseconds (draft-ietf-opsawg-pcap).

use crate::{Frame, MAX_CAPTURED};

/// Length of the file header.
pub const FILE_HEADER_LEN: usize = 24;
/// Length of what stands before each packet's bytes.
pub const RECORD_HEADER_LEN: usize = 16;

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const VERSION: (u16, u16) = (2, 4);
const LINKTYPE_ETHERNET: u32 = 1;

/// Appends the file header: nanosecond resolution, Ethernet, [`MAX_CAPTURED`] as snapshot length.
pub fn push_file_header(out: &mut Vec<u8>) {
    out.extend(MAGIC_NANOSECONDS.to_le_bytes());
    out.extend(VERSION.0.to_le_bytes());
    out.extend(VERSION.1.to_le_bytes());
    out.extend([0; 8]); // time zone and accuracy, always zero
    out.extend(MAX_CAPTURED.to_le_bytes());
    out.extend(LINKTYPE_ETHERNET.to_le_bytes());
}

/// Appends one packet. The format ends in the year 2106: seconds beyond it wrap, as in libpcap.
#[expect(clippy::cast_possible_truncation, reason = "the format has 32 bits for seconds")]
pub fn push_packet(out: &mut Vec<u8>, frame: &Frame<'_>) {
    out.extend((frame.timestamp.seconds() as u32).to_le_bytes());
    out.extend(frame.timestamp.subsec_nanos().to_le_bytes());
    out.extend(frame.captured_len().to_le_bytes());
    out.extend(frame.original_len.to_le_bytes());
    out.extend(frame.head);
    out.extend(frame.body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[test]
    fn a_file_is_a_header_and_records() {
        let mut file = Vec::new();
        push_file_header(&mut file);
        assert_eq!(file.len(), FILE_HEADER_LEN);
        let time = Timestamp::from_parts(7, 9);
        push_packet(
            &mut file,
            &Frame { timestamp: time, original_len: 99, head: b"ab", body: b"c" },
        );
        assert_eq!(
            file[FILE_HEADER_LEN..],
            [7, 0, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0, 99, 0, 0, 0, b'a', b'b', b'c']
        );
    }
}
