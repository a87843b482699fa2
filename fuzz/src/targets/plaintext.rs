//! What the plaintext probes write into their ring.

pub(super) fn read(bytes: &[u8]) -> String {
    kuberewind_capture::fuzz::read_plaintext(bytes)
}

/// Of each kind one, with IPv4 and with IPv6.
pub(super) fn events() -> Vec<Vec<u8>> {
    const KINDS: [u32; 4] = [1, 2, 3, 4];
    const FAMILIES: [u32; 2] = [2, 10];
    let both = |kind| FAMILIES.map(|family| event(kind, family));
    KINDS.into_iter().flat_map(both).collect()
}

/// `struct piece` of `plain.bpf.c`.
fn event(kind: u32, family: u32) -> Vec<u8> {
    const SAID: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    let mut event: Vec<u8> = [5_000_u64, 41, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
    let words = [77, 4711, kind, u32::try_from(SAID.len()).unwrap_or(0)];
    event.extend(words.into_iter().flat_map(u32::to_ne_bytes));
    event.extend([10; 16]);
    event.extend([11; 16]);
    event.extend([40_000_u16, 443].into_iter().flat_map(u16::to_ne_bytes));
    event.extend(family.to_ne_bytes());
    event.extend(9_u64.to_ne_bytes());
    event.extend(SAID);
    event
}
