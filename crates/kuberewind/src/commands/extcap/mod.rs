//! `kuberewind extcap`: the recording as interfaces of Wireshark (extcap(4)).
//!
//! Wireshark runs the program again and again: for the interfaces, for the options of one, and with
//! `--capture --fifo` to read packets. Then this process becomes `kuberewind pcapdump`, with the pipe as its
//! standard output.

mod dialog;
mod install;

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use kuberewind_cluster::{Access, AccessOptions, agents};
use kuberewind_filter::CaptureFilter;

use crate::cli::{ExtcapArgs, TlsArg};
use crate::config;
use crate::exit::{Exit, Usage};
use dialog::Interface;

/// Wireshark waits for its list of interfaces when it starts.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers what Wireshark asks.
pub(crate) fn extcap(args: &ExtcapArgs) -> anyhow::Result<Exit> {
    if args.install {
        return install::install(args);
    }
    if args.extcap_interfaces {
        print!("{}", dialog::interfaces(&interfaces(args)?));
        return Ok(Exit::Complete);
    }
    let Some(name) = &args.extcap_interface else {
        let text = "extcap is what Wireshark calls; `kuberewind extcap --install` puts kuberewind into Wireshark's list of interfaces";
        return Err(Usage(text.to_owned()).into());
    };
    let interface = Interface::parse(name).ok_or_else(|| {
        Usage(format!("--extcap-interface {name}: Wireshark lists those that there are"))
    })?;
    if args.extcap_dlts {
        print!("{}", dialog::link_types());
    } else if args.extcap_config {
        print!("{}", dialog::options(&interface, args));
    } else if args.capture {
        return capture(args, &interface);
    } else if let Some(filter) = &args.extcap_capture_filter
        && let Err(error) = CaptureFilter::check(filter)
    {
        // Whatever is printed tells Wireshark that the filter is wrong.
        println!("{error}");
    }
    Ok(Exit::Complete)
}

/// This machine; the cluster, if there is a way to one; its nodes, if it answers in time.
fn interfaces(args: &ExtcapArgs) -> anyhow::Result<Vec<Interface>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the thread that talks to the cluster")?;
    let options = AccessOptions {
        kubeconfig: given(args.kubeconfig.as_ref()).cloned(),
        context: args.context.clone(),
    };
    let mut found = vec![Interface::Local];
    runtime.block_on(async {
        let Ok(access) = Access::open_without_retries(&options).await else {
            return;
        };
        found.push(Interface::Cluster);
        let listed = agents::list(&access, &args.release_namespace);
        if let Ok(Ok(agents)) = tokio::time::timeout(PATIENCE, listed).await {
            found.extend(agents.agents.into_iter().map(|agent| Interface::Node(agent.node)));
        }
    });
    Ok(found)
}

/// Becomes the export. Whoever ends the capture ends this process, so it must be the one that writes.
fn capture(args: &ExtcapArgs, interface: &Interface) -> anyhow::Result<Exit> {
    let Some(fifo) = &args.fifo else {
        return Err(Usage("--capture needs --fifo".to_owned()).into());
    };
    // Before anything can fail: Wireshark waits for the pipe, and hears of an error only when it closes.
    let pipe = OpenOptions::new().write(true).open(fifo);
    let pipe = pipe.with_context(|| format!("open Wireshark's pipe {}", fifo.display()))?;
    let line = export(args, interface)?;
    let program = std::env::current_exe().context("find this program's own file")?;
    let error = Command::new(program).args(line).stdout(Stdio::from(pipe)).exec();
    Err(error).context("start the export")
}

