use kuberewind_packet::{Damage, Gap, GapCause, Loss, LossAt, LossCause, WindowAccount};

use super::*;

fn at(time: &str) -> Timestamp {
    format!("2026-11-22T{time}Z").parse().unwrap()
}

pub(super) fn span(from: &str, to: &str) -> Span {
    Span::new(at(from), at(to))
}

fn whole(node: &str) -> NodeReport {
    let account = WindowAccount {
        held: Some(span("20:30:00", "21:30:05")),
        packets: 1_234_567,
        bytes: 98_700_000,
        ..WindowAccount::new(node.into(), span("21:25:05", "21:30:05"))
    };
    NodeReport { account, left_out: LeftOut::default(), failure: None, fetch: None }
}

#[test]
fn a_node_that_holds_nothing_says_why_where_there_is_a_why() {
    let mut node = whole("n1");
    node.account.held = None;
    assert_eq!(node.instead(), "n1 holds no packets");
    node.account.gaps =
        vec![Gap { span: span("21:25:05", "21:30:05"), cause: GapCause::NotStarted }];
    assert_eq!(node.instead(), "n1 holds no packets (recording had not begun)");
}

fn report(nodes: Vec<NodeReport>) -> Report {
    Report::new(Format::Pcapng, span("21:25:05", "21:30:05"), nodes, &[])
}

fn loss(owner: &str, cause: LossCause, packets: u64, from: &str, to: &str) -> LossAt {
    LossAt { owner: owner.into(), loss: Loss { cause, packets, from: at(from), to: at(to) } }
}

#[test]
fn a_whole_window_is_called_complete() {
    let report = Report {
        file: Some("web-1-20261122T213005Z.pcapng".into()),
        file_bytes: 101_200_000,
        ..report(vec![whole("web-1")])
    };
    assert_eq!(
        report.to_string(),
        "\
file     web-1-20261122T213005Z.pcapng (101MB)
window   2026-11-22 21:25:05.000 to 21:30:05.000 UTC (5m)
packets  1,234,567 (98.7MB)

node     packets   bytes  lost  holds
web-1  1,234,567  98.7MB     0  2026-11-22 20:30:00.000 to 21:30:05.000 UTC (1h5s)

complete"
    );
    assert!(report.is_complete() && report.complete);
}

#[test]
fn everything_that_is_missing_is_named_with_owner_cause_and_time() {
    let mut torn = whole("n1");
    torn.account.losses = vec![
        loss("shop/cart-7", LossCause::Ring, 10, "21:26:01.1", "21:26:02"),
        loss("host", LossCause::Disk, 1, "21:26:05", "21:26:05.2"),
        loss("shop/cart-7", LossCause::Ring, 2, "21:26:02", "21:26:02.3"),
    ];
    torn.account.gaps = vec![
        Gap { span: span("21:25:05", "21:25:41"), cause: GapCause::MaxSize },
        Gap { span: span("21:27:00", "21:28:10"), cause: GapCause::Stopped },
    ];
    torn.account.damaged =
        vec![Damage { segment: "seg-1.pcapng".into(), reason: "damaged block".into() }];
    let failed =
        NodeReport::failed("n2".into(), span("21:25:05", "21:30:05"), "connection refused".into());
    let report = report(vec![torn, failed]);
    assert_eq!(
        report.to_string(),
        "\
window   2026-11-22 21:25:05.000 to 21:30:05.000 UTC (5m)
packets  1,234,567 (98.7MB)

node    packets   bytes  lost  holds
n1    1,234,567  98.7MB    13  2026-11-22 20:30:00.000 to 21:30:05.000 UTC (1h5s)
n2            0      0B     ?  ?

n1 LOST 12 packets of shop/cart-7, 2026-11-22 21:26:01.100 to 21:26:02.300 UTC (1.200s): \
ring: packets came faster than they were read
n1 LOST 1 packet of host, 2026-11-22 21:26:05.000 to 21:26:05.200 UTC (200ms): \
disk: the disk refused to write
n1 MISSING: 2026-11-22 21:25:05.000 to 21:25:41.000 UTC (36s): \
deleted to keep within pcapdump.maxSize
n1 note: not recorded: 2026-11-22 21:27:00.000 to 21:28:10.000 UTC (1m10s): \
recording was stopped
n1 DAMAGED: segment seg-1.pcapng: damaged block
n2 FAILED: connection refused (none of its packets are in the file)

incomplete: n1 lost 13 packets while recording; n1 lacks 36s; \
n1 has 1 damaged segment(s); n2 failed"
    );
    assert!(!report.is_complete() && !report.complete);
}

#[test]
fn a_window_from_before_recording_began_is_clipped_not_incomplete() {
    let mut node = whole("n1");
    node.account.gaps =
        vec![Gap { span: span("21:25:05", "21:26:00"), cause: GapCause::NotStarted }];
    let text = report(vec![node]).to_string();
    assert!(text.contains("recording had not begun"), "{text}");
    assert!(text.ends_with("\ncomplete"), "{text}");
}

#[test]
fn clocks_are_shown_where_they_were_compared() {
    let fetch = |nanos, retries| {
        let clock = Some(ClockOffset { nanos, bound_nanos: 3_000_000 });
        Some(Fetch { clock, retries })
    };
    let early = NodeReport { fetch: fetch(-12_000_000, 0), ..whole("n1") };
    let late = NodeReport { fetch: fetch(1_250_000_000, 2), ..whole("n2") };
    let text = report(vec![early, late]).to_string();
    let table = "\
node    packets   bytes  lost         clock  holds
n1    1,234,567  98.7MB     0    -12ms ±3ms  2026-11-22 20:30:00.000 to 21:30:05.000 UTC (1h5s)
n2    1,234,567  98.7MB     0  +1.250s ±3ms  2026-11-22 20:30:00.000 to 21:30:05.000 UTC (1h5s)

n2 note: its stream broke 2 times, then came whole

complete";
    assert!(text.ends_with(table), "{text}");
}

#[test]
fn json_is_read_back_as_it_was_written() {
    let mut node = whole("n1");
    node.account.losses = vec![loss("host", LossCause::Buffer, 3, "21:26:00", "21:26:01")];
    node.failure = Some("cut".into());
    node.fetch = Some(Fetch { clock: None, retries: 3 });
    let report = report(vec![node, whole("n2")]);
    let json = serde_json::to_string(&report).unwrap();
    assert!(json.contains(r#""fileBytes":0,"complete":false,"nodes":[{"node":"n1""#), "{json}");
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}

#[test]
fn no_node_steers_the_terminal_or_forges_the_last_line() {
    let failure = "\u{1b}[2Jcut\ncomplete".to_owned();
    let failed = NodeReport::failed("n\u{7}1".into(), Span::ALL, failure);
    let text = report(vec![failed]).to_string();
    assert!(!text.contains(['\u{1b}', '\u{7}']), "{text}");
    assert!(!text.lines().any(|line| line == "complete"), "{text}");
}

#[test]
fn long_lists_are_cut_on_screen() {
    let mut node = whole("n1");
    node.account.losses = (0..500)
        .map(|n| loss(&format!("ns/{n}"), LossCause::Ring, 1, "21:26:00", "21:26:01"))
        .collect();
    let text = report(vec![node]).to_string();
    assert!(text.contains("… and 480 more like these"), "{text}");
    assert!(text.lines().count() < 40);
}
