//! A Debian package: an `ar` archive of three parts (deb(5)).

use anyhow::Result;

use super::archive::{Entry, gzip, tar_gz};
use super::{Contents, VERSION, source};

/// Files that the administrator may change, and that an upgrade leaves alone.
const CONFFILES: &str = "/etc/kuberewind/config.yaml\n";

/// The package.
pub(super) fn package(contents: &Contents) -> Result<Vec<u8>> {
    let files = files(contents)?;
    let size: usize = files.iter().map(|file| file.bytes.len().div_ceil(1024)).sum();
    let control = source("debian/control.in")?
        .replace("@VERSION@", VERSION)
        .replace("@ARCH@", contents.arch)
        .replace("@SIZE@", &size.to_string());
    let control =
        tar_gz(&[Entry::file("./control", control), Entry::file("./conffiles", CONFFILES)])?;
    Ok(ar(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", &control),
        ("data.tar.gz", &tar_gz(&files)?),
    ]))
}

fn files(contents: &Contents) -> Result<Vec<Entry>> {
    let mut files = vec![
        Entry::program("./usr/bin/kuberewind", &contents.program),
        // What kubectl looks for when it is asked for `kubectl kuberewind`.
        Entry::link("./usr/bin/kubectl-kuberewind", "kuberewind"),
        Entry::file("./usr/lib/systemd/system/kuberewind.service", source("kuberewind.service")?),
        Entry::file("./etc/kuberewind/config.yaml", source("debian/config.yaml")?),
        Entry::file("./usr/share/doc/kuberewind/copyright", source("debian/copyright")?),
    ];
    for (name, text) in &contents.man {
        files.push(Entry::file(&format!("./usr/share/man/man1/{name}.gz"), gzip(text)?));
    }
    let places = [
        ("kuberewind.bash", "./usr/share/bash-completion/completions/kuberewind"),
        ("_kuberewind", "./usr/share/zsh/vendor-completions/_kuberewind"),
        ("kuberewind.fish", "./usr/share/fish/vendor_completions.d/kuberewind.fish"),
    ];
    for (name, text) in &contents.completions {
        if let Some((_, place)) = places.iter().find(|(known, _)| known == name) {
            files.push(Entry::file(place, text.clone()));
        }
    }
    Ok(files)
}

/// An `ar` archive: a line, and for each part a header of 60 characters; parts begin at even bytes.
fn ar(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = b"!<arch>\n".to_vec();
    for (name, bytes) in parts {
        let (time, owner, group, mode) = (0, 0, 0, 100_644);
        let length = bytes.len();
        let header = format!("{name:<16}{time:<12}{owner:<6}{group:<6}{mode:<8}{length:<10}`\n");
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(bytes);
        if length % 2 == 1 {
            archive.push(b'\n');
        }
    }
    archive
}
