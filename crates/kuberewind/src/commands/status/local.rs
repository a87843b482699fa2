//! Of this machine.

use std::fmt::Write as _;

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use kuberewind_export::figures;
use kuberewind_packet::LossCause;

use crate::agent::{Health, Status, TlsReport};
use crate::cli::StatusArgs;
use crate::client::Client;
use crate::exit::Exit;

use super::super::{advice, coverage, settings, tap};

/// Shows what the recorder says of itself. Exit codes: 0 recording, 3 not recording, 1 not running.
pub(super) fn status(args: &StatusArgs) -> anyhow::Result<Exit> {
    let dir = settings::data_dir(&args.settings)?;
    let status = Client::connect(&dir)?.status()?;
    if args.json {
        let text = serde_json::to_string_pretty(&status).context("write JSON")?;
        anstream::println!("{text}");
    } else {
        anstream::print!("{}", summary(&status));
        anstream::println!("{}", interfaces(&status));
        if let Some(advice) = advice::recording(&status) {
            anstream::println!("{advice}");
        }
        for problem in status.problems.iter().chain(&status.filter.notes) {
            anstream::println!("warning: {problem}");
        }
    }
    let healthy = status.recording && status.health() == Health::Ok && status.problems.is_empty();
    Ok(if healthy { Exit::Complete } else { Exit::Incomplete })
}

fn summary(status: &Status) -> String {
    let state = match status.health() {
        Health::Failing(why) => format!("NOT RECORDING: {why}"),
        Health::Ok if status.recording => "recording".to_owned(),
        Health::Ok => "stopped (`kuberewind pcapdump start --local` starts it)".to_owned(),
    };
    let held = match (status.oldest, status.newest) {
        (Some(oldest), Some(newest)) => {
            format!("{} ({oldest:.3} to {newest:.3})", figures::duration(newest.since(oldest)))
        }
        _ => "nothing yet".to_owned(),
    };
    let bounds = &status.bounds;
    let memory = &status.memory;
    format!(
        "node      {} ({state}; kuberewind {}, running for {})\n\
         holds     {held}\n\
         disk      {} of {} in {}; maxTime {}, minFree {}\n\
         recorded  {} packets, {}\n\
         {}\n\
         filter    {}\n\
         memory    {} resident: rings {} of at most {}, buffers {}\n\
         {}",
        status.node,
        status.version,
        figures::duration(status.now.since(status.since)),
        figures::bytes(status.bytes_held),
        figures::bytes(bounds.max_size),
        status.data_dir.display(),
        bounds.max_time,
        bounds.min_free,
        figures::count(status.packets),
        figures::bytes(status.bytes),
        tap::losses(status).replacen("lost ", "lost      ", 1),
        status.filter.expression.as_deref().unwrap_or("everything that runs on IP"),
        figures::bytes(memory.resident),
        figures::bytes(memory.rings),
        figures::bytes(memory.ring_budget),
        figures::bytes(memory.buffers),
        status.tls.as_ref().map(tls).unwrap_or_default(),
    )
}

/// How much of TLS can be decrypted, by owner, and why the rest cannot.
fn tls(tls: &TlsReport) -> String {
    let mut lines = format!("tls       {}\n", coverage::summary(&[tls]));
    let owners = coverage::of(tls).into_iter().map(|coverage| coverage.to_string());
    for line in owners.chain(tls.problems.iter().cloned()) {
        let _ = writeln!(lines, "          {line}");
    }
    lines
}

/// One line an interface. What a ring lost is known per namespace, not per interface.
fn interfaces(status: &Status) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["NAMESPACE", "INTERFACE", "PACKETS", "BYTES", "NEWEST", "LOST"]);
    for column in [2, 3, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for namespace in &status.namespaces {
        let owner = namespace.owner.to_string();
        for interface in &namespace.interfaces {
            let newest = interface.newest.map_or_else(String::new, |newest| {
                format!("{} ago", figures::duration(status.now.since(newest)))
            });
            let if_name = namespace.owner.if_name(&interface.name);
            let lost = status.store.interfaces.iter().find(|lost| lost.interface == if_name);
            table.add_row([
                owner.clone(),
                interface.name.clone(),
                figures::count(interface.packets),
                figures::bytes(interface.bytes),
                newest,
                causes(lost.map(|lost| &lost.lost)),
            ]);
        }
        let blank = String::new;
        let all = if namespace.interfaces.is_empty() { "(no packets yet)" } else { "(all)" };
        table.add_row([
            owner,
            all.to_owned(),
            blank(),
            blank(),
            blank(),
            causes(Some(&namespace.lost)),
        ]);
    }
    table
}

fn causes(lost: Option<&std::collections::BTreeMap<LossCause, u64>>) -> String {
    let named: Vec<_> = lost
        .into_iter()
        .flatten()
        .filter(|(_, packets)| **packets > 0)
        .map(|(cause, packets)| format!("{cause} {}", figures::count(*packets)))
        .collect();
    if named.is_empty() { "0".to_owned() } else { named.join(", ") }
}
