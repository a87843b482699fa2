//! The classic BPF machine, as libpcap's `pcap_filter` runs it.
//!
//! libpcap's own can be reached safely only with the captured length for the original one, and would
//! make `greater` and `less` wrong on cut packets.

use crate::error::Defect;
use crate::instruction::Instruction;

/// `BPF_MEMWORDS`.
const MEMORY: usize = 16;

/// A program that keeps to its instructions, whatever the packet.
#[derive(Clone, Debug)]
pub(crate) struct Machine(Vec<Op>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Load(Source),
    LoadX(Source),
    Store(Slot),
    StoreX(Slot),
    Compute(Math, Operand),
    Negate,
    AToX,
    XToA,
    /// Continue at this index.
    Jump(usize),
    Branch {
        test: Test,
        with: Operand,
        then: usize,
        otherwise: usize,
    },
    Return(u32),
    ReturnA,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Number(u32),
    Slot(Slot),
    OriginalLen,
    /// Bytes at a fixed offset.
    Packet(Width, u32),
    /// Bytes at a fixed offset behind X.
    PacketX(Width, u32),
    /// Four times the low half of the byte at an offset: an IPv4 header's length.
    HeaderLen(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Word,
    Half,
    Byte,
}

/// An index into the machine's memory, below [`MEMORY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot(usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    K(u32),
    X,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Math {
    Add,
    Sub,
    Mul,
    Div,
    Or,
    And,
    Left,
    Right,
    Mod,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Equal,
    Greater,
    AtLeast,
    AnyBit,
}

impl Machine {
    /// Checks a program: every jump leads to an instruction of it, and its end is a return.
    pub(crate) fn load(program: &[Instruction]) -> Result<Self, Defect> {
        let decode = |(at, line): (usize, Instruction)| {
            let op = decode(at, line).ok_or(Defect::Unknown { code: line.code, at })?;
            let inside = successors(at, op).into_iter().flatten().all(|next| next < program.len());
            if inside { Ok(op) } else { Err(Defect::Endless { at }) }
        };
        if program.is_empty() {
            return Err(Defect::Endless { at: 0 });
        }
        program.iter().copied().enumerate().map(decode).collect::<Result<_, _>>().map(Self)
    }

    /// How many bytes of the packet the program takes; none: it is not wanted.
    ///
    /// As in libpcap, a load from outside `data` and a division by zero end it with "none".
    pub(crate) fn run(&self, original_len: u32, data: &[u8]) -> u32 {
        run(&self.0, original_len, data).unwrap_or(0)
    }
}

fn run(ops: &[Op], original_len: u32, data: &[u8]) -> Option<u32> {
    let (mut a, mut x, mut memory, mut at) = (0, 0, [0; MEMORY], 0);
    // Only `protochain` jumps back, once for each header that it walks over; this bound is not reached
    // by it, and lets nothing run for ever.
    let mut turns_left = data.len();
    loop {
        let op = *ops.get(at)?;
        at += 1;
        match op {
            Op::Load(source) => a = load(source, x, &memory, original_len, data)?,
            Op::LoadX(source) => x = load(source, x, &memory, original_len, data)?,
            Op::Store(Slot(slot)) => *memory.get_mut(slot)? = a,
            Op::StoreX(Slot(slot)) => *memory.get_mut(slot)? = x,
            Op::Compute(math, with) => a = compute(math, a, with.value(x))?,
            Op::Negate => a = a.wrapping_neg(),
            Op::AToX => x = a,
            Op::XToA => a = x,
            Op::Jump(to) => {
                if to < at {
                    turns_left = turns_left.checked_sub(1)?;
                }
                at = to;
            }
            Op::Branch { test, with, then, otherwise } => {
                at = if holds(test, a, with.value(x)) { then } else { otherwise };
            }
            Op::Return(k) => return Some(k),
            Op::ReturnA => return Some(a),
        }
    }
}

impl Operand {
    fn value(self, x: u32) -> u32 {
        match self {
            Self::K(k) => k,
            Self::X => x,
        }
    }
}

fn load(
    source: Source,
    x: u32,
    memory: &[u32; MEMORY],
    original_len: u32,
    data: &[u8],
) -> Option<u32> {
    match source {
        Source::Number(k) => Some(k),
        Source::Slot(Slot(slot)) => memory.get(slot).copied(),
        Source::OriginalLen => Some(original_len),
        Source::Packet(width, offset) => read(data, width, offset),
        Source::PacketX(width, offset) => read(data, width, offset.checked_add(x)?),
        Source::HeaderLen(offset) => Some((read(data, Width::Byte, offset)? & 0xf) * 4),
    }
}

fn read(data: &[u8], width: Width, offset: u32) -> Option<u32> {
    let bytes = data.get(usize::try_from(offset).ok()?..)?;
    match width {
        Width::Word => bytes.first_chunk().map(|word| u32::from_be_bytes(*word)),
        Width::Half => bytes.first_chunk().map(|half| u16::from_be_bytes(*half).into()),
        Width::Byte => bytes.first().map(|byte| (*byte).into()),
    }
}

fn compute(math: Math, a: u32, b: u32) -> Option<u32> {
    Some(match math {
        Math::Add => a.wrapping_add(b),
        Math::Sub => a.wrapping_sub(b),
        Math::Mul => a.wrapping_mul(b),
        Math::Div => a.checked_div(b)?,
        Math::Mod => a.checked_rem(b)?,
        Math::Or => a | b,
        Math::And => a & b,
        Math::Xor => a ^ b,
        Math::Left => a.checked_shl(b).unwrap_or(0),
        Math::Right => a.checked_shr(b).unwrap_or(0),
    })
}

fn holds(test: Test, a: u32, b: u32) -> bool {
    match test {
        Test::Equal => a == b,
        Test::Greater => a > b,
        Test::AtLeast => a >= b,
        Test::AnyBit => a & b != 0,
    }
}

/// Where the program may be after the instruction at `at`.
fn successors(at: usize, op: Op) -> [Option<usize>; 2] {
    match op {
        Op::Return(_) | Op::ReturnA => [None, None],
        Op::Jump(to) => [Some(to), None],
        Op::Branch { then, otherwise, .. } => [Some(then), Some(otherwise)],
        _ => [Some(at + 1), None],
    }
}

/// The operation of a code: class in bits 0 to 2, the rest depends on it (`linux/bpf_common.h`).
fn decode(at: usize, line: Instruction) -> Option<Op> {
    let Instruction { code, jt, jf, k } = line;
    let operand = if code & 0x08 == 0 { Operand::K(k) } else { Operand::X };
    match (code & 0x07, code & !0x07) {
        (0, rest) => decode_load(rest, k).map(Op::Load),
        (1, rest) => decode_load_x(rest, k).map(Op::LoadX),
        (2, 0) => Slot::new(k).map(Op::Store),
        (3, 0) => Slot::new(k).map(Op::StoreX),
        (4, 0x80) => Some(Op::Negate),
        (4, rest) => decode_math(rest & !0x08).map(|math| Op::Compute(math, operand)),
        (5, 0) => jump(at, k).map(Op::Jump),
        (5, rest) => Some(Op::Branch {
            test: decode_test(rest & !0x08)?,
            with: operand,
            then: skip(at, jt.into())?,
            otherwise: skip(at, jf.into())?,
        }),
        (6, 0x00) => Some(Op::Return(k)),
        (6, 0x10) => Some(Op::ReturnA),
        (7, 0x00) => Some(Op::AToX),
        (7, 0x80) => Some(Op::XToA),
        _ => None,
    }
}

fn decode_load(rest: u16, k: u32) -> Option<Source> {
    Some(match rest {
        0x00 => Source::Number(k),
        0x20 => Source::Packet(Width::Word, k),
        0x28 => Source::Packet(Width::Half, k),
        0x30 => Source::Packet(Width::Byte, k),
        0x40 => Source::PacketX(Width::Word, k),
        0x48 => Source::PacketX(Width::Half, k),
        0x50 => Source::PacketX(Width::Byte, k),
        0x60 => Source::Slot(Slot::new(k)?),
        0x80 => Source::OriginalLen,
        _ => return None,
    })
}

fn decode_load_x(rest: u16, k: u32) -> Option<Source> {
    Some(match rest {
        0x00 => Source::Number(k),
        0x60 => Source::Slot(Slot::new(k)?),
        0x80 => Source::OriginalLen,
        0xb0 => Source::HeaderLen(k),
        _ => return None,
    })
}

fn decode_math(rest: u16) -> Option<Math> {
    Some(match rest {
        0x00 => Math::Add,
        0x10 => Math::Sub,
        0x20 => Math::Mul,
        0x30 => Math::Div,
        0x40 => Math::Or,
        0x50 => Math::And,
        0x60 => Math::Left,
        0x70 => Math::Right,
        0x90 => Math::Mod,
        0xa0 => Math::Xor,
        _ => return None,
    })
}

fn decode_test(rest: u16) -> Option<Test> {
    Some(match rest {
        0x10 => Test::Equal,
        0x20 => Test::Greater,
        0x30 => Test::AtLeast,
        0x40 => Test::AnyBit,
        _ => return None,
    })
}

impl Slot {
    fn new(k: u32) -> Option<Self> {
        usize::try_from(k).ok().filter(|slot| *slot < MEMORY).map(Self)
    }
}

/// The index that an unconditional jump leads to. Alone of all jumps it can lead back: libpcap
/// compiles `protochain` to a loop.
fn jump(at: usize, k: u32) -> Option<usize> {
    let by = isize::try_from(k.cast_signed()).ok()?;
    at.checked_add(1)?.checked_add_signed(by)
}

/// The index of the instruction that a conditional jump leads to; always a later one.
fn skip(at: usize, count: u32) -> Option<usize> {
    at.checked_add(1)?.checked_add(usize::try_from(count).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn line(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    const RETURN_A: Instruction = line(0x16, 0, 0, 0);

    fn answer(program: &[Instruction], data: &[u8]) -> u32 {
        Machine::load(program).unwrap().run(1500, data)
    }

    #[test]
    fn programs_that_leave_their_end_are_refused() {
        let defect = |program: &[Instruction]| Machine::load(program).err();
        assert_eq!(defect(&[]), Some(Defect::Endless { at: 0 }));
        assert_eq!(defect(&[line(0x28, 0, 0, 12)]), Some(Defect::Endless { at: 0 }));
        assert_eq!(defect(&[line(0x15, 0, 1, 1), RETURN_A]), Some(Defect::Endless { at: 0 }));
        assert_eq!(defect(&[line(0x05, 0, 0, 1), RETURN_A]), Some(Defect::Endless { at: 0 }));
        assert_eq!(
            defect(&[line(0x60, 0, 0, 16), RETURN_A]),
            Some(Defect::Unknown { code: 0x60, at: 0 })
        );
        assert_eq!(defect(&[line(0xffff, 0, 0, 0)]), Some(Defect::Unknown { code: 0xffff, at: 0 }));
    }

    #[test]
    fn loads_outside_the_packet_take_nothing() {
        for (code, k) in [(0x20, 1), (0x28, 3), (0x30, 4), (0x20, u32::MAX), (0x30, 0xffff_f000)] {
            assert_eq!(answer(&[line(code, 0, 0, k), RETURN_A], &[9; 4]), 0, "{code:x} {k}");
        }
        // X + k beyond 2^32.
        let wrapping = [line(0x01, 0, 0, u32::MAX), line(0x50, 0, 0, 2), RETURN_A];
        assert_eq!(answer(&wrapping, &[9; 4]), 0);
        assert_eq!(answer(&[line(0x20, 0, 0, 0), RETURN_A], &[0, 0, 1, 2]), 0x0102);
        assert_eq!(answer(&[line(0xb1, 0, 0, 0), line(0x87, 0, 0, 0), RETURN_A], &[0x45]), 20);
    }

    #[test]
    fn length_is_the_original_one() {
        assert_eq!(answer(&[line(0x80, 0, 0, 0), RETURN_A], &[]), 1500);
    }

    #[test]
    fn loops_end() {
        assert_eq!(answer(&[line(0x05, 0, 0, u32::MAX), RETURN_A], &[9; 4]), 0);
        let below_zero = Machine::load(&[line(0x05, 0, 0, u32::MAX - 1), RETURN_A]);
        assert_eq!(below_zero.err(), Some(Defect::Unknown { code: 5, at: 0 }));
    }

    #[test]
    fn arithmetic_wraps_and_division_by_zero_takes_nothing() {
        let compute = |code, a, k| answer(&[line(0, 0, 0, a), line(code, 0, 0, k), RETURN_A], &[]);
        assert_eq!(compute(0x04, u32::MAX, 2), 1);
        assert_eq!(compute(0x14, 1, 2), u32::MAX);
        assert_eq!(compute(0x84, 1, 0), u32::MAX);
        assert_eq!(compute(0x34, 7, 2), 3);
        assert_eq!(compute(0x94, 7, 4), 3);
        assert_eq!(compute(0x34, 7, 0), 0);
        assert_eq!(compute(0x64, 1, 31), 1 << 31);
        assert_eq!(compute(0x64, 1, 32), 0);
        assert_eq!(compute(0x74, 8, 3), 1);
    }
}
