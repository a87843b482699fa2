//! A window holds exactly the packets of its span, in the order of time.

mod support;

use std::time::Duration;

use kuberewind_packet::{
    Interface, Loss, LossCause, Owner, PacketSink, PacketStream, Pod, Span, Timestamp,
};
use kuberewind_store::{Choice, KeepOwner, StoreConfig};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::{config, interface, limits, open, put_patiently, read, read_all};

const HOUR: u64 = 3_600_000_000_000;

#[test]
fn a_window_holds_exactly_the_packets_of_its_span() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let slots =
        [appender.open_interface(interface("eth0")), appender.open_interface(interface("lo"))];
    let start = Timestamp::now().as_nanos() - HOUR;
    // Mostly forward, with steps back and equal stamps, as rings give them.
    let times: Vec<u64> = (0..30_000u64)
        .map(|i| start + (i * HOUR / 30_000).saturating_sub((i * 7_919 % 5) * 77_000) / 1000 * 1000)
        .collect();
    for (i, time) in times.iter().enumerate() {
        let data = [&u32::try_from(i).unwrap().to_le_bytes()[..], &[9; 600]].concat();
        put_patiently(&mut appender, slots[i % 2], Timestamp::from_nanos(*time), &data);
    }
    appender.flush();
    store.sync().unwrap();
    assert!(store.status().segments > 10);
    let mut in_order: Vec<(u64, u32)> = times.iter().copied().zip(0..).collect();
    in_order.sort_unstable();
    let edge = |share: f64, exact: bool| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of an hour"
        )]
        let at = (HOUR as f64 * share) as u64;
        if exact { times[usize::try_from(at / 150_000_000).unwrap()] } else { start + at }
    };
    let mut runner = TestRunner::new(Config { cases: 60, ..Config::default() });
    let edges = (0.0..1.0f64, 0.0..1.0f64, any::<bool>(), any::<bool>());
    runner
        .run(&edges, |(from, to, exact_from, exact_to)| {
            let (from, to) = (edge(from, exact_from), edge(to, exact_to));
            let span = Span::new(Timestamp::from_nanos(from), Timestamp::from_nanos(to));
            let (got, account) = read(store.window(span, Choice::default()));
            let expected: Vec<(u64, u32)> = in_order
                .iter()
                .copied()
                .filter(|(time, _)| span.contains(Timestamp::from_nanos(*time)))
                .collect();
            let got: Vec<(u64, u32)> = got
                .iter()
                .map(|got| (got.time, u32::from_le_bytes(got.data[..4].try_into().unwrap())))
                .collect();
            prop_assert_eq!(account.packets, got.len() as u64);
            prop_assert_eq!(got, expected);
            Ok(())
        })
        .unwrap();
}

#[test]
fn only_what_is_kept_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let slot = appender.open_interface(interface("eth0"));
    for i in 0..100u8 {
        put_patiently(&mut appender, slot, Timestamp::now(), &[i; 50]);
    }
    appender.flush();
    store.sync().unwrap();
    let keep = |_: u32, data: &[u8]| data[0].is_multiple_of(10);
    let choice = Choice { packets: Some(Box::new(keep)), ..Choice::default() };
    let (got, account) = read(store.window(Span::ALL, choice));
    assert_eq!(
        got.iter().map(|got| got.data[0]).collect::<Vec<_>>(),
        [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    );
    assert_eq!((account.packets, account.bytes), (10, 500));
}

