//! libpcap's compiler, on the three kinds of handle that make it compile what we need.
//!
//! The same expression gives different programs: libpcap looks at the handle's link type, and at
//! whether it is live (then tags are looked for in what the kernel knows beside the bytes), a
//! savefile, or a "dead" one (then it compiles as if live, but without those tags).

use std::os::fd::AsRawFd;

use kuberewind_packet::MAX_CAPTURED;
use pcap::{Activated, Active, BpfProgram, Capture, Device, Linktype, Offline};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

use crate::error::{Defect, FilterError};
use crate::instruction::Instruction;

/// `LINKTYPE_RAW`'s number on a handle, `DLT_RAW`: the packet starts with its IP header.
const DLT_RAW: Linktype = Linktype(12);

/// libpcap's message for a valid expression that matches nothing on this link type, such as `arp` on
/// raw IP. There is no code for it.
const REJECTS_ALL: &str = "expression rejects all packets";

/// The program for Ethernet devices, in the kernel.
///
/// Needs `CAP_NET_RAW`.
pub(crate) fn live_ethernet(expression: &str) -> Result<Vec<Instruction>, FilterError> {
    compile(&open_live()?, expression)
}

/// The same without an open handle and its right: blind for tags, but as strict.
pub(crate) fn dead_ethernet(expression: &str) -> Result<Vec<Instruction>, FilterError> {
    let dead = Capture::dead(Linktype::ETHERNET).map_err(FilterError::OpenHandle)?;
    compile(&dead, expression)
}

/// The program for devices whose packets start with the IP header; empty if there can be no such
/// packet.
pub(crate) fn raw_ip(expression: &str) -> Result<Vec<Instruction>, FilterError> {
    let dead = Capture::dead(DLT_RAW).map_err(FilterError::OpenHandle)?;
    match compile(&dead, expression) {
        Err(FilterError::Expression { reason: pcap::Error::PcapError(message), .. })
            if message == REJECTS_ALL =>
        {
            Ok(Vec::new())
        }
        answer => answer,
    }
}

/// The longest expression in bytes, and the longest program before libpcap's optimizer has seen it,
/// whose time grows with the cube: 200 hosts 0.4 s, 500 hosts (14,938 instructions) 6 s, 1000 hosts
/// 47 s, 5000 hosts more than half an hour and gigabytes.
const MAX_EXPRESSION: usize = 1 << 15;
const MAX_UNOPTIMIZED: usize = 1 << 14;

/// The program for Ethernet frames in a file.
pub(crate) fn stored_ethernet(expression: &str) -> Result<Vec<Instruction>, FilterError> {
    compile(&open_savefile()?, expression)
}

fn compile<T: Activated>(
    handle: &Capture<T>,
    expression: &str,
) -> Result<Vec<Instruction>, FilterError> {
    bounded(handle, expression)?;
    let program = run_libpcap(handle, expression, true)?;
    // Display is the only safe way to an instruction's fields.
    let read: Result<_, Defect> =
        program.get_instructions().iter().map(|line| line.to_string().parse()).collect();
    read.map_err(|defect| FilterError::Program { expression: expression.to_owned(), defect })
}

/// Refuses what libpcap would take minutes or gigabytes for.
fn bounded<T: Activated>(handle: &Capture<T>, expression: &str) -> Result<(), FilterError> {
    let is_short = expression.len() <= MAX_EXPRESSION
        && run_libpcap(handle, expression, false)?.get_instructions().len() <= MAX_UNOPTIMIZED;
    if is_short { Ok(()) } else { Err(FilterError::TooMuch { expression: expression.to_owned() }) }
}

fn run_libpcap<T: Activated>(
    handle: &Capture<T>,
    expression: &str,
    optimize: bool,
) -> Result<BpfProgram, FilterError> {
    handle
        .compile(expression, optimize)
        .map_err(|reason| FilterError::Expression { expression: expression.to_owned(), reason })
}

/// A live handle on `lo`, which every network namespace has; should it be down, on another Ethernet
/// interface. Nothing is read from it.
fn open_live() -> Result<Capture<Active>, FilterError> {
    open_device("lo").or_else(|reason| {
        may_capture()?;
        other_devices()
            .find_map(|name| open_device(&name).ok().filter(is_ethernet))
            .ok_or(FilterError::NoHandle { reason })
    })
}

/// Opens a device with the smallest ring that libpcap makes.
fn open_device(name: &str) -> Result<Capture<Active>, pcap::Error> {
    Capture::from_device(name)?.snaplen(64).buffer_size(1 << 16).open()
}

fn other_devices() -> impl Iterator<Item = String> {
    let devices = Device::list().unwrap_or_default();
    devices.into_iter().filter(|device| device.flags.is_up()).map(|device| device.name)
}

fn is_ethernet(handle: &Capture<Active>) -> bool {
    handle.get_datalink() == Linktype::ETHERNET
}

/// Asks the kernel itself: libpcap tells a missing right only in words.
fn may_capture() -> Result<(), FilterError> {
    match rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None) {
        Err(reason @ (Errno::PERM | Errno::ACCESS)) => Err(FilterError::NotPermitted { reason }),
        _ => Ok(()),
    }
}

/// An Ethernet capture file without packets, in memory.
fn open_savefile() -> Result<Capture<Offline>, FilterError> {
    let savefile = |error: Errno| FilterError::Savefile(error.into());
    let file = rustix::fs::memfd_create("empty.pcap", MemfdFlags::CLOEXEC).map_err(savefile)?;
    rustix::io::write(&file, &empty_pcap()).map_err(savefile)?;
    Capture::from_file(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(FilterError::OpenHandle)
}

/// pcap's file header, in this machine's byte order.
fn empty_pcap() -> Vec<u8> {
    const MAGIC: u32 = 0xa1b2_c3d4;
    const VERSION: [u16; 2] = [2, 4];
    const ETHERNET: u32 = 1;
    let mut header = Vec::with_capacity(24);
    header.extend(MAGIC.to_ne_bytes());
    header.extend(VERSION.iter().flat_map(|part| part.to_ne_bytes()));
    header.extend([0; 8]);
    header.extend(MAX_CAPTURED.to_ne_bytes());
    header.extend(ETHERNET.to_ne_bytes());
    header
}
