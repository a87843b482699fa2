//! The laboratory itself: the frames that it makes are right, and tcpdump sees all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use kuberewind_tests::judges::{read_by_all, scapy, tshark};
use kuberewind_tests::traffic::{Mixed, Rate, number_of, numbered, send, send_frame, write_pcap};
use kuberewind_tests::{Between, CaptureFile, Tcpdump, VethPair, assert_same};

#[test]
fn made_frames_are_of_every_kind_with_right_checksums() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mixed.pcap");
    let count = write_pcap(&path, Mixed::new(3, 9000).take(6_000));
    assert_eq!(count, 6_000);
    read_by_all(&path, count);

    let checked = ["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"];
    let also = ["-o", "udp.check_checksum:TRUE", "-o", "sctp.checksum:crc-32c"];
    let show = |filter: &str| {
        let fields = ["-T", "fields", "-e", "frame.number", "-Y", filter];
        tshark(&path, &[&checked[..], &also, &fields].concat())
    };
    let bad = "ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 \
        || sctp.checksum.status == 0 || icmp.checksum.status == 0 || icmpv6.checksum.status == 0 \
        || _ws.malformed";
    assert_eq!(show(bad), Vec::<String>::new());
    let kinds = [
        "ip && tcp.checksum.status == 1",
        "ipv6 && tcp.checksum.status == 1",
        "ip && udp.checksum.status == 1",
        "ipv6 && udp.checksum.status == 1",
        "ip && sctp.checksum.status == 1",
        "ipv6 && sctp.checksum.status == 1",
        "icmp.checksum.status == 1",
        "icmpv6.checksum.status == 1",
        "vlan && !ieee8021ad",
        "ieee8021ad && vlan",
        "ip.flags.mf == 1",
        "ip.frag_offset > 0",
        "ipv6.fraghdr.more == 1",
        "ip.fragments",
        "ipv6.fragments",
        "frame.len > 8900",
    ];
    for kind in kinds {
        assert_ne!(show(kind).len(), 0, "no frame is `{kind}`");
    }
}

#[test]
fn scapy_agrees_on_the_checksum_of_sctp() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mixed.pcap");
    write_pcap(&path, Mixed::new(4, 1500).take(400));
    let program = "import sys\n\
        from scapy.all import rdpcap, raw, IP, IPv6, IPv6ExtHdrFragment\n\
        from scapy.layers.sctp import SCTP\n\
        count = 0\n\
        for packet in rdpcap(sys.argv[1]):\n    \
            if SCTP not in packet: continue\n    \
            ip = packet[IP] if IP in packet else packet[IPv6]\n    \
            if IPv6ExtHdrFragment in packet: continue\n    \
            if IP in packet and (ip.flags.MF or ip.frag): continue\n    \
            ours = raw(packet)\n    \
            packet[SCTP].chksum = None\n    \
            assert raw(packet) == ours, packet.show(dump=True)\n    \
            count += 1\n\
        print(count)";
    assert!(scapy(program, &path).trim().parse::<u32>().unwrap() > 50);
}

#[test]
fn two_tcpdumps_see_the_same_and_all_of_it() {
    let pair = VethPair::new(9000);
    let (first, last) = (numbered(u32::MAX - 1, 64), numbered(u32::MAX, 64));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mixed.pcap");
    let count = write_pcap(&path, Mixed::new(5, 9000).take(50_000));
    let dumps = [(); 2].map(|()| Tcpdump::start(&pair.receiver, VethPair::INTERFACE));
    send_frame(&pair.sender, VethPair::INTERFACE, &first);
    assert_eq!(send(&pair.sender, VethPair::INTERFACE, &path, Rate::PerSecond(40_000)), count);
    send_frame(&pair.sender, VethPair::INTERFACE, &last);
    let [one, other] = dumps.map(|dump| dump.stop_after(&last));
    let between = Between { first: &first, last: &last };
    let same = assert_same(&one, None, &other, between, Duration::from_millis(50));
    // The kernels on the cable say a word or two themselves (multicast listener reports).
    assert!(same as u64 >= count);
    assert_numbers(&one, count);
}

fn assert_numbers(file: &CaptureFile, count: u64) {
    let numbers: BTreeSet<_> = file.packets().filter_map(|packet| number_of(packet.data)).collect();
    assert_eq!(numbers.len() as u64, count + 2);
}
