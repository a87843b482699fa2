//! `kuberewind completion` and the manual pages.

use std::io::Write as _;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Generator as _;

use crate::cli::{Cli, CompletionArgs, ManArgs};
use crate::exit::Exit;

/// Prints the completion script.
pub(crate) fn completion(args: &CompletionArgs) -> anyhow::Result<Exit> {
    let mut command = visible();
    command.set_bin_name("kuberewind");
    command.build();
    // First into memory: whoever reads only its head must not make us fail in the middle.
    let mut script = Vec::new();
    args.shell.try_generate(&command, &mut script).context("write the completion script")?;
    match std::io::stdout().write_all(&script) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("write the completion script")
        }
        _ => Ok(Exit::Complete),
    }
}

/// The command line without what only programs call: completions would offer it.
fn visible() -> Command {
    let all = Cli::command();
    let mut visible = Command::new("kuberewind").version(crate::VERSION);
    for command in all.get_subcommands().filter(|command| !command.is_hide_set()) {
        visible = visible.subcommand(command.clone());
    }
    visible
}

/// Writes a manual page for each command.
pub(crate) fn man(args: &ManArgs) -> anyhow::Result<Exit> {
    clap_mangen::generate_to(Cli::command(), &args.dir)
        .with_context(|| format!("write manual pages to {}", args.dir.display()))?;
    Ok(Exit::Complete)
}
