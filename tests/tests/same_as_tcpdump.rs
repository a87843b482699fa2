//! The recorder sees what tcpdump sees: the same packets, byte for byte.

use std::collections::BTreeSet;

use kuberewind_tests::judges::tshark;
use kuberewind_tests::traffic::{
    DnsServer, HttpServer, Iperf, Mixed, Rate, number_of, udp_super_packets, write_pcap,
};
use kuberewind_tests::{CaptureFile, SideBySide, VethPair};

const FRAMES: u32 = 500_000;
const RATE: Rate = Rate::PerSecond(40_000);

#[test]
fn five_hundred_thousand_mixed_packets_are_those_that_tcpdump_has() {
    let dir = tempfile::tempdir().unwrap();
    let pcap = dir.path().join("mixed.pcap");
    write_pcap(&pcap, Mixed::new(1, 9000).take(FRAMES as usize));

    let both = SideBySide::start(9000, &[]);
    assert_eq!(both.send(&pcap, RATE), u64::from(FRAMES));
    let (ours, _) = both.assert_same();

    let recorded = numbers(&ours);
    let missing: Vec<_> = (0..FRAMES).filter(|number| !recorded.contains(number)).collect();
    assert_eq!(missing, Vec::<u32>::new(), "sent, and seen by neither");
}

#[test]
fn a_real_workload_is_the_one_that_tcpdump_has() {
    let both = SideBySide::start(1500, &[]);
    let (client, server) = (&both.pair.sender, &both.pair.receiver);
    let http = HttpServer::start(server, 3_000_000);
    let dns = DnsServer::start(server);
    let iperf = Iperf::start(server);
    for address in VethPair::RECEIVER {
        assert_eq!(http.get(client, address, ""), "hello from nginx\n");
        assert_eq!(http.get(client, address, "large").len(), 3_000_000);
        assert_eq!(dns.ask(client, address, "A", false), "192.0.2.7");
        assert_eq!(dns.ask(client, address, "AAAA", false), "2001:db8::7");
        assert_eq!(dns.ask(client, address, "A", true), "192.0.2.7");
        iperf.burst(client, address, &["--bytes", "60M", "--bitrate", "300M"]);
        iperf.burst(client, address, &["--udp", "--bytes", "10M", "--bitrate", "50M"]);
    }
    let (ours, same) = both.assert_same();
    assert!(same > 10_000, "only {same} packets");
    assert!(longest(&ours) > 60_000, "no super-packet among them");
}

#[test]
fn udp_super_packets_are_whole() {
    let both = SideBySide::start(1500, &[]);
    for address in VethPair::RECEIVER {
        for bytes in [1, 1400, 1401, 40_000, 64_400] {
            udp_super_packets(&both.pair.sender, address, bytes, 20);
        }
    }
    let (ours, same) = both.assert_same();
    assert!(same >= 200, "only {same} packets");
    assert!(longest(&ours) > 64_400);
}

#[test]
fn a_recorded_conversation_is_what_was_said() {
    let both = SideBySide::start(1500, &[]);
    let http = HttpServer::start(&both.pair.receiver, 1);
    http.get(&both.pair.sender, VethPair::RECEIVER[0], "");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("said.pcap");
    let done = both.recorder.pcapdump(&["--dest", file.to_str().unwrap()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let fields = ["-Y", "http", "-T", "fields", "-e", "http.request.uri", "-e", "http.file_data"];
    let said = tshark(&file, &fields).join("\n");
    assert!(said.contains('/') && said.contains("hello from nginx"), "{said}");
}

fn numbers(file: &CaptureFile) -> BTreeSet<u32> {
    file.packets().filter_map(|packet| number_of(packet.data)).collect()
}

fn longest(file: &CaptureFile) -> u32 {
    file.packets().map(|packet| packet.original_len).max().unwrap_or_default()
}
