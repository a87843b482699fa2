//! Network namespaces, links and traffic of a test's own, and a sink that keeps everything.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{fs, thread};

use kuberewind_capture::{Capture, CaptureConfig, Opener, Target};
use kuberewind_filter::CaptureFilter;
use kuberewind_packet::{
    Frame, Interface, Loss, MAX_CAPTURED, NetnsId, Owner, PacketSink, Slot, Timestamp,
};

/// A named network namespace, deleted when dropped.
pub(crate) struct Netns {
    pub(crate) name: String,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Netns {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cap-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let netns = Self { name };
        // No neighbour discovery between the packets of a test.
        netns.run("sysctl", &["-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"]);
        netns.run("sysctl", &["-q", "-w", "net.ipv6.conf.default.disable_ipv6=1"]);
        netns.run("ip", &["link", "set", "lo", "up"]);
        netns
    }

    /// Two namespaces joined by a cable: 10.77.0.1 on `eth0` here, 10.77.0.2 on `eth0` there.
    pub(crate) fn pair() -> (Self, Self) {
        let (a, b) = (Self::new(), Self::new());
        let peer = ["peer", "name", "eth0", "netns", &b.name];
        a.run("ip", &[&["link", "add", "eth0", "type", "veth"][..], &peer].concat());
        for (netns, address) in [(&a, "10.77.0.1/24"), (&b, "10.77.0.2/24")] {
            netns.run("ip", &["addr", "add", address, "dev", "eth0"]);
            netns.run("ip", &["link", "set", "eth0", "up"]);
        }
        // Nobody there: no answers, no complaints, only what is sent.
        a.run("ip", &["neigh", "add", "10.77.0.3", "lladdr", "02:00:00:00:00:03", "dev", "eth0"]);
        (a, b)
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    pub(crate) fn target(&self) -> Target {
        let netns = NetnsId(fs::metadata(self.path()).unwrap().ino());
        Target { owner: Owner::Netns(self.name.clone()), netns, path: self.path() }
    }

    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).args(arguments);
        command
    }

    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        output(&mut self.command(program, arguments))
    }

    pub(crate) fn spawn(&self, program: &str, arguments: &[&str]) -> Background {
        let mut command = self.command(program, arguments);
        Background(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    pub(crate) fn python(&self, script: &str) -> String {
        self.run("python3", &["-c", script])
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ =
            Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

/// A child process that ends with the test.
pub(crate) struct Background(pub(crate) Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    output(Command::new(program).args(arguments))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits for a condition.
pub(crate) fn until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        thread::yield_now();
        thread::park_timeout(Duration::from_millis(5));
    }
}

pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A packet that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) interface: String,
    pub(crate) owner: Owner,
    pub(crate) timestamp: Timestamp,
    pub original_len: u32,
    pub(crate) bytes: Vec<u8>,
}

impl Kept {
    /// A complaint that nobody listens; it repeats the packet that it is about.
    fn is_icmp(&self) -> bool {
        self.bytes.get(12..14) == Some(&[8, 0]) && self.bytes.get(23) == Some(&1)
    }
}

#[derive(Default)]
pub(crate) struct Everything {
    pub(crate) packets: Vec<Kept>,
    pub(crate) losses: Vec<(Interface, Loss)>,
    pub(crate) open: HashMap<Slot, Interface>,
    pub(crate) full: bool,
    pub(crate) flushes: u32,
    next: u32,
}

impl Everything {
    pub(crate) fn lost(&self) -> u64 {
        self.losses.iter().map(|(_, loss)| loss.packets).sum()
    }

    /// How often each packet that holds `marker` came, by what stands behind the marker: a number.
    pub(crate) fn numbered(&self, marker: &[u8]) -> HashMap<u32, u32> {
        let mut counts = HashMap::new();
        for packet in self.packets.iter().filter(|kept| !kept.is_icmp()) {
            let place = packet.bytes.windows(marker.len()).position(|bytes| bytes == marker);
            let number = place
                .and_then(|place| packet.bytes[place + marker.len()..].first_chunk().copied())
                .map(u32::from_be_bytes);
            if let Some(number) = number {
                *counts.entry(number).or_default() += 1;
            }
        }
        counts
    }
}

/// Keeps every packet in memory.
#[derive(Clone, Default)]
pub(crate) struct Keeper(Arc<Mutex<Everything>>);

impl Keeper {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Everything> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The packets that hold these bytes, without complaints about them.
    pub(crate) fn holding(&self, bytes: &[u8]) -> Vec<Kept> {
        let everything = self.lock();
        let holds = |kept: &&Kept| kept.bytes.windows(bytes.len()).any(|window| window == bytes);
        let sent = everything.packets.iter().filter(|kept| !kept.is_icmp());
        sent.filter(holds).cloned().collect()
    }
}

impl PacketSink for Keeper {
    fn open_interface(&mut self, interface: Interface) -> Slot {
        let mut everything = self.lock();
        let slot = Slot(everything.next);
        everything.next += 1;
        everything.open.insert(slot, interface);
        slot
    }

    fn close_interface(&mut self, slot: Slot) {
        assert!(self.lock().open.remove(&slot).is_some(), "closed twice: {slot:?}");
    }

    fn reserve(&mut self, _bytes: usize) -> bool {
        !self.lock().full
    }

    fn packet(&mut self, slot: Slot, frame: &Frame<'_>) {
        let mut everything = self.lock();
        let interface = everything.open[&slot].clone();
        everything.packets.push(Kept {
            interface: interface.name,
            owner: interface.owner,
            timestamp: frame.timestamp,
            original_len: frame.original_len,
            bytes: [frame.head, frame.body].concat(),
        });
    }

    fn loss(&mut self, slot: Slot, loss: Loss) {
        let mut everything = self.lock();
        let interface = everything.open[&slot].clone();
        everything.losses.push((interface, loss));
    }

    fn tick(&mut self) {}

    fn flush(&mut self) {
        self.lock().flushes += 1;
    }
}

pub(crate) fn config() -> CaptureConfig {
    CaptureConfig {
        node: "n1".to_owned(),
        filter: Arc::new(CaptureFilter::everything_on_ip(MAX_CAPTURED)),
        ring_memory: None,
        interfaces: Vec::new(),
        opener: Opener::default(),
    }
}

/// Records these namespaces with one thread.
pub(crate) fn record(config: CaptureConfig, namespaces: &[&Netns]) -> (Capture, Keeper) {
    let keeper = Keeper::default();
    let capture = Capture::start(config, vec![keeper.clone()]).unwrap();
    capture.set_targets(namespaces.iter().map(|netns| netns.target()).collect());
    capture.settled_targets();
    assert_eq!(capture.status().namespaces.len(), namespaces.len());
    (capture, keeper)
}

/// Python that sends `count` UDP datagrams with a marker, a number and `padding` bytes.
pub(crate) fn datagrams(to: &str, marker: &str, count: u32, padding: u32) -> String {
    format!(
        "import socket\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         for i in range({count}):\n\
         \x20   s.sendto(b'{marker}' + i.to_bytes(4, 'big') + bytes({padding}), ('{to}', 9))\n"
    )
}

/// Python that sends Ethernet frames, given as hexadecimal digits, on `eth0`.
pub(crate) fn frames(frames: &[&[u8]]) -> String {
    let hex =
        |frame: &&[u8]| frame.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let list: Vec<String> = frames.iter().map(|frame| format!("'{}'", hex(frame))).collect();
    format!(
        "import socket\n\
         s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
         s.bind(('eth0', 0))\n\
         for f in [{}]: s.send(bytes.fromhex(f))\n",
        list.join(", ")
    )
}
