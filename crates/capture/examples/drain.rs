//! What it costs to get packets out of the kernel: records one network namespace into a sink that
//! drops everything, says every tenth of a second how much came, and in the end how much processor
//! time each packet took.
//!
//! `drain NETNS [SECONDS]`

use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use kuberewind_capture::{Capture, CaptureConfig, Target};
use kuberewind_filter::CaptureFilter;
use kuberewind_packet::{Frame, Interface, Loss, MAX_CAPTURED, NetnsId, Owner, PacketSink, Slot};

#[derive(Default)]
struct Counts {
    packets: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
}

impl Counts {
    /// Prints them if there are more than `known`; how many there are.
    fn print_beyond(&self, known: u64) -> u64 {
        let [packets, bytes, lost] =
            [&self.packets, &self.bytes, &self.lost].map(|count| count.load(Ordering::Relaxed));
        if packets + lost > known {
            println!("{packets} packets, {bytes} bytes, {lost} lost");
        }
        packets + lost
    }
}

struct Drop(Arc<Counts>);

impl PacketSink for Drop {
    fn open_interface(&mut self, _interface: Interface) -> Slot {
        Slot(0)
    }

    fn close_interface(&mut self, _slot: Slot) {}

    fn reserve(&mut self, _bytes: usize) -> bool {
        true
    }

    fn packet(&mut self, _slot: Slot, frame: &Frame<'_>) {
        self.0.packets.store(self.0.packets.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let bytes = self.0.bytes.load(Ordering::Relaxed) + u64::from(frame.captured_len());
        self.0.bytes.store(bytes, Ordering::Relaxed);
    }

    fn loss(&mut self, _slot: Slot, loss: Loss) {
        self.0.lost.fetch_add(loss.packets, Ordering::Relaxed);
    }

    fn tick(&mut self) {}

    fn flush(&mut self) {}
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let name = arguments.next().ok_or("usage: drain NETNS [SECONDS]")?;
    let seconds: u64 = arguments.next().unwrap_or("5".to_owned()).parse()?;
    let path = format!("/run/netns/{name}");
    let netns = NetnsId(fs::metadata(&path)?.ino());
    let counts = Arc::new(Counts::default());
    let config = CaptureConfig {
        node: "here".to_owned(),
        filter: Arc::new(CaptureFilter::everything_on_ip(MAX_CAPTURED)),
        ring_memory: None,
        interfaces: Vec::new(),
        opener: kuberewind_capture::Opener::default(),
    };
    let capture = Capture::start(config, vec![Drop(Arc::clone(&counts))])?;
    capture.set_targets(vec![Target { owner: Owner::Netns(name), netns, path: path.into() }]);
    capture.settled_targets();
    println!("reads");
    let (before, mut known) = (cpu_time()?, 0);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
        known = counts.print_beyond(known);
    }
    let spent = cpu_time()?.saturating_sub(before);
    let status = capture.status();
    capture.stop();
    let packets = counts.packets.load(Ordering::Relaxed);
    println!(
        "{packets} packets, {} bytes, {} lost; {spent:?} of processor time, {} ns a packet, {:.3} %; \
         rings {} bytes",
        counts.bytes.load(Ordering::Relaxed),
        counts.lost.load(Ordering::Relaxed),
        spent.as_nanos() / u128::from(packets.max(1)),
        spent.as_secs_f64() * 100.0 / Duration::from_secs(seconds).as_secs_f64(),
        status.ring_bytes,
    );
    Ok(())
}

/// What every thread of this process has used, user and system, to the nanosecond.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Ok(Duration::new(time.tv_sec.try_into()?, time.tv_nsec.try_into()?))
}
