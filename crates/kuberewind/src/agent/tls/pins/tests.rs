use std::collections::VecDeque;

use kuberewind_tls::{KeyLogLabel, SecretBytes};
use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

fn pin(number: u64, hello: Timestamp) -> Pin {
    Pin { hello, ..keep::pin(number) }
}

fn key(owner: &str, number: u64) -> Key {
    (owner.to_owned(), keep::pin(number).client_random().unwrap())
}

fn line(owner: &str, number: u64, secret: u8) -> Kept {
    let line = KeyLogLine {
        label: KeyLogLabel::ClientTraffic,
        client_random: key(owner, number).1,
        secret: SecretBytes(vec![secret; 32]),
    };
    Kept { hello: at(1), owner: owner.to_owned(), line }
}

fn number(number: u64) -> SegmentNumber {
    SegmentNumber(number)
}

/// What was sent, without the secrets and hellos themselves.
fn words(text: &str) -> Vec<&str> {
    text.lines().map(|line| if line.starts_with('#') { "pin" } else { "line" }).collect()
}

#[test]
fn a_note_is_written_anew_only_when_it_goes_before_packets_that_need_it() {
    let reach = Reach {
        oldest: Some(at(100)),
        fading: vec![(number(3), Some(at(110))), (number(4), None)],
        lasting: number(5),
    };
    let is_due = |noted: Option<u64>, seen| {
        let (seen, noted) = (at(seen), noted.map(SegmentNumber));
        let entry =
            Entry { views: vec![], lines: vec![], bytes: 0, seen, closed: Some(seen), noted };
        let open = Entry { views: vec![], lines: vec![], closed: None, ..entry };
        let is_fading = noted.is_none_or(|noted| noted < reach.lasting);
        assert_eq!(open.is_due(&reach), is_fading, "who was not closed may speak again");
        entry.is_due(&reach)
    };
    assert!(is_due(None, 0), "it was never written");
    assert!(!is_due(Some(5), 999), "it stays for long enough");
    assert!(!is_due(Some(3), 107), "all its packets lie in earlier segments or in the same");
    assert!(is_due(Some(3), 111));
    assert!(is_due(Some(4), 111), "of a segment without packets nothing is known");
    assert!(is_due(Some(2), 100), "its note is gone already");
    assert!(!is_due(Some(2), 99), "and so are its packets");
}

#[test]
fn an_export_gets_those_that_are_older_and_speak_in_it_each_once() {
    let (mut pins, mut sent) = (Pins::default(), Sent::new());
    for (place, (hello, seen)) in [(10, 20), (10, 60), (50, 60), (55, 55)].into_iter().enumerate() {
        pins.add("shop/cart", pin(place as u64, at(hello)), at(seen));
    }
    pins.add("bank/vault", pin(9, at(10)), at(60));
    pins.add_line(&line("shop/cart", 1, 1));
    let wanted = |owner: &str| owner.starts_with("shop/");
    let text = pins.older_than(at(50), at(50), wanted, &mut sent, usize::MAX);
    assert_eq!(words(&text), ["pin", "line", "pin"], "and one whose handshake may be cut");
    assert_eq!(pins.older_than(at(50), at(50), wanted, &mut sent, usize::MAX), "");
    pins.add_line(&line("shop/cart", 1, 1));
    assert_eq!(pins.older_than(at(50), at(50), wanted, &mut sent, usize::MAX), "");
    pins.add_line(&line("shop/cart", 1, 2));
    let text = pins.older_than(at(50), at(50), wanted, &mut sent, usize::MAX);
    assert_eq!(words(&text), ["pin", "line", "line"], "a secret that came later");
    assert_eq!(pins.dropped(), 0);
    let text = pins.older_than(at(50), at(50), wanted, &mut Sent::new(), 0);
    assert_eq!((text.as_str(), pins.dropped()), ("", 2), "what has no room is counted");
}

