//! Secrets at rest: sealed with keys derived from one that lies in memory only (tmpfs) and so
//! outlives restarts and upgrades of the recorder, but no reboot of the node.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce};
use ring::hkdf::{HKDF_SHA256, Prk};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// Where the key lies: in the first of these that is in memory.
pub(crate) const KEYS: [&str; 2] = ["/run/kuberewind/key", "/dev/shm/kuberewind/key"];

const KEY_LEN: usize = 32;
const SALT_LEN: usize = 16;

/// What the derived keys are for.
const PURPOSE: &[u8] = b"kuberewind secrets at rest, version 1";

/// `statfs(2)`: file systems that live in memory.
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

/// Why secrets cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} is on a disk: TLS secrets are kept only under a key that a reboot destroys; mount a tmpfs there",
        .0.display()
    )]
    OnDisk(PathBuf),
    #[error("{} is not this user's alone: somebody else made it; remove it", .0.display())]
    NotOurs(PathBuf),
    #[error("{} is not a key of {KEY_LEN} bytes: remove it, and with it the secrets kept so far", .0.display())]
    NotAKey(PathBuf),
    #[error("the system gives no random numbers")]
    NoRandom,
}

/// Seals and opens.
pub(crate) struct Vault {
    key: Prk,
    random: SystemRandom,
}

impl Vault {
    /// Takes the key from where it usually lies, or makes one there.
    pub(crate) fn open_usual() -> Result<Self, VaultError> {
        let [first, second] = KEYS.map(Path::new);
        match Self::open(first) {
            Err(VaultError::OnDisk(dir)) => Self::open(second).map_err(|error| match error {
                VaultError::OnDisk(_) => VaultError::OnDisk(dir),
                error => error,
            }),
            opened => opened,
        }
    }

    /// Takes the key from `path`, or makes one there.
    pub(crate) fn open(path: &Path) -> Result<Self, VaultError> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(failed("create", dir))?;
        let system =
            rustix::fs::statfs(dir).map_err(io::Error::from).map_err(failed("look at", dir))?;
        if !is_memory(&system) {
            return Err(VaultError::OnDisk(dir.to_owned()));
        }
        check_owner(dir)?;
        let bytes = match read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(path, &SystemRandom::new())?
            }
            read => read.map_err(failed("read", path))?,
        };
        Self::from_bytes(path, &bytes)
    }

    /// Takes the keys that recorders of this machine have left; makes none.
    pub(crate) fn left_behind() -> Result<Vec<Self>, VaultError> {
        KEYS.iter().filter_map(|path| Self::find(Path::new(path)).transpose()).collect()
    }

    /// Takes the key from `path`, if there is one in memory.
    fn find(path: &Path) -> Result<Option<Self>, VaultError> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        match rustix::fs::statfs(dir) {
            Ok(system) if is_memory(&system) => {}
            _ => return Ok(None),
        }
        let bytes = match read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(failed("read", path))?,
        };
        check_owner(dir)?;
        Self::from_bytes(path, &bytes).map(Some)
    }

    fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, VaultError> {
        if bytes.len() != KEY_LEN {
            return Err(VaultError::NotAKey(path.to_owned()));
        }
        let key = Prk::new_less_safe(HKDF_SHA256, bytes);
        Ok(Self { key, random: SystemRandom::new() })
    }

    /// Seals: salt, then what only the same key opens. Each piece has a key of its own, so the nonce
    /// need not differ.
    pub(crate) fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut salt = [0; SALT_LEN];
        self.random.fill(&mut salt).map_err(|_| VaultError::NoRandom)?;
        let mut sealed = plain.to_vec();
        let key = self.derive(&salt).ok_or(VaultError::NoRandom)?;
        key.seal_in_place_append_tag(nonce(), Aad::from(salt), &mut sealed)
            .map_err(|_| VaultError::NoRandom)?;
        sealed.splice(0..0, salt);
        Ok(sealed)
    }

    /// Opens what was sealed with this key; nothing else.
    pub(crate) fn unseal(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (salt, sealed) = sealed.split_first_chunk::<SALT_LEN>()?;
        let mut bytes = sealed.to_vec();
        let plain = self.derive(salt)?.open_in_place(nonce(), Aad::from(*salt), &mut bytes).ok()?;
        let len = plain.len();
        bytes.truncate(len);
        Some(bytes)
    }

    fn derive(&self, salt: &[u8]) -> Option<LessSafeKey> {
        let info = [PURPOSE, salt];
        let key = self.key.expand(&info, &CHACHA20_POLY1305).ok()?;
        Some(LessSafeKey::new(key.into()))
    }
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VaultError + use<> {
    let path = path.to_owned();
    move |source| VaultError::Io { doing, path, source }
}

/// A key that somebody else put there would be no secret.
fn check_owner(dir: &Path) -> Result<(), VaultError> {
    let meta = fs::symlink_metadata(dir).map_err(failed("look at", dir))?;
    let ours = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw();
    if ours && meta.mode() & 0o022 == 0 { Ok(()) } else { Err(VaultError::NotOurs(dir.to_owned())) }
}

fn is_memory(system: &rustix::fs::StatFs) -> bool {
    #[allow(clippy::useless_conversion, reason = "its width differs between architectures")]
    let kind = i64::from(system.f_type);
    matches!(kind, TMPFS | RAMFS)
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_LEN + 1));
    File::open(path)?.take(KEY_LEN as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A key is there whole or not at all; of two recorders that make one at once, the first wins.
fn make(path: &Path, random: &SystemRandom) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let mut bytes = Zeroizing::new(vec![0; KEY_LEN]);
    random.fill(&mut bytes).map_err(|_| VaultError::NoRandom)?;
    let new = path.with_extension(std::process::id().to_string());
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&new).and_then(|mut file| file.write_all(&bytes));
    let linked = written.and_then(|()| fs::hard_link(&new, path));
    let _ = fs::remove_file(&new);
    match linked {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read(path).map_err(failed("read", path))
        }
        Err(error) => Err(failed("write", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn memory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    #[test]
    fn what_is_sealed_is_opened_by_the_same_key_only() {
        let dir = memory();
        let path = dir.path().join("k/key");
        let vault = Vault::open(&path).unwrap();
        let sealed = vault.seal(b"secret").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        let again = Vault::open(&path).unwrap();
        assert_eq!(again.unseal(&sealed).unwrap(), b"secret");
        assert_eq!(Vault::find(&path).unwrap().unwrap().unseal(&sealed).unwrap(), b"secret");
        assert!(Vault::find(&dir.path().join("k/none")).unwrap().is_none());
        let other = Vault::open(&dir.path().join("other")).unwrap();
        assert_eq!(other.unseal(&sealed), None);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(vault.unseal(&damaged), None);
            assert_eq!(vault.unseal(&sealed[..at]), None);
        }
    }

    #[test]
    fn the_key_is_its_owners_alone() {
        let dir = memory();
        let path = dir.path().join("k/key");
        Vault::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        assert_eq!(path.parent().unwrap().metadata().unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn no_key_is_kept_on_a_disk_and_a_damaged_one_is_named() {
        let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let refused = Vault::open(&disk.path().join("key")).err().unwrap();
        assert!(matches!(refused, VaultError::OnDisk(_)), "{refused}");
        let dir = memory();
        let path = dir.path().join("key");
        fs::write(&path, "short").unwrap();
        assert!(matches!(Vault::open(&path).err().unwrap(), VaultError::NotAKey(_)));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Vault::open(&path).err().unwrap(), VaultError::NotOurs(_)));
    }
}
