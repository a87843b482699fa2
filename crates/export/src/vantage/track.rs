//! Which connection each packet of a stream is of, so that nobody has to find out twice.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// So many numbers are kept in memory; more of them go into a file.
const HERE: usize = 16 << 10;
const LEN: usize = size_of::<u32>();

/// A number for each packet, in their order.
#[derive(Debug)]
pub(super) struct Track {
    dir: PathBuf,
    /// The newest ones.
    here: Vec<u32>,
    /// Those before, in a file that nobody else sees.
    before: Option<File>,
    /// The file could not be written.
    is_broken: bool,
    pub(super) count: u64,
}

impl Track {
    /// Its file, should it need one, is in this directory.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, here: Vec::new(), before: None, is_broken: false, count: 0 }
    }

    pub(super) fn push(&mut self, number: u32) {
        if self.here.len() == HERE {
            self.is_broken |= self.put_away().is_err();
            self.here.clear();
        }
        self.here.push(number);
        self.count += 1;
    }

    fn put_away(&mut self) -> io::Result<()> {
        if self.is_broken {
            return Ok(());
        }
        let file = match &mut self.before {
            Some(file) => file,
            None => self.before.insert(tempfile::tempfile_in(&self.dir)?),
        };
        let bytes: Vec<u8> = self.here.iter().flat_map(|number| number.to_le_bytes()).collect();
        file.write_all(&bytes)
    }

    /// The same, to be read; nothing where the file could not be written.
    pub(super) fn rewind(mut self) -> Option<Steps> {
        if self.is_broken {
            return None;
        }
        if let Some(file) = &mut self.before {
            file.seek(SeekFrom::Start(0)).ok()?;
        }
        Some(Steps { before: self.before, last: self.here, now: Vec::new(), next: 0 })
    }
}

/// Gives the numbers in their order.
#[derive(Debug, Default)]
pub(super) struct Steps {
    before: Option<File>,
    last: Vec<u32>,
    now: Vec<u32>,
    next: usize,
}

impl Steps {
    /// None at the end, and once the file cannot be read.
    #[inline]
    pub(super) fn next(&mut self) -> Option<u32> {
        if self.next == self.now.len() {
            self.fetch();
        }
        let number = self.now.get(self.next).copied();
        self.next += usize::from(number.is_some());
        number
    }

    fn fetch(&mut self) {
        self.next = 0;
        if let Some(file) = &mut self.before {
            let mut bytes = Vec::with_capacity(HERE * LEN);
            let read = file.take((HERE * LEN) as u64).read_to_end(&mut bytes);
            if read.is_err() {
                // Nobody knows any more whose packets come.
                *self = Self::default();
                return;
            }
            let numbers = bytes.as_chunks::<LEN>().0;
            self.now.clear();
            self.now.extend(numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)));
            if !self.now.is_empty() {
                return;
            }
            self.before = None;
        }
        self.now = std::mem::take(&mut self.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_in_their_order_however_many_they_are() {
        let dir = tempfile::tempdir().unwrap();
        for count in [0, 1, HERE - 1, HERE, HERE + 1, 3 * HERE, 3 * HERE + 7] {
            let numbers: Vec<_> = (7..).take(count).collect();
            let mut track = Track::new(dir.path().to_owned());
            for number in &numbers {
                track.push(*number);
            }
            let mut steps = track.rewind().unwrap();
            let read: Vec<_> = std::iter::from_fn(|| steps.next()).collect();
            assert!(read == numbers, "{count}");
            assert_eq!(steps.next(), None);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_room_for_its_file_there_is_none() {
        let mut track = Track::new("/nowhere".into());
        for number in 0..40_000 {
            track.push(number);
        }
        assert!(track.rewind().is_none());
    }
}
