//! Header blocks (RFC 7541), read by somebody who may have come late.
//!
//! Entries of the dynamic table that were added before the first block at hand are not known, but there
//! they are: a field that refers to one is named `unknown-hpack-N`, where the newest of them is number 1,
//! and never guessed. What was added since is known for certain, since entries are counted from the newest.

use std::collections::VecDeque;

use httlib_huffman::DecoderSpeed;

/// Entries added since the first block are remembered up to so many bytes; no table is that large.
const MOST_BYTES: usize = 64 << 10;
/// What an entry counts beside its characters (RFC 7541 section 4.1).
const ENTRY: usize = 32;
/// Fields of a block with more bytes than these are nobody's: a byte can stand for a whole entry.
const MOST_IN_A_BLOCK: usize = 256 << 10;
/// Numbers in a block are not larger.
const MOST: usize = 1 << 24;
/// Nor written in more bytes than these bits need.
const MOST_SHIFT: u32 = 21;

const SENSITIVE: u8 = 0x10;
const TABLE_IS_EMPTIED: u8 = 0x20;

/// A header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
    /// Must never be put into a table.
    pub(super) sensitive: bool,
}

/// Not a header block, or one of another decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// The decoder of one direction.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Entries added since the first block, newest first.
    entries: VecDeque<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
    /// There may be older ones.
    older: bool,
    /// Some were forgotten.
    forgotten: bool,
    /// Fields that referred to what is not known.
    unknown: u64,
}

impl Decoder {
    /// Of a connection of which nothing is known.
    pub(super) fn in_midstream() -> Self {
        Self { entries: VecDeque::new(), bytes: 0, older: true, forgotten: false, unknown: 0 }
    }

    /// Fields so far that referred to what is not known.
    pub(super) fn unknown(&self) -> u64 {
        self.unknown
    }

    /// The fields of a whole block. After [`Broken`] it is of no more use.
    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, Broken> {
        let (mut rest, mut fields, mut bytes) = (block, Vec::<Field>::new(), 0);
        while let Some(first) = rest.first().copied() {
            bytes += fields.last().map_or(0, |field| field.name.len() + field.value.len());
            if bytes > MOST_IN_A_BLOCK {
                return Err(Broken);
            }
            match first {
                0x80.. => {
                    let (name, value) = self.entry(integer(&mut rest, 7)?)?;
                    fields.push(Field { name, value, sensitive: false });
                }
                0x40.. => {
                    let (name, value) = self.literal(&mut rest, 6)?;
                    self.add(name.clone(), value.clone());
                    fields.push(Field { name, value, sensitive: false });
                }
                TABLE_IS_EMPTIED.. => self.resize(integer(&mut rest, 5)?),
                _ => {
                    let (name, value) = self.literal(&mut rest, 4)?;
                    fields.push(Field { name, value, sensitive: first & SENSITIVE != 0 });
                }
            }
        }
        Ok(fields)
    }

    fn literal(&mut self, rest: &mut &[u8], bits: u32) -> Result<(Vec<u8>, Vec<u8>), Broken> {
        let name = match integer(rest, bits)? {
            0 => string(rest)?,
            index => self.entry(index)?.0,
        };
        Ok((name, string(rest)?))
    }

    /// Name and value; counts those that are not known.
    fn entry(&mut self, index: usize) -> Result<(Vec<u8>, Vec<u8>), Broken> {
        let index = index.checked_sub(1).ok_or(Broken)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
        let index = index - STATIC.len();
        if let Some(entry) = self.entries.get(index) {
            return Ok(entry.clone());
        }
        let number = index - self.entries.len() + 1;
        if !self.older || self.forgotten || self.bytes + number * ENTRY > MOST_BYTES {
            return Err(Broken);
        }
        self.unknown += 1;
        Ok((format!("unknown-hpack-{number}").into_bytes(), Vec::new()))
    }

    fn add(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.bytes += name.len() + value.len() + ENTRY;
        self.entries.push_front((name, value));
        while self.bytes > MOST_BYTES {
            let Some((name, value)) = self.entries.pop_back() else { break };
            self.bytes -= name.len() + value.len() + ENTRY;
            self.forgotten = true;
        }
    }

    /// Which entries a smaller table loses need not be known: nobody refers to them any more.
    fn resize(&mut self, size: usize) {
        if size == 0 {
            self.entries.clear();
            (self.bytes, self.older, self.forgotten) = (0, false, false);
        }
    }
}

/// A block that says the same without any table, for readers whose table may hold anything: it is emptied
/// first.
pub(super) fn encode(fields: &[Field]) -> Vec<u8> {
    let mut block = vec![TABLE_IS_EMPTIED];
    for Field { name, value, sensitive } in fields {
        block.push(if *sensitive { SENSITIVE } else { 0 });
        for text in [name, value] {
            push_integer(&mut block, text.len());
            block.extend(text);
        }
    }
    block
}

