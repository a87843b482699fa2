//! What one packet costs from the appender to the disk, in processor time.
//!
//! `cargo run --release -p kuberewind-store --example flood -- [DIR] [PACKETS] [INTERFACES] [MBIT/S]`
//!
//! Without a rate it goes as fast as the disk, with every buffer in use and none in the cache.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kuberewind_packet::{
    ByteSize, Frame, Interface, NetnsId, Owner, PacketSink, PacketStream, Slot, Span, Timestamp,
};
use kuberewind_store::{Choice, Limits, MinFree, Store, StoreConfig};
use rustix::time::{ClockId, clock_gettime};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments
        .next()
        .map_or_else(|| std::env::temp_dir().join("kuberewind-flood"), PathBuf::from);
    let packets = arguments.next().map_or(Ok(2_000_000), |n| n.parse())?;
    let interfaces = arguments.next().map_or(Ok(1), |n| n.parse())?;
    let rate = arguments.next().map(|n| n.parse::<u64>()).transpose()?;
    for len in [64, 1500] {
        flood(&dir, packets, interfaces, len, rate)?;
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

fn flood(
    dir: &std::path::Path,
    packets: u64,
    interfaces: u32,
    len: usize,
    rate: Option<u64>,
) -> Result<(), Box<dyn Error>> {
    let limits = Limits {
        max_time: Duration::from_hours(1),
        max_size: ByteSize::new(500_000_000),
        min_free: MinFree::Percent(1),
    };
    let (store, mut appenders) = Store::open(StoreConfig {
        dir: dir.to_owned(),
        node: "flood".into(),
        program: "kuberewind flood".into(),
        limits,
        interval: Duration::from_mins(1),
        lanes: 1,
    })?;
    let mut appender = appenders.pop().ok_or("no lane")?;
    let slots: Vec<Slot> = (0..interfaces).map(|i| appender.open_interface(interface(i))).collect();
    let frame = vec![0x5a; len];
    let (start, cpu) = (Instant::now(), cpu());
    let first = Timestamp::now().as_nanos();
    let mut stalls = 0u64;
    for i in 0..packets {
        if i % 128 == 0 {
            if let Some(rate) = rate {
                // Behind by two milliseconds before it sleeps: few wake-ups, short bursts.
                let due = Duration::from_nanos(i * len as u64 * 8_000 / rate);
                let ahead = due.saturating_sub(start.elapsed());
                if ahead > Duration::from_millis(2) {
                    std::thread::sleep(ahead);
                }
            }
            while !appender.reserve(128 * (len + 82)) {
                stalls += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let now = Timestamp::from_nanos(first + i * 100);
        let slot = slots[usize::try_from(i)? % slots.len()];
        appender.packet(slot, &Frame::whole(now, u32::try_from(len)?, &frame));
    }
    appender.flush();
    store.sync()?;
    let (wall, cpu) = (start.elapsed(), self::cpu().saturating_sub(cpu));
    let status = store.status();
    let each = |time: Duration| time.as_nanos() / u128::from(packets);
    println!(
        "{len:>5} bytes, {interfaces} interfaces: {} ns processor and {} ns wall a packet; waited {stalls} times, lost {:?}",
        each(cpu),
        each(wall),
        status.lost,
    );
    let start = Instant::now();
    let mut window = store.window(Span::ALL, Choice::default());
    let mut read = 0u64;
    while window.advance()? {
        read += u64::from(window.packet().data.len() == len);
    }
    println!(
        "      read back: {} ns a packet",
        start.elapsed().as_nanos() / u128::from(read.max(1))
    );
    drop(appender);
    store.close()?;
    Ok(())
}

fn interface(number: u32) -> Interface {
    Interface {
        node: "flood".into(),
        owner: Owner::Netns("flood".into()),
        netns: NetnsId(1),
        name: format!("eth{number}"),
    }
}

/// Processor time of all of this process's threads, in the program and in the kernel.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
