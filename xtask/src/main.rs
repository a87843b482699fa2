//! Set-up, demo, tests, benches, packaging: what a Makefile would be.

mod bench;
mod demo;
mod fuzz;
mod image;
mod package;
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
  soak            flood, kills, churn, under the eyes of a watcher [--minutes N]
  bench capture   CPU time per packet beside tcpdump [--rounds N] [--packets N] [--pps N]
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["setup"] => setup::run(),
        ["test"] => test::run(),
        ["demo"] => demo::run(),
        ["image"] => image::run(),
        ["package", ref options @ ..] => package::run(options),
        ["fuzz", ref options @ ..] => fuzz::run(options),
        ["soak", ref options @ ..] => soak::run(options),
        ["bench", "capture", ref options @ ..] => bench::run(options),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
