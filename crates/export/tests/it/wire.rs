//! What is sent arrives, whole and right, or the receiver knows that it did not.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;

use kuberewind_export::wire::{Received, SendError, Sender, WireError};
use kuberewind_packet::{
    Gap, GapCause, Loss, LossAt, LossCause, MAX_CAPTURED, PacketStream, WindowAccount,
};
use proptest::prelude::*;

use crate::made::{Made, Packet, WINDOW, any_packets, packets};

fn send(windows: &[Made], compress: bool) -> Vec<u8> {
    let mut sender = Sender::new(Vec::new(), compress).unwrap();
    for window in windows {
        sender.send(&mut window.clone()).unwrap();
        sender.flush().unwrap();
    }
    sender.finish(&account()).unwrap()
}

fn account() -> WindowAccount {
    let gaps = vec![Gap { span: WINDOW, cause: GapCause::MaxSize }];
    WindowAccount { gaps, ..WindowAccount::new("n1".into(), WINDOW) }
}

/// All packets up to the end or the first error, with interfaces instead of their numbers.
fn receive(wire: impl Read) -> (Vec<(String, Packet)>, Result<WindowAccount, WireError>) {
    let mut packets = Vec::new();
    let read = || {
        let mut received = Received::open(wire)?;
        while received.advance()? {
            let packet = received.packet();
            let interface = received.interfaces()[packet.interface as usize].if_name();
            packets.push((interface, Packet { interface: 0, ..Packet::of(&packet) }));
        }
        Ok(received.account().clone())
    };
    let end = read();
    (packets, end)
}

fn sent(windows: &[Made]) -> Vec<(String, Packet)> {
    let packets = windows.iter().flat_map(|window| {
        window.packets.iter().map(|packet| {
            let interface = window.interfaces[packet.interface as usize].if_name();
            (interface, Packet { interface: 0, ..packet.clone() })
        })
    });
    packets.collect()
}

#[test]
fn secrets_arrive_before_the_first_packet_however_many_they_are() {
    let line = |n: u32| format!("CLIENT_RANDOM {n:064x} {n:096x}\n");
    let log: String = (0..3_000).map(line).collect();
    for compress in [false, true] {
        let mut sender = Sender::new(Vec::new(), compress).unwrap();
        sender.secrets(log.as_bytes()).unwrap();
        sender.send(&mut Made::new("n1", packets(3, 1))).unwrap();
        let wire = sender.finish(&account()).unwrap();
        let mut received = Received::open(&wire[..]).unwrap();
        assert!(received.advance().unwrap());
        assert_eq!(received.take_key_log(), log.as_bytes());
        assert_eq!(received.take_key_log(), b"");
        assert_eq!(receive(&wire[..]).0.len(), 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_packets_arrive_as_they_were_sent(packets in any_packets(60), at in any::<prop::sample::Index>(), compress: bool) {
        let (first, second) = packets.split_at(at.index(packets.len() + 1));
        let windows = [Made::new("n1", first.to_vec()), Made::new("n1", second.to_vec())];
        let (received, end) = receive(&send(&windows, compress)[..]);
        prop_assert_eq!(end.unwrap(), account());
        prop_assert_eq!(received, sent(&windows));
    }

    #[test]
    fn changed_bytes_are_never_taken_for_right_ones(
        packets in any_packets(20),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        compress: bool,
    ) {
        let windows = [Made::new("n1", packets)];
        let right = send(&windows, compress);
        let mut wire = right.clone();
        for (at, change) in changes {
            wire[at.index(right.len())] ^= change;
        }
        prop_assume!(wire != right);
        let (received, end) = receive(&wire[..]);
        prop_assert!(end.is_err());
        prop_assert!(sent(&windows).starts_with(&received));
    }

    #[test]
    fn no_bytes_make_the_receiver_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(receive(&bytes[..]).1.is_err());
        let headed = [b"KRWIRE\x01\x00", &bytes[..]].concat();
        prop_assert!(receive(&headed[..]).1.is_err());
    }

    #[test]
    fn no_frame_with_a_right_checksum_makes_the_receiver_panic(
        kind in 0u8..6, body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut wire = b"KRWIRE\x01\x00".to_vec();
        let len = u32::try_from(body.len()).unwrap().to_le_bytes();
        for _ in 0..2 {
            wire.extend([kind, 0, 0, 0]);
            wire.extend([len, len].concat());
            wire.extend(&body);
            wire.extend(xxhash_rust::xxh3::xxh3_64(&wire).to_le_bytes());
        }
        prop_assert!(receive(&wire[..]).1.is_err());
    }
}

#[test]
fn a_stream_cut_at_any_byte_is_an_error() {
    for compress in [false, true] {
        let windows = [Made::new("n1", packets(9, 4)), Made::new("n1", Vec::new())];
        let wire = send(&windows, compress);
        for at in 0..wire.len() {
            let (received, end) = receive(&wire[..at]);
            assert!(matches!(end, Err(WireError::Cut { .. })), "{at}: {end:?}");
            assert!(sent(&windows).starts_with(&received));
        }
    }
}

#[test]
fn more_bytes_after_the_end_are_an_error() {
    let mut wire = send(&[Made::new("n1", packets(9, 4))], true);
    wire.push(0);
    let (_, end) = receive(&wire[..]);
    assert!(matches!(end, Err(WireError::Damaged { .. })), "{end:?}");
}

#[test]
fn every_changed_byte_of_a_stream_is_found() {
    let windows = [Made::new("n1", packets(5, 2))];
    let wire = send(&windows, true);
    for at in 0..wire.len() {
        for change in [1, 0x80, 0xff] {
            let mut wire = wire.clone();
            wire[at] ^= change;
            let (received, end) = receive(&wire[..]);
            assert!(end.is_err(), "{at}");
            assert!(sent(&windows).starts_with(&received));
        }
    }
}

#[test]
fn a_frame_left_out_or_sent_twice_is_found() {
    let window = |n| Made::new("n1", packets(n, 1));
    let short = send(&[window(1)], false);
    let (one, two) = (8, short.len());
    let doubled = [&short[..two], &short[one..]].concat();
    assert!(receive(&doubled[..]).1.is_err());
    // The frame of the only interface is the first; the packet's follows.
    let interface = 8 + 12 + u32::from_le_bytes(short[12..16].try_into().unwrap()) as usize + 8;
    let without = [&short[..one], &short[interface..]].concat();
    assert!(receive(&without[..]).1.is_err());
}

#[test]
fn packets_of_every_length_arrive() {
    let lengths = [0, 1, 59, 65_535, MAX_CAPTURED - 1, MAX_CAPTURED];
    let each = lengths.into_iter().cycle().take(60).zip(0..);
    let packets = each.map(|(len, time)| Packet {
        interface: 0,
        time,
        original_len: len.max(1) * 2,
        data: vec![u8::try_from(time).unwrap(); len as usize],
    });
    let windows = [Made::new("n1", packets.collect())];
    for compress in [false, true] {
        let (received, end) = receive(&send(&windows, compress)[..]);
        end.unwrap();
        assert!(received == sent(&windows));
    }
}

#[test]
fn packets_that_shrink_travel_shrunk_and_others_as_they_are() {
    let flat = Packet { interface: 0, time: 1, original_len: 90_000, data: vec![0; 90_000] };
    assert!(send(&[Made::new("n1", vec![flat.clone()])], true).len() < 2000);
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    });
    let noise = Packet { data: noise.take(90_000).collect(), ..flat };
    assert!(send(&[Made::new("n1", vec![noise])], true).len() < 91_000);
}

