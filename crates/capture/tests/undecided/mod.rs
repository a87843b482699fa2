//! Network namespaces of which it is not known yet whether they are to be recorded.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kuberewind_capture::{Capture, Desired, Named, NamedWatch, Target};
use kuberewind_packet::{Loss, LossAt, LossCause, Owner, Pod, Span, Timestamp};

use crate::support::{Keeper, Netns, SOON, config, datagrams, until};

/// A capture that holds what comes in `netns`.
fn hold(netns: &Netns) -> (Capture, Keeper) {
    let keeper = Keeper::default();
    let capture = Capture::start(config(), vec![keeper.clone()]).unwrap();
    capture.set_desired(Desired { undecided: vec![netns.target()], ..Desired::only(Vec::new()) });
    until("the ring to be open", SOON, || capture.status().undecided.namespaces == 1);
    (capture, keeper)
}

fn pod() -> Owner {
    Owner::Pod(Pod { namespace: "shop".into(), name: "cart-1".into(), uid: "6f0c".into() })
}

fn target(netns: &Netns) -> Target {
    Target { owner: pod(), ..netns.target() }
}

fn losses(keeper: &Keeper) -> Vec<(Owner, Loss)> {
    let losses = keeper.lock().losses.clone();
    losses.into_iter().map(|(interface, loss)| (interface.owner, loss)).collect()
}

/// Python that sends a datagram every 110 ms: each is in a block of its own.
fn trickle(count: u32) -> String {
    format!("import time\n{}", datagrams("10.77.0.3", "drip", count, 0))
        .replace("    s.sendto", "    time.sleep(0.11); s.sendto")
}

#[test]
fn what_came_before_the_decision_is_recorded_once_the_namespace_is_wanted() {
    let (a, b) = Netns::pair();
    let (capture, keeper) = hold(&b);
    let from = Timestamp::now();
    // More blocks than a ring has.
    a.python(&trickle(20));
    let span = Span::new(from, Timestamp::now());
    let waiting = capture.settle_span(span).unwrap();
    assert_eq!(keeper.lock().packets.len(), 0, "nothing is decided");
    let [LossAt { owner, loss }] = &waiting[..] else { panic!("{waiting:?}") };
    assert_eq!((owner.as_str(), loss.cause, loss.packets), (&*b.name, LossCause::Undecided, 20));
    assert!(from < loss.from && loss.from < loss.to && loss.to < span.to, "{loss:?} in {span:?}");
    let status = capture.status();
    assert_eq!((status.undecided.packets, status.namespaces.len()), (20, 0), "{status:?}");

    capture.set_desired(Desired::only(vec![target(&b)]));
    a.python(&datagrams("10.77.0.3", "drip", 5, 0));
    let waiting = capture.settle_span(Span::new(from, Timestamp::now())).unwrap();
    assert_eq!(waiting, []);
    let kept = keeper.holding(b"drip");
    assert_eq!(kept.len(), 25);
    assert!(kept.is_sorted_by_key(|packet| packet.timestamp));
    assert!(kept.iter().all(|packet| packet.owner == pod() && packet.interface == "eth0"));
    let status = capture.status();
    assert_eq!((status.undecided.namespaces, status.namespaces.len()), (0, 1), "{status:?}");
    capture.stop();
    assert_eq!(losses(&keeper), []);
}

#[test]
fn what_is_not_wanted_reaches_nobody_and_is_not_missed() {
    let (a, b) = Netns::pair();
    let (capture, keeper) = hold(&b);
    a.python(&datagrams("10.77.0.3", "secret", 50, 1000));
    let unwanted = BTreeSet::from([b.target().netns]);
    capture.set_desired(Desired { unwanted, ..Desired::only(Vec::new()) });
    a.python(&datagrams("10.77.0.3", "secret", 50, 1000));
    until("the ring to be closed", SOON, || capture.status().ring_bytes == 0);
    capture.stop();
    assert_eq!(keeper.lock().packets.len(), 0);
    assert_eq!(losses(&keeper), []);
}

#[test]
fn what_nobody_decides_about_is_let_go_and_counted() {
    let (a, b) = Netns::pair();
    let (capture, keeper) = hold(&b);
    let from = Timestamp::now();
    a.python(&datagrams("10.77.0.3", "lost", 7, 0));
    // In the ring still, not handed over.
    capture.set_desired(Desired::only(Vec::new()));
    until("the ring to be closed", SOON, || capture.status().ring_bytes == 0);
    let to = Timestamp::now();
    capture.stop();
    let losses = losses(&keeper);
    let [(owner, loss)] = &losses[..] else { panic!("{losses:?}") };
    assert_eq!((owner, loss.packets), (&Owner::Netns(b.name.clone()), 7));
    assert_eq!(loss.cause, LossCause::Undecided);
    assert!(from < loss.from && loss.to < to, "{loss:?}");
    assert_eq!(keeper.lock().packets.len(), 0);
}

