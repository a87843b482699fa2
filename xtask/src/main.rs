//! Set-up, demo, tests, benches, packaging: what a Makefile would be.

mod bench;
mod demo;
mod fuzz;
mod image;
mod package;
mod peers;
mod setup;
mod soak;
mod step;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup           install what building and testing need, where it is missing
  test            set up, then format, lints, and every test
  demo            set up, build, record real traffic on this machine, and show what was captured
  image           write the agent's image, from the static binary alone
  package         release archive, .deb, checksums, manifests for krew and Homebrew [--url URL]
  fuzz            hostile input for every parser [TARGET] [--time 1m]
  tls-matrix      TLS of every library, version and side through the whole recorder; prints a table
  soak            flood, kills, churn, under the eyes of a watcher [--minutes N]
  bench capture   losses, CPU time and memory beside tcpdump and dumpcap [--rounds N] [--seconds N]
                  [--pps N] [--sizes 64,512,1500,gso] [--rates fixed,maximum]
                  [--machine quiet,busy]
                  [--recorders limit,tcpdump,tcpdump64,dumpcap,kuberewind,kuberewind-tls]
  bench overhead  what recording costs the workload [--rounds N] [--seconds N]
                  [--workloads udp,tcp,http,https,handshakes]
                  [--recorders none,kuberewind,kuberewind-tls,kuberewind-probes,tcpdump,heads]
  bench export    windows, exports and merges beside cp and mergecap [--rounds N] [--megabytes N]
  bench cluster   an agent of many idle pods, an export of three nodes [--pods N] [--rounds N]
                  [--megabytes N]
                  each with [--build false]: measure what was built last
";

fn usage() -> ExitCode {
    eprint!("{USAGE}");
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["setup"] => setup::run(),
        ["test"] => test::run(),
        ["demo"] => demo::run(),
        ["image"] => image::run(),
        ["package", ref options @ ..] => package::run(options),
        ["tls-matrix"] => peers::matrix(),
        ["fuzz", ref options @ ..] => fuzz::run(options),
        ["soak", ref options @ ..] => soak::run(options),
        ["bench", what, ref options @ ..] => match bench::run(what, options) {
            Some(done) => done,
            None => return usage(),
        },
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