/// The command line of the export.
fn export(args: &ExtcapArgs, interface: &Interface) -> anyhow::Result<Vec<String>> {
    let mut line: Vec<String> =
        ["pcapdump", "--dest", "-", "--format", "pcapng"].map(str::to_owned).into();
    let mut add = |flag: &str, value: &str| line.extend([flag.to_owned(), value.to_owned()]);
    let path = |path: &Path| path.display().to_string();
    match args.time.trim() {
        "" | "all" => {}
        // What comes from now on: the shortest window that there is, and then on.
        "0" | "0s" if args.follow => add("--time", "1ns"),
        time => {
            config::parse_duration(time)
                .map_err(|error| Usage(format!("Last `{time}`: {error}; 5m, 1h30m, or all")))?;
            add("--time", time);
        }
    }
    add("--tls", tls(args.tls));
    let texts = [("--filter", &args.extcap_capture_filter)];
    let mut texts: Vec<_> = texts.into();
    if matches!(interface, Interface::Local) {
        if let Some(dir) = given(args.data_dir.as_ref()) {
            add("--data-dir", &path(dir));
        }
    } else {
        texts.extend([
            ("--pod", &args.pod),
            ("--namespaces", &args.namespaces),
            ("--context", &args.context),
        ]);
        if let Some(file) = given(args.kubeconfig.as_ref()) {
            add("--kubeconfig", &path(file));
        }
        add("--release-namespace", &args.release_namespace);
    }
    for (flag, text) in texts {
        // An empty box of Wireshark's dialog is none.
        if let Some(text) = text.as_deref().filter(|text| !text.trim().is_empty()) {
            add(flag, text);
        }
    }
    if let Interface::Node(node) = interface {
        add("--node", node);
    }
    if matches!(interface, Interface::Local) {
        line.push("--local".to_owned());
    }
    if args.follow {
        line.push("--follow".to_owned());
    }
    Ok(line)
}

/// An empty box is none.
fn given(path: Option<&PathBuf>) -> Option<&PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

fn tls(tls: TlsArg) -> &'static str {
    match tls {
        TlsArg::Auto => "auto",
        TlsArg::None => "none",
        TlsArg::Secrets => "secrets",
        TlsArg::Plaintext => "plaintext",
        TlsArg::Both => "both",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &[&str]) -> ExtcapArgs {
        let cli = Cli::try_parse_from([&["kuberewind", "extcap"], line].concat()).unwrap();
        match cli.command {
            Command::Extcap(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn exported(line: &[&str], interface: &Interface) -> String {
        export(&args(line), interface).unwrap().join(" ")
    }

    #[test]
    fn a_machine_and_a_cluster_are_exported_as_by_hand() {
        assert_eq!(
            exported(&["--data-dir", "/data", "--follow", "--pod", "x"], &Interface::Local),
            "pcapdump --dest - --format pcapng --time 5m --tls auto --data-dir /data --local --follow"
        );
        assert_eq!(
            exported(
                &["--time", "1h", "--pod", "^cart", "--namespaces", "", "--kubeconfig", ""],
                &Interface::Cluster
            ),
            "pcapdump --dest - --format pcapng --time 1h --tls auto --release-namespace kuberewind --pod ^cart"
        );
        assert_eq!(
            exported(&["--time", "all", "--tls", "none"], &Interface::Node("n1".into())),
            "pcapdump --dest - --format pcapng --tls none --release-namespace kuberewind --node n1"
        );
    }

    #[test]
    fn what_the_dialog_says_overrides_what_the_wrapper_says() {
        let line =
            exported(&["-s", "a", "--time", "1m", "-s", "b", "--time", "2m"], &Interface::Cluster);
        assert!(line.contains("--time 2m") && line.contains("--release-namespace b"), "{line}");
    }

    #[test]
    fn a_bad_time_is_told_in_the_words_of_the_dialog() {
        let error = export(&args(&["--time", "1d"]), &Interface::Local).unwrap_err();
        assert!(error.to_string().starts_with("Last `1d`: "), "{error}");
    }

    #[test]
    fn every_command_line_is_one_that_pcapdump_takes() {
        let all = ["--time", "1h", "--pod", "a", "--namespaces", "b,c", "--context", "d"];
        let files = ["--kubeconfig", "f", "--data-dir", "/g", "--extcap-capture-filter", "tcp"];
        let args = args(&[&all[..], &files[..]].concat());
        for interface in [Interface::Local, Interface::Cluster, Interface::Node("n1".into())] {
            let line = export(&args, &interface).unwrap();
            Cli::try_parse_from([vec!["kuberewind".to_owned()], line].concat()).unwrap();
        }
    }
}
