//! The system calls that have no safe door elsewhere, as small owned types. The only unsafe code.

#![expect(unsafe_code, reason = "packet sockets and their rings have no safe door elsewhere")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "C's constants and lengths are small, but not of the types that its structures have"
)]

use std::ffi::{CString, c_void};
use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use kuberewind_filter::Instruction;
use libc::{c_int, socklen_t};

use crate::ring::Layout;

/// Where `block_status` stands in a `tpacket_block_desc`.
const BLOCK_STATUS: usize = 8;
/// The kernel wants a frame size, from version 2's days; in version 3 it only has to divide a block.
const FRAME_SIZE: u32 = 2048;
/// From `linux/perf_event.h`.
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;

/// A packet socket (`AF_PACKET`, `SOCK_RAW`) of the network namespace that its opener was in. To open
/// one takes `CAP_NET_RAW`, to use it nothing.
#[derive(Debug)]
pub(crate) struct PacketSocket(OwnedFd);

/// What a packet socket counted since it was last asked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Statistics {
    /// Packets that the filter took, those included
    pub(crate) packets: u32,
    /// that found no room in the ring.
    pub(crate) drops: u32,
}

/// A packet that a socket without a ring got, as the kernel tells of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Received {
    /// Seconds and nanoseconds of its arrival.
    pub(crate) time: (u32, u32),
    /// How much of it was captured.
    pub(crate) captured: usize,
    /// Its length on the wire.
    pub(crate) original_len: u32,
    /// `TP_STATUS_…`
    pub(crate) status: u32,
    /// The tag that was taken out, and its type.
    pub(crate) vlan: (u16, u16),
    /// Where the network header begins.
    pub(crate) network: u16,
    /// The interface.
    pub(crate) ifindex: u32,
    /// The kind of device, `ARPHRD_…`.
    pub(crate) hatype: u16,
    /// `ETH_P_…`, in the order of the network.
    pub(crate) protocol: u16,
}

/// Room for what the kernel tells beside a packet: a time stamp and a `tpacket_auxdata`.
const CONTROL: usize = 16;

impl PacketSocket {
    /// A socket with protocol 0: it gets no packet before it is bound.
    pub(crate) fn open() -> io::Result<Self> {
        open_socket(libc::AF_PACKET, libc::SOCK_RAW).map(Self)
    }

    /// Attaches a filter, or replaces the one that is attached; packets see either.
    pub(crate) fn attach(&self, program: &[Instruction]) -> io::Result<()> {
        attach_filter(self.0.as_fd(), program)
    }