#[test]
fn the_longest_silent_go_first_and_are_counted() {
    let mut pins = Pins::default();
    for place in 0..1_000 {
        pins.add("host", pin(place, at(1)), at(1_000 - place));
    }
    let one = pins.bytes / 1_000;
    pins.set_max_size(ByteSize::new(one as u64 * 100 * PART_OF_MAX_SIZE));
    assert!(pins.bytes <= one * 100 && pins.len() >= 87, "{} of {}", pins.bytes, pins.len());
    assert_eq!(pins.dropped(), 1_000 - pins.len() as u64);
    assert!(pins.entries.contains_key(&key("host", 0)));
    assert!(!pins.entries.contains_key(&key("host", 999)));
}

#[test]
fn who_has_most_gives_up_its_own_and_what_was_over_soon_first() {
    let mut pins = Pins::default();
    for place in 0..1_000 {
        let owner = if place < 10 { "shop/quiet" } else { "shop/busy" };
        pins.add(owner, pin(place, at(place)), at(place));
    }
    for (key, entry) in pins.entries.iter_mut().filter(|(key, _)| key.0 == "shop/busy") {
        let is_late = entry.seen >= at(500);
        entry.hear(is_late, entry.seen.saturating_add(Duration::from_secs(3)));
        assert_eq!(entry.is_short(), is_late, "{}", key.0);
    }
    let one = pins.bytes / 1_000;
    pins.set_max_size(ByteSize::new(one as u64 * 600 * PART_OF_MAX_SIZE));
    assert_eq!(pins.dropped(), 0, "only those that were over soon");
    assert!(pins.entries.contains_key(&key("shop/busy", 10)));
    pins.set_max_size(ByteSize::new(one as u64 * 100 * PART_OF_MAX_SIZE));
    assert_eq!(pins.entries.keys().filter(|key| key.0 == "shop/quiet").count(), 10);
    assert!(pins.dropped() > 300);
}

#[test]
fn one_that_speaks_on_was_not_closed() {
    let mut pins = Pins::default();
    pins.add("host", pin(1, at(1)), at(1));
    let entry = pins.entries.get_mut(&key("host", 1)).unwrap();
    entry.hear(true, at(3));
    entry.hear(false, at(4));
    assert!(entry.is_short(), "the last packet is an acknowledgement");
    entry.hear(false, at(9));
    assert!(!entry.is_short());
    entry.hear(true, at(20));
    pins.forget(Some(at(20)), at(30));
    assert_eq!(pins.len(), 1, "its packets are held");
    pins.forget(Some(at(21)), at(30));
    assert_eq!(pins.len(), 0);
}

#[test]
fn views_of_a_connection_are_one_entry_and_very_long_hellos_are_none() {
    let mut pins = Pins::default();
    for port in [443, 443, 8443, 1, 2, 3] {
        let server = format!("10.0.0.2:{port}").parse().unwrap();
        pins.add("host", Pin { server, ..pin(1, at(1)) }, at(1));
    }
    let entry = &pins.entries[&key("host", 1)];
    assert_eq!((pins.len(), entry.views.len(), entry.bytes), (1, MOST_VIEWS, pins.bytes));
    let mut long = pin(2, at(1));
    long.server_hello.resize(LONGEST, 0);
    pins.add("host", long, at(1));
    assert_eq!((pins.len(), pins.dropped()), (1, 1));
}

#[test]
fn what_was_noted_is_recalled_with_its_secrets_and_written_anew_as_a_whole() {
    let mut pins = Pins::default();
    let kept = |seen| KeptPin { owner: "host".to_owned(), seen: at(seen), pin: pin(1, at(5)) };
    pins.recall(kept(5), number(3), at(90));
    pins.recall(kept(60), number(7), at(90));
    pins.add_line(&line("host", 1, 1));
    let reach = |lasting| Reach {
        oldest: Some(at(1)),
        fading: vec![(number(7), Some(at(60)))],
        lasting: number(lasting),
    };
    assert!(pins.due(&reach(7)).is_empty(), "the later note counts");
    let due = pins.due(&reach(8)).pop().unwrap();
    assert_eq!(keep::read_pins(&due.text), [kept(90)]);
    assert_eq!(keep::read(&due.text).len(), 1);
    pins.note(&due, number(9));
    assert!(pins.due(&reach(8)).is_empty());
    pins.forget(Some(at(10_000)), at(90 + 3_600));
    assert_eq!(pins.len(), 1, "it may go on after an hour of silence");
    pins.forget(Some(at(10_000)), at(91 + 3_600));
    assert_eq!((pins.len(), pins.bytes, pins.dropped()), (0, 0, 0));
}

