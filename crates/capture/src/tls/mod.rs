//! Brings the TLS secrets of recorded network namespaces out of the kernel.
//!
//! BPF programs at the key derivation of TLS libraries (uprobes): a few events for each handshake,
//! nothing for each byte. The programs themselves pass over every process that is not recorded. Linux
//! 5.8 or later, with BTF.

mod detach;
mod elf;
mod error;
mod event;
mod find;
mod getter;
mod instruction;
mod kernel;
mod key_log;
mod pclntab;
mod plain;
mod processes;
mod rustls;
mod share;
mod status;
mod threads;
mod watch;

pub use error::TlsError;
pub use plain::{Plaintext, PlaintextEvent, PlaintextProbes, PlaintextStatus, PlaintextTold};
#[doc(hidden)]
pub use plain::{plaintext_event, read_plaintext};
pub use status::LibraryStatus;
pub use status::TlsNamespaceStatus;
pub use status::TlsStatus;
pub use status::UnsupportedStatus;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use kuberewind_packet::{NetnsId, Owner};
use kuberewind_tls::{ObjectPath, SecretEvent};
use libbpf_rs::{Link, RingBuffer, RingBufferBuilder};

use crate::namespaces::Target;
use crate::opener::Opener;
use event::{Clock, Repeats, decode, hinted};
use kernel::{Maps, Programs};
use processes::Processes;
pub(crate) use processes::own;
use threads::{Names, Threads};
use watch::{Order, Shown, Watch};

/// How long the reader of the rings may sleep when it is told to end.
const NAP: Duration = Duration::from_millis(200);
/// Hints that wait for the watch; it makes one of all those about one process.
const MAX_HINTS: usize = 4096;

/// How secrets are looked for.
#[derive(Clone, Debug, Default)]
pub struct TlsConfig {
    /// Who opens processes' files. It knows where they are shown, numbered as by the machine's first PID
    /// namespace: in `/proc`, or `/host/proc` in a container.
    pub opener: Opener,
}

/// Probes that bring TLS secrets of recorded network namespaces.
#[derive(Debug)]
pub struct TlsProbes {
    maps: Arc<Maps>,
    orders: Sender<Order>,
    namespaces: Namespaces,
    shown: Shown,
    /// How often [`TlsProbes::set_targets`] was called.
    ordered: AtomicU64,
    threads: Threads,
    _executed: Link,
}

type Namespaces = Arc<Mutex<BTreeMap<NetnsId, Namespace>>>;

/// A recorded namespace.
#[derive(Debug)]
struct Namespace {
    owner: Owner,
    /// How many were seen.
    secrets: u64,
    /// Why the kernel does not let them out.
    problem: Option<String>,
}

impl TlsProbes {
    /// Loads the probes; they see nothing before [`TlsProbes::set_targets`]. Each secret goes to
    /// `on_secret`, on a thread of its own: while it works, secrets wait in a ring that holds some
    /// 20,000.
    ///
    /// An error means that TLS secrets cannot be seen here at all; recording does not need them.
    pub fn start(
        config: TlsConfig,
        on_secret: impl FnMut(SecretEvent) + Send + 'static,
    ) -> Result<Self, TlsError> {
        let TlsConfig { opener } = config;
        let path = opener.proc().display().to_string();
        let processes = Processes::new(opener.clone());
        processes.all().map_err(|source| TlsError::Processes { path, source })?;
        let (programs, maps, executed) = Programs::load(opener)?;
        let maps = Arc::new(maps);
        // rings --hints--> watch; when full: dropped, and found by the next regular look.
        let (orders, ordered) = crossbeam_channel::bounded(MAX_HINTS);
        let namespaces = Namespaces::default();
        let ring = rings(&maps, Arc::clone(&namespaces), orders.clone(), on_secret)?;
        let shown = Shown::default();
        let watch = Watch::new(processes, programs, Arc::clone(&shown));
        let names = Names { reader: "tls-secrets", watch: "tls-watch" };
        let watch = move || watch.run(&ordered);
        let threads = Threads::start(&names, ring, NAP, || {}, watch)?;
        let ordered = AtomicU64::new(0);
        Ok(Self { maps, orders, namespaces, shown, ordered, threads, _executed: executed })
    }

