//! Feeds one target for as long as it is told to, or one input once.
//!
//! `kuberewind-fuzz TARGET SECONDS DIR` keeps an input that finds something as `DIR/TARGET-….input`. `kuberewind-fuzz TARGET FILE` reads that input.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use kuberewind_fuzz::{TARGETS, feed, read_again};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let target = |name: &str| TARGETS.iter().find(|target| target.name == name);
    let done = match arguments[..] {
        [] => {
            println!("{}", TARGETS.map(|target| target.name).join("\n"));
            return ExitCode::SUCCESS;
        }
        [name, file] if let Some(target) = target(name) => read_again(target, Path::new(file)),
        [name, seconds, dir]
            if let (Some(target), Ok(seconds)) = (target(name), seconds.parse()) =>
        {
            feed(target, Duration::from_secs(seconds), Path::new(dir))
        }
        _ => {
            eprintln!("usage: kuberewind-fuzz [TARGET SECONDS DIR | TARGET FILE]");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(said) => {
            eprintln!("{said}");
            ExitCode::FAILURE
        }
    }
}
