//! Filters in the kernel, judged by tcpdump: the same frames on every kind of device.
//!
//! Needs root, tcpdump, iproute2, util-linux and python3, and fails without.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use kuberewind_filter::CaptureFilter;
use kuberewind_packet::MAX_CAPTURED;
use serde::Deserialize;

const EXPRESSIONS: &[&str] = &[
    "",
    "tcp",
    "udp port 53",
    "icmp",
    "icmp6",
    "sctp",
    "ip",
    "ip6",
    "arp",
    "host 10.0.0.1",
    "host fd00::2",
    "net 192.168.0.0/16",
    "src net 10.0.0.0/8 and dst net 192.168.0.0/16",
    "vlan",
    "vlan 100",
    "vlan 100 and tcp",
    "vlan and vlan",
    "vlan and vlan and ip",
    "not vlan",
    "tcp or (vlan and tcp)",
    "ip or (vlan and ip)",
    "tcp[tcpflags] & tcp-syn != 0",
    "portrange 50-60",
    "less 100",
    "greater 500",
    "not port 22",
    "not tcp",
    "ether host 02:00:00:00:00:01",
    "ether broadcast",
    "ether[12:2] = 0x0800",
    "proto 132",
    "ip proto 47",
    "ip multicast",
    "ip[6:2] & 0x1fff != 0",
    "icmp[icmptype] = icmp-echo",
    "inbound",
    "outbound",
];
const DEFAULT: &str = "(default)";
const CUT: &str = "(default, 60 bytes)";
const LONG: &str = "(200 hosts)";

#[derive(Deserialize)]
struct Answer {
    frames: BTreeMap<String, Sent>,
    seen: BTreeMap<String, Vec<String>>,
    ours: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    longest: BTreeMap<String, u32>,
    tcpdump: BTreeMap<String, BTreeMap<String, Judged>>,
}

#[derive(Deserialize, Debug)]
struct Sent {
    frame: String,
    tags: String,
    way: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Judged {
    Took(Vec<String>),
    Refused(String),
}

fn run(programs: &BTreeMap<String, CaptureFilter>) -> Answer {
    let lines = |filter: &CaptureFilter| -> Vec<_> {
        filter.program().iter().map(|line| (line.code, line.jt, line.jf, line.k)).collect()
    };
    let programs: BTreeMap<_, _> = programs.iter().map(|(name, f)| (name, lines(f))).collect();
    let request = serde_json::json!({ "programs": programs, "expressions": EXPRESSIONS });
    let mut child = Command::new("unshare")
        .args(["--net", "python3", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare (util-linux) is needed");
    child.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "live.py: {} (it needs root and tcpdump)", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn many_hosts(count: u32) -> String {
    let hosts: Vec<_> = (0..count).map(|n| format!("host 10.1.{}.{}", n / 250, n % 250)).collect();
    hosts.join(" or ") + " or host 10.0.0.1"
}

fn programs() -> BTreeMap<String, CaptureFilter> {
    let compile = |expression: &str| CaptureFilter::compile(expression, MAX_CAPTURED).unwrap();
    let mut programs: BTreeMap<_, _> = EXPRESSIONS
        .iter()
        .map(|expression| ((*expression).to_owned(), compile(expression)))
        .collect();
    programs.insert(DEFAULT.into(), CaptureFilter::everything_on_ip(MAX_CAPTURED));
    programs.insert(CUT.into(), CaptureFilter::everything_on_ip(60));
    programs.insert(LONG.into(), compile(&many_hosts(200)));
    programs
}

impl Answer {
    /// The frames by these marks, for people.
    fn name(&self, marks: &[String]) -> Vec<&Sent> {
        marks.iter().map(|mark| &self.frames[mark]).collect()
    }

    fn assert_taken(&self, program: &str, device: &str, expected: &[String]) {
        let ours = &self.ours[program][device];
        let missing: Vec<_> = expected.iter().filter(|m| !ours.contains(m)).cloned().collect();
        let wrong: Vec<_> = ours.iter().filter(|m| !expected.contains(m)).cloned().collect();
        assert_eq!(
            ours,
            expected,
            "`{program}` on {device}: missing {:#?}, wrong {:#?}",
            self.name(&missing),
            self.name(&wrong)
        );
    }
}

#[test]
fn every_kind_of_device_gives_what_tcpdump_takes_of_it() {
    let answer = run(&programs());

    let mut compared = 0;
    for (expression, devices) in &answer.tcpdump {
        for (device, judged) in devices {
            match judged {
                Judged::Took(marks) => answer.assert_taken(expression, device, marks),
                Judged::Refused(_) if device == "tun0" => {
                    answer.assert_taken(expression, device, &[]);
                }
                Judged::Refused(why) => panic!("tcpdump on {device}: {why}"),
            }
            compared += 1;
        }
    }
    assert_eq!(compared, EXPRESSIONS.len() * 4);
    for device in ["veth0", "veth2", "tun0", "lo"] {
        assert!(!answer.ours["tcp"][device].is_empty(), "nothing sent on {device}");
    }

    // A tag that the kernel took out of the bytes hides nothing.
    let tagged_syn =
        |sent: &Sent| sent.way == "into veth0" && sent.frame == "tcp syn" && sent.tags == "100";
    let mark = answer.frames.iter().find(|(_, sent)| tagged_syn(sent)).unwrap().0;
    assert!(answer.ours["tcp"]["veth0"].contains(mark));

    for (device, seen) in &answer.seen {
        let is_ip = |mark: &&String| !["arp", "lldp"].contains(&&*answer.frames[*mark].frame);
        let ip: Vec<_> = seen.iter().filter(is_ip).cloned().collect();
        answer.assert_taken(DEFAULT, device, &ip);
        let host = match &answer.tcpdump["host 10.0.0.1"][device] {
            Judged::Took(marks) => marks,
            Judged::Refused(why) => panic!("tcpdump on {device}: {why}"),
        };
        answer.assert_taken(LONG, device, host);
    }
    assert_eq!(answer.longest[CUT], 60);
    assert!(answer.longest[DEFAULT] > 700);
}
