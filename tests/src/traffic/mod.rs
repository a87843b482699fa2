//! Traffic to record: made frames, and real programs that talk.

mod checksum;
mod mixed;
mod programs;
mod sctp;
mod send;

pub use mixed::Mixed;
pub use mixed::number_of;
pub use mixed::numbered;
pub use programs::DnsServer;
pub use programs::HttpServer;
pub use programs::Iperf;
pub use programs::udp_super_packets;
pub use sctp::sctp_init;
pub use send::Flood;
pub use send::Rate;
pub use send::send;
pub use send::send_again;
pub use send::send_frame;
pub use send::start_sending;
pub use send::write_pcap;
