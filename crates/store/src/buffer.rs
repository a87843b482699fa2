//! The memory that packets are encoded into: page-aligned, so that it goes to the disk without a
//! further copy, and of a fixed number, so that a slow disk cannot eat the machine.

use std::io;
use std::sync::{Mutex, PoisonError};

use memmap2::{Advice, MmapMut};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What `O_DIRECT` wants addresses, lengths and offsets to be multiples of.
pub(crate) const PAGE: usize = 4096;

/// Bytes in one buffer: one huge page of the usual machines.
pub(crate) const BUFFER_LEN: usize = 2 << 20;

#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Page-aligned bytes.
#[derive(Debug)]
pub(crate) struct Pages(Vec<Page>);

impl Pages {
    /// So many zero bytes, rounded up to whole pages.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self(vec![Page([0; PAGE]); len.div_ceil(PAGE)])
    }

    /// Grows to at least so many bytes.
    pub(crate) fn grow(&mut self, len: usize) {
        if self.bytes().len() < len {
            self.0.resize(len.div_ceil(PAGE), Page([0; PAGE]));
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_bytes()
    }
}

/// [`BUFFER_LEN`] bytes, on a huge page where the kernel gives one: to write them, the kernel then
/// looks up one page instead of 512, and the disk gets one stretch of memory.
#[derive(Debug)]
pub(crate) struct HugePage(MmapMut);

impl HugePage {
    fn new() -> io::Result<Self> {
        let map = MmapMut::map_anon(BUFFER_LEN)?;
        // Fails where the kernel was built without them.
        let _ = map.advise(Advice::HugePage);
        Ok(Self(map))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// [`BUFFER_LEN`] bytes, of which the first `len` are blocks.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) pages: HugePage,
    pub(crate) len: usize,
}

/// The buffers that are not in use. At most `most` are ever made, each when it is first needed; the
/// one given back last goes out first, for it is still in the processor's cache.
#[derive(Debug)]
pub(crate) struct Pool {
    stack: Mutex<Stack>,
    most: usize,
}

#[derive(Debug, Default)]
struct Stack {
    free: Vec<Buffer>,
    made: usize,
}

impl Pool {
    pub(crate) fn new(most: usize) -> Self {
        Self { stack: Mutex::default(), most }
    }

    /// An empty buffer, if there is one, or memory for one.
    pub(crate) fn take(&self) -> Option<Buffer> {
        let mut stack = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buffer) = stack.free.pop() {
            return Some(buffer);
        }
        if stack.made == self.most {
            return None;
        }
        let pages = HugePage::new().ok()?;
        stack.made += 1;
        Some(Buffer { pages, len: 0 })
    }

    /// Takes a buffer back.
    pub(crate) fn give(&self, mut buffer: Buffer) {
        buffer.len = 0;
        self.stack.lock().unwrap_or_else(PoisonError::into_inner).free.push(buffer);
    }

    /// Bytes of memory in all buffers made so far.
    pub(crate) fn bytes(&self) -> u64 {
        let made = self.stack.lock().unwrap_or_else(PoisonError::into_inner).made;
        (made * BUFFER_LEN) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_no_more_than_allowed() {
        let pool = Pool::new(2);
        let (Some(a), Some(b)) = (pool.take(), pool.take()) else { panic!("two are allowed") };
        assert!(a.pages.bytes().as_ptr().addr().is_multiple_of(PAGE));
        assert_eq!(b.pages.bytes().len(), BUFFER_LEN);
        assert!(pool.take().is_none());
        pool.give(a);
        assert!(pool.take().is_some());
        assert_eq!(pool.bytes(), 2 * BUFFER_LEN as u64);
    }
}
