//! A flight recorder for Kubernetes network traffic.

use std::process::ExitCode;

mod agent;
mod cli;
mod client;
mod commands;
mod config;
mod exit;
#[cfg(test)]
mod fuzz;
mod logging;

use cli::{Cli, Command};
use exit::Exit;

/// kuberewind's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What writes the files, as they name it.
const PROGRAM: &str = concat!("kuberewind ", env!("CARGO_PKG_VERSION"));

fn main() -> ExitCode {
    let cli = match Cli::called_as(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match run(&cli.command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            anstream::eprintln!("kuberewind: {}", exit::one_line(&error));
            Exit::of(&error).into()
        }
    }
}

fn run(command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::Tap(args) => commands::tap(args),
        Command::Pcapdump(args) => commands::pcapdump(args),
        Command::Status(args) => commands::status(args),
        Command::Check(args) => commands::check(args),
        Command::Clean(args) => commands::clean(args),
        Command::Config(args) => commands::configuration(args),
        Command::Completion(args) => commands::completion(args),
        Command::Extcap(args) => commands::extcap(args),
        Command::Man(args) => commands::man(args),
        Command::Agent(args) => commands::agent(args),
        Command::Opener(args) => commands::opener(args),
    }
}
