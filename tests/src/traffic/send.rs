//! Made frames onto the wire, by tcpreplay.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kuberewind_packet::{Frame, Timestamp, pcap};

use crate::{Netns, Program, succeed};

/// How fast.
#[derive(Clone, Copy, Debug)]
pub enum Rate {
    /// So many packets each second.
    PerSecond(u32),
    /// As fast as it goes.
    TopSpeed,
}

impl Rate {
    fn argument(self) -> String {
        match self {
            Self::PerSecond(packets) => format!("--pps={packets}"),
            Self::TopSpeed => "--topspeed".to_owned(),
        }
    }
}

/// Writes frames to a `.pcap`, one microsecond apart; gives how many.
pub fn write_pcap(path: &Path, frames: impl IntoIterator<Item = Vec<u8>>) -> u64 {
    let file = File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let (mut buffer, mut count) = (Vec::new(), 0);
    pcap::push_file_header(&mut buffer);
    for frame in frames {
        let time = Timestamp::from_nanos(1_000_000_000_000_000_000 + count * 1000);
        let len = u32::try_from(frame.len()).expect("a frame");
        pcap::push_packet(&mut buffer, &Frame::whole(time, len, &frame));
        out.write_all(&buffer).expect("write the frames");
        buffer.clear();
        count += 1;
    }
    out.write_all(&buffer).and_then(|()| out.flush()).expect("write the frames");
    count
}

/// Sends a `.pcap` from an interface; gives how many packets went out, and panics if one did not.
pub fn send(netns: &Netns, interface: &str, pcap: &Path, rate: Rate) -> u64 {
    send_again(netns, interface, pcap, rate, 1)
}

/// As [`send`], so many times over.
pub fn send_again(netns: &Netns, interface: &str, pcap: &Path, rate: Rate, times: u32) -> u64 {
    let mut command = netns.exec("tcpreplay");
    let times = format!("--loop={times}");
    command.args(["-i", interface, "--preload-pcap", &times, &rate.argument()]).arg(pcap);
    let said = succeed(&mut command);
    assert_eq!(counted(&said, "Failed packets:"), 0, "{said}");
    counted(&said, "Successful packets:")
}

/// Sends one frame.
pub fn send_frame(netns: &Netns, interface: &str, frame: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("one.pcap");
    write_pcap(&path, [frame.to_vec()]);
    assert_eq!(send(netns, interface, &path, Rate::TopSpeed), 1);
}

/// Starts to send a `.pcap` once, beside the test.
pub fn start_sending(netns: &Netns, interface: &str, pcap: &Path, rate: Rate) -> Program {
    let mut command = netns.exec("tcpreplay");
    Program::start(command.args(["-i", interface, &rate.argument()]).arg(pcap))
}

fn counted(said: &str, what: &str) -> u64 {
    let line = said.lines().find_map(|line| line.trim().strip_prefix(what));
    let number = line.and_then(|number| number.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no `{what}` in\n{said}"))
}

/// A `.pcap` sent again and again, as fast as it goes, until dropped.
#[derive(Debug)]
pub struct Flood(Program);

impl Flood {
    /// Starts it.
    pub fn start(netns: &Netns, interface: &str, pcap: &Path) -> Self {
        let mut command: Command = netns.exec("tcpreplay");
        command.args(["-i", interface, "--topspeed", "--loop=0", "--preload-pcap"]);
        Self(Program::start(command.arg(pcap)))
    }

    /// Waits until it has gone on for so long; panics when it ends by itself.
    pub fn go_on_for(&mut self, time: Duration) {
        let end = std::time::Instant::now() + time;
        crate::wait_until("the flood", time + Duration::from_secs(1), || {
            self.0.assert_running();
            std::time::Instant::now() >= end
        });
    }
}
