//! The agent's image: the static binary and nothing else.
//!
//! The file is an OCI image layout as a tar, with the `manifest.json` that `docker load` wants beside it:
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>. It has no times in it, so
//! that the same binary gives the same image, byte for byte.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::step;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `tap.docker.registry` unless it is set: no registry answers to it.
const REGISTRY: &str = "localhost";

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Builds the static binary and writes `target/image/kuberewind-VERSION.tar`.
pub(crate) fn run() -> Result<()> {
    let binary = build()?;
    let program = fs::read(&binary).with_context(|| format!("read {}", binary.display()))?;
    ensure!(
        is_static(&program),
        "{} needs a loader and libraries, which the image does not have",
        binary.display()
    );
    let path = target_dir().join("image").join(format!("kuberewind-{VERSION}.tar"));
    let context = || format!("write {}", path.display());
    fs::create_dir_all(path.with_file_name("")).with_context(context)?;
    let mut out = BufWriter::new(File::create(&path).with_context(context)?);
    let name = format!("{REGISTRY}/kuberewind:{VERSION}");
    write(&program, &name, &mut out).and_then(|()| Ok(out.flush()?)).with_context(context)?;
    println!("{name}\n{}", path.display());
    Ok(())
}

pub(crate) fn target_dir() -> PathBuf {
    let given = std::env::var_os("CARGO_TARGET_DIR").map(|dir| step::root().join(dir));
    given.unwrap_or_else(|| step::root().join("target"))
}

/// An explicit target keeps the flags away from build scripts and macros, which cannot be static.
pub(crate) fn build() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo: Command =
        step::cargo(&["build", "--release", "-p", "kuberewind", "--target", &target]);
    // Line tables are four fifths of it, and nodes have no use for them. Names of functions stay.
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    step::run(cargo.env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(target_dir().join(target).join("release/kuberewind"))
}

/// Whether an ELF file of 64 bits, little-endian, names no loader (`PT_INTERP`).
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, len: usize| {
        let bytes = program.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    let headers = || {
        let first = usize::try_from(number(0x20, 8)?).ok()?;
        let (size, count) = (number(0x36, 2)?, number(0x38, 2)?);
        let types = (0..count).map(|i| {
            let offset = usize::try_from(i * size).ok()?;
            number(first.checked_add(offset)?, 4)
        });
        types.collect::<Option<Vec<_>>>()
    };
    program.starts_with(b"\x7fELF\x02\x01")
        && headers().is_some_and(|types| !types.is_empty() && !types.contains(&PT_INTERP))
}

/// An image of this program, named `name`.
fn write(program: &[u8], name: &str, out: &mut impl Write) -> Result<()> {
    let layer = Blob::new(LAYER, layer(program)?);
    let config = Blob::json(CONFIG, &config(&layer));
    let manifest = Blob::json(
        MANIFEST,
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
        }),
    );
    let mut tar = tar::Builder::new(out);
    file(&mut tar, "oci-layout", 0o644, json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    for blob in [&layer, &config, &manifest] {
        file(&mut tar, &blob.path(), 0o644, &blob.bytes)?;
    }
    file(&mut tar, "index.json", 0o644, index(&manifest, name).to_string())?;
    let docker = json!([{
        "Config": config.path(),
        "RepoTags": [name],
        "Layers": [layer.path()],
    }]);
    file(&mut tar, "manifest.json", 0o644, docker.to_string())?;
    Ok(tar.finish()?)
}

/// What the image's root directory holds.
fn layer(program: &[u8]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    file(&mut tar, "kuberewind", 0o755, program)?;
    Ok(tar.into_inner()?)
}

fn config(layer: &Blob) -> Value {
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": ["/kuberewind"],
            "Labels": {
                "org.opencontainers.image.licenses": "Apache-2.0",
                "org.opencontainers.image.title": "kuberewind",
                "org.opencontainers.image.version": VERSION,
            },
        },
        // Not compressed, so it is its own difference.
        "rootfs": { "type": "layers", "diff_ids": [layer.digest()] },
        "history": [{ "created_by": "cargo xtask image" }],
    })
}

