//! What comes out of a real kernel. Needs root, `ip`, `ethtool`, `python3` and `tcpdump`.

mod support;
mod undecided;

use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kuberewind_capture::{
    Capture, CaptureConfig, CaptureError, CaptureStatus, NamespaceStatus, NetnsSpec, NetnsWatch,
    Opener, replay,
};
use kuberewind_filter::CaptureFilter;
use kuberewind_packet::{
    ByteSize, Frame, Interface, Loss, LossCause, Owner, PacketSink, Slot, Timestamp,
};

use support::{Keeper, Netns, SOON, config, datagrams, frames, record, until};

fn of_netns(status: &CaptureStatus, netns: &Netns) -> NamespaceStatus {
    let owner = Owner::Netns(netns.name.clone());
    status.namespaces.iter().find(|namespace| namespace.owner == owner).unwrap().clone()
}

/// A UDP datagram from 10.77.0.1 to 10.77.0.2, from its IP header on.
fn udp(payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend((28 + len).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2]);
    packet.extend([0, 7, 0, 9]);
    packet.extend((8 + len).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

fn ethernet(tags: &[u8], payload: &[u8]) -> Vec<u8> {
    [&ADDRESSES[..], tags, &[0x08, 0x00], &udp(payload)].concat()
}

#[test]
fn settling_makes_a_packet_that_was_just_sent_visible() {
    let (a, b) = Netns::pair();
    let (capture, keeper) = record(config(), &[&b]);
    let before = Timestamp::now();
    a.python(&datagrams("10.77.0.2", "just-now", 1, 0));
    let to = Timestamp::now();
    capture.settle(to).unwrap();
    let kept = keeper.holding(b"just-now");
    assert_eq!(kept.len(), 1);
    assert_eq!(
        (kept[0].interface.as_str(), &kept[0].owner),
        ("eth0", &Owner::Netns(b.name.clone()))
    );
    assert!(before < kept[0].timestamp && kept[0].timestamp < to);
    assert!(keeper.lock().flushes > 0);
    capture.stop();
}

/// On this an agent that takes over from another relies: both cut at one moment.
#[test]
fn two_recorders_stamp_a_packet_alike_whichever_way_it_goes() {
    let (a, b) = Netns::pair();
    let both = [record(config(), &[&a, &b]), record(config(), &[&a, &b])];
    a.python(&datagrams("10.77.0.2", "alike", 500, 100));
    b.python(&datagrams("10.77.0.1", "alike", 500, 100));
    a.python(&datagrams("127.0.0.1", "alike", 500, 100));
    let raw: Vec<_> = (0..50).map(|_| ethernet(&[0x81, 0x00, 0x00, 0x05], b"alike")).collect();
    a.python(&frames(&raw.iter().map(Vec::as_slice).collect::<Vec<_>>()));
    let stamps = both.map(|(capture, keeper)| {
        capture.settle(Timestamp::now()).unwrap();
        let kept = keeper.holding(b"alike").into_iter();
        let mut stamps: Vec<_> =
            kept.map(|kept| (kept.timestamp, kept.owner, kept.interface, kept.bytes)).collect();
        stamps.sort();
        capture.stop();
        stamps
    });
    // Each leaves one end and comes in at the other; what stays is recorded once.
    assert_eq!(stamps[0].len(), 2 * 500 + 2 * 500 + 500 + 2 * 50);
    assert!(stamps[0] == stamps[1], "some packet has two times");
}

#[test]
fn loopback_is_recorded_once() {
    let netns = Netns::new();
    let (capture, keeper) = record(config(), &[&netns]);
    netns.python(&datagrams("127.0.0.1", "to-myself", 3, 0));
    capture.settle(Timestamp::now()).unwrap();
    let kept = keeper.holding(b"to-myself");
    assert_eq!(kept.iter().map(|kept| kept.interface.as_str()).collect::<Vec<_>>(), ["lo"; 3]);
    capture.stop();
}

#[test]
fn tagged_frames_are_kept_byte_for_byte() {
    let (a, b) = Netns::pair();
    let (capture, keeper) = record(config(), &[&b]);
    let sent = [
        ethernet(&[], b"tags: none"),
        ethernet(&[0x81, 0x00, 0x00, 0x05], b"tags: one"),
        ethernet(&[0x81, 0x00, 0xf0, 0x05], b"tags: with all its bits"),
        ethernet(&[0x81, 0x00, 0x00, 0x00], b"tags: priority only, of zero"),
        ethernet(&[0x88, 0xa8, 0x00, 0x07], b"tags: of a provider"),
        ethernet(&[0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x20, 0x05], b"tags: two"),
        ethernet(&[0x81, 0x00, 0x00, 0x07, 0x81, 0x00, 0x00, 0x05], b"tags: two alike"),
    ];
    let all: Vec<&[u8]> = sent.iter().map(Vec::as_slice).collect();
    a.python(&frames(&all));
    capture.settle(Timestamp::now()).unwrap();
    let kept = keeper.holding(b"tags: ");
    assert_eq!(kept.iter().map(|kept| &kept.bytes[..]).collect::<Vec<_>>(), all);
    assert!(kept.iter().all(|kept| kept.original_len as usize == kept.bytes.len()));
    capture.stop();
}

#[test]
fn packets_of_a_device_without_link_header_get_an_ethernet_header() {
    let netns = Netns::new();
    let (capture, keeper) = record(config(), &[&netns]);
    // A tun device through which a datagram goes out and one comes in.
    netns.python(
        "import fcntl, os, socket, struct, subprocess\n\
         tun = os.open('/dev/net/tun', os.O_RDWR)\n\
         fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', b'tun7', 0x1001))\n\
         subprocess.run('ip addr add 10.78.0.1/24 dev tun7; ip link set tun7 up', shell=True, check=True)\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.sendto(b'tunnelled', ('10.78.0.2', 9))\n\
         packet = bytearray(os.read(tun, 2000))\n\
         packet[12:16], packet[16:20] = packet[16:20], packet[12:16]\n\
         os.write(tun, packet)\n",
    );
    capture.settle(Timestamp::now()).unwrap();
    let kept = keeper.holding(b"tunnelled");
    assert_eq!(kept.len(), 2);
    for (kept, addresses) in kept.iter().zip([[1, 2], [2, 1]]) {
        assert_eq!(kept.interface, "tun7");
        assert_eq!(kept.bytes[..14], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
        assert_eq!([kept.bytes[14 + 15], kept.bytes[14 + 19]], addresses);
        assert_eq!(kept.original_len as usize, 14 + 28 + 9);
    }
    capture.stop();
}

#[test]
fn super_packets_are_the_same_as_in_tcpdump() {
    let (a, b) = Netns::pair();
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let options = ["-i", "eth0", "-s", "0", "-B", "65536", "-U", "-Z", "root", "-w", path, "tcp"];
    let mut tcpdump = b.spawn("tcpdump", &options);
    let (capture, keeper) = record(config(), &[&b]);
    // The transfer is faster than a test's sink: its ring has to hold it.
    a.python(&datagrams("10.77.0.3", "grow", 20_000, 1000));
    until("the ring has grown", SOON, || capture.status().ring_bytes > 16 << 20);
    capture.settle(Timestamp::now()).unwrap();
    keeper.lock().losses.clear();
    until("tcpdump has begun", SOON, || file.path().metadata().unwrap().len() > 0);
    let mut server = b.spawn(
        "python3",
        &[
            "-c",
            "import socket\n\
          s = socket.create_server(('10.77.0.2', 5001)); print('up', flush=True)\n\
          c, _ = s.accept()\n\
          while c.recv(1 << 20): pass\n",
        ],
    );
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(server.0.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    a.python(
        "import socket\n\
         c = socket.create_connection(('10.77.0.2', 5001))\n\
         c.sendall(bytes(range(256)) * 40000)\n",
    );
    server.0.wait().unwrap();
    capture.settle(Timestamp::now()).unwrap();
    let is_tcp = |kept: &&support::Kept| kept.bytes.get(23) == Some(&6);
    let mut ours: Vec<_> =
        keeper.lock().packets.iter().filter(is_tcp).map(|kept| kept.bytes.clone()).collect();
    let mut theirs = Keeper::default();
    until("tcpdump has written as many", SOON, || {
        theirs = Keeper::default();
        // An incomplete last record is an error, until it is complete.
        let _ = replay(file.path(), "n1", &mut theirs);
        theirs.lock().packets.len() >= ours.len()
    });
    tcpdump.0.kill().unwrap();
    let mut theirs: Vec<_> = theirs.lock().packets.iter().map(|kept| kept.bytes.clone()).collect();
    assert!(ours.iter().any(|bytes| bytes.len() > 10_000), "there are super-packets");
    ours.sort();
    theirs.sort();
    assert!(ours == theirs, "{} packets, tcpdump has {}", ours.len(), theirs.len());
    assert_eq!(keeper.lock().lost(), 0);
    capture.stop();
}

#[test]
fn interfaces_may_appear_be_renamed_and_vanish() {
    let netns = Netns::new();
    let (capture, keeper) = record(config(), &[&netns]);
    let send = |from: &str, marker: &str| {
        let sent = datagrams("10.79.0.2", marker, 1, 0)
            .replace("for i", &format!("s.setsockopt(socket.SOL_SOCKET, 25, b'{from}')\nfor i"));
        netns.python(&sent);
    };
    let ip = |arguments: &str| {
        netns.run("ip", &arguments.split(' ').collect::<Vec<_>>());
    };
    ip("link add late type veth peer name other");
    ip("link set other up");
    ip("link set late arp off");
    ip("addr add 10.79.0.1/24 dev late");
    ip("link set late up");
    send("late", "sent-1");
    capture.settle(Timestamp::now()).unwrap();
    ip("link set late down");
    ip("link set late name later");
    ip("link set later up");
    send("later", "sent-2");
    ip("link del later");
    capture.settle(Timestamp::now()).unwrap();
    let kept = keeper.holding(b"sent-").into_iter().map(|kept| kept.interface);
    let kept: Vec<_> = kept.filter(|interface| interface != "other").collect();
    assert_eq!(kept, ["late", "later"]);
    until("the interfaces are closed", SOON, || keeper.lock().open.is_empty());
    capture.stop();
}

#[test]
fn only_the_interfaces_asked_for_are_recorded() {
    let (a, b) = Netns::pair();
    let interfaces = vec!["lo".to_owned(), "late".to_owned()];
    let (capture, keeper) = record(CaptureConfig { interfaces, ..config() }, &[&b]);
    let problems = capture.status().problems;
    assert_eq!(problems, ["interface late is not there; it is recorded once it appears"]);
    a.python(&datagrams("10.77.0.2", "wanted", 1, 0));
    b.python(&datagrams("127.0.0.1", "wanted", 1, 0));
    capture.settle(Timestamp::now()).unwrap();
    let kept: Vec<_> = keeper.holding(b"wanted").into_iter().map(|kept| kept.interface).collect();
    assert_eq!(kept, ["lo"]);
    capture.stop();
}

#[test]
fn a_filter_is_replaced_while_recording_and_a_bad_one_is_refused() {
    let (a, b) = Netns::pair();
    let (capture, keeper) = record(config(), &[&b]);
    let short = Arc::new(CaptureFilter::everything_on_ip(60));
    capture.set_filter(short).unwrap();
    a.python(&datagrams("10.77.0.2", "filtered", 1, 100));
    capture.settle(Timestamp::now()).unwrap();
    let kept = keeper.holding(b"filtered");
    assert_eq!((kept[0].bytes.len(), kept[0].original_len), (60, 42 + 12 + 100));
    capture.stop();
}

#[test]
fn a_namespace_that_is_deleted_is_let_go_with_its_last_packets() {
    let (a, b) = Netns::pair();
    let keeper = Keeper::default();
    let capture =
        Arc::new(kuberewind_capture::Capture::start(config(), vec![keeper.clone()]).unwrap());
    let told = Arc::new(Mutex::new(Vec::new()));
    let watch = {
        let (capture, told) = (Arc::clone(&capture), Arc::clone(&told));
        NetnsWatch::start(
            vec![NetnsSpec::Name(b.name.clone())],
            Opener::default(),
            move |targets, problems| {
                told.lock().unwrap().push((targets.len(), problems.len()));
                capture.set_targets(targets);
            },
        )
        .unwrap()
    };
    until("it is recorded", SOON, || capture.status().namespaces.len() == 1);
    a.python(&datagrams("10.77.0.2", "farewell", 1, 0));
    let (name, began) = (b.name.clone(), Instant::now());
    drop(b);
    let eth0 = || a.run("ip", &["-o", "link"]).contains("eth0");
    until("the cable is gone", Duration::from_secs(3), || !eth0());
    println!("the cable was gone after {:?}", began.elapsed());
    assert_eq!(keeper.holding(b"farewell").len(), 1);
    assert!(keeper.lock().open.is_empty(), "every interface is closed");
    assert_eq!(capture.status().namespaces, []);
    // It comes back: another namespace under the same name.
    support::run("ip", &["netns", "add", &name]);
    until("it is recorded again", SOON, || capture.status().namespaces.len() == 1);
    support::run("ip", &["netns", "del", &name]);
    until("it is let go again", SOON, || capture.status().namespaces.is_empty());
    watch.stop();
    let mut told = told.lock().unwrap();
    told.dedup(); // the file without a namespace, then no file
    assert_eq!(*told, [(1, 0), (0, 1), (1, 0), (0, 1)]);
}

#[test]
fn a_namespace_that_lost_its_name_stays_while_a_process_lives_in_it() {
    let netns = Netns::new();
    let mut process = netns.spawn("sleep", &["600"]);
    let inode = netns.target().netns;
    let link = format!("/proc/{}/ns/net", process.0.id());
    until("the process is in it", SOON, || {
        fs::read_link(&link).is_ok_and(|link| link.to_string_lossy().contains(&inode.to_string()))
    });
    let targets = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&targets);
    let specs = vec![NetnsSpec::Name(netns.name.clone())];
    let watch = NetnsWatch::start(specs, Opener::default(), move |targets, _| {
        *told.lock().unwrap() = targets;
    })
    .unwrap();
    until("it is seen", SOON, || targets.lock().unwrap().len() == 1);
    drop(netns);
    until("it is reached through the process", SOON, || {
        let targets = targets.lock().unwrap();
        targets.iter().any(|target| target.netns == inode && target.path.starts_with("/proc"))
    });
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    until("it is let go", Duration::from_secs(2), || targets.lock().unwrap().is_empty());
    watch.stop();
}

#[test]
fn a_process_is_followed_to_its_end() {
    let netns = Netns::new();
    let mut process = netns.spawn("sleep", &["600"]);
    let told = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let specs = vec![NetnsSpec::Pid(process.0.id())];
    let tell = Arc::clone(&told);
    let watch = NetnsWatch::start(specs, Opener::default(), move |targets, problems| {
        *tell.lock().unwrap() = (targets, problems);
    })
    .unwrap();
    until("it is seen", SOON, || told.lock().unwrap().0.len() == 1);
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    until("its end is seen", Duration::from_secs(2), || told.lock().unwrap().0.is_empty());
    assert!(told.lock().unwrap().1[0].ends_with("the process has ended"));
    watch.stop();
}

#[test]
fn a_namespace_that_cannot_be_opened_is_a_problem_and_the_others_are_recorded() {
    let netns = Netns::new();
    let keeper = Keeper::default();
    let capture = kuberewind_capture::Capture::start(config(), vec![keeper]).unwrap();
    let mut odd = netns.target();
    odd.netns.0 += 100_000;
    odd.path = "/proc/version".into();
    capture.set_targets(vec![odd, netns.target()]);
    until("the other is recorded", SOON, || capture.status().namespaces.len() == 1);
    let problems = capture.status().problems;
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("/proc/version"), "{problems:?}");
    capture.stop();
}

#[test]
fn a_ring_that_grows_under_load_loses_nothing_and_doubles_nothing() {
    // 13 MB/s: more than a small ring is meant for, and little enough for a busy machine.
    const COUNT: u32 = 20_000;
    let paced = datagrams("10.77.0.3", "grow", COUNT, 1000)
        .replace("import socket", "import socket, time\nlate = 0\nbegan = time.monotonic()")
        + "    late = max(late, time.monotonic() - began - i * 75e-6)\n    \
           while time.monotonic() < began + i * 75e-6: pass\n\
           print(late)\n";
    let (a, b) = Netns::pair();
    // With so few namespaces only, rings begin large.
    let (c, d) = (Netns::new(), Netns::new());
    let (capture, keeper) = record(config(), &[&b, &c, &d]);
    assert_eq!(capture.status().ring_bytes, 3 << 20);
    let late: f64 = a.python(&paced).trim().parse().unwrap();
    capture.settle(Timestamp::now()).unwrap();
    let grown = of_netns(&capture.status(), &b);
    assert_eq!(grown.ring_bytes, 17 << 20, "it grew");
    let everything = keeper.lock();
    let (numbered, lost) = (everything.numbered(b"grow"), everything.lost());
    drop(everything);
    // A machine that held up the sender for a quarter of what the first ring takes may have held up the
    // thread for all of it.
    assert!(lost == 0 || late > 0.02, "{lost} lost, though the machine had time ({late} s)");
    assert_eq!(numbered.len() as u64 + lost, u64::from(COUNT));
    assert!(numbered.values().all(|count| *count == 1), "none is double");
    assert_eq!(grown.interfaces[0].packets, numbered.len() as u64);
    capture.stop();
}

#[test]
fn what_a_full_ring_loses_is_counted_exactly_and_with_its_cause() {
    const COUNT: u32 = 20_000;
    for (ring_memory, full, cause) in [
        (Some(ByteSize::new(3 << 20)), false, LossCause::RingMemory),
        (None, true, LossCause::Buffer),
    ] {
        let (a, b) = Netns::pair();
        let (c, d) = (Netns::new(), Netns::new());
        let (capture, keeper) = record(CaptureConfig { ring_memory, ..config() }, &[&b, &c, &d]);
        // Make it ask for more first, so that the cause is known; then hold the thread up.
        a.python(&datagrams("10.77.0.3", "warm", COUNT, 1000));
        capture.settle(Timestamp::now()).unwrap();
        let from = Timestamp::now();
        keeper.lock().full = full;
        if full {
            a.python(&datagrams("10.77.0.3", "lost", COUNT, 1000));
        } else {
            let busy = keeper.lock();
            a.python(&datagrams("10.77.0.3", "lost", COUNT, 1000));
            drop(busy);
        }
        let to = Timestamp::now();
        keeper.lock().full = false;
        capture.settle(to).unwrap();
        until("the loss is told", SOON, || {
            let everything = keeper.lock();
            let came = everything.numbered(b"lost").len() + everything.numbered(b"warm").len();
            everything.lost() + came as u64 == u64::from(2 * COUNT)
        });
        let everything = keeper.lock();
        // Where the processors are busy the thread may be late of itself and lose for that, too.
        let told = everything.losses.iter().rfind(|(_, loss)| loss.cause == cause);
        let Some((of, loss)) = told else { panic!("{:?}", everything.losses) };
        assert_eq!(of.name, "any");
        assert!(loss.to > from && loss.from < to && loss.from < loss.to);
        drop(everything);
        let by_cause = of_netns(&capture.status(), &b).lost;
        assert!(by_cause[&cause] > 0, "{by_cause:?}");
        capture.stop();
    }
}

#[test]
fn nothing_is_lost_uncounted_while_a_full_ring_grows() {
    const COUNT: u32 = 20_000;
    for _ in 0..5 {
        let (a, b) = Netns::pair();
        let (c, d) = (Netns::new(), Netns::new());
        let (capture, keeper) = record(config(), &[&b, &c, &d]);
        let small = of_netns(&capture.status(), &b).ring_bytes;
        // Read seldom, so that the first ring is full while the next one joins it.
        thread::scope(|scope| {
            let sending = scope.spawn(|| a.python(&datagrams("10.77.0.3", "growing", COUNT, 1000)));
            while !sending.is_finished() {
                let busy = keeper.lock();
                thread::park_timeout(Duration::from_millis(20));
                drop(busy);
                thread::park_timeout(Duration::from_millis(2));
            }
        });
        until("it has grown", SOON, || of_netns(&capture.status(), &b).ring_bytes > small);
        capture.settle(Timestamp::now()).unwrap();
        until("every packet is there or told as lost", SOON, || {
            let everything = keeper.lock();
            let came = everything.numbered(b"growing").len() as u64;
            assert!(everything.lost() + came <= u64::from(COUNT), "some are told twice");
            everything.lost() + came == u64::from(COUNT)
        });
        capture.stop();
    }
}

#[test]
fn settling_waits_for_room_in_the_sink() {
    let (a, b) = Netns::pair();
    let (capture, keeper) = record(config(), &[&b]);
    keeper.lock().full = true;
    a.python(&datagrams("10.77.0.2", "patience", 1, 0));
    let to = Timestamp::now();
    thread::scope(|scope| {
        let settled = scope.spawn(|| capture.settle(to));
        until("the time of handing over has passed", SOON, || {
            Timestamp::now().since(to) > Duration::from_millis(400)
        });
        assert!(!settled.is_finished());
        assert!(keeper.holding(b"patience").is_empty());
        keeper.lock().full = false;
        settled.join().unwrap().unwrap();
    });
    assert_eq!(keeper.holding(b"patience").len(), 1);
    capture.stop();
}

/// A sink that has room for one block now and then, less than comes.
#[derive(Clone, Default)]
struct Stingy(Arc<Mutex<Given>>);

#[derive(Default)]
struct Given {
    owners: Vec<Owner>,
    packets: Vec<u64>,
    next: Option<Instant>,
}

impl PacketSink for Stingy {
    fn open_interface(&mut self, interface: Interface) -> Slot {
        let mut given = self.0.lock().unwrap();
        given.owners.push(interface.owner);
        given.packets.push(0);
        Slot(u32::try_from(given.owners.len() - 1).unwrap())
    }

    fn close_interface(&mut self, _: Slot) {}

    fn reserve(&mut self, _: usize) -> bool {
        let mut given = self.0.lock().unwrap();
        let now = Instant::now();
        let room = given.next.is_none_or(|next| next <= now);
        if room {
            given.next = Some(now + Duration::from_millis(20));
        }
        room
    }

    fn packet(&mut self, slot: Slot, _: &Frame<'_>) {
        self.0.lock().unwrap().packets[slot.0 as usize] += 1;
    }

    fn loss(&mut self, _: Slot, _: Loss) {}

    fn tick(&mut self) {}

    fn flush(&mut self) {}
}

#[test]
fn with_less_room_than_packets_every_namespace_gets_its_turn_and_settling_ends() {
    let namespaces = [Netns::new(), Netns::new(), Netns::new()];
    let stingy = Stingy::default();
    let capture = Capture::start(config(), vec![stingy.clone()]).unwrap();
    capture.set_targets(namespaces.iter().map(Netns::target).collect());
    capture.settled_targets();
    let flood = datagrams("127.0.0.1", "flood", 100_000_000, 8_000);
    let floods: Vec<_> = namespaces.iter().map(|n| n.spawn("python3", &["-c", &flood])).collect();
    let packets_of = |netns: &Netns| -> u64 {
        let given = stingy.0.lock().unwrap();
        let owner = Owner::Netns(netns.name.clone());
        let of = given.owners.iter().zip(&given.packets).filter(|(of, _)| **of == owner);
        of.map(|(_, packets)| packets).sum()
    };
    until("all of them are recorded", SOON, || namespaces.iter().all(|n| packets_of(n) > 100));
    capture.settle(Timestamp::now()).unwrap();
    let packets: Vec<u64> = namespaces.iter().map(packets_of).collect();
    drop(floods);
    let all: u64 = packets.iter().sum();
    assert!(packets.iter().all(|packets| packets * 6 > all), "{packets:?}");
    assert!(capture.status().threads.stuck_for < Duration::from_secs(5));
    capture.stop();
}

#[test]
fn stopping_reads_the_last_packets_within_a_second() {
    let (a, b) = Netns::pair();
    let (capture, keeper) = record(config(), &[&a, &b]);
    a.python(&datagrams("10.77.0.2", "last words", 5, 0));
    let began = Instant::now();
    capture.stop();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(keeper.holding(b"last words").len(), 10, "five at either end");
    assert!(keeper.lock().open.is_empty());
}

#[test]
fn many_namespaces_are_opened_and_closed_together() {
    let all: Vec<Netns> = (0..20).map(|_| Netns::new()).collect();
    let (capture, keeper) = record(config(), &all.iter().collect::<Vec<_>>());
    for netns in &all {
        netns.python(&datagrams("127.0.0.1", "each", 1, 0));
    }
    capture.settle(Timestamp::now()).unwrap();
    assert_eq!(keeper.holding(b"each").len(), all.len());
    assert_eq!(capture.status().ring_bytes, 20 << 20);
    capture.set_targets(vec![all[3].target()]);
    capture.settled_targets();
    assert_eq!(capture.status().ring_bytes, 1 << 20);
    capture.stop();
}

#[test]
fn a_file_that_ends_within_a_packet_gives_what_is_whole_and_an_error() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut bytes = Vec::new();
    kuberewind_packet::pcap::push_file_header(&mut bytes);
    let frame = kuberewind_packet::Frame::whole(Timestamp::from_parts(7, 9), 60, b"whole");
    kuberewind_packet::pcap::push_packet(&mut bytes, &frame);
    file.write_all(&bytes).unwrap();
    let mut keeper = Keeper::default();
    assert_eq!(replay(file.path(), "n1", &mut keeper).unwrap(), 1);
    let kept = keeper.lock().packets[0].clone();
    assert_eq!((kept.timestamp, kept.original_len), (frame.timestamp, 60));
    assert_eq!(kept.bytes, b"whole");
    file.write_all(&bytes[24..30]).unwrap();
    let mut keeper = Keeper::default();
    let cut = replay(file.path(), "n1", &mut keeper);
    assert!(matches!(cut, Err(CaptureError::ReadPcap { .. })), "{cut:?}");
    assert_eq!(keeper.lock().packets.len(), 1);
}