/// Where a sender writes to, to be looked at meanwhile.
#[derive(Clone, Default)]
struct Line(Rc<RefCell<Vec<u8>>>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_sees_what_was_flushed_before_the_stream_ends() {
    let line = Line::default();
    let mut sender = Sender::new(line.clone(), true).unwrap();
    let all = packets(5, 5);
    for count in 1..=all.len() {
        sender.send(&mut Made::new("n1", all[count - 1..count].to_vec())).unwrap();
        sender.flush().unwrap();
        let (seen, end) = receive(&line.0.borrow()[..]);
        assert_eq!(seen, sent(&[Made::new("n1", all[..count].to_vec())]));
        assert!(matches!(end, Err(WireError::Cut { .. })));
    }
}

#[test]
fn a_flush_writes_even_without_packets_so_that_a_reader_who_left_is_noticed() {
    let mut sender = Sender::new(Vec::new(), true).unwrap();
    sender.flush().unwrap();
    sender.flush().unwrap();
    let wire = sender.finish(&account()).unwrap();
    assert_eq!(receive(&wire[..]).1.unwrap(), account());
    assert!(wire.len() > 8 + 2 * 20);
}

#[test]
fn a_window_that_steps_back_in_time_is_not_sent() {
    let mut steps = packets(4, 1);
    steps.swap(1, 2);
    let mut sender = Sender::new(Vec::new(), true).unwrap();
    let error = sender.send(&mut Made::new("n1", steps)).unwrap_err();
    assert!(matches!(error, SendError::Order { .. }), "{error}");
}

#[test]
fn a_window_that_fails_has_no_end() {
    let mut sender = Sender::new(Vec::new(), true).unwrap();
    let error = sender.send(&mut Made::failing("n1", packets(4, 1))).unwrap_err();
    assert_eq!(error.to_string(), "the disk caught fire");
}

#[test]
fn another_version_or_another_program_is_told_apart() {
    let (_, end) = receive(&b"KRWIRE\x02\x00..."[..]);
    assert!(matches!(end, Err(WireError::Version { found: 2 })));
    let (_, end) = receive(&b"HTTP/1.1 404 Not Found"[..]);
    assert!(end.unwrap_err().to_string().contains("HTTP/1.1"));
}

#[test]
fn an_account_with_too_many_losses_arrives_summed_up() {
    let loss = |nth: u64| LossAt {
        owner: format!("pod-{}", nth % 100),
        loss: Loss { cause: LossCause::Ring, packets: 1, from: WINDOW.from, to: WINDOW.to },
    };
    let account = WindowAccount { losses: (0..100_000).map(loss).collect(), ..account() };
    let wire = Sender::new(Vec::new(), true).unwrap().finish(&account).unwrap();
    let received = receive(&wire[..]).1.unwrap();
    assert_eq!(received.losses.len(), 100);
    assert!(received.losses.iter().all(|at| at.loss.packets == 1000));
}
