//! Learns where an object holds the client's random from the code of the function that hands it out.
//!
//! `SSL_get_client_random(object, out, len)` copies it, `gnutls_session_get_random(object, out, …)` hands
//! out a pointer to it. The code is not run: each instruction is followed with what is known of its
//! registers, up to where something of the object reaches `out`.

use std::collections::HashMap;

use iced_x86::{
    ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register,
};
use kuberewind_tls::ObjectPath;

use super::elf::Elf;

/// Such functions have a few dozen.
const MOST_INSTRUCTIONS: usize = 400;
/// A jump of more than this is a call of another function, in the place of a return.
const FUNCTION: u64 = 4096;
/// The longest instruction, in bytes.
const INSTRUCTION: usize = 15;
/// What the caller asks for.
const RANDOM_LEN: i64 = 32;
/// Where the stack is: far from all other numbers.
const STACK: i64 = 1 << 40;
/// What a function may leave changed (System V ABI).
const CALLER_SAVED: [Register; 9] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
];

/// What is known of a register or of a word on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Unknown,
    Number(i64),
    /// A place behind `out`.
    Out(i64),
    /// A place in the object, or in something that it points to.
    Address(Whereabouts),
    /// What stands there.
    Content(Whereabouts),
}

/// As an [`ObjectPath`], of any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Whereabouts {
    pointer: Option<i64>,
    offset: i64,
}

impl Value {
    fn plus(self, distance: i64) -> Self {
        match self {
            Self::Number(number) => Self::Number(number.wrapping_add(distance)),
            Self::Out(place) => Self::Out(place.wrapping_add(distance)),
            Self::Address(Whereabouts { pointer, offset }) => {
                Self::Address(Whereabouts { pointer, offset: offset.wrapping_add(distance) })
            }
            // A pointer; of what is behind two pointers nothing is known.
            Self::Content(Whereabouts { pointer: None, offset }) => {
                Self::Address(Whereabouts { pointer: Some(offset), offset: distance })
            }
            Self::Content(_) | Self::Unknown => Self::Unknown,
        }
    }

    /// As a place in memory.
    fn address(self) -> Self {
        self.plus(0)
    }

    fn is_pointer(self) -> bool {
        matches!(self, Self::Out(_) | Self::Address(_) | Self::Content(_))
    }
}

/// Where what `getter` hands out stands in its object. None when its code does not tell.
pub(crate) fn learn(elf: &mut Elf, getter: u64) -> Option<ObjectPath> {
    let mut machine = Machine::new();
    let mut address = getter;
    for _ in 0..MOST_INSTRUCTIONS {
        let code = elf.code(address, INSTRUCTION).ok()?;
        let instruction = Decoder::with_ip(64, &code, address, DecoderOptions::NONE).decode();
        if instruction.is_invalid() {
            return None;
        }
        address = match machine.follow(&instruction, getter) {
            Next::Found(found) => return path(found),
            Next::At(address) => address,
            Next::End => return None,
        };
    }
    None
}

fn path(Whereabouts { pointer, offset }: Whereabouts) -> Option<ObjectPath> {
    let pointer = pointer.map(u16::try_from).transpose().ok()?;
    Some(ObjectPath { pointer, offset: offset.try_into().ok()? })
}

/// What comes after an instruction.
enum Next {
    At(u64),
    Found(Whereabouts),
    End,
}

/// What is known of the machine.
struct Machine {
    registers: HashMap<Register, Value>,
    stack: HashMap<i64, Value>,
    /// What was compared last; whether by `test`.
    compared: Option<(Value, Value, bool)>,
}

impl Machine {
    fn new() -> Self {
        let object = Value::Address(Whereabouts { pointer: None, offset: 0 });
        let registers = HashMap::from([
            (Register::RDI, object),
            (Register::RSI, Value::Out(0)),
            (Register::RDX, Value::Number(RANDOM_LEN)),
            (Register::RSP, Value::Number(STACK)),
        ]);
        Self { registers, stack: HashMap::new(), compared: None }
    }

