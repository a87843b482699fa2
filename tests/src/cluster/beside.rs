//! tcpdump beside the recorder, pod by pod.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::pod::Pod;
use crate::traffic::{numbered, send_frame};
use crate::{Between, CaptureFile, Tcpdump, assert_same};

const INTERFACE: &str = "eth0";

/// The kernel stamps a packet once for all sockets.
const TOLERANCE: Duration = Duration::from_millis(1);

/// tcpdump on a pod's interface.
#[derive(Debug)]
pub struct Beside {
    if_name: String,
    tcpdump: Tcpdump,
    first: Vec<u8>,
    last: Vec<u8>,
}

/// What tcpdump saw of a pod between a first and a last frame.
#[derive(Debug)]
pub struct Seen {
    /// The interface as exports name it.
    pub if_name: String,
    /// What tcpdump has of it.
    pub theirs: CaptureFile,
    first: Vec<u8>,
    last: Vec<u8>,
}

/// A small frame like no other, which goes to nobody.
pub fn mark() -> Vec<u8> {
    static NEXT: AtomicU32 = AtomicU32::new(0xff00_0000);
    numbered(NEXT.fetch_add(1, Ordering::Relaxed), 64)
}

impl Beside {
    /// Starts tcpdump in the pod's network namespace, and has the pod send the first frame.
    pub fn start(pod: &Pod) -> Self {
        let if_name = format!("{}/{INTERFACE}", pod.full_name());
        let beside = Self {
            if_name,
            tcpdump: Tcpdump::start(pod.netns(), INTERFACE),
            first: mark(),
            last: mark(),
        };
        pod.send(&beside.first);
        beside
    }

    /// Has the pod send the last frame, and stops tcpdump.
    pub fn stop(self, pod: &Pod) -> Seen {
        let Self { if_name, tcpdump, first, last } = self;
        pod.send(&last);
        Seen { if_name, theirs: tcpdump.stop_after(&last), first, last }
    }
}

impl Seen {
    /// Asserts that `ours` has exactly the same IP packets of the pod; gives how many.
    pub fn assert_same(&self, ours: &CaptureFile) -> usize {
        let between = Between { first: &self.first, last: &self.last };
        assert_same(ours, Some(&self.if_name), &self.theirs, between, TOLERANCE)
    }
}

impl Pod {
    /// Sends one frame from its `eth0`.
    pub fn send(&self, frame: &[u8]) {
        send_frame(self.netns(), INTERFACE, frame);
    }
}
