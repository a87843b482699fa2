//! On this machine, until told to stop.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use crossbeam_channel::{Receiver, select, tick};
use kuberewind_capture::{Doors, NetnsSpec, Opener, missing_rights};
use kuberewind_export::figures;
use kuberewind_store::Machine;

use crate::agent::{
    ControlPlane, Duty, Health, Identity, Recorder, Server, Shared, Status, Switch, TlsSource,
    part_with_rights,
};
use crate::cli::TapArgs;
use crate::config::{Config, Effective, Origin};
use crate::exit::Exit;
use crate::logging;

use super::super::{settings, shutdown};

/// How often the live line is drawn anew.
const REFRESH: Duration = Duration::from_secs(1);

/// Records this machine until Ctrl-C.
pub(super) fn tap(args: &TapArgs) -> anyhow::Result<Exit> {
    let settings = settings::load(&args.settings)?;
    settings::refuse_cluster_keys(&settings)?;
    let Config { log_format, log_level, .. } = settings.config();
    let _ = logging::start(*log_format, (*log_level).into());
    let namespaces = namespaces(args);
    check_rights(&namespaces)?;
    let opener = part_with_rights(Doors::new("/proc", &namespaces), || {})?;
    let stop = shutdown::requests()?;

    let dir = settings.config().tap.data_dir.clone();
    let recording = Switch::read(&dir)?.unwrap_or(settings.config().pcapdump.enabled);
    let tls = reads_tls(&settings);
    let recorder = Recorder::start(settings, recording, identity(args, tls, opener), namespaces)?;
    let server = Server::start(&dir, Duty::of(Arc::clone(&recorder)))
        .with_context(|| format!("listen on {}", dir.join(crate::agent::SOCKET_NAME).display()))?;
    let mut screen = Screen::new();
    screen.greet(&recorder.status()?);
    watch(&recorder, &stop, &mut screen)?;

    let last = recorder.status()?;
    server.stop(&dir);
    recorder.stop()?;
    screen.farewell(&last);
    Ok(Exit::Complete)
}

fn namespaces(args: &TapArgs) -> Vec<NetnsSpec> {
    match args.netns.as_slice() {
        [] => vec![NetnsSpec::Host],
        specs => specs.to_vec(),
    }
}

/// Whoever records his own machine asks for TLS secrets, or gets none.
fn reads_tls(settings: &Effective) -> bool {
    settings.config().tap.tls && settings.origin("tap.tls") != Origin::Default
}

fn identity(args: &TapArgs, tls: bool, opener: Opener) -> Identity {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let source = || TlsSource { opener: opener.clone(), control_plane: ControlPlane::default() };
    let (undecided, _) = Shared::new();
    let tls = tls.then(source);
    let machine = Machine::default();
    Identity { node, interfaces: args.interface.clone(), tls, undecided, opener, machine }
}

fn check_rights(namespaces: &[NetnsSpec]) -> anyhow::Result<()> {
    let missing = missing_rights(namespaces);
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "recording needs rights that this process does not have (run it with sudo):\n  {}",
        missing.join("\n  ")
    )
}

/// Draws the live line until somebody asks to stop.
fn watch(recorder: &Recorder, stop: &Receiver<()>, screen: &mut Screen) -> anyhow::Result<()> {
    let ticks = tick(REFRESH);
    loop {
        select! {
            recv(stop) -> _ => return Ok(()),
            recv(ticks) -> _ => screen.update(&recorder.status()?),
        }
    }
}

/// What `tap` shows: on a terminal a line that is drawn over and over, elsewhere only what changes.
struct Screen {
    terminal: bool,
    packets: u64,
    problems: Vec<String>,
}

impl Screen {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), packets: 0, problems: Vec::new() }
    }

    fn greet(&mut self, status: &Status) {
        let recording = if status.recording {
            "recording"
        } else {
            "not recording (`kuberewind pcapdump start --local` starts it)"
        };
        let names: Vec<_> = status.namespaces.iter().map(|n| n.owner.to_string()).collect();
        let names = if names.is_empty() { String::new() } else { format!(" {}", names.join(", ")) };
        anstream::eprintln!(
            "{recording}{names} into {} (maxTime {}, maxSize {}); Ctrl-C stops",
            status.data_dir.display(),
            status.bounds.max_time,
            figures::bytes(status.bounds.max_size),
        );
        self.packets = status.packets;
        self.tell_problems(status);
    }

    fn update(&mut self, status: &Status) {
        self.tell_problems(status);
        if self.terminal {
            anstream::eprint!("\r\x1b[K{}", self.line(status));
        }
        self.packets = status.packets;
    }

    /// `holds 4m12s, 231MB of 500MB; 12,345 packets/s; lost 0`.
    fn line(&self, status: &Status) -> String {
        let held = status
            .held()
            .map_or_else(|| "nothing yet".to_owned(), |span| figures::duration(span.duration()));
        let rate = status.packets.saturating_sub(self.packets) / REFRESH.as_secs();
        let health = match status.health() {
            Health::Ok if status.recording => String::new(),
            Health::Ok => "STOPPED; ".to_owned(),
            Health::Failing(why) => format!("NOT RECORDING ({why}); "),
        };
        format!(
            "{health}holds {held}, {} of {}; {} packets/s; {}",
            figures::bytes(status.bytes_held),
            figures::bytes(status.bounds.max_size),
            figures::count(rate),
            losses(status),
        )
    }

    fn tell_problems(&mut self, status: &Status) {
        let mut problems = status.problems.clone();
        problems.extend(status.filter.notes.iter().cloned());
        if let Health::Failing(why) = status.health()
            && !self.terminal
        {
            problems.push(why);
        }
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            let clear = if self.terminal { "\r\x1b[K" } else { "" };
            anstream::eprintln!("{clear}warning: {problem}");
        }
        self.problems = problems;
    }

    fn farewell(&self, status: &Status) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        anstream::eprintln!(
            "{clear}stopped: {} packets recorded, {}; `kuberewind pcapdump --local` exports them",
            figures::count(status.packets),
            losses(status),
        );
    }
}

/// `lost 0`, or `lost 1,234 (ring 1,200, disk 34)`.
pub(in super::super) fn losses(status: &Status) -> String {
    let total = figures::count(status.lost());
    let causes: Vec<_> = status
        .losses
        .iter()
        .filter(|(_, packets)| **packets > 0)
        .map(|(cause, packets)| format!("{cause} {}", figures::count(*packets)))
        .collect();
    if causes.is_empty() {
        format!("lost {total}")
    } else {
        format!("lost {total} ({})", causes.join(", "))
    }
}
