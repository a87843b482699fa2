//! Leaves a recording of the last hour, in segments of about a minute and a half, for benches of
//! windows and exports.
//!
//! `hour DIR [MEGABYTES]`

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use kuberewind_packet::{ByteSize, Frame, Interface, NetnsId, Owner, PacketSink, Timestamp};
use kuberewind_store::{Limits, MinFree, Store, StoreConfig};

const HOUR: Duration = Duration::from_hours(1);
const PACKET: usize = 1468;
/// With the block around it.
const BLOCK: usize = PACKET + 32;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map(PathBuf::from).ok_or("usage: hour DIR [MEGABYTES]")?;
    let megabytes = arguments.next().map_or(Ok(1000), |n| n.parse::<u64>())?;
    let bytes = megabytes * 1_000_000;
    let limits = Limits {
        max_time: 2 * HOUR,
        // A segment is a fiftieth.
        max_size: ByteSize::new(bytes / 4 * 5),
        min_free: MinFree::Percent(1),
    };
    let (store, mut appenders) = Store::open(StoreConfig {
        dir,
        node: "bench".into(),
        program: "kuberewind bench".into(),
        limits,
        interval: HOUR,
        lanes: 1,
    })?;
    let mut appender = appenders.pop().ok_or("no lane")?;
    let slot = appender.open_interface(Interface {
        node: "bench".into(),
        owner: Owner::Netns("bench".into()),
        netns: NetnsId(1),
        name: "eth0".into(),
    });
    let packets = bytes / BLOCK as u64;
    let first = Timestamp::now().saturating_sub(HOUR);
    let apart = HOUR / u32::try_from(packets)?;
    let mut frame = vec![0; PACKET];
    let mut random = packets | 1;
    for number in 0..packets {
        for chunk in frame.chunks_exact_mut(8) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            chunk.copy_from_slice(&random.to_le_bytes());
        }
        while !appender.reserve(BLOCK) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let time = first.saturating_add(apart * u32::try_from(number)?);
        appender.packet(slot, &Frame::whole(time, u32::try_from(PACKET)?, &frame));
    }
    appender.flush();
    drop(appender);
    store.close()?;
    println!("{packets} packets");
    Ok(())
}