    fn follow(&mut self, instruction: &Instruction, function: u64) -> Next {
        let next = instruction.next_ip();
        match instruction.flow_control() {
            FlowControl::Next => match self.step(instruction) {
                Some(found) => Next::Found(found),
                None => Next::At(next),
            },
            FlowControl::ConditionalBranch => {
                let taken = self.holds(instruction.condition_code());
                Next::At(if taken { instruction.near_branch_target() } else { next })
            }
            FlowControl::UnconditionalBranch => {
                let target = instruction.near_branch_target();
                if target.wrapping_sub(function) < FUNCTION {
                    return Next::At(target);
                }
                self.copied().map_or(Next::End, Next::Found)
            }
            FlowControl::Call | FlowControl::IndirectCall => {
                if let Some(found) = self.copied() {
                    return Next::Found(found);
                }
                for register in CALLER_SAVED {
                    self.registers.remove(&register);
                }
                Next::At(next)
            }
            _ => Next::End,
        }
    }

    /// What `memcpy` and `rep movs` are about to copy to `out`.
    fn copied(&self) -> Option<Whereabouts> {
        match (self.register(Register::RDI), self.register(Register::RSI).address()) {
            (Value::Out(0), Value::Address(from)) => Some(from),
            _ => None,
        }
    }

    fn register(&self, register: Register) -> Value {
        self.registers.get(&register.full_register()).copied().unwrap_or(Value::Unknown)
    }

    fn address(&self, instruction: &Instruction) -> Value {
        let distance = instruction.memory_displacement64().cast_signed();
        let base = match instruction.memory_base() {
            Register::None => Value::Number(0),
            base => self.register(base),
        };
        match instruction.memory_index() {
            Register::None => base.plus(distance),
            index => match self.register(index) {
                Value::Number(number) => {
                    let scaled = number.wrapping_mul(instruction.memory_index_scale().into());
                    base.plus(distance.wrapping_add(scaled))
                }
                _ => Value::Unknown,
            },
        }
    }

    fn load(&self, address: Value, size: usize) -> Value {
        match address {
            Value::Number(place) => self.stack.get(&place).copied().unwrap_or(Value::Unknown),
            Value::Address(place) if size >= 8 => Value::Content(place),
            // Which kind of object it is, say: the first one, zero.
            Value::Address(_) => Value::Number(0),
            _ => Value::Unknown,
        }
    }

    fn operand(&self, instruction: &Instruction, number: u32) -> Value {
        match instruction.op_kind(number) {
            OpKind::Register => self.register(instruction.op_register(number)),
            OpKind::Memory => {
                self.load(self.address(instruction), instruction.memory_size().size())
            }
            _ => instruction
                .try_immediate(number)
                .map_or(Value::Unknown, |number| Value::Number(number.cast_signed())),
        }
    }

    /// Follows an instruction that is no jump; what it writes to the beginning of `out`.
    fn step(&mut self, instruction: &Instruction) -> Option<Whereabouts> {
        use Mnemonic as M;
        let [first, second] = [0, 1].map(|number| {
            if number < instruction.op_count() {
                self.operand(instruction, number)
            } else {
                Value::Unknown
            }
        });
        match instruction.mnemonic() {
            M::Nop | M::Endbr64 => {}
            M::Mov
            | M::Movzx
            | M::Movsxd
            | M::Movups
            | M::Movaps
            | M::Movdqu
            | M::Movdqa
            | M::Movq
            | M::Vmovdqu
            | M::Vmovdqa
            | M::Vmovups
            | M::Vmovaps => {
                return self.write(instruction, second);
            }
            M::Movsb | M::Movsd | M::Movsq => return self.copied(),
            M::Lea => return self.write(instruction, self.address(instruction)),
            M::Cmp | M::Test => {
                self.compared = Some((first, second, instruction.mnemonic() == M::Test));
            }
            M::Push => {
                self.move_stack(-8);
                if let Value::Number(top) = self.register(Register::RSP) {
                    self.stack.insert(top, first);
                }
            }
            M::Pop => {
                let top = self.load(self.register(Register::RSP), 8);
                self.move_stack(8);
                return self.write(instruction, top);
            }
            M::Add | M::Sub | M::And | M::Or | M::Xor => {
                let result = calculate(instruction, first, second);
                self.compared = Some((result, Value::Number(0), false));
                return self.write(instruction, result);
            }
            M::Cmova
            | M::Cmovae
            | M::Cmovb
            | M::Cmovbe
            | M::Cmove
            | M::Cmovne
            | M::Cmovg
            | M::Cmovge
            | M::Cmovl
            | M::Cmovle => {
                if self.holds(instruction.condition_code()) {
                    return self.write(instruction, second);
                }
            }
            _ => {
                if instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register {
                    return self.write(instruction, Value::Unknown);
                }
            }
        }
        None
    }