/// Section 5.1, with a prefix of seven bits.
fn push_integer(block: &mut Vec<u8>, number: usize) {
    const FULL: usize = 0x7f;
    let low = |number: usize| u8::try_from(number & FULL).unwrap_or_default();
    if number < FULL {
        block.push(low(number));
        return;
    }
    block.push(low(FULL));
    let mut rest = number - FULL;
    while rest > FULL {
        block.push(low(rest) | 0x80);
        rest >>= 7;
    }
    block.push(low(rest));
}

/// Section 5.1.
fn integer(rest: &mut &[u8], bits: u32) -> Result<usize, Broken> {
    let (first, mut more) = rest.split_first().ok_or(Broken)?;
    let full = (1 << bits) - 1;
    let mut number = usize::from(*first) & full;
    if number == full {
        let mut shift = 0;
        loop {
            let (byte, behind) = more.split_first().ok_or(Broken)?;
            more = behind;
            number += (usize::from(*byte) & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > MOST_SHIFT {
                return Err(Broken);
            }
        }
    }
    *rest = more;
    if number > MOST { Err(Broken) } else { Ok(number) }
}

/// Section 5.2.
fn string(rest: &mut &[u8]) -> Result<Vec<u8>, Broken> {
    let is_packed = rest.first().ok_or(Broken)? & 0x80 != 0;
    let len = integer(rest, 7)?;
    let (text, behind) = rest.split_at_checked(len).ok_or(Broken)?;
    *rest = behind;
    if !is_packed {
        return Ok(text.to_vec());
    }
    let mut unpacked = Vec::new();
    httlib_huffman::decode(text, &mut unpacked, DecoderSpeed::FourBits).map_err(|_| Broken)?;
    Ok(unpacked)
}

/// Appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
pub(super) mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    fn shown(fields: &[Field]) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        fields.iter().map(|field| format!("{}={}", text(&field.name), text(&field.value))).collect()
    }

    /// Appendix C.4: requests of one connection, with Huffman's code.
    const REQUESTS: [&str; 3] = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ];

    #[test]
    fn the_examples_of_the_standard_are_read() {
        let mut decoder = Decoder::in_midstream();
        let read = REQUESTS.map(|block| shown(&decoder.decode(&unhex(block)).unwrap()));
        let common = [":method=GET", ":scheme=http", ":path=/", ":authority=www.example.com"];
        assert_eq!(read[0], common);
        assert_eq!(read[1], [&common[..], &["cache-control=no-cache"]].concat());
        let third = [
            ":method=GET",
            ":scheme=https",
            ":path=/index.html",
            ":authority=www.example.com",
            "custom-key=custom-value",
        ];
        assert_eq!(read[2], third);
        assert_eq!(decoder.unknown(), 0);
    }

    #[test]
    fn a_byte_that_stands_for_much_cannot_be_said_for_ever() {
        let mut decoder = Decoder::in_midstream();
        let long = Field { name: b"x".to_vec(), value: vec![b'v'; 60_000], sensitive: false };
        let mut block = encode(&[long]);
        block[1] = 0x40;
        assert!(decoder.decode(&block).is_ok());
        assert_eq!(decoder.decode(&vec![0xbe; 100_000]), Err(Broken));
    }

    #[test]
    fn numbers_that_no_encoder_writes_are_not_misread() {
        let decode = |block: &[u8]| Decoder::in_midstream().decode(block);
        // 127 and nothing, in more bytes than numbers have; the rest must not be taken for a field.
        assert_eq!(decode(&[0xff, 0x80, 0x80, 0x80, 0x80, 0x00]), Err(Broken));
        assert_eq!(decode(&[0xff; 20]), Err(Broken));
        assert!(decode(&[0xff, 0x80, 0x80, 0x80, 0x00]).is_ok());
        // No table has an entry with this number.
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0x03]), Err(Broken));
        assert_eq!(decode(&[0x80]), Err(Broken));
    }

    #[test]
    fn who_comes_late_knows_what_was_added_since_and_guesses_nothing() {
        let mut decoder = Decoder::in_midstream();
        let second = shown(&decoder.decode(&unhex(REQUESTS[1])).unwrap());
        let common = [":method=GET", ":scheme=http", ":path=/"];
        assert_eq!(second, [&common[..], &["unknown-hpack-1=", "cache-control=no-cache"]].concat());
        let third = shown(&decoder.decode(&unhex(REQUESTS[2])).unwrap());
        assert_eq!(third[3..], ["unknown-hpack-1=", "custom-key=custom-value"]);
        assert_eq!(decoder.unknown(), 2);
    }

    /// A field as an encoder may write it.
    #[derive(Clone, Debug)]
    pub(in super::super) struct Written {
        name: u8,
        value: u8,
        way: u8,
        shrink: bool,
    }

    pub(in super::super) fn written() -> impl Strategy<Value = Written> {
        (0..6_u8, 0..4_u8, 0..6_u8, prop::bool::weighted(0.02))
            .prop_map(|(name, value, way, shrink)| Written { name, value, way, shrink })
    }

    fn push_prefixed(block: &mut Vec<u8>, kind: u8, bits: u32, number: usize) {
        let full = (1_usize << bits) - 1;
        if number < full {
            block.push(kind | u8::try_from(number).unwrap());
        } else {
            block.push(kind | u8::try_from(full).unwrap());
            let mut rest = number - full;
            while rest > 0x7f {
                block.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
                rest >>= 7;
            }
            block.push(u8::try_from(rest).unwrap());
        }
    }

    /// An encoder whose table holds `size` bytes; fields and the block that it makes of them.
    #[derive(Default)]
    pub(in super::super) struct Encoder {
        table: VecDeque<(String, String)>,
        size: usize,
    }

    impl Encoder {
        pub(in super::super) fn new(size: usize) -> Self {
            Self { size, ..Self::default() }
        }

        fn evict(&mut self) {
            let bytes = |table: &VecDeque<(String, String)>| {
                table.iter().map(|(name, value)| name.len() + value.len() + ENTRY).sum::<usize>()
            };
            while bytes(&self.table) > self.size {
                self.table.pop_back();
            }
        }

        pub(in super::super) fn encode(&mut self, fields: &[Written]) -> (Vec<u8>, Vec<Field>) {
            let (mut block, mut all) = (Vec::new(), Vec::new());
            if fields.first().is_some_and(|field| field.shrink) {
                push_prefixed(&mut block, 0x20, 5, 0);
                push_prefixed(&mut block, 0x20, 5, self.size);
                self.table.clear();
            }
            for Written { name, value, way, .. } in fields {
                let name =
                    ["x-a", "x-b", "cookie", ":path", "x-long-name", "date"][usize::from(*name)];
                let value = format!("value-{value}");
                let known = |(n, v): &(String, String)| n == name && *v == value;
                let whole = self.table.iter().position(known);
                let named = self.table.iter().position(|(known, _)| known == name);
                let mut literal = |kind: u8, bits: u32, packed: bool| {
                    push_prefixed(&mut block, kind, bits, named.map_or(0, |at| at + 62));
                    let mut texts = vec![value.clone()];
                    if named.is_none() {
                        texts.insert(0, name.to_owned());
                    }
                    for text in texts {
                        let mut bytes = text.clone().into_bytes();
                        if packed {
                            bytes.clear();
                            httlib_huffman::encode(text.as_bytes(), &mut bytes).unwrap();
                        }
                        push_prefixed(&mut block, u8::from(packed) << 7, 7, bytes.len());
                        block.extend(bytes);
                    }
                };
                match (whole, way) {
                    (Some(at), 0..4) => push_prefixed(&mut block, 0x80, 7, at + 62),
                    (_, 0..4) => {
                        literal(0x40, 6, *way % 2 == 0);
                        self.table.push_front((name.to_owned(), value.clone()));
                        self.evict();
                    }
                    (_, 4) => literal(0, 4, true),
                    _ => literal(SENSITIVE, 4, false),
                }
                let sensitive = *way == 5;
                all.push(Field { name: name.into(), value: value.into(), sensitive });
            }
            (block, all)
        }
    }

    proptest! {
        #[test]
        fn wherever_it_is_cut_every_field_is_right_or_unknown(
            blocks in prop::collection::vec(prop::collection::vec(written(), 0..8), 1..20),
            size in 40..400_usize,
            cut in 0..20_usize,
        ) {
            let mut encoder = Encoder::new(size);
            let made: Vec<_> = blocks.iter().map(|block| encoder.encode(block)).collect();
            let mut decoder = Decoder::in_midstream();
            for (block, fields) in &made[cut.min(made.len())..] {
                let read = decoder.decode(block).unwrap();
                prop_assert_eq!(read.len(), fields.len());
                for (read, field) in read.iter().zip(fields) {
                    if read.name.starts_with(b"unknown-hpack-") {
                        prop_assert!(read.value.is_empty() || read.value == field.value);
                    } else {
                        prop_assert_eq!((&read.name, &read.value), (&field.name, &field.value));
                    }
                }
                // And who reads what is made of it reads the same.
                let again = Decoder::in_midstream().decode(&encode(&read));
                prop_assert_eq!(again, Ok(read));
            }
            if cut == 0 {
                prop_assert_eq!(decoder.unknown(), 0);
            }
        }

        #[test]
        fn no_block_makes_it_panic(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..6)) {
            let mut decoder = Decoder::in_midstream();
            for block in blocks {
                let _ = decoder.decode(&block);
            }
        }
    }
}
