//! The interfaces of one network namespace by their index: names that appear, change and vanish.

#![expect(
    clippy::cast_possible_truncation,
    reason = "netlink's constants and lengths are small, but not of the types that its headers have"
)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `RTMGRP_LINK`: interfaces that come, change or go.
const LINK_GROUP: u32 = libc::RTMGRP_LINK as u32;
/// Netlink's own limit on a message to user space.
const BUFFER: usize = 32 * 1024;

/// Something that happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// It appeared, or something about it changed.
    Is {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
        /// The largest frame that it is given, in bytes.
        gso_max: u32,
        /// The index of a cable's other end (`IFLA_LINK`), when that is in another namespace.
        peer: Option<u32>,
    },
    /// It vanished.
    Gone(u32),
}

/// A netlink socket in the namespace. It belongs to the namespace that its opener was in, also when
/// read from elsewhere.
#[derive(Debug)]
pub(crate) struct Links {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Links {
    /// Follows the interfaces of a socket's namespace, and lists those that are there.
    pub(crate) fn follow(socket: OwnedFd) -> io::Result<(Self, Vec<LinkEvent>)> {
        // Listening before asking: nothing between the two is missed.
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, LINK_GROUP))?;
        let mut links = Self { socket, buffer: vec![0; BUFFER] };
        links.ask_for_all()?;
        let mut events = Vec::new();
        loop {
            let received = links.receive(RecvFlags::empty())?;
            if parse(&links.buffer[..received], &mut events) {
                return Ok((links, events));
            }
        }
    }

    /// What happened since the last call. Does not wait.
    pub(crate) fn take(&mut self) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        loop {
            match self.receive(RecvFlags::DONTWAIT) {
                Ok(received) => {
                    parse(&self.buffer[..received], &mut events);
                }
                Err(Errno::INTR) => {}
                // More happened than the socket holds: the answer to this comes as events, too.
                Err(Errno::NOBUFS) => {
                    if self.ask_for_all().is_err() {
                        return events;
                    }
                }
                Err(_) => return events,
            }
        }
    }

    /// Asks the kernel for a name that no event told.
    pub(crate) fn look_up(&self, index: u32) -> Option<String> {
        rustix::net::netdevice::index_to_name(&self.socket, index).ok()
    }

    fn ask_for_all(&self) -> rustix::io::Result<()> {
        rustix::net::send(&self.socket, &dump_request(), SendFlags::empty()).map(drop)
    }

    fn receive(&mut self, flags: RecvFlags) -> rustix::io::Result<usize> {
        rustix::net::recv(&self.socket, self.buffer.as_mut_slice(), flags).map(|(_, len)| len)
    }
}

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket of the namespace that this thread is in.
pub(crate) fn open_socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    // Protocol 0: NETLINK_ROUTE
    Ok(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// The largest `gso_max_size` among interfaces that are there.
pub(crate) fn largest_gso_max(events: &[LinkEvent]) -> u32 {
    let mut sizes = HashMap::new();
    for event in events {
        match event {
            LinkEvent::Is { index, gso_max, .. } => sizes.insert(index, *gso_max),
            LinkEvent::Gone(index) => sizes.remove(index),
        };
    }
    sizes.into_values().max().unwrap_or(0)
}

const NETLINK_HEADER: usize = 16;
/// `ifinfomsg`
const LINK_HEADER: usize = 16;
/// Not in `libc`: `IFLA_GSO_IPV4_MAX_SIZE` (Linux 6.3).
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
/// Not in `libc`: `IFLA_GRO_MAX_SIZE` (Linux 5.19).
const IFLA_GRO_MAX_SIZE: u16 = 58;
/// Not in `libc`: `IFLA_GRO_IPV4_MAX_SIZE` (Linux 6.3).
const IFLA_GRO_IPV4_MAX_SIZE: u16 = 64;
const IFLA_GSO_MAX_SIZE: u16 = libc::IFLA_GSO_MAX_SIZE;

/// `RTM_GETLINK` for every interface.
fn dump_request() -> [u8; NETLINK_HEADER + LINK_HEADER] {
    let mut request = [0; NETLINK_HEADER + LINK_HEADER];
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let len = request.len() as u32;
    request[..4].copy_from_slice(&len.to_ne_bytes());
    request[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request
}

/// Reads one datagram of netlink messages; `true` once the answer to a request has ended.
fn parse(mut datagram: &[u8], events: &mut Vec<LinkEvent>) -> bool {
    let mut ended = false;
    while let Some((kind, payload, rest)) = next_message(datagram) {
        if i32::from(kind) == libc::NLMSG_DONE || i32::from(kind) == libc::NLMSG_ERROR {
            ended = true;
        } else if kind == libc::RTM_NEWLINK || kind == libc::RTM_DELLINK {
            events.extend(link_event(kind, payload));
        }
        datagram = rest;
    }
    ended
}

fn next_message(datagram: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32_at(datagram, 0)? as usize;
    let payload = datagram.get(NETLINK_HEADER..len)?;
    let rest = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((u16_at(datagram, 4)?, payload, rest))
}

fn link_event(kind: u16, payload: &[u8]) -> Option<LinkEvent> {
    // A bridge announces its ports with a family of its own: a port that leaves is no interface
    // that vanishes.
    if i32::from(*payload.first()?) != libc::AF_UNSPEC {
        return None;
    }
    let index = u32_at(payload, 4)?;
    if kind == libc::RTM_DELLINK {
        return Some(LinkEvent::Gone(index));
    }
    let mut name = None;
    let mut gso_max = 0;
    let (mut peer, mut elsewhere, mut is_cable) = (None, false, false);
    let mut attributes = payload.get(LINK_HEADER..)?;
    while let Some((attribute, value, rest)) = next_attribute(attributes) {
        match attribute {
            libc::IFLA_IFNAME => {
                let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
                name = Some(String::from_utf8_lossy(text).into_owned());
            }
            libc::IFLA_LINK => peer = u32_at(value, 0),
            libc::IFLA_LINK_NETNSID => elsewhere = true,
            libc::IFLA_LINKINFO => is_cable = is_cable_info(value),
            IFLA_GSO_MAX_SIZE
            | IFLA_GSO_IPV4_MAX_SIZE
            | IFLA_GRO_MAX_SIZE
            | IFLA_GRO_IPV4_MAX_SIZE => {
                gso_max = gso_max.max(u32_at(value, 0).unwrap_or(0));
            }
            _ => {}
        }
        attributes = rest;
    }
    Some(LinkEvent::Is {
        index,
        name: name?,
        gso_max,
        peer: peer.filter(|_| elsewhere && is_cable),
    })
}

/// Whether a device has another end that gives out what goes in here; a macvlan's lower device, say,
/// is more than that.
fn is_cable_info(mut attributes: &[u8]) -> bool {
    while let Some((attribute, value, rest)) = next_attribute(attributes) {
        if attribute == libc::IFLA_INFO_KIND {
            return matches!(value.strip_suffix(b"\0").unwrap_or(value), b"veth" | b"netkit");
        }
        attributes = rest;
    }
    false
}

fn next_attribute(attributes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = usize::from(u16_at(attributes, 0)?);
    let value = attributes.get(4..len)?;
    let rest = attributes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((u16_at(attributes, 2)?, value, rest))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|word| u16::from_ne_bytes(*word))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, family: i32, index: u32, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((32 + attributes.len() as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([family.to_ne_bytes()[0], 0, 0, 0]);
        bytes.extend(index.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn interfaces_that_come_and_go_are_read_with_name_and_largest_frame() {
        let attributes =
            [attribute(libc::IFLA_IFNAME, b"eth0\0"), attribute(58, &196_608_u32.to_ne_bytes())];
        let datagram = [
            message(libc::RTM_NEWLINK, 0, 7, &attributes.concat()),
            message(libc::RTM_DELLINK, libc::AF_BRIDGE, 7, &[]),
            message(libc::RTM_DELLINK, 0, 8, &[]),
        ];
        let mut events = Vec::new();
        assert!(!parse(&datagram.concat(), &mut events));
        let eth0 =
            LinkEvent::Is { index: 7, name: "eth0".to_owned(), gso_max: 196_608, peer: None };
        assert_eq!(events, [eth0, LinkEvent::Gone(8)]);
        assert_eq!(largest_gso_max(&events), 196_608);
    }

    #[test]
    fn only_a_cable_into_another_namespace_has_its_end_there() {
        let peer = |kind: &[u8], elsewhere: bool| {
            let mut attributes = attribute(libc::IFLA_IFNAME, b"eth0\0");
            attributes.extend(attribute(libc::IFLA_LINK, &9_u32.to_ne_bytes()));
            if elsewhere {
                attributes.extend(attribute(libc::IFLA_LINK_NETNSID, &[0; 4]));
            }
            let kind = attribute(libc::IFLA_INFO_KIND, kind);
            attributes.extend(attribute(libc::IFLA_LINKINFO, &kind));
            let mut events = Vec::new();
            parse(&message(libc::RTM_NEWLINK, 0, 7, &attributes), &mut events);
            let Some(LinkEvent::Is { peer, .. }) = events.pop() else { panic!("no interface") };
            peer
        };
        assert_eq!(peer(b"veth\0", true), Some(9));
        assert_eq!(peer(b"netkit\0", true), Some(9));
        assert_eq!(peer(b"veth\0", false), None);
        assert_eq!(peer(b"macvlan\0", true), None);
    }

    #[test]
    fn a_datagram_cut_anywhere_is_no_panic() {
        let whole = message(libc::RTM_NEWLINK, 0, 7, &attribute(libc::IFLA_IFNAME, b"eth0\0"));
        for len in 0..whole.len() {
            parse(&whole[..len], &mut Vec::new());
        }
    }
}
