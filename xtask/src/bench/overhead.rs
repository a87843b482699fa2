//! What recording costs the workload, beside tcpdump: nobody is pinned, so that the recorder takes
//! its time from the workload as it would on a node.

use std::process::Command;

use anyhow::{Context, Result, bail};
use kuberewind_tests::traffic::{HttpServer, Iperf};
use kuberewind_tests::{VethPair, succeed};

use super::figures::{head, median, row};
use super::options::Options;
use super::peers::Peer;
use super::prepare;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    /// UDP, 64 bytes of payload, as fast as it goes.
    Udp,
    /// One TCP stream.
    Tcp,
    /// Sixteen connections that ask for a small page again and again.
    Http,
    /// The same within TLS.
    Https,
    /// Sixteen clients that shake hands anew for each page.
    Handshakes,
}

const WORKLOADS: [(&str, Workload); 5] = [
    ("udp", Workload::Udp),
    ("tcp", Workload::Tcp),
    ("http", Workload::Http),
    ("https", Workload::Https),
    ("handshakes", Workload::Handshakes),
];
const RECORDERS: [(&str, Option<Peer>); 6] = [
    ("none", None),
    ("kuberewind", Some(Peer::Kuberewind)),
    ("kuberewind-tls", Some(Peer::KuberewindTls)),
    ("kuberewind-probes", Some(Peer::KuberewindProbes)),
    ("tcpdump", Some(Peer::Tcpdump64)),
    ("heads", Some(Peer::TcpdumpHeads)),
];

impl Workload {
    const fn measures(self) -> &'static [&'static str] {
        match self {
            Self::Udp => &["sent/s", "received/s"],
            Self::Tcp => &["Gbit/s"],
            Self::Http | Self::Https | Self::Handshakes => {
                &["requests/s", "p50 µs", "p90 µs", "p99 µs"]
            }
        }
    }

    fn run(self, pair: &VethPair, seconds: u32) -> Result<Vec<f64>> {
        let [address, _] = VethPair::RECEIVER;
        let time = seconds.to_string();
        match self {
            Self::Udp => {
                let server = Iperf::start(&pair.receiver);
                let flood =
                    ["--udp", "--bitrate", "0", "--length", "64", "--json", "--time", &time];
                udp(&server.burst(&pair.sender, address, &flood))
            }
            Self::Tcp => {
                let server = Iperf::start(&pair.receiver);
                let said = server.burst(&pair.sender, address, &["--json", "--time", &time]);
                Ok(vec![figure(&said, "/end/sum_received/bits_per_second")? / 1e9])
            }
            Self::Http => {
                let _server = HttpServer::start(&pair.receiver, 1);
                wrk(pair, seconds, &[&format!("http://{address}/")])
            }
            Self::Https | Self::Handshakes => {
                let _server = HttpServer::start_tls(&pair.receiver, 1);
                let anew = ["--header", "Connection: close"];
                let more = if self == Self::Handshakes { &anew[..] } else { &[] };
                let url = format!("https://{address}/");
                // The first use of a library by a recorded program has its probe attached.
                wrk(pair, 1, &[more, &[&url]].concat())?;
                wrk(pair, seconds, &[more, &[&url]].concat())
            }
        }
    }
}

fn wrk(pair: &VethPair, seconds: u32, more: &[&str]) -> Result<Vec<f64>> {
    let mut wrk: Command = pair.sender.exec("wrk");
    wrk.args(["-t1", "-c16", &format!("-d{seconds}s"), "--latency"]);
    http(&succeed(wrk.args(more)))
}

/// Measures and prints.
pub(super) fn run(arguments: &[&str]) -> Result<()> {
    let mut options = Options::parse(arguments)?;
    let rounds: u32 = options.take("--rounds", 5)?;
    let seconds: u32 = options.take("--seconds", 3)?;
    let workloads = options.choose("--workloads", &WORKLOADS)?;
    let recorders = options.choose("--recorders", &RECORDERS)?;
    let build = options.take("--build", true)?;
    options.end()?;
    prepare(build, &[])?;
    println!(
        "\n{rounds} rounds by turns of {seconds} s; medians, and their ratio to the first row"
    );
    for workload in workloads {
        compare(workload, &recorders, rounds, seconds)?;
    }
    Ok(())
}

fn compare(
    workload: Workload,
    recorders: &[Option<Peer>],
    rounds: u32,
    seconds: u32,
) -> Result<()> {
    let pair = VethPair::new(1500);
    let mut runs = vec![Vec::new(); recorders.len()];
    let mut lost = vec![0; recorders.len()];
    for _ in 0..rounds {
        for ((peer, runs), lost) in recorders.iter().zip(&mut runs).zip(&mut lost) {
            let recording = peer.map(|peer| peer.start(&pair.receiver));
            runs.push(workload.run(&pair, seconds)?);
            if let Some(recording) = recording {
                *lost += recording.finish(0).lost.values().sum::<u64>();
            }
        }
    }
    head(&["recorder"], &[workload.measures(), &["lost"]].concat());
    let medians = |runs: &[Vec<f64>]| -> Vec<f64> {
        let of = |place: usize| median(runs.iter().map(|run| run[place]));
        (0..workload.measures().len()).map(of).collect()
    };
    let base = runs.first().map(|runs| medians(runs)).unwrap_or_default();
    for ((peer, runs), lost) in recorders.iter().zip(&runs).zip(lost) {
        let figures = medians(runs).into_iter().zip(&base);
        let figures = figures.map(|(figure, base)| {
            let digits = usize::from(figure < 100.0);
            format!("{figure:.digits$} ({:.2})", figure / base)
        });
        let name = peer.map_or("none", Peer::name).to_owned();
        row(&[vec![name], figures.collect(), vec![lost.to_string()]].concat());
    }
    Ok(())
}

fn figure(said: &str, pointer: &str) -> Result<f64> {
    let said: serde_json::Value = serde_json::from_str(said)?;
    let found = said.pointer(pointer).and_then(serde_json::Value::as_f64);
    found.with_context(|| format!("iperf3 does not say {pointer}"))
}

fn udp(said: &str) -> Result<Vec<f64>> {
    let [packets, seconds] =
        ["packets", "seconds"].map(|it| figure(said, &format!("/end/sum/{it}")));
    let (packets, seconds) = (packets?, seconds?);
    let lost = figure(said, "/end/sum/lost_packets")?;
    Ok(vec![packets / seconds, (packets - lost) / seconds])
}

/// wrk's answer: requests a second, and latencies in microseconds.
fn http(said: &str) -> Result<Vec<f64>> {
    let after = |name: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(str::trim).with_context(|| format!("wrk does not say {name}:\n{said}"))
    };
    let mut figures = vec![after("Requests/sec:")?.parse()?];
    for percent in ["50%", "90%", "99%"] {
        figures.push(micros(after(percent)?)?);
    }
    Ok(figures)
}

fn micros(text: &str) -> Result<f64> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    bail!("{text} is no time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_read() {
        let said = "  Latency Distribution\n     50%  415.00us\n     75%  500.00us\n     90%    1.50ms\n\
            \n     99%    2.00s \n  10 requests in 3.00s, 1MB read\nRequests/sec:  35012.50\n";
        let expected = [35012.5, 415.0, 1500.0, 2_000_000.0];
        let read = http(said).expect("what wrk says");
        assert!(read.iter().zip(expected).all(|(read, expected)| (read - expected).abs() < 1e-6));
    }
}
