//! SCTP as pods send it, routed by the kernel; no kernel need speak it.

use std::fmt::Write;

use super::checksum::crc32c;
use crate::{Netns, succeed};

/// Sends one INIT (RFC 9260, section 3.3.2) to port 3868 of an address, IPv4 or IPv6.
pub fn sctp_init(from: &Netns, address: &str) {
    let program = "import socket, sys\n\
        family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n\
        out = socket.socket(family, socket.SOCK_RAW, 132)\n\
        out.sendto(bytes.fromhex(sys.argv[2]), (sys.argv[1], 0))\n";
    let mut hex = String::new();
    for byte in init() {
        let _ = write!(hex, "{byte:02x}");
    }
    succeed(from.exec("python3").args(["-c", program, address, &hex]));
}

fn init() -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend([0xc0, 0x00, 0x0f, 0x1c]); // ports 49152 and 3868 (Diameter)
    packet.extend([0; 8]); // verification tag, checksum
    packet.extend([1, 0, 0, 20]); // INIT, its length
    packet.extend(0x6b72_0001_u32.to_be_bytes()); // initiate tag
    packet.extend(65_536_u32.to_be_bytes()); // receiver's window
    packet.extend([0, 10, 0, 10]); // streams out and in
    packet.extend(1_u32.to_be_bytes()); // first transmission sequence number
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum);
    packet
}
