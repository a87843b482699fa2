//! `kuberewind pcapdump` against a cluster: whole, or said not to be.

mod extcap;
mod lab;

use std::fs;
use std::time::{Duration, Instant};

use kuberewind_apiserver_double::{Command as Act, End, Fate, Rule, User};
use kuberewind_tests::judges::{capinfos, read_by_all, tshark};
use kuberewind_tests::traffic::number_of;
use kuberewind_tests::{CaptureFile, Program, SmallDisk};
use rustix::process::Signal;
use serde_json::Value;

use lab::{ID, LITTLE, Lab, MUCH, NS, Traffic, frames, told};

/// The numbers of a file's packets, in its order.
fn numbers(file: &CaptureFile) -> Vec<u32> {
    file.packets().map(|packet| number_of(packet.data).expect("one of ours")).collect()
}

fn read(lab: &Lab, name: &str) -> CaptureFile {
    CaptureFile::read(&lab.path(name))
}

fn node<'a>(report: &'a Value, name: &str) -> &'a Value {
    let nodes = report["nodes"].as_array().expect("nodes");
    nodes.iter().find(|node| node["node"] == name).unwrap_or_else(|| panic!("{name} in {report}"))
}

fn failure(report: &Value, name: &str) -> String {
    node(report, name)["failure"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn three_nodes_become_one_file_in_the_order_of_time() {
    let lab = Lab::new(3, LITTLE);

    let report = lab.export("all.pcapng", 0, &[]);

    let file = read(&lab, "all.pcapng");
    assert_eq!(numbers(&file), (0..900).collect::<Vec<_>>());
    assert!(capinfos(&lab.path("all.pcapng")).strictly_ordered);
    read_by_all(&lab.path("all.pcapng"), 900);
    let mut interfaces = file.interfaces().to_vec();
    interfaces.sort();
    let expected = ["pay/db-1", "pay/db-2", "pay/db-3", "shop/web-1", "shop/web-2", "shop/web-3"];
    assert_eq!(interfaces, expected.map(|pod| format!("{pod}/eth0")));
    let described = tshark(
        &lab.path("all.pcapng"),
        &["-c", "1", "-T", "fields", "-e", "frame.interface_description"],
    );
    assert_eq!(described, ["node=n1 pod-uid=uid-of-web-1 netns=4026530001"]);

    assert_eq!(report["complete"], true);
    for name in ["n1", "n2", "n3"] {
        let node = node(&report, name);
        assert_eq!((&node["packets"], &node["losses"]), (&300.into(), &Value::Array(vec![])));
        assert_eq!(node["fetch"]["retries"], 0);
        let nanos = node["fetch"]["clock"]["nanos"].as_i64().expect("an offset");
        assert!(nanos.abs() < 1_000_000_000, "one machine's clocks are {nanos} ns apart");
        assert!(node["fetch"]["clock"]["boundNanos"].as_u64().expect("a bound") > 0);
    }
}

#[test]
fn the_file_is_named_after_the_cluster_and_the_windows_end() {
    let lab = Lab::new(2, LITTLE);
    let (code, said) = lab.run(&["--time", "5m"]);
    assert_eq!(code, 0, "{said}");
    let names = lab.left_behind();
    let [name] = &names[..] else { panic!("{names:?}") };
    let time = name.strip_prefix(&format!("{ID}-")).expect("the cluster's id");
    let time = time.strip_suffix("Z.pcap").expect("a pcap");
    assert!(time.len() == 15 && time.contains('T'), "{name}");
    assert_eq!(numbers(&read(&lab, name)), (0..600).collect::<Vec<_>>());
}

#[test]
fn a_window_is_the_same_instant_on_every_node() {
    let lab = Lab::new(3, LITTLE);
    let after = |millis| lab.start.saturating_add(Duration::from_millis(millis)).to_string();
    let (since, until) = (after(100), after(700));
    lab.export("part.pcap", 0, &["--since", &since, "--until", &until]);
    assert_eq!(numbers(&read(&lab, "part.pcap")), (100..700).collect::<Vec<_>>());
}

#[test]
fn a_window_without_packets_is_an_empty_file_and_one_before_all_is_none() {
    let lab = Lab::new(2, LITTLE);
    let at = |nanos: i64| {
        let time = lab.start.as_nanos().saturating_add_signed(nanos);
        kuberewind_packet::Timestamp::from_nanos(time).to_string()
    };
    let (since, until) = (at(10_200_000), at(10_400_000));
    lab.export("empty.pcap", 0, &["--since", &since, "--until", &until]);
    read_by_all(&lab.path("empty.pcap"), 0);

    let minutes = 60_000_000_000;
    let (since, until) = (at(-9 * minutes), at(-8 * minutes));
    let (code, said) = lab.run(&["--since", &since, "--until", &until, "--dest", "none.pcap"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("nothing is recorded of"), "{said}");
    assert_eq!(lab.left_behind(), ["empty.pcap"]);

    let report = lab.export("clipped.pcap", 0, &["--since", &at(-9 * minutes)]);
    assert_eq!(report["packets"], 600);
    assert_eq!(node(&report, "n1")["gaps"][0]["cause"], "notStarted");
}

#[test]
fn pods_namespaces_nodes_and_filters_choose() {
    let lab = Lab::new(3, LITTLE);
    let pods = |name: &str| {
        let mut pods = read(&lab, name).interfaces().to_vec();
        pods.sort();
        pods
    };
    let report = lab.export("pod.pcapng", 0, &["--pod", "^web-[12]$"]);
    assert_eq!(pods("pod.pcapng"), ["shop/web-1/eth0", "shop/web-2/eth0"]);
    assert_eq!((&report["packets"], &report["complete"]), (&300.into(), &true.into()));

    lab.export("ns.pcapng", 0, &["-n", "pay,none", "--node", "n3", "--node", "n1"]);
    assert_eq!(pods("ns.pcapng"), ["pay/db-1/eth0", "pay/db-3/eth0"]);

    lab.export("filter.pcapng", 0, &["--filter", "tcp"]);
    assert_eq!(numbers(&read(&lab, "filter.pcapng")), [0; 0]);
}

#[test]
fn a_wrong_call_is_found_before_anybody_is_asked() {
    let lab = Lab::new(1, LITTLE);
    for (arguments, why) in [
        (["--pod", "web("].as_slice(), "--pod web(: "),
        (&["--filter", "host and"], "syntax error"),
        (&["--time", "soon"], "--time soon"),
        (&["--timeout", "0s"], "--timeout 0s"),
        (&["--dest", "file.txt"], "--dest file.txt"),
        (&["--follow"], "--local"),
    ] {
        let (code, said) = lab.run(arguments);
        assert_eq!(code, 2, "{arguments:?}\n{said}");
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(lab.double.requests(), [""; 0]);

    let (code, said) = lab.run(&["--node", "n7"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("n7") && said.contains("there are: n1"), "{said}");
}

fn user(lab: &Lab, token: &str, rules: Vec<Rule>) {
    let user = User { name: format!("system:serviceaccount:{NS}:{token}"), rules };
    lab.act(Act::User { token: token.to_owned(), user });
}

#[test]
fn the_exporters_rights_are_enough_and_a_missing_one_is_named() {
    let lab = Lab::new(2, LITTLE);
    let within = Some(NS);
    let exporter = || {
        vec![
            Rule::core(&["get", "list"], &["pods"], within),
            Rule::of("apps", &["get"], &["daemonsets"], within),
            Rule::core(&["get"], &["configmaps"], within),
            Rule::of("authorization.k8s.io", &["create"], &["selfsubjectaccessreviews"], None),
        ]
    };
    let forwards = |verbs: &[&str]| Rule::core(verbs, &["pods/portforward"], within);
    user(&lab, "exporter", [exporter(), vec![forwards(&["get", "create"])]].concat());
    user(&lab, "half", [exporter(), vec![forwards(&["get"])]].concat());
    let run = |token| {
        let mut command = lab.command_as(Some(token), &["--dest", "out.pcap"]);
        told(&command.output().expect("kuberewind runs"))
    };
    let (code, said) = run("half");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("`create` on pods/portforward in namespace kuberewind"), "{said}");
    assert_eq!(lab.left_behind(), [""; 0]);
    let (code, said) = run("exporter");
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_slow_way_delivers_every_byte() {
    // 40 MB at 3 MB/s.
    let traffic = Traffic { packets: 40_000, len: 1_000 };
    let lab = Lab::new(1, traffic);
    lab.reach(0, |reach| reach.bytes_per_second = Some(3_000_000));
    let began = Instant::now();
    // Shorter than the whole takes: only silence counts.
    let report = lab.export("slow.pcap", 0, &["--timeout", "2s"]);
    assert!(began.elapsed() > Duration::from_secs(12), "{:?}", began.elapsed());
    assert_eq!((&report["packets"], &report["complete"]), (&40_000.into(), &true.into()));
    assert_eq!(node(&report, "n1")["fetch"]["retries"], 0);
    let file = read(&lab, "slow.pcap");
    let mut got = file.packets().map(|packet| packet.data);
    for (number, frame) in frames(0, 1, traffic) {
        assert!(got.next() == Some(&*frame), "packet {number} is another");
    }
    assert_eq!(got.next(), None);
}

/// Streams that end in each way, once: the session that asks for clocks is the first, the window's
/// the second.
#[test]
fn a_stream_that_breaks_is_fetched_again() {
    for end in [End::Close, End::Drop, End::Stall] {
        let lab = Lab::new(2, MUCH);
        lab.reach(1, |reach| {
            reach.end_after = Some(1_000_000);
            reach.end = end;
            reach.times = Some(2);
        });
        let report = lab.export("all.pcap", 0, &["--timeout", "2s"]);
        assert_eq!(numbers(&read(&lab, "all.pcap")), (0..6_000).collect::<Vec<_>>());
        assert_eq!(report["complete"], true);
        assert_eq!(node(&report, "n1")["fetch"]["retries"], 0);
        assert_eq!(node(&report, "n2")["fetch"]["retries"], 1, "{end:?}");
        let forwarded = lab.forwarded("n2");
        assert!(forwarded < 3_500_000, "{forwarded} bytes: what was there came again ({end:?})");
    }
}

#[test]
fn an_older_agent_that_leaves_nothing_out_sends_all_of_it_again() {
    let lab = Lab::new(2, MUCH);
    lab.nodes[1].lack("kuberewind-skip");
    lab.reach(1, |reach| {
        reach.end_after = Some(1_000_000);
        reach.end = End::Close;
        reach.times = Some(2);
    });
    let report = lab.export("all.pcap", 0, &[]);
    assert_eq!(numbers(&read(&lab, "all.pcap")), (0..6_000).collect::<Vec<_>>());
    assert_eq!(node(&report, "n2")["fetch"]["retries"], 1);
    assert!(lab.forwarded("n2") > 4_000_000);
}

#[test]
fn a_stream_that_always_breaks_is_named_and_what_came_of_it_kept() {
    let lab = Lab::new(2, MUCH);
    lab.reach(1, |reach| {
        reach.end_after = Some(300_000);
        reach.end = End::Close;
    });
    let report = lab.export("all.pcap", 3, &[]);
    assert_eq!(report["complete"], false);
    assert_eq!(node(&report, "n1")["packets"], 3_000);
    let part = node(&report, "n2")["packets"].as_u64().expect("a count");
    // Each attempt goes on where the last one broke.
    assert!((800..1_200).contains(&part), "{part}");
    let why = failure(&report, "n2");
    assert!(why.contains("asked 4 times"), "{why}");
    let mut expected: Vec<_> =
        (0..6_000).filter(|number| number % 2 == 0 || u64::from(number / 2) < part).collect();
    expected.sort_unstable();
    assert_eq!(numbers(&read(&lab, "all.pcap")), expected);
    lab.export("partial.pcap", 0, &["--allow-partial"]);
}

#[test]
fn a_single_node_that_breaks_gives_no_file() {
    let lab = Lab::new(1, MUCH);
    lab.reach(0, |reach| {
        reach.end_after = Some(1_000_000);
        reach.end = End::Stall;
    });
    let (code, said) = lab.run(&["--dest", "none.pcap", "--timeout", "1s"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("n1: ") && said.contains("nothing came for 1"), "{said}");
    assert_eq!(lab.left_behind(), [""; 0]);
}

#[test]
fn an_agent_that_dies_in_mid_stream_and_comes_back_gives_all() {
    let mut lab = Lab::new(2, MUCH);
    lab.nodes[1].hold_at(1_000_000);
    let dest = lab.path("all.pcap").display().to_string();
    // The recording that is killed lacks its last moments, so the window ends before.
    let until = lab.start.saturating_add(Duration::from_secs(20)).to_string();
    let mut export = Program::start(&mut lab.command(&["--dest", &dest, "--until", &until]));
    lab.nodes[1].wait_to_be_held();
    lab.nodes[1].kill();
    lab.nodes[1].start();
    lab.nodes[1].release();
    assert_eq!(export.ended(Duration::from_mins(1)).code(), Some(0), "{}", export.said());
    assert_eq!(numbers(&read(&lab, "all.pcap")), (0..6_000).collect::<Vec<_>>());
    let said = export.said();
    assert!(said.contains("n2 note: its stream broke"), "{said}");
}

/// As a cluster tells it: the session closes as after a normal end, and nobody listens from then on.
#[test]
fn an_agent_that_dies_in_mid_stream_for_good_never_gives_a_short_file_as_if_it_were_whole() {
    let mut lab = Lab::new(2, MUCH);
    lab.nodes[1].hold_at(1_000_000);
    let dest = lab.path("all.pcap").display().to_string();
    let report = lab.path("report.json");
    let arguments = ["--dest", &dest, "--report", &report.display().to_string()];
    let mut export = Program::start(&mut lab.command(&arguments));
    lab.nodes[1].wait_to_be_held();
    lab.nodes[1].kill();
    lab.nodes[1].release();
    assert_eq!(export.ended(Duration::from_mins(1)).code(), Some(3), "{}", export.said());
    let report: Value = serde_json::from_slice(&fs::read(report).expect("a report")).expect("JSON");
    assert_eq!(
        (&report["complete"], &node(&report, "n1")["packets"]),
        (&false.into(), &3_000.into())
    );
    let part = node(&report, "n2")["packets"].as_u64().expect("a count");
    assert!((500..2_000).contains(&part), "{part}");
    assert_eq!(numbers(&read(&lab, "all.pcap")).len() as u64, 3_000 + part);
    assert!(failure(&report, "n2").contains("asked 4 times"), "{}", failure(&report, "n2"));

    let (code, said) = lab.run(&["--node", "n2", "--dest", "none.pcap"]);
    assert_eq!(code, 1, "{said}");
    assert!(!lab.path("none.pcap").exists());
}

#[test]
fn an_older_agent_gives_its_packets_unless_it_is_asked_for_what_it_does_not_know() {
    let lab = Lab::new(2, LITTLE);
    lab.nodes[1].lack("pods");
    let report = lab.export("all.pcap", 0, &[]);
    assert_eq!(report["packets"], 600);

    let report = lab.export("web.pcap", 3, &["--pod", "^web-"]);
    assert_eq!((&report["packets"], &report["complete"]), (&150.into(), &false.into()));
    assert_eq!(
        failure(&report, "n2"),
        "it runs kuberewind 0.0.9, which does not know `--pod`; upgrade it with `kuberewind tap`"
    );
    assert_eq!(node(&report, "n2")["fetch"]["retries"], 0);

    let (code, said) = lab.run(&["--pod", "^web-", "--node", "n2", "--dest", "none.pcap"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("n2: it runs kuberewind 0.0.9, which does not know `--pod`"), "{said}");
    assert!(!lab.path("none.pcap").exists());
}

/// Another version's question, to an agent of this one.
#[test]
fn an_agent_refuses_a_parameter_that_it_does_not_know_by_name() {
    let lab = Lab::new(1, LITTLE);
    let socket = lab.nodes[0].socket().display().to_string();
    let url = "http://kuberewind/v1/window?compress=true&hosts=10.0.0.1";
    let mut curl = std::process::Command::new("curl");
    let answer = curl.args(["-s", "-w", "\n%{http_code}", "--unix-socket", &socket, url]).output();
    let answer = String::from_utf8(answer.expect("curl runs").stdout).expect("text");
    let (body, code) = answer.rsplit_once('\n').expect("a code");
    assert_eq!(code, "400", "{body}");
    let body: Value = serde_json::from_str(body).expect("JSON");
    let version = env!("CARGO_PKG_VERSION");
    let unknown = serde_json::json!({"version": version, "parameters": ["hosts"]});
    assert_eq!(body["unknown"], unknown);
    assert_eq!(body["error"], format!("kuberewind {version} does not know the parameter hosts"));
}

#[test]
fn a_node_killed_in_mid_export_is_named_and_the_rest_is_whole() {
    let mut lab = Lab::new(3, MUCH);
    lab.nodes[1].hold_at(1_000_000);
    let dest = lab.path("all.pcap");
    let report = lab.path("report.json");
    let arguments =
        ["--dest", &dest.display().to_string(), "--report", &report.display().to_string()];
    let mut export = Program::start(&mut lab.command(&arguments));
    lab.nodes[1].wait_to_be_held();
    lab.act(Act::KillNode { name: "n2".to_owned() });
    lab.nodes[1].kill();
    assert_eq!(export.ended(Duration::from_mins(1)).code(), Some(3), "{}", export.said());
    let report: Value = serde_json::from_slice(&fs::read(report).expect("a report")).expect("JSON");
    for whole in ["n1", "n3"] {
        assert_eq!(node(&report, whole)["packets"], 3_000);
        assert!(failure(&report, whole).is_empty());
    }
    assert!(failure(&report, "n2").contains("no route to host"), "{}", failure(&report, "n2"));
    let got = numbers(&read(&lab, "all.pcap"));
    assert_eq!(got.iter().filter(|number| *number % 3 != 1).count(), 6_000);
    assert!(got.is_sorted());
    assert!(export.said().contains("n2 FAILED"), "{}", export.said());
}

#[test]
fn nodes_that_cannot_answer_are_named_with_the_reason() {
    let lab = Lab::new(4, LITTLE);
    lab.act(Act::KillNode { name: "n2".to_owned() });
    lab.fate("n3", Fate::CrashLoop { message: "the disk is gone".to_owned(), exit_code: 1 });
    lab.fate("n4", Fate::Refused { message: "exceeded quota: small".to_owned() });
    lab.act(Act::Remove {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: NS.to_owned(),
        name: lab.agent_of("n4"),
    });
    let report = lab.export("all.pcap", 3, &[]);
    assert_eq!(report["packets"], 300);
    for (name, why) in [
        ("n2", "its node does not answer"),
        ("n3", "the disk is gone"),
        ("n4", "exceeded quota: small"),
    ] {
        assert!(failure(&report, name).contains(why), "{name}: {}", failure(&report, name));
    }
    lab.export("partial.pcap", 0, &["--allow-partial"]);
    lab.export("one.pcap", 0, &["--node", "n1"]);
    let (code, said) = lab.run(&["--node", "n2,n3,n4", "--dest", "none.pcap"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no node gave its packets"), "{said}");
}

#[test]
fn where_nothing_is_installed_the_way_to_install_is_told() {
    let lab = Lab::new(0, LITTLE);
    let (code, said) = lab.run(&["-s", "elsewhere"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("kuberewind tap"), "{said}");
}

#[test]
fn standard_output_gets_the_whole_file_or_nothing() {
    let lab = Lab::new(2, LITTLE);
    let temporary = lab.path("tmp");
    fs::create_dir(&temporary).expect("a directory");
    let run = || {
        let mut command = lab.command(&["--dest", "-"]);
        command.env("TMPDIR", &temporary).output().expect("kuberewind runs")
    };
    let done = run();
    assert_eq!(done.status.code(), Some(0), "{}", told(&done).1);
    fs::write(lab.path("piped.pcap"), &done.stdout).expect("a file");
    assert_eq!(numbers(&read(&lab, "piped.pcap")), (0..600).collect::<Vec<_>>());
    assert!(String::from_utf8_lossy(&done.stderr).contains("complete"));
    assert_eq!(fs::read_dir(&temporary).expect("a directory").count(), 0);

    for number in 0..2 {
        lab.reach(number, |reach| reach.end_after = Some(2_000));
    }
    let done = run();
    assert_eq!((done.status.code(), done.stdout.len()), (Some(1), 0), "{}", told(&done).1);
}

#[test]
fn a_full_disk_is_an_error_that_names_the_way_out_and_leaves_nothing() {
    let lab = Lab::new(2, MUCH);
    let disk = SmallDisk::new(2_000_000);
    let (code, said) = lab.run(&["--dest", &format!("{}/", disk.path().display())]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("choose another --dest") && said.contains("No space left"), "{said}");
    assert!(disk.names().is_empty(), "{:?}", disk.names());
}

#[test]
fn a_stopped_export_leaves_nothing() {
    let lab = Lab::new(2, MUCH);
    lab.nodes[1].hold_at(300_000);
    let dest = lab.path("all.pcap");
    let mut export = Program::start(&mut lab.command(&["--dest", &dest.display().to_string()]));
    lab.nodes[1].wait_to_be_held();
    export.signal(Signal::INT);
    assert_eq!(export.ended(Duration::from_secs(5)).code(), Some(1), "{}", export.said());
    assert!(export.said().contains("stopped"), "{}", export.said());
    assert_eq!(lab.left_behind(), [""; 0]);
}

#[test]
fn a_few_at_a_time_are_as_good_as_all_at_once() {
    let lab = Lab::new(4, LITTLE);
    let report = lab.export("all.pcap", 0, &["--parallel", "1"]);
    assert_eq!(report["packets"], 1_200);
    assert_eq!(numbers(&read(&lab, "all.pcap")), (0..1_200).collect::<Vec<_>>());
}
