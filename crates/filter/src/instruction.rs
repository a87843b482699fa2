//! Classic BPF, `linux/bpf_common.h` and `linux/filter.h`.

use std::str::FromStr;

use crate::error::Defect;

/// One classic BPF instruction, laid out as the kernel's `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// How many instructions to skip when a test holds.
    pub jt: u8,
    /// How many instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// The most instructions that `SO_ATTACH_FILTER` takes.
pub(crate) const BPF_MAXINSNS: usize = 4096;

// Operations, as far as programs of our own hand use them.
const LD_W_ABS: u16 = 0x20;
const LD_H_ABS: u16 = 0x28;
const JMP_JA: u16 = 0x05;
const JMP_JEQ_K: u16 = 0x15;
const RET_K: u16 = 0x06;

// What the kernel knows beside the bytes: negative offsets, `SKF_AD_OFF + SKF_AD_…`.
const SKF_AD_OFF: u32 = 0xffff_f000;
pub(crate) const SKF_AD_PROTOCOL: u32 = SKF_AD_OFF;
pub(crate) const SKF_AD_PKTTYPE: u32 = SKF_AD_OFF + 4;
pub(crate) const SKF_AD_HATYPE: u32 = SKF_AD_OFF + 28;

impl Instruction {
    const fn new(code: u16, jt: u8, jf: u8, k: u32) -> Self {
        Self { code, jt, jf, k }
    }

    /// Loads what the kernel knows about the packet.
    pub(crate) const fn load_ancillary(k: u32) -> Self {
        Self::new(LD_W_ABS, 0, 0, k)
    }

    /// Loads two bytes of the packet.
    pub(crate) const fn load_half(offset: u32) -> Self {
        Self::new(LD_H_ABS, 0, 0, offset)
    }

    /// Skips `jt` instructions if what is loaded equals `k`, else `jf`.
    pub(crate) const fn if_equal(k: u32, jt: u8, jf: u8) -> Self {
        Self::new(JMP_JEQ_K, jt, jf, k)
    }

    /// Skips `k` instructions; unlike the conditional jumps, as many as you like.
    pub(crate) const fn skip(k: u32) -> Self {
        Self::new(JMP_JA, 0, 0, k)
    }

    /// Takes the packet's first `snaplen` bytes.
    pub(crate) const fn take(snaplen: u32) -> Self {
        Self::new(RET_K, 0, 0, snaplen)
    }

    /// Does not take the packet.
    pub(crate) const DROP: Self = Self::take(0);

    /// Whether it jumps back, which only `protochain` does and the kernel refuses.
    pub(crate) const fn jumps_back(self) -> bool {
        self.code == JMP_JA && self.k.cast_signed() < 0
    }

    /// The same instruction, but what takes a packet takes its first `snaplen` bytes.
    pub(crate) const fn with_snaplen(self, snaplen: u32) -> Self {
        match self {
            Self { code: RET_K, k: 1.., .. } => Self::take(snaplen),
            other => other,
        }
    }
}

impl FromStr for Instruction {
    type Err = Defect;

    /// Reads `code jt jf k` in decimal, as the `pcap` crate and `tcpdump -ddd` write it.
    fn from_str(text: &str) -> Result<Self, Defect> {
        let no_number = |source| Defect::Text { text: text.to_owned(), source: Some(source) };
        let mut words = text.split(' ');
        let (Some(code), Some(jt), Some(jf), Some(k), None) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Defect::Text { text: text.to_owned(), source: None });
        };
        Ok(Self {
            code: code.parse().map_err(no_number)?,
            jt: jt.parse().map_err(no_number)?,
            jf: jf.parse().map_err(no_number)?,
            k: k.parse().map_err(no_number)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read_as_libpcap_writes_them() {
        let read: Result<Instruction, _> = "21 0 255 4294967295".parse();
        assert_eq!(read, Ok(Instruction { code: 21, jt: 0, jf: 255, k: u32::MAX }));
        for wrong in ["", "21 0 255", "21 0 256 1", "21 0 1 1 1", "a b c d"] {
            assert!(wrong.parse::<Instruction>().is_err(), "{wrong}");
        }
    }
}
