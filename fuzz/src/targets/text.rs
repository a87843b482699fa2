//! Sizes, times and names.

use kuberewind_packet::{ByteSize, Interface, LossCause, Timestamp};

pub(super) const WORDS: &[&str] = &[
    "KiB",
    "MB",
    "Gi",
    "E",
    "Ei",
    "18446744073709551615",
    "0.",
    "-",
    "+",
    "1e9",
    "T",
    "Z",
    "+23:59",
    "60",
    "9999-12-31",
    "1969-12-31T23:59:59Z",
    "node=",
    "netns=",
    "pod=",
    "/",
    "\n",
];

pub(super) fn some() -> Vec<Vec<u8>> {
    [
        "50MB",
        "1.5GiB",
        "2026-11-22T21:30:05.123456789Z",
        "2026-11-22T21:30:05+02:00",
        "ring",
        "shop/cart/eth0\nnode=n1 netns=5",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Each kind of text; what is read is written and read again.
pub(super) fn parse(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let size = text.parse::<ByteSize>();
    if let Ok(size) = &size {
        assert_eq!(size.to_string().parse().as_ref(), Ok(size), "a size is not read back");
    }
    let time = text.parse::<Timestamp>();
    if let Ok(time) = &time {
        assert_eq!(time.to_string().parse().ok(), Some(*time), "a time is not read back");
    }
    let cause = text.parse::<LossCause>().is_ok();
    let (name, description) = text.split_once('\n').unwrap_or((&text, ""));
    let interface = Interface::parse(name, description);
    if let Ok(interface) = &interface {
        let again = Interface::parse(&interface.if_name(), &interface.if_description());
        assert_eq!(again.as_ref(), Ok(interface), "an interface is not read back");
    }
    format!("{:?} {:?} {cause} {:?}", size.err(), time.err(), interface.err())
}