    /// Records these namespaces and no others. Returns once the kernel lets secrets of these out, and
    /// of no others; processes that run already are looked at soon after.
    pub fn set_targets(&self, targets: &[Target]) {
        let new: BTreeMap<NetnsId, Owner> =
            targets.iter().map(|target| (target.netns, target.owner.clone())).collect();
        {
            let mut namespaces = lock(&self.namespaces);
            let gone = |netns: &&NetnsId| !new.contains_key(netns);
            for netns in namespaces.keys().filter(gone).copied().collect::<Vec<_>>() {
                namespaces.remove(&netns);
                if let Err(error) = self.maps.remove(netns) {
                    tracing::error!(
                        "stop seeing TLS secrets of network namespace {netns}: {error}"
                    );
                }
            }
            for (netns, owner) in &new {
                let namespace = namespaces.entry(*netns).or_insert_with(|| Namespace {
                    owner: owner.clone(),
                    secrets: 0,
                    problem: Some(String::new()),
                });
                namespace.owner.clone_from(owner);
                if namespace.problem.is_some() {
                    namespace.problem = self.maps.add(*netns).err().map(|error| error.to_string());
                }
            }
        }
        if self.orders.send(Order::Targets(new)).is_ok() {
            self.ordered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether everything that ran in the namespaces when they were last set has been looked at.
    pub fn has_looked(&self) -> bool {
        lock(&self.shown).obeyed >= self.ordered.load(Ordering::Relaxed)
    }

    /// Tells the probes where the library in a file, named by the number in its secrets, keeps the
    /// client's random, as connections have shown. From then on that alone is read of its objects.
    pub fn teacher(&self) -> impl Fn(u32, ObjectPath) + Send + 'static {
        let orders = self.orders.clone();
        move |file, path| drop(orders.send(Order::Learned(file, path)))
    }

    /// What is seen, and what is not.
    pub fn status(&self) -> TlsStatus {
        let sight = lock(&self.shown).clone();
        let counts = self.maps.counts();
        let mut problems = sight.problems;
        if self.threads.is_broken() {
            problems.push("a thread of the TLS probes has ended: restart the recorder".to_owned());
        }
        let namespaces = lock(&self.namespaces);
        problems.extend(namespaces.values().filter_map(|namespace| {
            let problem = namespace.problem.as_ref()?;
            Some(format!("see TLS secrets of {}: {problem}", namespace.owner))
        }));
        let namespaces = namespaces.iter().map(|(netns, namespace)| TlsNamespaceStatus {
            owner: namespace.owner.clone(),
            netns: *netns,
            secrets: namespace.secrets,
        });
        TlsStatus {
            libraries: sight.libraries,
            unsupported: sight.unsupported,
            loaders: sight.loaders,
            namespaces: namespaces.collect(),
            secrets: counts.secrets,
            lost: counts.lost,
            refused: counts.refused,
            unreadable: counts.unreadable,
            not_recorded: counts.elsewhere,
            problems,
        }
    }

    /// Takes the probes away, and tells what they sent until then. The callback is not called again.
    pub fn stop(self) {
        let _ = self.orders.send(Order::Stop);
        self.threads.stop();
    }
}

/// Looks into a file for what can be probed: where in the file, and what was found, in words.
#[doc(hidden)]
pub fn look_into(file: File) -> Result<(Vec<u64>, String), String> {
    let finding = find::inspect(file).map_err(|malformed| format!("{malformed:?}"))?;
    let places = finding.places.iter().map(|place| place.offset).collect();
    let kinds: Vec<_> = finding.places.iter().map(|place| place.hook).collect();
    let find::Finding { library, random, unsupported, version, build_id, .. } = finding;
    let random = random.map(|path| path.to_string());
    let words = format!("{library:?} {kinds:?} {random:?} {unsupported:?}");
    Ok((places, format!("{words} {} {}", version.is_some(), build_id.is_some())))
}

/// Loads the probes and takes them away again: whether TLS secrets can be seen here.
pub fn try_tls() -> Result<(), TlsError> {
    Programs::load(Opener::default()).map(drop)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rings, with what is to be done with what stands in them.
fn rings(
    maps: &Maps,
    namespaces: Namespaces,
    orders: Sender<Order>,
    mut on_secret: impl FnMut(SecretEvent) + Send + 'static,
) -> Result<RingBuffer<'static>, TlsError> {
    let mut repeats = Repeats::default();
    let secret = move |bytes: &[u8]| {
        let event = Some(bytes).filter(|bytes| !repeats.seen(bytes));
        if let Some(event) = event.and_then(|bytes| decode(bytes, Clock::now())) {
            // What was in the ring when its namespace ceased to be recorded.
            let mut namespaces = lock(&namespaces);
            if let Some(namespace) = namespaces.get_mut(&event.netns) {
                namespace.secrets += 1;
                drop(namespaces);
                on_secret(event);
            }
        }
        0
    };
    let hint = move |bytes: &[u8]| {
        if let Some(pid) = hinted(bytes) {
            let _ = orders.try_send(Order::Look(pid));
        }
        0
    };
    let mut builder = RingBufferBuilder::new();
    let ring =
        builder.add(&maps.secrets, secret).and_then(|builder| builder.add(&maps.hints, hint));
    ring.map_err(|source| TlsError::Ring { source })?;
    builder.build().map_err(|source| TlsError::Ring { source })
}
