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
/// Of streams so many requests are not told by one connection.
const MAX_STREAM: u32 = 1 << 24;
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
        // The length of the padding stands there, even of none; then perhaps a priority.
        let padding = usize::from(flags & PADDED != 0);
        let priority = if flags & PRIORITIZED == 0 { 0 } else { 5 };
        match kind {
            DATA => of_stream && only(END_STREAM | PADDED) && len >= padding,
            HEADERS => {
                (of_clients_stream || of_stream && !from_client)
                    && only(END_STREAM | END_HEADERS | PADDED | PRIORITIZED)
                    && len > padding + priority
            }
            PRIORITY => of_stream && len == 5 && only(0),
            RST_STREAM => of_stream && len == 4 && only(0),
            SETTINGS => {
                let acknowledges = flags & END_STREAM != 0;
                let most = if acknowledges { 0 } else { MAX_SETTINGS * 6 };
                !of_stream && len.is_multiple_of(6) && len <= most && only(END_STREAM)
            }
            PUSH_PROMISE => {
                !from_client && of_clients_stream && len > 4 + padding && only(END_HEADERS | PADDED)
            }
            PING => !of_stream && len == 8 && only(END_STREAM),
            GOAWAY => !of_stream && len >= 8 && only(0),
            WINDOW_UPDATE => len == 4 && only(0),
            CONTINUATION => of_stream && only(END_HEADERS),
            _ => false,
        }
    }

    /// The same, and not what zeros and small numbers look like, which are frequent in all data.
    fn is_telling(self, from_client: bool) -> bool {
        let Self { len, kind, flags, stream } = self;
        let says_nothing = kind == DATA && len == 0 && flags & END_STREAM == 0;
        self.is_valid(from_client) && len <= MAX_FRAME && stream <= MAX_STREAM && !says_nothing
    }
}

/// Whether frames begin at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// So many follow each other, the first that is beyond doubt from here on.
    Proved {
        count: usize,
        from: usize,
    },
    /// With fewer than so many bytes in all, no more can be told.
    Open {
        needed: usize,
    },
    Refuted,
}

/// Whether frames follow each other from `at` on. Where a record begins there it ends at `end`: most frames
/// are sent in records of their own, and one that fills its record is enough. A header of `DATA` weighs
/// little, since it is mostly zeros; the end of another header can look like one. So where it comes first it
/// is passed over.
pub(super) fn chain(bytes: &[u8], at: usize, from_client: bool, end: Option<usize>) -> Chain {
    let needed = if end.is_some() { 3 } else { 5 };
    let (mut next, mut count, mut weight, mut from) = (at, 0, 0, at);
    while let Some(header) = bytes.get(next..next + HEADER_LEN) {
        let header = header.first_chunk().and_then(|bytes| Header::parse(*bytes));
        let Some(header) = header.filter(|header| header.is_telling(from_client)) else {
            return Chain::Refuted;
        };
        (next, count) = (next + HEADER_LEN + header.len, count + 1);
        weight += if header.kind == DATA { 1 } else { 2 };
        if count == 1 && header.kind == DATA {
            from = next;
        }
        if weight >= needed || end == Some(next) && weight >= 2 {
            return Chain::Proved { count, from };
        }
    }
    // What is there of a header tells already.
    match bytes.get(next..) {
        Some([first, ..]) if *first != 0 => Chain::Refuted,
        _ => Chain::Open { needed: next.max(bytes.len()) + 1 },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_that_fills_its_record_or_several_in_a_row_are_proof() {
        let settings = [0, 0, 0, 4, 1, 0, 0, 0, 0];
        assert_eq!(chain(&settings, 0, true, Some(9)), Chain::Proved { count: 1, from: 0 });
        assert_eq!(chain(&settings, 0, true, None), Chain::Open { needed: 10 });
        let three = [settings; 3].concat();
        assert_eq!(chain(&three, 0, true, None), Chain::Proved { count: 3, from: 0 });
        assert_eq!(chain(&three, 1, true, None), Chain::Refuted);
        assert_eq!(chain(b"HTTP/1.1 200 OK\r\n\r\n", 0, false, Some(19)), Chain::Refuted);
    }

    proptest! {
        #[test]
        fn a_header_is_read_back(len in 0..MAX_BELIEVED, kind: u8, flags: u8, stream in 0..1_u32 << 31) {
            let header = Header { len, kind, flags, stream };
            prop_assert_eq!(Header::parse(header.to_bytes()), Some(header));
        }

        #[test]
        fn random_bytes_prove_nothing(bytes in prop::collection::vec(any::<u8>(), 2000..3000)) {
            let end = Some(bytes.len());
            for at in 0..bytes.len() {
                let is_proved =
                    matches!(chain(&bytes, at, at % 2 == 0, end), Chain::Proved { .. });
                prop_assert!(!is_proved);
            }
        }
    }
}