/// A recording of segments of one size, of which so many are held.
struct Recorded {
    /// Number, and the time of the newest packet.
    segments: VecDeque<(u64, Timestamp)>,
    next: u64,
}

const HELD: usize = 8;

impl Recorded {
    fn write(&mut self, newest: Timestamp) {
        self.segments.push_back((self.next, newest));
        self.next += 1;
        while self.segments.len() > HELD {
            self.segments.pop_front();
        }
    }

    fn oldest(&self) -> Timestamp {
        self.segments[0].1
    }

    fn reach(&self) -> Reach {
        let fading = self.segments.len().saturating_sub(HELD / 2);
        let old = self.segments.iter().take(fading);
        Reach {
            oldest: Some(self.oldest()),
            fading: old.map(|(at, newest)| (number(*at), Some(*newest))).collect(),
            lasting: number(self.segments[fading].0),
        }
    }

    fn holds(&self, noted: SegmentNumber) -> bool {
        noted.0 >= self.segments[0].0
    }
}

proptest! {
    /// As long as less than half of what is held is written between two looks.
    #[test]
    fn a_connection_that_is_open_or_has_packets_held_has_its_hellos_held_at_every_moment(
        steps in prop::collection::vec((1usize..HELD / 2, any::<u8>()), 1..60),
    ) {
        let mut recorded = Recorded { segments: VecDeque::new(), next: 0 };
        let mut pins = Pins::default();
        let mut last = [Timestamp::MIN; 8];
        let closes = |place: u64| place.is_multiple_of(2);
        let mut now = 100;
        for (segments, speakers) in steps {
            for _ in 0..segments {
                now += 10;
                recorded.write(at(now));
                for (entry, last) in (0..8).zip(&last) {
                    let noted = pins.entries.get(&key("host", entry)).and_then(|entry| entry.noted);
                    let is_held = noted.is_some_and(|noted| recorded.holds(noted));
                    let is_over = if closes(entry) {
                        *last < recorded.oldest()
                    } else {
                        *last == Timestamp::MIN
                    };
                    prop_assert!(is_held || is_over, "{entry} at {now}");
                }
            }
            now += 10;
            recorded.write(at(now));
            for place in (0..8u8).filter(|place| speakers & (1 << place) != 0) {
                // The hello is its first packet, later ones are seen by their marks.
                pins.add("host", pin(place.into(), at(now)), at(now));
                if closes(place.into()) {
                    pins.entries.get_mut(&key("host", place.into())).unwrap().hear(true, at(now));
                }
                last[usize::from(place)] = at(now);
            }
            for due in pins.due(&recorded.reach()) {
                pins.note(&due, number(recorded.next - 1));
            }
        }
    }

    #[test]
    fn no_more_is_held_than_allowed_and_it_is_counted_exactly(
        steps in prop::collection::vec((0u64..30, 0u8..4, 0u64..100, 500u64..40_000), 1..200),
    ) {
        let mut pins = Pins::default();
        for (place, what, time, most) in steps {
            match what {
                0 => pins.add("host", pin(place, at(time)), at(time)),
                1 => pins.add_line(&line("host", place, u8::try_from(time).unwrap())),
                2 => pins.set_max_size(ByteSize::new(most * PART_OF_MAX_SIZE)),
                _ => pins.forget(Some(at(time)), at(time + 3_600)),
            }
            prop_assert!(pins.bytes <= pins.most);
            let sum: usize = pins.entries.values().map(|entry| entry.bytes).sum();
            prop_assert_eq!(sum, pins.bytes);
            for ((owner, _), entry) in &mut pins.entries {
                entry.noted = Some(number(0)); // with all its lines
                prop_assert!(entry.text(owner).len() <= entry.bytes);
            }
        }
    }
}
