//! Where packets go in, also while nobody may write them yet: the buffers of a recorder, and their queue.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crossbeam_channel::{Receiver, bounded};

use crate::appender::{Appender, Batch};
use crate::buffer::Pool;
use crate::limits::Limits;

/// Buffers for all lanes together, and more for each: the disk may stall for a third of a second at
/// 1 Gbit/s before packets wait in the kernel's rings.
const BUFFERS: usize = 16;
const BUFFERS_PER_LANE: usize = 2;

/// What appenders fill and a [`Store`](crate::Store) empties. Until there is one, packets wait in it.
#[derive(Debug)]
pub struct Inlet {
    pub(crate) pool: Arc<Pool>,
    pub(crate) fill: Arc<AtomicUsize>,
    /// appenders --batches--> writer; every buffer there is and a few losses fit.
    pub(crate) batches: Receiver<Batch>,
}

impl Inlet {
    /// An empty one, and an appender for each lane. Buffers are made when they are needed.
    pub fn new(lanes: usize, limits: &Limits) -> (Self, Vec<Appender>) {
        let buffers = BUFFERS + BUFFERS_PER_LANE * lanes;
        let pool = Arc::new(Pool::new(buffers));
        let fill = Arc::new(AtomicUsize::new(limits.fill()));
        let (out, batches) = bounded(buffers + 4 * lanes + 4);
        let appender = || Appender::new(Arc::clone(&pool), Arc::clone(&fill), out.clone());
        let appenders = (0..lanes).map(|_| appender()).collect();
        (Self { pool, fill, batches }, appenders)
    }
}
