//! Opens rings of network namespaces: on threads of their own, which end afterwards, since the kernel
//! takes its time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kuberewind_filter::CaptureFilter;
use kuberewind_packet::Timestamp;

use crate::error::CaptureError;
use crate::forerunner::Forerunner;
use crate::growth;
use crate::hold::{Hold, HoldMemory};
use crate::interfaces::Label;
use crate::links::{self, LinkEvent, Links};
use crate::namespaces::Target;
use crate::opener::{Opener, Refused, Sockets, Stage, Wanted};
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
    opener: &Opener,
    target: &Target,
    label: Label,
    filter: &CaptureFilter,
    budget: &Budget,
    namespaces: usize,
) -> Result<Opened, CaptureError> {
    let refused = |refused| to_error(target, refused);
    let wanted = Wanted { packets: 1, links: true };
    let mut sockets = opener.sockets(&target.path, target.netns, wanted).map_err(refused)?;
    let socket = next_packets(target, &mut sockets)?;
    let links = follow_links(&mut sockets);
    let (links, known) = links.map_err(|source| no_links(target, source))?;
    let layout = growth::first(namespaces, links::largest_gso_max(&known), budget.left());
    budget.take(layout);
    let (ring, group) = Ring::open(socket, layout, filter.program()).map_err(|source| {
        budget.give_back(layout);
        no_ring(target, layout.bytes(), source)
    })?;
    let since = Timestamp::now();
    let socket = Arc::clone(ring.socket());
    let recorded = Box::new(Recorded::new(ring, label, (links, known), None));
    Ok(Opened { recorded, socket, group, layout, since })
}

/// Opens the ring of a namespace of which nobody has decided yet, before anything else is done: its
/// first packets are on their way. Call it on a thread of its own.
pub(crate) fn open_undecided(
    opener: &Opener,
    target: &Target,
    label: Label,
    filter: &CaptureFilter,
    budget: &Budget,
    layout: Layout,
    memory: HoldMemory,
) -> Result<Opened, CaptureError> {
    let refused = |refused| to_error(target, refused);
    let wanted = Wanted { packets: 2, links: true };
    let mut sockets = opener.sockets(&target.path, target.netns, wanted).map_err(refused)?;
    let early = next_packets(target, &mut sockets)?;
    // Without it the ring is still worth to be opened.
    let forerunner = Forerunner::start(early, filter.program()).ok();
    let socket = next_packets(target, &mut sockets)?;
    budget.take(layout);
    let failed = |error| {
        budget.give_back(layout);
        error
    };
    let (ring, group) = Ring::open(socket, layout, filter.program())
        .map_err(|source| failed(no_ring(target, layout.bytes(), source)))?;
    let since = Timestamp::now();
    let mut hold = Hold::new(memory);
    let seam = forerunner.map(|forerunner| forerunner.finish(&mut hold, since));
    let links = follow_links(&mut sockets).map_err(|source| failed(no_links(target, source)))?;
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
    opener: &Opener,
    target: &Target,
    group: u16,
    layout: Layout,
    filter: &CaptureFilter,
) -> Result<Grown, CaptureError> {
    let wanted = Wanted { packets: 1, links: false };
    let sockets = opener.sockets(&target.path, target.netns, wanted);
    let mut sockets = sockets.map_err(|refused| to_error(target, refused))?;
    let socket = next_packets(target, &mut sockets)?;
    let ring = Ring::join(socket, layout, filter.program(), group)
        .map_err(|source| no_ring(target, layout.bytes(), source))?;
    Ok(Grown { ring, joined: Timestamp::now() })
}

fn next_packets(target: &Target, sockets: &mut Sockets) -> Result<PacketSocket, CaptureError> {
    let socket = sockets.next().map(PacketSocket::from);
    socket.map_err(|source| CaptureError::OpenSocket { owner: target.owner.clone(), source })
}

fn follow_links(sockets: &mut Sockets) -> io::Result<(Links, Vec<LinkEvent>)> {
    sockets.next().and_then(Links::follow)
}

fn no_ring(target: &Target, bytes: usize, source: io::Error) -> CaptureError {
    CaptureError::OpenRing { owner: target.owner.clone(), bytes, source }
}

fn no_links(target: &Target, source: io::Error) -> CaptureError {
    CaptureError::ListInterfaces { owner: target.owner.clone(), source }
}

fn to_error(target: &Target, refused: Refused) -> CaptureError {
    let (owner, path) = (target.owner.clone(), target.path.clone());
    let Refused { stage, error: source, found } = refused;
    match stage {
        Stage::Done | Stage::Open => CaptureError::OpenNamespace { owner, path, source },
        Stage::Another => {
            CaptureError::AnotherNamespace { owner, path, wanted: target.netns, found }
        }
        Stage::Enter => CaptureError::EnterNamespace { owner, path, source },
        Stage::Packets => CaptureError::OpenSocket { owner, source },
        Stage::Links => no_links(target, source),
    }
}
