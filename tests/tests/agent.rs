//! An agent on its node: settings that change while it records, an API server that is away, and the node's
//! own interfaces.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use kuberewind_apiserver_double::Command;
use kuberewind_tests::cluster::{Cluster, Pod, mark};
use kuberewind_tests::{
    CaptureFile, Recorder, Status, output, status, succeed, wait_for, wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(30);

fn agent_status(cluster: &Cluster) -> Status {
    wait_for("the agent to answer", WITHIN, || status(&cluster.data("n1")))
}

/// Everything that is held.
fn export(cluster: &Cluster, code: i32) -> CaptureFile {
    let path = cluster.dir().join("all.pcapng");
    let _ = std::fs::remove_file(&path);
    cluster.expect(code, &["pcapdump", "--vantage", "all", "--dest", "all.pcapng"]);
    CaptureFile::read(&path)
}

/// Whether it was recorded at this pod; the bridge gives a frame for nobody to all of them.
fn has(file: &CaptureFile, pod: &Pod, frame: &[u8]) -> bool {
    let name = format!("{}/eth0", pod.full_name());
    file.packets().any(|packet| packet.interface == Some(&name) && packet.data == frame)
}

/// What `tap` wrote, changed by hand.
fn edit_settings(cluster: &Cluster, edit: impl FnOnce(&mut Value)) {
    let mut object =
        cluster.double().object("v1", "ConfigMap", "kuberewind", "kuberewind").unwrap();
    let mut values: Value =
        serde_json::from_str(object["data"]["values.yaml"].as_str().unwrap()).unwrap();
    edit(&mut values);
    object["data"]["values.yaml"] = json!(values.to_string());
    cluster.control(Command::Put { object });
}

#[test]
fn settings_change_while_it_records_and_bad_ones_change_nothing() {
    let cluster = Cluster::start(1);
    let (cart, till) = (cluster.pod("n1", "shop", "cart-1"), cluster.pod("n1", "shop", "till-1"));
    cluster.expect(0, &["tap", "cart", "--set", "headless=true"]);
    for pod in [&cart, &till] {
        pod.wait_to_carry();
    }
    let agent = cluster.agent("n1");
    let first = [mark(), mark()];
    cart.send(&first[0]);
    till.send(&first[1]);

    cluster.expect(0, &["tap", "till", "--set", "headless=true"]);
    let second = [mark(), mark()];
    cart.send(&second[0]);
    till.send(&second[1]);

    edit_settings(&cluster, |values| values["pcapdump"]["maxSize"] = json!("5"));
    wait_until("the agent to complain", WITHIN, || {
        let problems = agent_status(&cluster).problems;
        problems.iter().any(|problem| {
            problem.contains("`pcapdump.maxSize` in ConfigMap kuberewind/kuberewind")
                && problem.contains("the last good settings")
        })
    });
    let third = mark();
    till.send(&third);
    edit_settings(&cluster, |values| {
        values["pcapdump"]["maxSize"] = json!("70MB");
        values["tap"]["regex"] = json!("");
    });
    wait_until("the agent to be content", WITHIN, || agent_status(&cluster).problems.is_empty());
    let fourth = mark();
    wait_until("both pods to be recorded", WITHIN, || agent_status(&cluster).namespaces.len() == 2);
    cart.send(&fourth);

    let all = export(&cluster, 0);
    assert!(has(&all, &cart, &first[0]) && !has(&all, &till, &first[1]));
    assert!(!has(&all, &cart, &second[0]) && has(&all, &till, &second[1]));
    assert!(has(&all, &till, &third) && has(&all, &cart, &fourth));
    assert_eq!(cluster.agent("n1"), agent, "no agent was replaced");
}

#[test]
fn without_an_api_server_a_new_agent_goes_on_with_what_the_last_one_knew() {
    let cluster = Cluster::start(1);
    let (cart, vault) =
        (cluster.pod("n1", "shop", "cart-1"), cluster.pod("n1", "secret", "vault-1"));
    cluster.expect(0, &["tap", "--set", "headless=true", "-e", "secret"]);
    for pod in [&cart, &vault] {
        pod.wait_to_carry();
    }
    let before = mark();
    cart.send(&before);
    // Whoever exports waits until it is on the disk.
    assert!(has(&export(&cluster, 0), &cart, &before));

    cluster.control(Command::Serve { serving: false });
    cluster.kill_agent("n1", WITHIN);
    wait_until("the next agent to say what is wrong", WITHIN, || {
        status(&cluster.data("n1")).is_some_and(|status| {
            let told = |what| status.problems.iter().any(|problem| problem.contains(what));
            told("known before the restart") && status.namespaces.len() == 1
        })
    });
    let frames = [mark(), mark()];
    cart.send(&frames[0]);
    vault.send(&frames[1]);

    cluster.control(Command::Serve { serving: true });
    wait_until("the agent to be content", WITHIN * 2, || {
        agent_status(&cluster).problems.is_empty()
    });
    cluster.wait_for_agents(WITHIN);
    // It was killed, and what is missing since is named.
    let all = export(&cluster, 3);
    assert!(has(&all, &cart, &frames[0]) && !has(&all, &vault, &frames[1]));
}

#[test]
fn a_recorder_of_the_machine_itself_is_not_taken_over() {
    let cluster = Cluster::start(1);
    let cart = cluster.pod("n1", "shop", "cart-1");
    let data = cluster.data("n1");
    let local = Recorder::start(&data, &[cart.netns()], &[]);
    let done = cluster.kuberewind(&["tap", "--set", "headless=true", "--wait", "5s"]);
    assert_eq!(done.status.code(), Some(3));
    let probe = || {
        let mut curl = cluster.in_agent("n1", "curl");
        let said = output(curl.args(["-s", "http://127.0.0.1:49101/readyz"]));
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    wait_until("the agent to say why", WITHIN, || {
        probe().contains("`kuberewind tap --local` records here, and is not taken over")
    });
    assert!(local.status().recording);
    // Once it is free the agent has it.
    assert!(local.stop_by(Signal::TERM).success());
    cluster.wait_for_agents(WITHIN);
}

#[test]
fn an_agent_logs_as_its_settings_say_and_a_line_for_each_export() {
    let cluster = Cluster::start(1);
    let cart = cluster.pod("n1", "shop", "cart-1");
    let said = |values: &str| {
        cluster.expect(0, &["tap", "--set", values]);
        cluster.wait_for_agents(WITHIN);
        cart.wait_to_carry();
        succeed(cart.netns().exec("ping").args(["-n", "-c", "3", "-i", "0.2", "10.99.0.1"]));
        cluster.expect(0, &["pcapdump", "--pod", "^cart-", "--filter", "tcp", "--dest", "./"]);
        cluster.agent_said("n1")
    };
    let text = said("headless=true");
    assert!(text.contains("settings") && text.contains(" INFO "), "{text}");
    assert!(text.contains("exported") && text.contains("filter=\"tcp\" pods=\"^cart-\""), "{text}");
    assert!(!text.contains("namespaces="), "{text}");

    let json = said("logFormat=json");
    let lines: Vec<Value> = json
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let export = lines.iter().find(|line| line["message"] == "exported").unwrap();
    assert_eq!((&export["filter"], &export["whole"]), (&json!("tcp"), &json!(true)));
    assert!(export["bytes"].is_u64() && export["to"].is_string(), "{export}");

    // Nothing goes wrong, so nothing is said once the settings are read.
    assert!(!said("logLevel=error").contains("exported"));
}

#[test]
fn a_pods_own_address_gives_counters_and_probes_and_nothing_else() {
    let cluster = Cluster::start(1);
    let cart = cluster.pod("n1", "shop", "cart-1");
    cluster.expect(0, &["tap", "--set", "headless=true"]);
    let address = cluster.agent_address("n1").unwrap();
    let get = |port: u16, path: &str| {
        let mut curl = cart.netns().exec("curl");
        let url = format!("http://{address}:{port}{path}");
        let said = output(curl.args(["-s", "-m", "5", "-w", "\n%{http_code}", &url]));
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let (body, code) = said.rsplit_once('\n').unwrap();
        (code.parse::<u16>().unwrap(), body.to_owned())
    };
    assert_eq!(get(49_100, "/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(get(49_100, "/healthz"), (200, "ok\n".to_owned()));
    let (code, metrics) = get(49_100, "/metrics");
    assert_eq!(code, 200);
    assert!(metrics.contains("kuberewind_pods_recorded 1\n"), "{metrics}");
    let names = ["cart", "shop", cart.addresses()[0], cart.addresses()[1], cart.uid()];
    assert!(!names.iter().any(|name| metrics.contains(name)), "{metrics}");
    for path in ["/v1/status", "/v1/window", "/v1/clock", "/v1/settings", "/v1/handover"] {
        assert_eq!(get(49_100, path).0, 404, "{path}");
    }
    assert_eq!(get(49_101, "/v1/clock").0, 0, "nobody listens there");
}

#[test]
fn with_an_override_the_node_is_recorded_without_excluded_pods_and_without_seeing_double() {
    let cluster = Cluster::start(1);
    let cart = cluster.pod("n1", "shop", "cart-1");
    let vault = cluster.pod("n1", "secret", "vault-1");
    cluster
        .expect(0, &["tap", "--set", "headless=true,tap.bpfOverride=icmp or arp", "-e", "secret"]);
    for pod in [&cart, &vault] {
        pod.wait_to_carry();
    }
    let outside = "10.99.0.1";
    for (from, to) in [(&cart, outside), (&vault, outside), (&vault, cart.addresses()[0])] {
        succeed(from.netns().exec("ping").args(["-n", "-c", "3", "-i", "0.2", to]));
    }

    let all = export(&cluster, 0);
    let own = |pod: &Pod| pod.addresses()[0].parse::<IpAddr>().unwrap();
    let on = |wanted: &dyn Fn([IpAddr; 2]) -> bool| {
        let packets = all.packets().filter(|packet| addresses_of(packet.data).is_some_and(wanted));
        packets.filter_map(|packet| packet.interface).collect::<BTreeSet<_>>()
    };
    // What leaves the node passes its bridge and its uplink, which here is a cable too; the node's end
    // of the pod's cable is left out.
    let leaving =
        on(&|ends| ends.contains(&own(&cart)) && ends.contains(&outside.parse().unwrap()));
    assert_eq!(leaving, ["cni0", "eth0", "shop/cart-1/eth0"].into());
    // The excluded pod is met where a recorded one talks to it, and nowhere else.
    assert_eq!(on(&|ends| ends.contains(&own(&vault))), ["shop/cart-1/eth0"].into());
}

/// The addresses in an untagged IPv4 or ARP frame.
fn addresses_of(frame: &[u8]) -> Option<[IpAddr; 2]> {
    let at = match frame.get(12..14)? {
        [8, 0] => [26, 30],
        [8, 6] => [28, 38],
        _ => return None,
    };
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = *frame.get(at..)?.first_chunk()?;
        Some(Ipv4Addr::from(bytes).into())
    };
    Some([address(at[0])?, address(at[1])?])
}
