//! `kuberewind check`: what would hinder recording, before it is tried. It changes nothing.

mod cluster;
mod finding;
mod kernel;
mod local;

use anyhow::Context as _;

use crate::cli::{CheckArgs, OutputArg};
use crate::exit::Exit;
use finding::State;

/// Looks at this machine, or at a cluster. Exit codes: 0 nothing blocks, 1 something does.
pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<Exit> {
    let findings = if args.local { local::look(args)? } else { cluster::look(args)? };
    match args.output {
        Some(OutputArg::Json) => {
            let text = serde_json::to_string_pretty(&findings).context("write JSON")?;
            anstream::println!("{text}");
        }
        Some(OutputArg::Yaml) => {
            let text = serde_saphyr::to_string(&findings).context("write YAML")?;
            anstream::print!("{text}");
        }
        None => anstream::print!("{}", finding::text(&findings)),
    }
    let blocks = findings.iter().any(|finding| finding.state == State::Blocks);
    Ok(if blocks { Exit::Failed } else { Exit::Complete })
}
