//! Opens rings inside network namespaces: on threads of their own, which end afterwards. A thread
//! that entered a namespace is of no use for anything else.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kuberewind_filter::CaptureFilter;
use kuberewind_packet::{NetnsId, Timestamp};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::CaptureError;
use crate::forerunner::Forerunner;
use crate::growth;
use crate::hold::{Hold, HoldMemory};
use crate::interfaces::Label;
use crate::links::{self, Links};
use crate::namespaces::Target;
use crate::recorded::Recorded;
use crate::ring::{Layout, Ring};
use crate::sys::PacketSocket;

/// `tap.ringMemory`: how many bytes all rings may take, and do take.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
}

impl Budget {
    pub(crate) fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn left(&self) -> u64 {
        self.limit().saturating_sub(self.used())
    }

    pub(crate) fn take(&self, layout: Layout) {
        self.used.fetch_add(layout.bytes() as u64, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, layout: Layout) {
        self.used.fetch_sub(layout.bytes() as u64, Ordering::Relaxed);
    }
}

/// A namespace whose packets are being taken from now on.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) recorded: Box<Recorded>,
    pub(crate) socket: Arc<PacketSocket>,
    /// The fan-out group through which its ring grows.
    pub(crate) group: u16,
    pub(crate) layout: Layout,
    pub(crate) since: Timestamp,
}

/// Opens the first ring of a namespace. Call it on a thread of its own.
pub(crate) fn open(
    target: &Target,
    label: Label,
    filter: &CaptureFilter,
    budget: &Budget,
    namespaces: usize,
) -> Result<Opened, CaptureError> {
    enter(target)?;
    let owner = || target.owner.clone();
    let (links, known) =
        Links::open().map_err(|e| CaptureError::ListInterfaces { owner: owner(), source: e })?;
    let layout = growth::first(namespaces, links::largest_gso_max(&known), budget.left());
    budget.take(layout);
    let (ring, group) = Ring::open(layout, filter.program()).map_err(|source| {
        budget.give_back(layout);
        CaptureError::OpenRing { owner: owner(), bytes: layout.bytes(), source }
    })?;
    let since = Timestamp::now();
    let socket = Arc::clone(ring.socket());
    let recorded = Box::new(Recorded::new(ring, label, (links, known), None));
    Ok(Opened { recorded, socket, group, layout, since })
}

/// Opens the ring of a namespace of which nobody has decided yet, before anything else is done: its
/// first packets are on their way. Call it on a thread of its own.
pub(crate) fn open_undecided(
    target: &Target,
    label: Label,
    filter: &CaptureFilter,
    budget: &Budget,
    layout: Layout,
    memory: HoldMemory,
) -> Result<Opened, CaptureError> {
    enter(target)?;
    // Without it the ring is still worth to be opened.
    let forerunner = Forerunner::start(filter.program()).ok();
    budget.take(layout);
    let failed = |error| {
        budget.give_back(layout);
        error
    };
    let owner = || target.owner.clone();
    let (ring, group) = Ring::open(layout, filter.program()).map_err(|source| {
        failed(CaptureError::OpenRing { owner: owner(), bytes: layout.bytes(), source })
    })?;
    let since = Timestamp::now();
    let mut hold = Hold::new(memory);
    let seam = forerunner.map(|forerunner| forerunner.finish(&mut hold, since));
    let links = Links::open()
        .map_err(|source| failed(CaptureError::ListInterfaces { owner: owner(), source }))?;
    let socket = Arc::clone(ring.socket());
    let recorded = Box::new(Recorded::new(ring, label, links, Some((hold, seam))));
    Ok(Opened { recorded, socket, group, layout, since })
}

/// A further ring, and the time by which it had joined.
#[derive(Debug)]
pub(crate) struct Grown {
    pub(crate) ring: Ring,
    pub(crate) joined: Timestamp,
}

/// Opens a further ring of a namespace, of a size that the budget has already been charged with. Call
/// it on a thread of its own.
pub(crate) fn grow(
    target: &Target,
    group: u16,
    layout: Layout,
    filter: &CaptureFilter,
) -> Result<Grown, CaptureError> {
    enter(target)?;
    let ring = Ring::join(layout, filter.program(), group).map_err(|source| {
        CaptureError::OpenRing { owner: target.owner.clone(), bytes: layout.bytes(), source }
    })?;
    Ok(Grown { ring, joined: Timestamp::now() })
}

/// Moves this thread into a namespace.
fn enter(target: &Target) -> Result<(), CaptureError> {
    let (owner, path) = (target.owner.clone(), target.path.clone());
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(source) => return Err(CaptureError::OpenNamespace { owner, path, source }),
    };
    let found = match file.metadata() {
        Ok(metadata) => NetnsId(metadata.ino()),
        Err(source) => return Err(CaptureError::OpenNamespace { owner, path, source }),
    };
    if found != target.netns {
        return Err(CaptureError::AnotherNamespace { owner, path, wanted: target.netns, found });
    }
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| CaptureError::EnterNamespace { owner, path, source: error.into() })
}