    fn move_stack(&mut self, distance: i64) {
        let moved = self.register(Register::RSP).plus(distance);
        self.registers.insert(Register::RSP, moved);
    }

    /// Writes to an instruction's first operand.
    fn write(&mut self, instruction: &Instruction, value: Value) -> Option<Whereabouts> {
        if instruction.op0_kind() == OpKind::Register {
            let register = instruction.op0_register();
            let value = match value {
                Value::Number(number) if register.size() == 4 => {
                    Value::Number(number & 0xffff_ffff)
                }
                other => other,
            };
            self.registers.insert(register.full_register(), value);
            return None;
        }
        match (self.address(instruction), value) {
            (Value::Number(place), _) => {
                self.stack.insert(place, value);
            }
            // The first bytes, or a pointer to them.
            (Value::Out(0), Value::Content(place) | Value::Address(place)) => return Some(place),
            _ => {}
        }
        None
    }

    /// Whether a condition holds; where that is not known, that it does not.
    fn holds(&self, condition: ConditionCode) -> bool {
        use ConditionCode as C;
        let Some((first, second, is_test)) = self.compared else { return false };
        let (a, b) = match (first, second) {
            (Value::Number(a), Value::Number(b)) if is_test => (a & b, 0),
            (Value::Number(a), Value::Number(b)) => (a, b),
            // Pointers are not null.
            (a, b) if is_test && a.is_pointer() && a == b => (1, 0),
            (a, Value::Number(0)) if !is_test && a.is_pointer() => (1, 0),
            _ => return false,
        };
        let (above, below) = (a.cast_unsigned(), b.cast_unsigned());
        match condition {
            C::e => a == b,
            C::ne => a != b,
            C::b => above < below,
            C::be => above <= below,
            C::a => above > below,
            C::ae => above >= below,
            C::l => a < b,
            C::le => a <= b,
            C::g => a > b,
            C::ge => a >= b,
            C::s => a.wrapping_sub(b) < 0,
            C::ns => a.wrapping_sub(b) >= 0,
            _ => false,
        }
    }
}

/// What an instruction of arithmetic makes of its operands.
fn calculate(instruction: &Instruction, first: Value, second: Value) -> Value {
    use Mnemonic as M;
    let itself = instruction.op1_kind() == OpKind::Register
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register() == instruction.op1_register();
    match (instruction.mnemonic(), first, second) {
        (M::Xor | M::Sub, ..) if itself => Value::Number(0),
        (M::And | M::Or, value, _) if itself => value,
        (M::Add, value, Value::Number(number)) | (M::Add, Value::Number(number), value) => {
            value.plus(number)
        }
        (M::Sub, value, Value::Number(number)) => value.plus(number.wrapping_neg()),
        (M::And, Value::Number(a), Value::Number(b)) => Value::Number(a & b),
        (M::Or, Value::Number(a), Value::Number(b)) => Value::Number(a | b),
        (M::Xor, Value::Number(a), Value::Number(b)) => Value::Number(a ^ b),
        _ => Value::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn learned(library: &str, getter: &str) -> Option<ObjectPath> {
        let path = format!("/usr/lib/x86_64-linux-gnu/{library}");
        let mut elf = Elf::open(File::open(path).unwrap()).unwrap();
        let getter = elf.exported(getter).unwrap().unwrap();
        learn(&mut elf, getter)
    }

    #[test]
    fn what_is_copied_and_what_is_pointed_to_is_learned() {
        let ssl = learned("libssl.so.3", "SSL_get_client_random");
        assert_eq!(ssl, Some(ObjectPath { pointer: None, offset: 0x160 }));
        let gnutls = learned("libgnutls.so.30", "gnutls_session_get_random");
        assert_eq!(gnutls, Some(ObjectPath { pointer: None, offset: 0x50 }));
    }

    #[test]
    fn from_other_functions_nothing_is_learned() {
        assert_eq!(learned("libssl.so.3", "SSL_CTX_new"), None);
        assert_eq!(learned("libssl.so.3", "SSL_get_version"), None);
    }
}
