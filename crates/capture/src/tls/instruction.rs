//! Which instruction of a function a probe costs least at.
//!
//! At a probe the kernel emulates `push`, `nop` and conditional jumps; any other instruction it runs
//! apart, at the cost of a second trap (`arch/x86/kernel/uprobes.c`): 0.6 µs and 9 µs, measured in a
//! virtual machine.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

/// How far a function's beginning is looked at.
const MOST: usize = 16;

/// C's first four arguments (System V ABI).
pub(crate) const C_ARGUMENTS: [Register; 4] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX];

/// The first instruction that the kernel emulates and before which no argument is overwritten; the
/// function's first where there is none. As an offset from the function's start.
pub(crate) fn cheapest(code: &[u8], arguments: &[Register]) -> u64 {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut infos = InstructionInfoFactory::new();
    for _ in 0..MOST {
        if !decoder.can_decode() {
            break;
        }
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            break;
        }
        if is_emulated(&instruction, code) {
            return instruction.ip();
        }
        let info = infos.info(&instruction);
        let overwritten = info.used_registers().iter().any(|used| {
            let reads = matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
            !reads && arguments.contains(&used.register().full_register())
        });
        if overwritten || instruction.flow_control() != FlowControl::Next {
            break;
        }
    }
    0
}

fn is_emulated(instruction: &Instruction, code: &[u8]) -> bool {
    let start = usize::try_from(instruction.ip()).unwrap_or(usize::MAX);
    match code.get(start..start.saturating_add(instruction.len())) {
        Some([0x50..=0x57] | [0x41, 0x50..=0x57] | [0x70..=0x7f, _] | [0x0f, 0x80..=0x8f, ..]) => {
            true
        }
        Some([first, ..]) => instruction.mnemonic() == Mnemonic::Nop && *first != 0xf3,
        _ => false,
    }
}

/// Where a Go function jumps if its stack is too small: the second or third instruction, behind a
/// comparison with the limit in the goroutine (`g` is R14 since Go 1.17). All arguments still stand in
/// their registers. None when this is not how a Go function starts.
pub(crate) fn stack_check(code: &[u8]) -> Option<u64> {
    const STACK_GUARD: u64 = 16;
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut compared = false;
    for _ in 0..4 {
        let instruction = decoder.decode();
        if compared {
            return (instruction.mnemonic() == Mnemonic::Jbe).then(|| instruction.ip());
        }
        compared = instruction.mnemonic() == Mnemonic::Cmp
            && instruction.op1_kind() == OpKind::Memory
            && instruction.memory_base() == Register::R14
            && instruction.memory_displacement64() == STACK_GUARD;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_behind_what_leaves_the_arguments_alone_is_chosen() {
        // endbr64; push rbp
        assert_eq!(cheapest(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55], &C_ARGUMENTS), 4);
        // test rdi, rdi; je
        assert_eq!(cheapest(&[0x48, 0x85, 0xff, 0x74, 0x10], &C_ARGUMENTS), 3);
        // push rbp
        assert_eq!(cheapest(&[0x55], &C_ARGUMENTS), 0);
    }

    #[test]
    fn nothing_behind_an_overwritten_argument_is_chosen() {
        // mov rdi, [rdi]; push rbp
        assert_eq!(cheapest(&[0x48, 0x8b, 0x3f, 0x55], &C_ARGUMENTS), 0);
        // jmp +0; push rbp
        assert_eq!(cheapest(&[0xeb, 0x00, 0x55], &C_ARGUMENTS), 0);
        assert_eq!(cheapest(&[], &C_ARGUMENTS), 0);
    }

    #[test]
    fn a_go_function_is_known_by_its_stack_check() {
        // cmp rsp, [r14+16]; jbe
        assert_eq!(stack_check(&[0x49, 0x3b, 0x66, 0x10, 0x76, 0x20]), Some(4));
        // lea r12, [rsp-0x58]; cmp r12, [r14+16]; jbe (near)
        let long = [0x4c, 0x8d, 0x64, 0x24, 0xa8, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0, 1, 0, 0];
        assert_eq!(stack_check(&long), Some(9));
        assert_eq!(stack_check(&[0x55, 0x48, 0x89, 0xe5, 0xc3]), None);
        assert_eq!(stack_check(&[]), None);
    }
}