/// Go's word.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// containerd takes the whole name from its own annotation; others have the tag by the standard one.
fn index(manifest: &Blob, name: &str) -> Value {
    let mut descriptor = manifest.descriptor();
    descriptor["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    descriptor["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": VERSION,
    });
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor] })
}

/// Bytes, named by their digest.
struct Blob {
    media_type: &'static str,
    hex: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { media_type, hex: hex(&Sha256::digest(&bytes)), bytes }
    }

    fn json(media_type: &'static str, value: &Value) -> Self {
        Self::new(media_type, value.to_string().into_bytes())
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hex)
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hex)
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len() })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A file of root's, from the beginning of time.
fn file<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    bytes: impl AsRef<[u8]>,
) -> Result<()> {
    let bytes = bytes.as_ref();
    let mut header = tar::Header::new_ustar();
    header.set_size(u64::try_from(bytes.len())?);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    Ok(tar.append_data(&mut header, path, bytes)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    const NAME: &str = "localhost/kuberewind:1.2.3";

    fn image(program: &[u8]) -> Vec<u8> {
        let mut image = Vec::new();
        write(program, NAME, &mut image).unwrap();
        image
    }

    /// Path to mode and content.
    fn unpack(tar: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let (header, mut bytes) = (entry.header().clone(), Vec::new());
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            entry.read_to_end(&mut bytes).unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            (path, (header.mode().unwrap(), bytes))
        });
        entries.collect()
    }

    /// What a descriptor points at, when its digest and its size are right.
    fn follow(files: &BTreeMap<String, (u32, Vec<u8>)>, descriptor: &Value) -> Vec<u8> {
        let hex = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let (_, bytes) = &files[&format!("blobs/sha256/{hex}")];
        assert_eq!(super::hex(&Sha256::digest(bytes)), hex);
        assert_eq!(descriptor["size"], bytes.len());
        bytes.clone()
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn every_part_is_found_by_its_digest_and_the_program_is_in_it() {
        let files = unpack(&image(b"program"));
        assert_eq!(parsed(&files["oci-layout"].1)["imageLayoutVersion"], "1.0.0");
        let index = parsed(&files["index.json"].1);
        let manifest = parsed(&follow(&files, &index["manifests"][0]));
        let config = parsed(&follow(&files, &manifest["config"]));
        let layer = follow(&files, &manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"], json!([manifest["layers"][0]["digest"]]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/kuberewind"]));
        assert_eq!(config["os"], "linux");
        let root = unpack(&layer);
        assert_eq!(
            root.into_iter().collect::<Vec<_>>(),
            [("kuberewind".to_owned(), (0o755, b"program".to_vec()))]
        );
    }

    #[test]
    fn docker_finds_the_same_parts() {
        let files = unpack(&image(b"program"));
        let docker = parsed(&files["manifest.json"].1);
        assert_eq!(docker[0]["RepoTags"], json!([NAME]));
        let index = parsed(&files["index.json"].1);
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], NAME);
        let manifest = parsed(&follow(&files, &index["manifests"][0]));
        let path = |descriptor: &Value| {
            format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/"))
        };
        assert_eq!(docker[0]["Config"], path(&manifest["config"]));
        assert_eq!(docker[0]["Layers"], json!([path(&manifest["layers"][0])]));
        assert_eq!(files.len(), 6);
    }

    #[test]
    fn the_same_program_gives_the_same_image() {
        assert_eq!(image(b"program"), image(b"program"));
        assert_ne!(image(b"program"), image(b"another"));
    }

    #[test]
    fn a_program_that_needs_a_loader_is_known() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&own), "tests are linked dynamically");
        assert!(!is_static(b"#!/bin/sh"));
        let mut elf = vec![0; 0x40 + 2 * 0x38];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 0x40; // e_phoff
        elf[0x36] = 0x38; // e_phentsize
        elf[0x38] = 2; // e_phnum
        elf[0x40] = 1; // PT_LOAD
        elf[0x78] = 2; // PT_DYNAMIC
        assert!(is_static(&elf));
        elf[0x78] = 3; // PT_INTERP
        assert!(!is_static(&elf));
    }
}
