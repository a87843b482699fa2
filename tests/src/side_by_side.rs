//! The recorder and tcpdump on the same interface, at the same time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::traffic::{numbered, send_frame};
use crate::{Between, CaptureFile, Recorder, Tcpdump, VethPair, assert_same, data_dir};

/// The numbers of the frames that stand around what is compared.
const FIRST: u32 = u32::MAX - 1;
const LAST: u32 = u32::MAX;

/// The recorder keeps software time stamps on, so that the kernel stamps a packet once for all
/// sockets; without that they would be some microseconds apart.
const TOLERANCE: Duration = Duration::from_millis(1);

/// Both at the receiving end of a cable.
#[derive(Debug)]
pub struct SideBySide {
    /// The cable.
    pub pair: VethPair,
    /// The recorder.
    pub recorder: Recorder,
    tcpdump: Tcpdump,
    data_dir: TempDir,
}

impl SideBySide {
    /// Starts both on a new cable, with room for all that is sent, and sends the first frame.
    pub fn start(mtu: u16, arguments: &[&str]) -> Self {
        let (pair, data_dir) = (VethPair::new(mtu), data_dir());
        let arguments = [&["--set", "pcapdump.maxSize=3GB"], arguments].concat();
        let recorder = Recorder::start(data_dir.path(), &[&pair.receiver], &arguments);
        let tcpdump = Tcpdump::start(&pair.receiver, VethPair::INTERFACE);
        send_frame(&pair.sender, VethPair::INTERFACE, &numbered(FIRST, 64));
        Self { pair, recorder, tcpdump, data_dir }
    }

    /// Sends a `.pcap` and gives how many packets went out.
    pub fn send(&self, pcap: &Path, rate: crate::traffic::Rate) -> u64 {
        crate::traffic::send(&self.pair.sender, VethPair::INTERFACE, pcap, rate)
    }

    /// Where the recording lies.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.path().to_owned()
    }

    /// The recorded interface, as exports name it.
    pub fn interface(&self) -> String {
        format!("{}/{}", self.pair.receiver.name(), VethPair::INTERFACE)
    }

    /// Sends the last frame, stops tcpdump and gives what it has.
    pub fn stop_tcpdump(self) -> (CaptureFile, Recorder, TempDir) {
        let last = numbered(LAST, 64);
        send_frame(&self.pair.sender, VethPair::INTERFACE, &last);
        (self.tcpdump.stop_after(&last), self.recorder, self.data_dir)
    }

    /// Sends the last frame, exports, and asserts that both hold the same. Gives what was recorded
    /// of the interface, and how many packets stand between the first and the last frame.
    pub fn assert_same(self) -> (CaptureFile, usize) {
        let interface = self.interface();
        let (theirs, recorder, _data_dir) = self.stop_tcpdump();
        let ours = recorder.window(&[]);
        let status = recorder.status();
        assert_eq!(status.lost(), 0, "lost {:?}", status.losses);
        let (first, last) = (numbered(FIRST, 64), numbered(LAST, 64));
        let between = Between { first: &first, last: &last };
        let same = assert_same(&ours, Some(&interface), &theirs, between, TOLERANCE);
        (ours, same)
    }
}
