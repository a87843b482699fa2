//! Files in a tar, compressed, and checksums.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// One file, or a link.
pub(super) struct Entry {
    pub(super) path: String,
    mode: u32,
    pub(super) bytes: Vec<u8>,
    link: Option<&'static str>,
}

impl Entry {
    pub(super) fn file(path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.to_owned(), mode: 0o644, bytes: bytes.into(), link: None }
    }

    pub(super) fn program(path: &str, bytes: &[u8]) -> Self {
        Self { mode: 0o755, ..Self::file(path, bytes) }
    }

    pub(super) fn link(path: &str, to: &'static str) -> Self {
        Self { link: Some(to), ..Self::file(path, "") }
    }
}

/// A compressed tar of files, and of the directories that they are in; root's, without times.
pub(super) fn tar_gz(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let parents = entries.iter().flat_map(|entry| Path::new(&entry.path).ancestors().skip(1));
    let directories: BTreeSet<&Path> = parents.filter(|dir| !dir.as_os_str().is_empty()).collect();
    for directory in directories.into_iter().filter(|dir| *dir != Path::new(".")) {
        let mut header = header(EntryType::Directory, 0o755, 0);
        tar.append_data(&mut header, format!("{}/", directory.display()), &[][..])?;
    }
    for Entry { path, mode, bytes, link } in entries {
        match link {
            None => {
                let mut header = header(EntryType::Regular, *mode, bytes.len() as u64);
                tar.append_data(&mut header, path, bytes.as_slice())?;
            }
            Some(to) => {
                tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, to)?;
            }
        }
    }
    gzip(&tar.into_inner()?)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Without a name and a time in it.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("gzip")
        .args(["-9", "--no-name"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run gzip")?;
    let mut input = child.stdin.take().context("gzip's input")?;
    let output = std::thread::scope(|scope| {
        // Both ends at once: its output must not wait for the end of its input.
        let fed = scope.spawn(move || input.write_all(bytes));
        let output = child.wait_with_output();
        fed.join().map_err(|_| anyhow::anyhow!("the thread that feeds gzip panicked"))??;
        Ok::<_, anyhow::Error>(output?)
    })?;
    ensure!(output.status.success(), "gzip failed: {}", output.status);
    Ok(output.stdout)
}

/// SHA-256, in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
