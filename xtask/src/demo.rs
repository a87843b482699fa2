//! Records real traffic on this machine and shows what was captured.

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use kuberewind_tests::traffic::{DnsServer, HttpServer, Iperf};
use kuberewind_tests::{
    Recorder, VethPair, data_dir, kuberewind, output, succeed, target_dir, use_build,
};
use rustix::process::Signal;

use crate::{setup, step};

/// Set up, build, record, export, show; leaves nothing behind, whatever happens.
pub(crate) fn run() -> Result<()> {
    step::need_root("demo")?;
    setup::run()?;
    step::run(&mut step::cargo(&["build", "--release", "--package", "kuberewind"]))?;
    use_build(target_dir().join("release/kuberewind"));
    // Namespaces, processes and files are removed when their owners are dropped, which a signal must
    // not prevent: it is noted, the running step fails or ends, and the rest is not begun.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let shown =
        panic::catch_unwind(AssertUnwindSafe(|| show(&Steps { interrupted: &interrupted })));
    shown.unwrap_or_else(|_| Err(anyhow!("the demo failed, see above; everything is cleaned up")))
}

/// Says what comes, unless a signal came.
struct Steps<'a> {
    interrupted: &'a AtomicBool,
}

impl Steps<'_> {
    fn say(&self, what: &str) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted; everything is cleaned up");
        println!("\n== {what}");
        Ok(())
    }
}

fn show(steps: &Steps<'_>) -> Result<()> {
    steps.say(
        "Two network namespaces joined by a cable; nginx, dnsmasq and iperf3 in one of them",
    )?;
    let (pair, data, out) = (VethPair::new(1500), data_dir(), tempfile::tempdir()?);
    let servers = Servers::start(&pair);

    steps.say("The recorder starts, on that namespace")?;
    let data_path = data.path().display().to_string();
    println!("$ kuberewind tap --local --netns {} --data-dir {data_path}", pair.receiver.name());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);

    let talked = Instant::now();
    for address in VethPair::RECEIVER {
        steps.say(&format!("Real traffic to {address}: HTTP, DNS, ping, a burst of TCP"))?;
        servers.talk(&pair, address);
    }
    let talked = talked.elapsed();

    steps.say("Status: what is recorded, and whether anything was lost")?;
    kuberewind_says(&["status", "--local", "--data-dir", &data_path])?;

    steps.say("The last five minutes, as one file")?;
    let file = out.path().join("demo.pcap");
    let dest = file.display().to_string();
    kuberewind_says(&[
        "pcapdump",
        "--local",
        "--data-dir",
        &data_path,
        "--time=5m",
        "--dest",
        &dest,
    ])?;

    steps.say("capinfos: a valid file, strictly in the order of time")?;
    says(Command::new("capinfos").args(["-c", "-d", "-u", "-a", "-e", "-o", "-l"]).arg(&file));
    steps.say("tshark: which protocols are in it")?;
    says(tshark(&file).args(["-q", "-z", "io,phs"]));
    steps.say("tshark: what was said, in the plain protocols")?;
    says(tshark(&file).args(["-Y", "http or dns or icmp or icmpv6.type in {128, 129}"]));

    steps.say("The recorder stops and seals its last segment")?;
    let stopping = Instant::now();
    let ended = recorder.stop_by(Signal::TERM);
    let took = stopping.elapsed();
    ensure!(ended.success(), "the recorder ended with {ended}");
    sum_up(&file, talked, took);
    Ok(())
}

fn sum_up(file: &Path, talked: Duration, sealing: Duration) {
    let info = kuberewind_tests::judges::capinfos(file);
    let order = if info.strictly_ordered { "in the order of time" } else { "NOT in order" };
    println!(
        "\nShown: {} packets of {:.1} s of real traffic (HTTP by curl and nginx, DNS by dig and \
         dnsmasq, ping, iperf3;\nIPv4 and IPv6) were recorded while they passed, and came back as \
         one file, {order}, that\nWireshark's own tools read. The recorder sealed its files {} ms \
         after SIGTERM. Everything made for this demo is removed.",
        info.packets,
        talked.as_secs_f64(),
        sealing.as_millis(),
    );
}

struct Servers {
    http: HttpServer,
    dns: DnsServer,
    iperf: Iperf,
}

impl Servers {
    fn start(pair: &VethPair) -> Self {
        let netns = &pair.receiver;
        Self {
            http: HttpServer::start(netns, 1_000_000),
            dns: DnsServer::start(netns),
            iperf: Iperf::start(netns),
        }
    }

    fn talk(&self, pair: &VethPair, address: &str) {
        let client = &pair.sender;
        println!("curl: {}", self.http.get(client, address, "").trim());
        println!("curl: {} bytes", self.http.get(client, address, "large").len());
        for kind in ["A", "AAAA"] {
            println!("dig: {kind} {}", self.dns.ask(client, address, kind, false));
        }
        let mut ping = client.exec("ping");
        let ping = succeed(ping.args(["-n", "-c", "3", "-i", "0.2", address]));
        println!("ping: {}", ping.lines().find(|line| line.contains("received")).unwrap_or(&ping));
        let burst = self.iperf.burst(client, address, &["--bytes", "50M", "--bitrate", "400M"]);
        let burst = burst.lines().find(|line| line.ends_with("receiver")).unwrap_or_default();
        println!("iperf3: {burst}");
    }
}

fn kuberewind_says(arguments: &[&str]) -> Result<()> {
    println!("$ kuberewind {}", arguments.join(" "));
    let done = output(kuberewind().args(arguments));
    print!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "`kuberewind {}`: {}", arguments[0], done.status);
    Ok(())
}

/// Prints the first lines of what a judge says.
fn says(command: &mut Command) {
    const LINES: usize = 40;
    let said = succeed(command);
    let lines: Vec<_> = said.lines().collect();
    lines.iter().take(LINES).for_each(|line| println!("{line}"));
    if lines.len() > LINES {
        println!("... and {} lines more", lines.len() - LINES);
    }
}

fn tshark(file: &Path) -> Command {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(file);
    command
}
