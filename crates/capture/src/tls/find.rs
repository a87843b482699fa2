//! Looks into an executable file for what can be probed, and for TLS that cannot.

use std::fs::File;

use super::elf::{Elf, Machine, Result, after};
use super::instruction::{C_ARGUMENTS, cheapest, stack_check};
use super::pclntab::{self, Functions};

/// Which BPF program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Hook {
    /// OpenSSL 3: `EVP_KDF_derive`.
    OpenSsl,
    /// Go 1.17 and later: `crypto/tls.(*Config).writeKeyLog`.
    Go,
    /// The dynamic loader's `_dl_debug_state`: libraries have been mapped.
    Loader,
}

/// Where a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) hook: Hook,
    /// Of the instruction, in the file.
    pub(crate) offset: u64,
}

/// TLS that is there, but whose secrets cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unsupported {
    /// OpenSSL before 3.0.
    OldOpenSsl,
    /// A TLS library inside of a program that was stripped of its symbols.
    Stripped,
    /// `GnuTLS`.
    GnuTls,
    /// Mozilla's NSS.
    Nss,
    /// The Java virtual machine, whose TLS is written in Java.
    Java,
    /// A Go program in which the function was not found: before Go 1.17, or not amd64.
    Go,
}

impl Unsupported {
    /// The library's name.
    pub(crate) fn library(self) -> &'static str {
        match self {
            Self::OldOpenSsl => "OpenSSL",
            Self::Stripped => "TLS in the program",
            Self::GnuTls => "GnuTLS",
            Self::Nss => "NSS",
            Self::Java => "Java",
            Self::Go => "Go",
        }
    }

    /// Why its secrets cannot be seen.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::OldOpenSsl => "OpenSSL before 3.0: not supported yet",
            Self::Stripped => {
                "a TLS library (OpenSSL, BoringSSL or rustls) within the program, without symbols: \
                 not supported yet"
            }
            Self::GnuTls => "GnuTLS: not supported yet",
            Self::Nss => "NSS: not supported yet",
            Self::Java => "Java: TLS in the JVM cannot be seen",
            Self::Go => "Go before 1.17, or not for amd64: not supported yet",
        }
    }
}

/// What was found in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) places: Vec<Place>,
    pub(crate) unsupported: Option<Unsupported>,
    /// Of the library, as it says itself.
    pub(crate) version: Option<String>,
    pub(crate) build_id: Option<String>,
}

impl Finding {
    /// The hook that brings secrets.
    pub(crate) fn secrets(&self) -> Option<Hook> {
        self.places.iter().map(|place| place.hook).find(|hook| *hook != Hook::Loader)
    }
}

const GO_WRITE_KEY_LOG: &str = "crypto/tls.(*Config).writeKeyLog";
const OPENSSL_KDF: &str = "EVP_KDF_derive";
/// A label of the key log: every library that has one holds it.
const KEY_LOG_LABEL: &[u8] = b"CLIENT_HANDSHAKE_TRAFFIC_SECRET\0";
/// How much of a program's constants is searched, in bytes.
const SEARCHED: u64 = 64 << 20;

/// Looks into a file. An error means that it is no ELF file, or a broken one.
pub(crate) fn inspect(file: File) -> Result<Finding> {
    let mut elf = Elf::open(file)?;
    let mut finding = Finding { build_id: elf.build_id().unwrap_or(None), ..Finding::default() };
    if let Some(functions) = Functions::of(&mut elf)? {
        inspect_go(&mut elf, &functions, &mut finding)?;
    }
    inspect_c(&mut elf, &mut finding)?;
    Ok(finding)
}

fn inspect_go(elf: &mut Elf, functions: &Functions, finding: &mut Finding) -> Result<()> {
    let places = functions.places(elf, GO_WRITE_KEY_LOG)?;
    if places.is_empty() {
        // A Go program without TLS.
        return Ok(());
    }
    let amd64 = elf.machine == Machine::X86;
    for place in places.into_iter().filter(|_| amd64) {
        let Ok(code) = elf.code(place) else { continue };
        let Some(offset) = elf.code_offset_of(place) else { continue };
        if let Some(check) = stack_check(&code) {
            finding.places.push(Place { hook: Hook::Go, offset: after(offset, check) });
            finding.version = pclntab::version(elf)?;
            return Ok(());
        }
    }
    finding.unsupported = Some(Unsupported::Go);
    Ok(())
}

fn inspect_c(elf: &mut Elf, finding: &mut Finding) -> Result<()> {
    if let Some(offset) = function(elf, "_dl_debug_state", false)? {
        finding.places.push(Place { hook: Hook::Loader, offset });
        return Ok(());
    }
    if let Some(offset) = function(elf, OPENSSL_KDF, true)? {
        finding.places.push(Place { hook: Hook::OpenSsl, offset });
        finding.version =
            finding.version.take().map_or_else(|| openssl_version(elf), |go| Ok(Some(go)))?;
        return Ok(());
    }
    if finding.places.is_empty() && finding.unsupported.is_none() {
        finding.unsupported = unsupported(elf)?;
    }
    Ok(())
}

/// Where to probe a function of C.
fn function(elf: &mut Elf, name: &str, look_in_symbols: bool) -> Result<Option<u64>> {
    let mut address = elf.exported(name)?;
    if address.is_none() && look_in_symbols {
        address = elf.symbol(name)?;
    }
    let Some(address) = address else { return Ok(None) };
    let Some(offset) = elf.code_offset_of(address) else { return Ok(None) };
    let skip = match elf.machine {
        Machine::X86 => cheapest(&elf.code(address)?, &C_ARGUMENTS),
        Machine::Arm => 0,
        Machine::Other => return Ok(None),
    };
    Ok(Some(after(offset, skip)))
}

/// What stands behind `OpenSSL ` in `OPENSSL_VERSION_TEXT`.
fn openssl_version(elf: &mut Elf) -> Result<Option<String>> {
    for segment in elf.constants() {
        for major in [b"OpenSSL 3.", b"OpenSSL 4."] {
            let found = elf.find(segment.offset, segment.len.min(SEARCHED), major)?;
            if let Some(text) = found.and_then(|at| elf.bytes::<32>(after(at, 8)).ok()) {
                let version = text.split(|byte| *byte == b' ' || *byte == 0).next();
                return Ok(version.map(|version| String::from_utf8_lossy(version).into_owned()));
            }
        }
    }
    Ok(None)
}

fn unsupported(elf: &mut Elf) -> Result<Option<Unsupported>> {
    const SIGNS: [(&str, Unsupported); 4] = [
        ("JNI_CreateJavaVM", Unsupported::Java),
        ("gnutls_record_send", Unsupported::GnuTls),
        ("SSL_ImportFD", Unsupported::Nss),
        ("EVP_PKEY_CTX_ctrl", Unsupported::OldOpenSsl),
    ];
    for (name, sign) in SIGNS {
        if elf.exported(name)?.is_some() {
            return Ok(Some(sign));
        }
    }
    // libssl has the labels, but derives through libcrypto.
    if elf.exported("SSL_CTX_new")?.is_some() {
        return Ok(None);
    }
    for segment in elf.constants() {
        if elf.find(segment.offset, segment.len.min(SEARCHED), KEY_LOG_LABEL)?.is_some() {
            return Ok(Some(Unsupported::Stripped));
        }
    }
    Ok(None)
}
