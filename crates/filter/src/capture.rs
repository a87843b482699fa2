//! Filters that run in the kernel.

use kuberewind_packet::MAX_CAPTURED;

use crate::error::FilterError;
use crate::instruction::{BPF_MAXINSNS, Instruction};
use crate::{join, libpcap};

/// A program for an `AF_PACKET` `SOCK_RAW` socket that sees all devices of a network namespace.
///
/// Ethernet devices and loopback get the expression as libpcap compiles it for a live Ethernet
/// interface; devices without a link header get it compiled for raw IP, and give only IP packets.
/// Loopback's packets come once. Everything else is as with `tcpdump -i`, device by device.
///
/// `snaplen` is the most bytes that are kept of one packet, between 1 and [`MAX_CAPTURED`]; what lies
/// outside is brought inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureFilter {
    expression: Option<String>,
    program: Vec<Instruction>,
    notes: Vec<String>,
}

impl CaptureFilter {
    /// The default: IPv4 and IPv6 with all that runs on them (TCP, UDP, SCTP, ICMP …), untagged or
    /// behind up to three VLAN tags, on every kind of device. Needs no rights.
    pub fn everything_on_ip(snaplen: u32) -> Self {
        let snaplen = bounded(snaplen);
        Self {
            expression: None,
            program: join::join(&join::ethernet_ip(snaplen), &[Instruction::take(snaplen)]),
            notes: Vec::new(),
        }
    }

    /// Compiles an expression of `pcap-filter(7)`. Names in it are looked up on this machine.
    ///
    /// Opens a capture handle on `lo` for a moment (20 to 50 ms), in the network namespace of the
    /// calling thread: only there does libpcap look for VLAN tags where the kernel puts them.
    ///
    /// # Errors
    /// [`FilterError::NotPermitted`] without `CAP_NET_RAW`; [`FilterError::Expression`] with
    /// libpcap's message; [`FilterError::TooLong`] and [`FilterError::Loop`] if the kernel would refuse it.
    pub fn compile(expression: &str, snaplen: u32) -> Result<Self, FilterError> {
        Self::new(expression, snaplen, &libpcap::live_ethernet(expression)?)
    }

    /// Whether [`Self::compile`] would take the expression, without the right that it needs.
    ///
    /// # Errors
    /// As [`Self::compile`], but for the handle.
    pub fn check(expression: &str) -> Result<(), FilterError> {
        Self::new(expression, MAX_CAPTURED, &libpcap::dead_ethernet(expression)?).map(drop)
    }

    fn new(expression: &str, snaplen: u32, ethernet: &[Instruction]) -> Result<Self, FilterError> {
        let (raw, notes) = raw_part(expression)?;
        let joined = join::join(ethernet, &raw);
        runs_in_kernel(expression, &joined)?;
        let snaplen = bounded(snaplen);
        let program = joined.into_iter().map(|line| line.with_snaplen(snaplen)).collect();
        Ok(Self { expression: Some(expression.to_owned()), program, notes })
    }

    /// What `SO_ATTACH_FILTER` takes: at most 4096 instructions.
    ///
    /// Kernels before 6.7 charge the program to `net.core.optmem_max`, by default 20 KiB; one of more
    /// than about 1,000 instructions then fails there with `ENOMEM`.
    pub fn program(&self) -> &[Instruction] {
        &self.program
    }

    /// What it was compiled from; `None` is [`Self::everything_on_ip`].
    pub fn expression(&self) -> Option<&str> {
        self.expression.as_deref()
    }

    /// What a user should know about this filter: where it cannot say what the expression says.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// The part for devices without a link header, and what there is to say about it.
///
/// An expression that raw IP cannot express (`ether host …`, `vlan`) takes nothing there: tcpdump
/// refuses it on such a device, and to record what nobody asked for would be worse than a note.
fn raw_part(expression: &str) -> Result<(Vec<Instruction>, Vec<String>), FilterError> {
    match libpcap::raw_ip(expression) {
        Ok(program) if program.is_empty() => Ok((vec![Instruction::DROP], Vec::new())),
        Ok(program) => Ok((program, Vec::new())),
        Err(error @ FilterError::Expression { .. }) => {
            let note = format!("raw devices: filter not applicable, nothing is taken ({error})");
            Ok((vec![Instruction::DROP], vec![note]))
        }
        Err(error) => Err(error),
    }
}

fn runs_in_kernel(expression: &str, program: &[Instruction]) -> Result<(), FilterError> {
    if program.iter().any(|line| line.jumps_back()) {
        return Err(FilterError::Loop { expression: expression.to_owned() });
    }
    if program.len() > BPF_MAXINSNS {
        return Err(FilterError::TooLong {
            expression: expression.to_owned(),
            instructions: program.len(),
            max: BPF_MAXINSNS,
        });
    }
    Ok(())
}

fn bounded(snaplen: u32) -> u32 {
    snaplen.clamp(1, MAX_CAPTURED)
}
