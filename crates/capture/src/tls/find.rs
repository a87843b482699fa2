//! Looks into an executable file for what can be probed, and for TLS that cannot.

use std::fs::File;

use kuberewind_tls::ObjectPath;

use super::elf::{Elf, Machine, Result, after};
use super::getter;
use super::instruction::{C_ARGUMENTS, cheapest, stack_check};
use super::key_log;
use super::pclntab::{self, Functions};
use super::rustls;

/// Which BPF program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Hook {
    /// OpenSSL 3: `EVP_KDF_derive`.
    OpenSsl,
    /// Go 1.17 and later: `crypto/tls.(*Config).writeKeyLog`.
    Go,
    /// Other libraries in C: the function that writes a line of the key log.
    KeyLog,
    /// rustls, TLS 1.3: where secrets begin to be derived.
    RustlsExpand,
    /// rustls, TLS 1.3: where they have been.
    RustlsExpanded,
    /// rustls, TLS 1.2.
    RustlsPrf,
    /// The dynamic loader's `_dl_debug_state`: libraries have been mapped.
    Loader,
}

impl Hook {
    /// Whether its program must be told where the client's random is.
    pub(crate) fn asks_where_the_random_is(self) -> bool {
        matches!(self, Self::KeyLog | Self::RustlsExpanded)
    }
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
    /// OpenSSL before 1.1.1.
    OldOpenSsl,
    /// A TLS library with a key log, whose function was not found.
    Unknown,
    /// rustls, without symbols.
    Rustls,
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
            Self::Unknown => "TLS in the program",
            Self::Rustls => "rustls",
            Self::Nss => "NSS",
            Self::Java => "Java",
            Self::Go => "Go",
        }
    }

    /// Why its secrets cannot be seen.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::OldOpenSsl => "OpenSSL before 1.1.1: not supported",
            Self::Unknown => {
                "a TLS library without symbols, in which the function that writes key logs was not \
                 found"
            }
            Self::Rustls => "rustls in a program without symbols: not supported",
            Self::Nss => "NSS: not supported yet",
            Self::Java => "Java: TLS in the JVM cannot be seen",
            Self::Go => "Go before 1.17, or not for amd64: not supported yet",
        }
    }
}

/// What was found in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The library's name, where it is one that is probed.
    pub(crate) library: Option<&'static str>,
    pub(crate) places: Vec<Place>,
    /// Where the library keeps the client's random, as its own code says.
    pub(crate) random: Option<ObjectPath>,
    pub(crate) unsupported: Option<Unsupported>,
    /// Of the library, as it says itself.
    pub(crate) version: Option<String>,
    pub(crate) build_id: Option<String>,
}

const GO_WRITE_KEY_LOG: &str = "crypto/tls.(*Config).writeKeyLog";
const OPENSSL_KDF: &str = "EVP_KDF_derive";
/// Functions that hand out the client's random.
const GETTERS: [&str; 2] = ["SSL_get_client_random", "gnutls_session_get_random"];
/// How much of a function is looked at to place a probe, in bytes.
const BEGINNING: usize = 128;
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
        let Ok(code) = elf.code(place, BEGINNING) else { continue };
        let Some(offset) = elf.code_offset_of(place) else { continue };
        if let Some(check) = stack_check(&code) {
            finding.library = Some("Go");
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
        finding.library.get_or_insert("OpenSSL");
        finding.places.push(Place { hook: Hook::OpenSsl, offset });
        finding.version = finding.version.take().or(version(elf, "OpenSSL ")?);
        return Ok(());
    }
    if finding.places.is_empty() && finding.unsupported.is_none() {
        finding.unsupported = unsupported(elf)?;
    }
    if finding.places.is_empty() && finding.unsupported.is_none() {
        finding.places = rustls::places(elf)?;
        finding.library = (!finding.places.is_empty()).then_some("rustls");
    }
    if finding.places.is_empty() && finding.unsupported.is_none() {
        inspect_key_log(elf, finding)?;
    }
    Ok(())
}