/// Packets, interfaces and losses of the others are not in the window, nor is what they hold missing.
#[test]
fn a_window_of_some_owners_knows_nothing_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) = open(config(dir.path()));
    let pod = |name: &str| {
        let pod = Pod { namespace: "shop".into(), name: name.into(), uid: name.into() };
        Interface { owner: Owner::Pod(pod), ..interface("eth0") }
    };
    let slots = [pod("cart"), pod("web"), interface("eth0")]
        .map(|interface| appender.open_interface(interface));
    for (i, slot) in (0..90u8).zip(slots.into_iter().cycle()) {
        put_patiently(&mut appender, slot, Timestamp::now(), &[i; 50]);
    }
    let now = Timestamp::now();
    for slot in slots {
        appender.loss(slot, Loss { cause: LossCause::Ring, packets: 3, from: now, to: now });
    }
    appender.flush();
    store.sync().unwrap();
    let owners: KeepOwner = Box::new(|owner| owner == "shop/web");
    let choice = Choice { owners: Some(owners), ..Choice::default() };
    let mut window = store.window(Span::ALL, choice);
    let mut seen = Vec::new();
    while window.advance().unwrap() {
        assert_eq!(window.packet().interface, 0);
        seen.push(window.packet().data[0]);
    }
    assert_eq!(seen, (0..90).filter(|i| i % 3 == 1).collect::<Vec<_>>());
    assert_eq!(window.interfaces(), [pod("web")]);
    let account = window.account();
    assert_eq!((account.packets, account.damaged.len()), (30, 0));
    let losses: Vec<_> = account.losses.iter().map(|lost| lost.owner.as_str()).collect();
    assert_eq!(losses, ["shop/web"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_disorder_comes_out_in_order_with_nothing_lost_or_doubled(
        steps in prop::collection::vec((0u64..5_000_000_000, 0usize..3), 1..600),
        flush_every in 1usize..50,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut appender) = open(config(dir.path()));
        let slots = ["eth0", "eth1", "lo"].map(|name| appender.open_interface(interface(name)));
        let start = Timestamp::now().as_nanos() - HOUR;
        for (i, (after, slot)) in steps.iter().enumerate() {
            // Coarse, so that many are equal.
            let time = Timestamp::from_nanos(start + after / 100_000_000 * 100_000_000);
            put_patiently(&mut appender, slots[*slot], time, &u32::try_from(i).unwrap().to_le_bytes());
            if i % flush_every == 0 {
                appender.flush();
            }
        }
        appender.flush();
        store.sync().unwrap();
        let got: Vec<(u64, u32)> = read_all(&store).0.iter()
            .map(|got| (got.time, u32::from_le_bytes(got.data[..].try_into().unwrap())))
            .collect();
        let mut expected: Vec<(u64, u32)> = steps.iter().zip(0..)
            .map(|((after, _), i)| (start + after / 100_000_000 * 100_000_000, i))
            .collect();
        expected.sort_unstable();
        prop_assert_eq!(got, expected);
    }
}

/// More bytes than a window holds in memory, every chunk spanning all of the time: chunks give their
/// packets in several goes.
#[test]
fn total_disorder_larger_than_memory_is_sorted_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appender) =
        open(StoreConfig { limits: limits(300_000_000), ..config(dir.path()) });
    let slot = appender.open_interface(interface("eth0"));
    let start = Timestamp::now().as_nanos() - HOUR;
    let count = 80_000u64;
    for i in 0..count {
        let time = Timestamp::from_nanos(start + i * 48_271 % count * 1_000);
        put_patiently(&mut appender, slot, time, &[1; 1400]);
    }
    appender.flush();
    store.sync().unwrap();
    let before = resident();
    let mut window = store.window(Span::ALL, Choice::default());
    let mut last = 0;
    let mut got = 0;
    let mut most = 0;
    while window.advance().unwrap() {
        let time = window.packet().timestamp.as_nanos();
        assert!(last < time);
        last = time;
        got += 1;
        if got % 1000 == 0 {
            most = most.max(resident());
        }
    }
    assert_eq!(got, count);
    assert!(most < before + 80_000_000, "{most} bytes, {before} before");
}

/// Bytes of memory of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn lanes_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut appenders) =
        kuberewind_store::Store::open(StoreConfig { lanes: 3, ..config(dir.path()) }).unwrap();
    store.set_recording(true).unwrap();
    let start = Timestamp::now().saturating_sub(Duration::from_mins(1)).as_nanos();
    std::thread::scope(|scope| {
        for (lane, appender) in (0..).zip(&mut appenders) {
            scope.spawn(move || {
                let slot = appender.open_interface(interface("eth0"));
                for i in 0..10_000u64 {
                    let time = Timestamp::from_nanos(start + i * 3 + lane);
                    put_patiently(appender, slot, time, &[1; 300]);
                }
                appender.flush();
            });
        }
    });
    store.sync().unwrap();
    let times: Vec<u64> = read_all(&store).0.iter().map(|got| got.time - start).collect();
    assert_eq!(times, (0..30_000).collect::<Vec<_>>());
}