    /// Gives the socket a ring and maps it. Once per socket, before it is bound.
    pub(crate) fn map_ring(&self, layout: Layout, retire_millis: u32) -> io::Result<RingMap> {
        let version = libc::tpacket_versions::TPACKET_V3 as c_int;
        set_option(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        let request = libc::tpacket_req3 {
            tp_block_size: layout.block,
            tp_block_nr: layout.blocks,
            tp_frame_size: FRAME_SIZE,
            tp_frame_nr: layout.block / FRAME_SIZE * layout.blocks,
            tp_retire_blk_tov: retire_millis,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        RingMap::new(self.0.as_fd(), layout)
    }

    /// Binds to every protocol of every interface: packets come from here on.
    pub(crate) fn bind_everywhere(&self) -> io::Result<()> {
        // SAFETY: sockaddr_ll is plain old data; all zeroes is a value of it.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: the pointer and the length describe `address`, which lives through the call.
        check(unsafe {
            libc::bind(
                self.0.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as socklen_t,
            )
        })?;
        Ok(())
    }

    /// Has the kernel tell all of a packet that [`Self::receive`] gives, and keep what it may.
    pub(crate) fn tell_all(&self) -> io::Result<()> {
        set_option(self.0.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)?;
        set_option(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_AUXDATA, &1_i32)?;
        // Cut to `net.core.rmem_max`.
        set_option(self.0.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, &(1_i32 << 20))
    }

    /// The oldest packet that waits, into `buffer`; none when there is none. For a socket without a
    /// ring.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut control = [0_u64; CONTROL];
        // SAFETY: sockaddr_ll and msghdr are plain old data; all zeroes is a value of them.
        let (mut address, mut message): (libc::sockaddr_ll, libc::msghdr) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        let mut room = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as socklen_t;
        message.msg_iov = &raw mut room;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the message describes `address`, `buffer` and `control`, which live through the call.
        let got =
            unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let Ok(got) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        };
        let mut received = Received {
            captured: got,
            ifindex: address.sll_ifindex as u32,
            hatype: address.sll_hatype,
            protocol: address.sll_protocol,
            ..Received::default()
        };
        // SAFETY: `message` is as the kernel left it, and `control` is aligned for a header.
        let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: the macros give pointers to whole headers within `control`, or none.
        while let Some(control) = unsafe { header.as_ref() } {
            // SAFETY: the header was given by the kernel, with its data behind it.
            let data = unsafe { libc::CMSG_DATA(header) };
            match (control.cmsg_level, control.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    // SAFETY: the data of this kind is a timespec; it may be unaligned.
                    let time: libc::timespec =
                        unsafe { data.cast::<libc::timespec>().read_unaligned() };
                    received.time = (time.tv_sec as u32, time.tv_nsec as u32);
                }
                (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                    // SAFETY: the data of this kind is a tpacket_auxdata; it may be unaligned.
                    let told = unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() };
                    received.original_len = told.tp_len;
                    received.status = told.tp_status;
                    received.vlan = (told.tp_vlan_tci, told.tp_vlan_tpid);
                    received.network = told.tp_net;
                }
                _ => {}
            }
            // SAFETY: as for the first one.
            header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
        }
        Ok(Some(received))
    }

    /// Founds a fan-out group in which a packet goes to the next member when one has no room
    /// (`PACKET_FANOUT_ROLLOVER`); its number is free in this network namespace (Linux 4.12).
    pub(crate) fn found_group(&self) -> io::Result<u16> {
        let unique = libc::PACKET_FANOUT_ROLLOVER | libc::PACKET_FANOUT_FLAG_UNIQUEID;
        let argument = (unique << 16) as c_int;
        set_option(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT, &argument)?;
        let argument: c_int = get_option(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        Ok((argument & 0xffff) as u16)
    }

    /// Joins the group that another socket of this namespace founded.
    pub(crate) fn join_group(&self, group: u16) -> io::Result<()> {
        let argument = (u32::from(group) | (libc::PACKET_FANOUT_ROLLOVER << 16)) as c_int;
        set_option(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT, &argument)
    }

    /// What was counted since the last call.
    pub(crate) fn take_statistics(&self) -> io::Result<Statistics> {
        let counted: libc::tpacket_stats_v3 =
            get_option(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
        Ok(Statistics { packets: counted.tp_packets, drops: counted.tp_drops })
    }
}

impl From<OwnedFd> for PacketSocket {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl From<PacketSocket> for OwnedFd {
    fn from(socket: PacketSocket) -> Self {
        socket.0
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `struct perf_event_attr` up to its version 1, of which a probe needs some fields.
#[repr(C)]
#[derive(Debug, Default)]
struct ProbeAttributes {
    kind: u32,
    size: u32,
    config: u64,
    /// Nothing is sampled: period, what, and in which format.
    sampling: [u64; 3],
    flags: u64,
    wakeup: [u32; 2],
    /// A pointer to it (`uprobe_path`).
    path: u64,
    /// `probe_offset`
    offset: u64,
}

/// Sets a probe at an instruction of a file, in every process that runs it, now or later (Linux 4.17).
/// `kind` is the number of the kernel's `uprobe`.
///
/// `perf_uprobe_event_init` asks for `CAP_SYS_ADMIN`, and for nothing less (Linux 6.18).
pub(crate) fn open_probe(kind: u32, file: BorrowedFd<'_>, offset: u64) -> io::Result<OwnedFd> {
    const EVERY_PROCESS: c_int = -1;
    const ANY_CPU: c_int = 0;
    const NO_GROUP: c_int = -1;
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let attributes = ProbeAttributes {
        kind,
        size: size_of::<ProbeAttributes>() as u32,
        path: path.as_ptr() as u64,
        offset,
        ..ProbeAttributes::default()
    };
    // SAFETY: the kernel reads `attributes`, as long as its field says, and the path at its pointer,
    // which ends with a zero; both live through the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            EVERY_PROCESS,
            ANY_CPU,
            NO_GROUP,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let fd = check(fd as c_int)?;
    // SAFETY: just opened, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A packet ring (`TPACKET_V3`) mapped into this process. A block belongs to the kernel or to us;
/// the word at its head says to whom.
#[derive(Debug)]
pub(crate) struct RingMap {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the mapping belongs to this value alone and is not tied to the thread that made it.
unsafe impl Send for RingMap {}

impl RingMap {
    fn new(socket: BorrowedFd<'_>, layout: Layout) -> io::Result<Self> {
        // SAFETY: a new shared mapping at an address of the kernel's choice; its length is the size
        // that the ring was just created with.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                layout.bytes(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, layout })
    }

    /// The bytes of a block that the kernel has handed to us; none while it still fills it.
    pub(crate) fn block(&self, index: u32) -> Option<&[u8]> {
        if self.status(index).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the block lies within the mapping, which lives as long as `self`; the kernel has
        // handed it to us (TP_STATUS_USER) and does not write it until `release`, which needs
        // `&mut self` and so cannot happen while this slice lives.
        Some(unsafe { slice::from_raw_parts(self.at(index).as_ptr(), self.layout.block as usize) })
    }

    /// Takes every block from the kernel, which then finds no room for a packet that it might give
    /// this ring or another of its group (`packet_rcv_has_room` in `net/packet/af_packet.c`). For a
    /// ring that has taken nothing yet.
    pub(crate) fn withhold(&mut self) {
        for index in 0..self.layout.blocks {
            self.status(index).store(libc::TP_STATUS_USER, Ordering::Release);
        }
    }

    /// Hands a block back to the kernel.
    pub(crate) fn release(&mut self, index: u32) {
        self.status(index).store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }

    fn status(&self, index: u32) -> &AtomicU32 {
        // SAFETY: the word lies within the mapping, is aligned to four bytes (blocks are aligned to
        // pages), and both the kernel and this process only access it atomically while it may
        // change.
        unsafe { AtomicU32::from_ptr(self.at(index).add(BLOCK_STATUS).cast().as_ptr()) }
    }

    fn at(&self, index: u32) -> NonNull<u8> {
        assert!(index < self.layout.blocks, "the ring has {} blocks", self.layout.blocks);
        // SAFETY: the offset is within the mapping, as just asserted.
        unsafe { self.start.add(index as usize * self.layout.block as usize) }
    }
}

impl Drop for RingMap {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.layout.bytes()) };
    }
}

/// While it is held, the kernel stamps every packet as it arrives, machine-wide, so that two rings
/// give a packet the same time; otherwise each ring takes the time at which it gets to it.
#[derive(Debug)]
pub(crate) struct ArrivalStamps {
    _socket: OwnedFd,
}

impl ArrivalStamps {
    pub(crate) fn hold() -> io::Result<Self> {
        let socket = open_socket(libc::AF_INET, libc::SOCK_DGRAM)?;
        set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMP, &1_i32)?;
        Ok(Self { _socket: socket })
    }
}

/// Whether the kernel would take this program as a socket filter.
pub(crate) fn try_filter(program: &[Instruction]) -> io::Result<()> {
    let socket = open_socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    attach_filter(socket.as_fd(), program)
}

fn attach_filter(socket: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    const {
        assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
        assert!(align_of::<Instruction>() >= align_of::<libc::sock_filter>());
    }
    let program = libc::sock_fprog {
        len: program.len().try_into().map_err(|_| io::ErrorKind::InvalidInput)?,
        // The kernel only reads through this pointer, during the call.
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn open_socket(family: c_int, kind: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd: RawFd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel just opened it for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `T` is what the option's documentation says that it takes: a C structure or a number.
fn set_option<T>(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let value: *const T = value;
    // SAFETY: the pointer and the length describe `value`, which lives through the call and which
    // the kernel only reads.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.cast::<c_void>(),
            size_of::<T>() as socklen_t,
        )
    })?;
    Ok(())
}

/// What a C option reads as.
trait Plain: Copy {}
impl Plain for c_int {}
impl Plain for libc::tpacket_stats_v3 {}

fn get_option<T: Plain>(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<T> {
    // SAFETY: `Plain` types are integers or structures of integers: all zeroes is a value.
    let mut value: T = unsafe { mem::zeroed() };
    let mut len = size_of::<T>() as socklen_t;
    // SAFETY: the pointer and the length describe `value`, which lives through the call; the kernel
    // writes at most `len` bytes, and any bytes are a value of a `Plain` type.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast::<c_void>(),
            &raw mut len,
        )
    })?;
    Ok(value)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