#[test]
fn a_look_from_before_the_ring_was_open_decides_nothing() {
    let (a, b) = Netns::pair();
    let before = Instant::now();
    let (capture, keeper) = hold(&b);
    let stale = Desired { as_of: before, ..Desired::only(vec![target(&b)]) };
    capture.set_desired(stale.clone());
    a.python(&datagrams("10.77.0.3", "whose", 3, 0));
    let waiting = capture.settle_span(Span::new(Timestamp::MIN, Timestamp::now())).unwrap();
    assert_eq!((waiting.len(), keeper.lock().packets.len()), (1, 0), "{waiting:?}");
    capture.set_desired(Desired { as_of: Instant::now(), ..stale });
    until("the packets", SOON, || keeper.holding(b"whose").len() == 3);
}

#[test]
fn more_than_may_wait_is_counted_and_the_first_packets_are_kept() {
    let (a, b) = Netns::pair();
    let (capture, keeper) = hold(&b);
    let flood = datagrams("10.77.0.3", "flood", 8000, 1400);
    // No faster than its ring is emptied.
    let paced = flood.replace("    s.sendto", "    i % 200 or time.sleep(0.01); s.sendto");
    a.python(&format!("import time\n{paced}"));
    capture.settle(Timestamp::now()).unwrap();
    let status = capture.status();
    assert!(status.undecided.bytes <= 4 << 20, "{status:?}");
    capture.set_desired(Desired::only(vec![target(&b)]));
    capture.settle(Timestamp::now()).unwrap();
    let kept = keeper.holding(b"flood");
    let lost: u64 = losses(&keeper).iter().map(|(_, loss)| loss.packets).sum();
    assert_eq!(kept.len() as u64 + lost, 8000);
    assert!(kept.len() > 2000 && lost > 2000, "{} kept", kept.len());
    for (number, packet) in kept.iter().take(2000).enumerate() {
        let number = u32::try_from(number).unwrap().to_be_bytes();
        assert_eq!(packet.bytes[42 + 5..][..4], number, "the first of all, in order");
    }
    let losses = losses(&keeper);
    let of_pod =
        |(owner, loss): &(Owner, Loss)| *owner == pod() && loss.cause == LossCause::Undecided;
    assert!(losses.iter().all(of_pod), "{losses:?}");
}

#[test]
fn a_name_is_told_as_soon_as_it_is_there_and_once_it_is_gone() {
    let seen: Arc<Mutex<Vec<Named>>> = Arc::default();
    let told = Arc::clone(&seen);
    let watch = NamedWatch::start(move |named| *told.lock().unwrap() = named.to_vec()).unwrap();
    let netns = Netns::new();
    let expected = Named { netns: netns.target().netns, path: netns.path() };
    let is_there = || seen.lock().unwrap().contains(&expected);
    until("the name", Duration::from_secs(1), is_there);
    assert!(expected.age() < Duration::from_secs(10));
    drop(netns);
    until("the end of the name", Duration::from_secs(1), || !is_there());
    watch.stop();
}

#[test]
fn what_comes_while_the_ring_is_being_opened_is_there_once() {
    let (a, b) = Netns::pair();
    let keeper = Keeper::default();
    let capture = Capture::start(config(), vec![keeper.clone()]).unwrap();
    let numbered = datagrams("10.77.0.3", "steady", 5000, 0);
    let paced = numbered.replace("    s.sendto", "    time.sleep(0.0002); s.sendto");
    let mut sender = a.spawn("python3", &["-c", &format!("import time\n{paced}")]);
    capture.set_desired(Desired { undecided: vec![b.target()], ..Desired::only(Vec::new()) });
    until("some to wait", SOON, || capture.status().undecided.packets > 500);
    capture.set_desired(Desired::only(vec![target(&b)]));
    assert!(sender.0.wait().unwrap().success());
    capture.settle(Timestamp::now()).unwrap();
    let kept = keeper.holding(b"steady");
    let number = |bytes: &[u8]| u32::from_be_bytes(*bytes[42 + 6..].first_chunk().unwrap());
    let numbers: Vec<u32> = kept.iter().map(|packet| number(&packet.bytes)).collect();
    assert!(numbers[0] < 4000, "{}", numbers[0]);
    assert_eq!(numbers, (numbers[0]..5000).collect::<Vec<_>>());
    assert!(kept.is_sorted_by_key(|packet| packet.timestamp));
}
