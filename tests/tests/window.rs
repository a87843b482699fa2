//! The window that was asked for, and nothing else.

use std::fs;
use std::process::Command;
use std::time::Duration;

use kuberewind_packet::Timestamp;
use kuberewind_tests::judges::capinfos;
use kuberewind_tests::traffic::{
    Mixed, Rate, number_of, numbered, send, send_frame, start_sending, write_pcap,
};
use kuberewind_tests::{
    CaptureFile, Recorder, SideBySide, VethPair, data_dir, succeed, wait_until,
};

#[test]
fn a_packet_sent_just_before_the_export_is_in_it() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    for number in 0..10 {
        send_frame(&pair.sender, VethPair::INTERFACE, &numbered(number, 100));
        let window = recorder.window(&["--time=5m"]);
        assert_eq!(numbers(&window), (0..=number).collect::<Vec<_>>());
    }
}

#[test]
fn nothing_at_or_after_the_end_is_in_it_and_everything_before() {
    let dir = tempfile::tempdir().unwrap();
    let pcap = dir.path().join("steady.pcap");
    write_pcap(&pcap, (0..20_000).map(|number| numbered(number, 100)));
    let both = SideBySide::start(1500, &[]);
    let sending = Rate::PerSecond(5_000);
    let mut sender = start_sending(&both.pair.sender, VethPair::INTERFACE, &pcap, sending);
    both.recorder.wait_status("some packets", Duration::from_secs(10), |s| s.packets > 5_000);

    let until = Timestamp::now();
    let window = both.recorder.window(&["--until", &until.to_string()]);
    sender.assert_running();

    assert!(window.packets().all(|packet| packet.timestamp < until));
    sender.ended(Duration::from_secs(30));
    let (theirs, ..) = both.stop_tcpdump();
    let before = theirs.packets().filter(|packet| packet.timestamp < until);
    let mut expected: Vec<_> = before.filter_map(|packet| number_of(packet.data)).collect();
    expected.retain(|number| *number < u32::MAX - 1);
    expected.sort_unstable();
    let mut recorded = numbers(&window);
    recorded.sort_unstable();
    assert_eq!(recorded, expected);
}

#[test]
fn since_and_until_cut_between_two_packets() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
    let between = Timestamp::now().to_string();
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(2, 100));

    assert_eq!(numbers(&recorder.window(&["--until", &between])), [1]);
    assert_eq!(numbers(&recorder.window(&["--since", &between])), [2]);
    assert_eq!(numbers(&recorder.window(&[])), [1, 2]);
}

#[test]
fn a_window_without_packets_is_a_valid_empty_file() {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
    let filter = "src host 192.0.2.1 and tcp port 9";
    for name in ["empty.pcap", "empty.pcapng"] {
        let file = out.path().join(name);
        let done = recorder.pcapdump(&["--filter", filter, "--dest", file.to_str().unwrap()]);
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(capinfos(&file).packets, 0);
    }
}

#[test]
fn a_window_outside_of_what_is_held_fails_and_says_what_is_held() {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
    let dest = out.path().to_str().unwrap();
    let done = recorder.pcapdump(&["--since=2h", "--until=1h", "--dest", dest]);
    assert_eq!(done.status.code(), Some(1));
    assert_ne!(String::from_utf8_lossy(&done.stderr).trim(), "");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn an_export_filter_takes_what_tcpdump_takes_from_the_same_file() {
    let (pair, data, out) = (VethPair::new(9000), data_dir(), tempfile::tempdir().unwrap());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    let sent = out.path().join("sent.pcap");
    write_pcap(&sent, Mixed::new(21, 9000).take(5_000));
    send(&pair.sender, VethPair::INTERFACE, &sent, Rate::PerSecond(10_000));
    let all = out.path().join("all.pcap");
    let done = recorder.pcapdump(&["--dest", all.to_str().unwrap()]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let expressions = [
        "tcp",
        "ip6 and udp",
        "sctp",
        "icmp or icmp6",
        "vlan and tcp port 8080",
        "vlan and vlan",
        "ip[6:2] & 0x3fff != 0",
        "host 192.0.2.7",
        "greater 1000",
        "not ip",
    ];
    for expression in expressions {
        let mut tcpdump = Command::new("tcpdump");
        let tcpdump = tcpdump.args(["-n", "-t", "-r"]).arg(&all).arg(expression);
        let picked = out.path().join("picked.pcap");
        succeed(tcpdump.arg("-w").arg(&picked));
        let ours = recorder.window(&["--filter", expression]);
        let theirs = CaptureFile::read(&picked);
        let packets = |file: &CaptureFile| {
            file.packets().filter_map(|packet| number_of(packet.data)).collect::<Vec<_>>()
        };
        assert_eq!(packets(&ours), packets(&theirs), "{expression}");
    }
}

#[test]
fn files_in_a_directory_are_named_for_machine_and_time_and_never_overwritten() {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
    let until = Timestamp::now().to_string();
    for _ in 0..2 {
        let dest = out.path().to_str().unwrap();
        let done = recorder.pcapdump(&["--until", &until, "--dest", dest]);
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let entries = fs::read_dir(out.path()).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort_by_key(String::len);
    let [first, second] = &names[..] else { panic!("{names:?}") };
    let stem = first.strip_suffix("Z.pcap").unwrap_or_else(|| panic!("{first}"));
    assert_eq!(*second, format!("{stem}Z-2.pcap"));
}

#[test]
fn the_report_is_json_beside_the_file() {
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir().unwrap());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
    let report = out.path().join("report.json");
    recorder.window(&["--report", report.to_str().unwrap()]);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert!(report.is_object(), "{report}");
}

#[test]
fn a_packet_is_exportable_within_a_second() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(1, 100));
    // Without a window's end in its own time, `status` tells when it is on the disk.
    wait_until("the packet in status", Duration::from_secs(1), || recorder.status().packets > 0);
    assert_eq!(numbers(&recorder.window(&[])), [1]);
}

fn numbers(file: &CaptureFile) -> Vec<u32> {
    let numbers = file.packets().filter_map(|packet| number_of(packet.data));
    numbers.filter(|number| *number < u32::MAX - 1).collect()
}
