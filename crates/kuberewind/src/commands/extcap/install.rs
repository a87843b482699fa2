//! Into Wireshark's list: a small script in its extcap folder that calls this program.

use std::env;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::cli::ExtcapArgs;
use crate::exit::{Exit, Usage};

/// The script's name in the folder.
const NAME: &str = "kuberewind";

/// What the first lines of our script say: anything else of that name is not ours to replace.
const MARK: &str = "# Written by `kuberewind extcap --install`";

/// Writes the script.
pub(super) fn install(args: &ExtcapArgs) -> anyhow::Result<Exit> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => folder(env::var_os("WIRESHARK_EXTCAP_DIR").map(PathBuf::from), version())?,
    };
    let path = dir.join(NAME);
    if fs::read_to_string(&path).is_ok_and(|text| !text.contains(MARK)) {
        let text = format!("{} is something else; name another folder", path.display());
        return Err(Usage(text).into());
    }
    let program = env::current_exe().context("find this program's own file")?;
    let doing = || format!("write {}", path.display());
    fs::create_dir_all(&dir).with_context(doing)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o755)
        .open(&path)
        .with_context(doing)?;
    file.write_all(script(&program, args).as_bytes()).with_context(doing)?;
    anstream::println!(
        "wrote {}: Wireshark lists kuberewind's interfaces from its next start on",
        path.display()
    );
    Ok(Exit::Complete)
}

/// Wireshark's personal folder: from 4.2 on where programs of a user lie, before that beside its settings.
fn folder(named: Option<PathBuf>, wireshark: Option<(u32, u32)>) -> anyhow::Result<PathBuf> {
    if let Some(dir) = named.filter(|dir| !dir.as_os_str().is_empty()) {
        return Ok(dir);
    }
    let home = env::home_dir().ok_or_else(|| {
        Usage("no home directory; name Wireshark's extcap folder: --install DIR".to_owned())
    })?;
    let config = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.filter(|dir| dir.is_absolute()).unwrap_or_else(|| home.join(".config"));
    Ok(match wireshark {
        Some(version) if version < (4, 2) => config.join("wireshark/extcap"),
        _ => home.join(".local/lib/wireshark/extcap"),
    })
}

/// Of the Wireshark that is installed.
fn version() -> Option<(u32, u32)> {
    ["wireshark", "tshark"].into_iter().find_map(|program| {
        let output = Command::new(program).arg("--version").stderr(Stdio::null()).output().ok()?;
        parse_version(&String::from_utf8_lossy(&output.stdout))
    })
}

/// Of `TShark (Wireshark) 4.0.17 (Git …)`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    text.lines().next()?.split_whitespace().find_map(|word| {
        let mut numbers = word.split('.').map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??))
    })
}

fn script(program: &Path, args: &ExtcapArgs) -> String {
    let mut line = format!("exec {} extcap", quoted(&program.display().to_string()));
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let given = [
        ("--kubeconfig", path(&args.kubeconfig)),
        ("--context", args.context.clone()),
        ("--release-namespace", Some(args.release_namespace.clone())),
        ("--data-dir", path(&args.data_dir)),
    ];
    for (flag, value) in given {
        if let Some(value) = value {
            line = format!("{line} {flag} {}", quoted(&value));
        }
    }
    format!("#!/bin/sh\n{MARK}; deleting it takes the interfaces away.\n{line} \"$@\"\n")
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_the_one_of_the_installed_version() {
        let folder = |version| folder(None, version).unwrap().display().to_string();
        assert!(folder(Some((4, 0))).ends_with("wireshark/extcap"));
        assert!(!folder(Some((4, 0))).contains(".local/lib"));
        assert!(folder(Some((4, 2))).ends_with(".local/lib/wireshark/extcap"));
        assert_eq!(folder(None), folder(Some((4, 6))));
        let named = super::folder(Some("/here".into()), Some((4, 0))).unwrap();
        assert_eq!(named, Path::new("/here"));
    }

    #[test]
    fn versions_are_read_as_wireshark_writes_them() {
        assert_eq!(
            parse_version("TShark (Wireshark) 4.0.17 (Git v4.0.17 packaged)."),
            Some((4, 0))
        );
        assert_eq!(parse_version("Wireshark 4.6.0."), Some((4, 6)));
        assert_eq!(parse_version("strange"), None);
    }

    #[test]
    fn names_with_quotes_survive_the_shell() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
