//! Filters in libpcap's language, and packets that they look at.

use std::sync::OnceLock;

use kuberewind_filter::{CaptureFilter, StoredFilter};

/// Longer expressions only take longer.
const LONGEST: usize = 300;

/// Words of the language.
pub(super) const WORDS: &[&str] = &[
    " and ",
    " or ",
    "not ",
    "(",
    ")",
    "tcp",
    "udp",
    "icmp6",
    "sctp",
    "ip6 ",
    "vlan ",
    "mpls ",
    "port 80",
    "portrange 1-65535",
    "net 10.0.0.0/8",
    "host 10.0.0.1",
    "ether host 1:2:3:4:5:6",
    "tcp[13] & 2 != 0",
    "ip[0] & 0xf * 4",
    "len > 5",
    "greater 4294967295",
    "less 0",
    "proto ",
    "/0",
    "[0:4]",
    "[-1]",
    "protochain 6",
    "gateway ",
    "pppoes 1",
    "geneve 1",
    "inbound",
    "ifindex 1",
    "0xffffffff",
    "4294967296",
    "ip6 protochain 59",
    "tcp[tcpflags] & (tcp-syn|tcp-fin)",
];

pub(super) fn some() -> Vec<Vec<u8>> {
    [
        "tcp port 80",
        "host 10.0.0.1 and (udp or icmp) and not port 53",
        "vlan 5 and tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420",
        "ip6 net fd00::/8 or (ether proto 0x88cc and greater 100)",
        "portrange 8000-9000 and tcp[tcpflags] & tcp-syn != 0",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Names would be asked of a name server.
fn has_names(text: &str) -> bool {
    ["host", "net", "gateway", "src", "dst", "port", "proto"].iter().any(|word| {
        text.match_indices(word).any(|(at, _)| {
            let after = text[at + word.len()..].trim_start();
            after.starts_with(|c: char| c.is_ascii_alphabetic() || c == '\\')
        })
    })
}

/// Compiles it both ways, and runs what came out on some packets.
pub(super) fn compile(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(&input[..input.len().min(LONGEST)]) else {
        return String::new();
    };
    if has_names(text) {
        return "a name".to_owned();
    }
    let stored = match StoredFilter::compile(text) {
        Ok(filter) => filter,
        Err(error) => return error.to_string(),
    };
    // Opening and closing a live handle takes tens of milliseconds.
    let live = CaptureFilter::compile(text, 262_144);
    let live = live.map_or_else(|error| error.to_string(), |filter| filter.notes().concat());
    let matched = packets().iter().filter(|data| stored.matches(1500, data)).count();
    format!("{live} matches {matched}")
}

/// TCP over IPv4, UDP over IPv6, tagged, too short.
pub(super) fn packets() -> Vec<Vec<u8>> {
    let mut tcp = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6];
    tcp.extend([0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 31, 144, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2]);
    tcp.extend([0; 26]);
    let mut udp = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64];
    udp.extend([0xfd; 32]);
    udp.extend([0, 53, 31, 144, 0, 8, 0, 0]);
    let mut tagged = tcp.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let short = tcp[..20].to_vec();
    vec![tcp, udp, tagged, short]
}

/// A packet of any bytes, looked at by every kind of instruction.
pub(super) fn matched(input: &[u8]) -> String {
    static FILTERS: OnceLock<Vec<StoredFilter>> = OnceLock::new();
    let filters = FILTERS.get_or_init(|| {
        let texts = some().into_iter().map(|text| String::from_utf8(text).unwrap_or_default());
        let more = ["ip6 protochain 6", "mpls 5 and ip", "tcp[tcp[12] >> 2] = 1", "len / 7 = 3"];
        let texts = texts.chain(more.map(str::to_owned));
        texts.map(|text| StoredFilter::compile(&text).expect("a filter")).collect()
    });
    let len = u32::try_from(input.len()).unwrap_or(u32::MAX);
    filters.iter().map(|filter| if filter.matches(len, input) { 'y' } else { 'n' }).collect()
}
