//! What is released: an archive, a Debian package, checksums, and the manifests of krew and Homebrew.
//! All of it from one build and one version; without times, so that the same build gives the same bytes.

mod archive;
mod deb;
mod manifest;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{image, step};
use archive::{Entry, digest};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The checksums' file.
const SUMS: &str = "SHA256SUMS";

/// Each shell with the name that its completions go by.
const SHELLS: [(&str, &str); 4] = [
    ("bash", "kuberewind.bash"),
    ("zsh", "_kuberewind"),
    ("fish", "kuberewind.fish"),
    ("powershell", "_kuberewind.ps1"),
];

/// What goes into the packages.
struct Contents {
    program: Vec<u8>,
    /// Names and texts.
    man: Vec<(String, Vec<u8>)>,
    completions: Vec<(String, Vec<u8>)>,
    /// As Debian, Go and krew name it.
    arch: &'static str,
}

/// `cargo xtask package [--url URL]`
pub(crate) fn run(options: &[&str]) -> Result<()> {
    let url = match options {
        [] => None,
        ["--url", url] => Some(*url),
        _ => bail!("usage: cargo xtask package [--url URL]"),
    };
    let binary = image::build()?;
    let contents = Contents::of(&binary)?;
    let dir = image::target_dir().join("package");
    for path in write(&contents, &dir, url)? {
        println!("{}", path.display());
    }
    if url.is_none() {
        println!("without --url there is nothing for krew and Homebrew to download: no manifests");
    }
    Ok(())
}

impl Contents {
    /// The program tells its own manual pages and completions.
    fn of(binary: &Path) -> Result<Self> {
        let pages = tempfile::tempdir()?;
        step::run(Command::new(binary).arg("man").arg(pages.path()))?;
        let mut man = Vec::new();
        for entry in fs::read_dir(pages.path())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            man.push((name, fs::read(&path)?));
        }
        man.sort();
        let mut completions = Vec::new();
        for (shell, name) in SHELLS {
            let output = Command::new(binary).args(["completion", shell]).output()?;
            ensure!(output.status.success(), "completions for {shell}: {}", output.status);
            completions.push((name.to_owned(), output.stdout));
        }
        let program = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
        Ok(Self { program, man, completions, arch: image::architecture() })
    }
}

/// Writes everything into a directory; what was written.
fn write(contents: &Contents, dir: &Path, url: Option<&str>) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    let archive = dir.join(format!("kuberewind-{VERSION}-linux-{}.tar.gz", contents.arch));
    let put = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
    };
    put(&archive, &archive::tar_gz(&release(contents)?)?)?;
    let deb = dir.join(format!("kuberewind_{VERSION}_{}.deb", contents.arch));
    put(&deb, &deb::package(contents)?)?;
    let mut written = vec![archive, deb];
    let archives = archives(dir)?;
    let mut sums = String::new();
    for path in archives.iter().map(|(_, path)| path).chain(&written[1..]) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Writing to a String cannot fail.
        let _ = writeln!(sums, "{}  {name}", digest(&fs::read(path)?));
    }
    written.push(dir.join(SUMS));
    put(&dir.join(SUMS), sums.as_bytes())?;
    if let Some(url) = url {
        for (name, text) in manifest::all(url, &archives)? {
            put(&dir.join(name), text.as_bytes())?;
            written.push(dir.join(name));
        }
    }
    Ok(written)
}