/// Looks for a library that has a key log.
fn inspect_key_log(elf: &mut Elf, finding: &mut Finding) -> Result<()> {
    let labels = key_log::labels(elf)?;
    let is_openssl = elf.exported("SSL_CTX_new")?.is_some();
    // OpenSSL's libssl since 3.0 derives through libcrypto, where it is probed.
    if is_openssl && holds(elf, b"\0EVP_KDF_derive\0")? {
        return Ok(());
    }
    if !labels.are_there {
        finding.unsupported = is_openssl.then_some(Unsupported::OldOpenSsl);
        return Ok(());
    }
    let function = match elf.machine {
        Machine::X86 => key_log::function(elf, &labels)?,
        Machine::Arm | Machine::Other => None,
    };
    let offset = function.map(|function| probe(elf, function)).transpose()?.flatten();
    let Some(offset) = offset else {
        let is_rust = holds(elf, b"rustls")?;
        finding.unsupported =
            Some(if is_rust { Unsupported::Rustls } else { Unsupported::Unknown });
        return Ok(());
    };
    finding.places.push(Place { hook: Hook::KeyLog, offset });
    finding.random = random(elf)?;
    (finding.library, finding.version) = if elf.exported("gnutls_record_send")?.is_some() {
        (Some("GnuTLS"), None)
    } else if holds(elf, b"BoringSSL")? {
        (Some("BoringSSL"), None)
    } else {
        (Some("OpenSSL"), version(elf, "OpenSSL ")?)
    };
    Ok(())
}

/// Where a library keeps the client's random, as the function that hands it out tells.
fn random(elf: &mut Elf) -> Result<Option<ObjectPath>> {
    for name in GETTERS {
        if let Some(getter) = named(elf, name, true)? {
            return Ok(getter::learn(elf, getter));
        }
    }
    Ok(None)
}

/// Where to probe a function of C.
fn function(elf: &mut Elf, name: &str, look_in_symbols: bool) -> Result<Option<u64>> {
    let address = named(elf, name, look_in_symbols)?;
    address.map(|address| probe(elf, address)).transpose().map(Option::flatten)
}

/// The address of a function of C.
fn named(elf: &mut Elf, name: &str, look_in_symbols: bool) -> Result<Option<u64>> {
    match elf.exported(name)? {
        None if look_in_symbols => elf.symbol(name),
        found => Ok(found),
    }
}

/// The instruction at which a function of C is probed, in the file.
fn probe(elf: &mut Elf, function: u64) -> Result<Option<u64>> {
    let Some(offset) = elf.code_offset_of(function) else { return Ok(None) };
    let skip = match elf.machine {
        Machine::X86 => cheapest(&elf.code(function, BEGINNING)?, &C_ARGUMENTS),
        Machine::Arm => 0,
        Machine::Other => return Ok(None),
    };
    Ok(Some(after(offset, skip)))
}

/// Whether these bytes stand among the constants.
fn holds(elf: &mut Elf, wanted: &[u8]) -> Result<bool> {
    for segment in elf.constants() {
        if elf.find(segment.offset, segment.len.min(SEARCHED), wanted)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What stands behind a library's name, if it begins with a digit: its version.
fn version(elf: &mut Elf, name: &str) -> Result<Option<String>> {
    /// The name alone stands in other texts, too.
    const MENTIONS: usize = 64;
    for segment in elf.constants() {
        let (mut at, end) = (segment.offset, after(segment.offset, segment.len.min(SEARCHED)));
        for _ in 0..MENTIONS {
            let Some(found) = elf.find(at, end.saturating_sub(at), name.as_bytes())? else { break };
            at = after(found, name.len() as u64);
            let Ok(text) = elf.bytes::<32>(at) else { break };
            let version = text.split(|byte| *byte == b' ' || *byte == 0).next();
            if let Some(version) = version.filter(|_| text[0].is_ascii_digit() && text[1] == b'.') {
                return Ok(Some(String::from_utf8_lossy(version).into_owned()));
            }
        }
    }
    Ok(None)
}

fn unsupported(elf: &mut Elf) -> Result<Option<Unsupported>> {
    const SIGNS: [(&str, Unsupported); 2] =
        [("JNI_CreateJavaVM", Unsupported::Java), ("SSL_ImportFD", Unsupported::Nss)];
    for (name, sign) in SIGNS {
        if elf.exported(name)?.is_some() {
            return Ok(Some(sign));
        }
    }
    Ok(None)
}
