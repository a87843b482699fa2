//! Frames of HTTP/2 (RFC 9113 section 4), and where one begins.

pub(super) const HEADER_LEN: usize = 9;
pub(super) const HEADERS: u8 = 1;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const CONTINUATION: u8 = 9;
const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITIZED: u8 = 0x20;

/// The longest frame that everybody must take, and few send longer ones.
pub(super) const MAX_FRAME: usize = 1 << 14;
/// Longer ones are not believed.
const MAX_BELIEVED: usize = 1 << 20;
/// So many parameters are no longer settings.
const MAX_SETTINGS: usize = 32;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Header {
    /// As it stands there; `None`: the reserved bit is set, or it is longer than anybody would send.
    pub(super) fn parse(bytes: [u8; HEADER_LEN]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes(stream);
        let is_believed = len <= MAX_BELIEVED && stream >> 31 == 0;
        is_believed.then_some(Self { len, kind, flags, stream })
    }

    #[expect(clippy::cast_possible_truncation, reason = "frames are at most MAX_BELIEVED long")]
    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..3].copy_from_slice(&(self.len as u32).to_be_bytes()[1..]);
        (bytes[3], bytes[4]) = (self.kind, self.flags);
        bytes[5..].copy_from_slice(&self.stream.to_be_bytes());
        bytes
    }

    /// Whether it is as the standard has it, for a frame that a client or a server sends. Of random bytes
    /// one in 2²⁸ is.
    pub(super) fn is_valid(self, from_client: bool) -> bool {
        let Self { len, kind, flags, stream } = self;
        let only = |allowed: u8| flags & !allowed == 0;
        let (of_stream, of_clients_stream) = (stream != 0, stream % 2 == 1);
        match kind {
            DATA => of_stream && only(END_STREAM | PADDED),
            HEADERS => {
                (of_clients_stream || of_stream && !from_client)
                    && only(END_STREAM | END_HEADERS | PADDED | PRIORITIZED)
                    && len > 0
            }
            PRIORITY => of_stream && len == 5 && only(0),
            RST_STREAM => of_stream && len == 4 && only(0),
            SETTINGS => {
                let acknowledges = flags & END_STREAM != 0;
                let most = if acknowledges { 0 } else { MAX_SETTINGS * 6 };
                !of_stream && len.is_multiple_of(6) && len <= most && only(END_STREAM)
            }
            PUSH_PROMISE => {
                !from_client && of_clients_stream && len > 4 && only(END_HEADERS | PADDED)
            }
            PING => !of_stream && len == 8 && only(END_STREAM),
            GOAWAY => !of_stream && len >= 8 && only(0),
            WINDOW_UPDATE => len == 4 && only(0),
            CONTINUATION => of_stream && only(END_HEADERS),
            _ => false,
        }
    }
}

/// Whether frames begin at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// So many follow each other.
    Proved(usize),
    /// More bytes are needed.
    Open,
    Refuted,
}

/// Whether frames follow each other from `at` on. `ends` are where records end: who sends a frame of its
/// own sends a record of its own, so one that ends with its record is enough where `at` begins a record.
pub(super) fn chain(bytes: &[u8], at: usize, from_client: bool, ends: Option<&[usize]>) -> Chain {
    let needed = if ends.is_some() { 2 } else { 3 };
    let (mut next, mut count) = (at, 0);
    while let Some(header) = bytes.get(next..next + HEADER_LEN) {
        let header = header.first_chunk().and_then(|bytes| Header::parse(*bytes));
        let Some(header) =
            header.filter(|header| header.is_valid(from_client) && header.len <= MAX_FRAME)
        else {
            return Chain::Refuted;
        };
        (next, count) = (next + HEADER_LEN + header.len, count + 1);
        let ends_with_record = ends.is_some_and(|ends| ends.contains(&next));
        if count >= needed || ends_with_record {
            return Chain::Proved(count);
        }
    }
    // What is there of a header tells already.
    match bytes.get(next..) {
        Some([first, ..]) if *first != 0 => Chain::Refuted,
        _ => Chain::Open,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_that_fills_its_record_or_several_in_a_row_are_proof() {
        let settings = [0, 0, 0, 4, 1, 0, 0, 0, 0];
        assert_eq!(chain(&settings, 0, true, Some(&[9])), Chain::Proved(1));
        assert_eq!(chain(&settings, 0, true, None), Chain::Open);
        let three = [settings; 3].concat();
        assert_eq!(chain(&three, 0, true, None), Chain::Proved(3));
        assert_eq!(chain(&three, 1, true, None), Chain::Refuted);
        assert_eq!(chain(b"HTTP/1.1 200 OK\r\n\r\n", 0, false, Some(&[19])), Chain::Refuted);
    }

    proptest! {
        #[test]
        fn a_header_is_read_back(len in 0..MAX_BELIEVED, kind: u8, flags: u8, stream in 0..1_u32 << 31) {
            let header = Header { len, kind, flags, stream };
            prop_assert_eq!(Header::parse(header.to_bytes()), Some(header));
        }

        #[test]
        fn random_bytes_prove_nothing(bytes in prop::collection::vec(any::<u8>(), 2000..3000)) {
            let ends = [bytes.len()];
            for at in 0..bytes.len() {
                prop_assert!(!matches!(chain(&bytes, at, at % 2 == 0, Some(&ends)), Chain::Proved(_)));
            }
        }
    }
}