/// The archives of this version that lie there, by architecture.
fn archives(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let arch = name.strip_prefix(&format!("kuberewind-{VERSION}-linux-"));
        if let Some(arch) = arch.and_then(|rest| rest.strip_suffix(".tar.gz")) {
            found.push((arch.to_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

/// The files of the archive, all in one directory.
fn release(contents: &Contents) -> Result<Vec<Entry>> {
    let root = format!("kuberewind-{VERSION}");
    let mut entries = vec![Entry::program(&format!("{root}/kuberewind"), &contents.program)];
    for name in ["LICENSE", "README.md"] {
        entries.push(Entry::file(&format!("{root}/{name}"), fs::read(step::root().join(name))?));
    }
    let unit = source("kuberewind.service")?;
    entries.push(Entry::file(&format!("{root}/kuberewind.service"), unit));
    for (kind, files) in [("man", &contents.man), ("completions", &contents.completions)] {
        let entry = |(name, text): &(String, Vec<u8>)| {
            Entry::file(&format!("{root}/{kind}/{name}"), text.clone())
        };
        entries.extend(files.iter().map(entry));
    }
    Ok(entries)
}

/// A file of `packaging/`.
fn source(name: &str) -> Result<String> {
    let path = step::root().join("packaging").join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program and texts that are easily told apart.
    fn contents() -> Contents {
        let named = |name: &str| (name.to_owned(), format!("this is {name}\n").into_bytes());
        Contents {
            program: b"#!/bin/sh\necho kuberewind 0\n".to_vec(),
            man: vec![named("kuberewind.1"), named("kuberewind-tap.1")],
            completions: SHELLS.iter().map(|(_, name)| named(name)).collect(),
            arch: image::architecture(),
        }
    }

    fn written(url: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write(&contents(), dir.path(), url).unwrap();
        dir
    }

    fn succeed(command: &mut Command) -> String {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn deb(dir: &Path) -> PathBuf {
        dir.join(format!("kuberewind_{VERSION}_{}.deb", image::architecture()))
    }

    #[test]
    fn the_checksums_hold_and_notice_a_changed_byte() {
        let dir = written(None);
        let check = || {
            let mut command = Command::new("sha256sum");
            command.args(["--check", "--strict", SUMS]).current_dir(dir.path());
            command.output().unwrap()
        };
        let checked = check();
        assert!(checked.status.success(), "{checked:?}");
        assert_eq!(String::from_utf8(checked.stdout).unwrap().lines().count(), 2);
        let mut bytes = fs::read(deb(dir.path())).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(deb(dir.path()), bytes).unwrap();
        assert!(!check().status.success());
    }

    #[test]
    fn the_archive_unpacks_to_a_program_that_runs() {
        let (dir, out) = (written(None), tempfile::tempdir().unwrap());
        let name = format!("kuberewind-{VERSION}-linux-{}.tar.gz", image::architecture());
        let mut tar = Command::new("tar");
        succeed(tar.arg("-xzf").arg(dir.path().join(name)).arg("-C").arg(out.path()));
        let root = out.path().join(format!("kuberewind-{VERSION}"));
        assert_eq!(succeed(&mut Command::new(root.join("kuberewind"))), "kuberewind 0\n");
        for file in ["LICENSE", "man/kuberewind-tap.1", "completions/_kuberewind"] {
            assert!(root.join(file).is_file(), "{file}");
        }
    }

    #[test]
    fn the_debian_package_installs_into_an_empty_root_and_goes_again() {
        let (dir, root) = (written(None), tempfile::tempdir().unwrap());
        let path = |name: &str| root.path().join(name);
        for name in ["var/lib/dpkg/info", "var/lib/dpkg/updates"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("var/lib/dpkg/status"), "").unwrap();
        let dpkg = |arguments: &[&str]| {
            let mut command = Command::new("dpkg");
            command.arg("--root").arg(root.path()).arg("--force-not-root").args(arguments);
            succeed(&mut command)
        };
        dpkg(&["--install", deb(dir.path()).to_str().unwrap()]);
        let said = dpkg(&["--status", "kuberewind"]);
        assert!(said.contains("Status: install ok installed"), "{said}");
        assert!(said.contains(&format!("Version: {VERSION}")), "{said}");
        assert!(said.contains("/etc/kuberewind/config.yaml"), "a conffile: {said}");
        assert_eq!(succeed(&mut Command::new(path("usr/bin/kuberewind"))), "kuberewind 0\n");
        let plugin = fs::read_link(path("usr/bin/kubectl-kuberewind")).unwrap();
        assert_eq!(plugin, Path::new("kuberewind"));
        let unit = fs::read_to_string(path("usr/lib/systemd/system/kuberewind.service")).unwrap();
        assert!(unit.contains("ExecStart=/usr/bin/kuberewind tap --local"), "{unit}");
        for file in [
            "usr/share/man/man1/kuberewind-tap.1.gz",
            "usr/share/bash-completion/completions/kuberewind",
            "usr/share/zsh/vendor-completions/_kuberewind",
            "usr/share/fish/vendor_completions.d/kuberewind.fish",
        ] {
            assert!(path(file).is_file(), "{file}");
        }
        dpkg(&["--purge", "kuberewind"]);
        assert!(!path("usr/bin/kuberewind").exists() && !path("etc/kuberewind").exists());
    }

    #[test]
    fn the_manifests_name_the_archive_and_its_checksum() {
        let dir = written(Some("https://downloads.example/v1/"));
        let name = format!("kuberewind-{VERSION}-linux-{}.tar.gz", image::architecture());
        let digest = digest(&fs::read(dir.path().join(&name)).unwrap());
        for manifest in ["krew.yaml", "kuberewind.rb"] {
            let text = fs::read_to_string(dir.path().join(manifest)).unwrap();
            assert!(text.contains(&format!("https://downloads.example/v1/{name}")), "{text}");
            assert!(text.contains(&digest) && text.contains(VERSION), "{text}");
            assert!(!text.contains('@'), "a hole is left in {text}");
        }
        assert!(!written(None).path().join("krew.yaml").exists());
    }

    #[test]
    fn the_same_contents_give_the_same_bytes() {
        let (one, two) = (written(None), written(None));
        let sums = |dir: &tempfile::TempDir| fs::read_to_string(dir.path().join(SUMS)).unwrap();
        assert_eq!(sums(&one), sums(&two));
    }

    #[test]
    fn there_is_one_version() {
        let chart = fs::read_to_string(step::root().join("chart/Chart.yaml")).unwrap();
        for line in [format!("\nversion: {VERSION}\n"), format!("\nappVersion: {VERSION}\n")] {
            assert!(chart.contains(&line), "{line} is not in {chart}");
        }
    }
}
