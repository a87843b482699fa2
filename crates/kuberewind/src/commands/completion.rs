//! `kuberewind completion` and the manual pages.

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::cli::{Cli, CompletionArgs, ManArgs};
use crate::exit::Exit;

/// Prints the completion script.
#[expect(clippy::unnecessary_wraps, reason = "every command has this shape")]
pub(crate) fn completion(args: &CompletionArgs) -> anyhow::Result<Exit> {
    clap_complete::generate(args.shell, &mut Cli::command(), "kuberewind", &mut std::io::stdout());
    Ok(Exit::Complete)
}

/// Writes a manual page for each command.
pub(crate) fn man(args: &ManArgs) -> anyhow::Result<Exit> {
    clap_mangen::generate_to(Cli::command(), &args.dir)
        .with_context(|| format!("write manual pages to {}", args.dir.display()))?;
    Ok(Exit::Complete)
}
