//! The power goes: what the disk had not taken for good is cut off, zeros, or old.
//!
//! Nothing is synced: sealed segments of the last seconds may lose their ends just as the open one.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kuberewind_packet::pcapng::{Block, Blocks};
use kuberewind_packet::{PacketSink, Span, Timestamp};
use kuberewind_store::{Choice, Recording, Store};
use proptest::prelude::*;
use support::{config, files, interface, open, put, read};

const PAGE: usize = 4096;
const EACH: u64 = 300;
const PACKET: usize = 500;

/// Three sealed segments and an open one, of [`EACH`] packets, numbered by their times.
fn recorded(start: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for segment in 0..4 {
        let (store, mut appender) = open(config(dir.path()));
        let slot = appender.open_interface(interface("eth0"));
        for i in 0..EACH {
            let time = Timestamp::from_nanos(start + segment * EACH + i);
            put(&mut appender, slot, time, &[1; PACKET]);
            if i % 50 == 49 {
                appender.flush();
                store.sync().unwrap();
            }
        }
        if segment == 3 {
            // As it is while it is written.
            let copy = tempfile::tempdir().unwrap();
            for entry in fs::read_dir(dir.path()).unwrap().flatten() {
                fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            }
            return copy;
        }
        drop(appender);
        store.close().unwrap();
    }
    dir
}

/// How many packets stand in a file before the first byte that is not as it was.
fn whole(before: &[u8], after: &[u8]) -> usize {
    let same = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let ends = Blocks::new(&before[..same]).map_while(Result::ok);
    ends.filter(|(_, block)| matches!(block, Block::Packet(_))).count()
}

fn files_in_order(dir: &Path) -> Vec<PathBuf> {
    let mut all = files(dir, ".pcapng");
    all.extend(files(dir, ".open"));
    all.sort();
    all
}

fn times(recording: &Recording) -> Vec<u64> {
    read(recording.window(Span::ALL, Choice::default())).0.iter().map(|got| got.time).collect()
}

/// What happens to an unsynced file.
#[derive(Clone, Debug)]
enum Harm {
    CutAt(usize),
    Zeroed(usize),
    Hole(usize, usize),
}

impl Harm {
    /// Page numbers count from the file's start, and wrap.
    fn to(&self, file: &Path) {
        let mut bytes = fs::read(file).unwrap();
        let pages = bytes.len().div_ceil(PAGE);
        match *self {
            Self::CutAt(page) => bytes.truncate(page % (pages + 1) * PAGE),
            Self::Zeroed(page) => {
                let from = (page % pages * PAGE).min(bytes.len());
                bytes[from..].fill(0);
            }
            Self::Hole(page, len) => {
                let from = (page % pages * PAGE).min(bytes.len());
                let to = (from + len * PAGE).min(bytes.len());
                bytes[from..to].fill(0);
            }
        }
        fs::write(file, bytes).unwrap();
    }
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        (0usize..64).prop_map(Harm::CutAt),
        (0usize..64).prop_map(Harm::Zeroed),
        (0usize..64, 1usize..8).prop_map(|(page, len)| Harm::Hole(page, len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn what_the_disk_had_taken_is_there_once_and_earlier_segments_are_whole(
        open_harm in harm(),
        sealed_harm in prop::option::of(harm()),
        journal in 0usize..4000,
    ) {
        let start = Timestamp::now().saturating_sub(Duration::from_mins(1)).as_nanos();
        let dir = recorded(start);
        let all = files_in_order(dir.path());
        prop_assert_eq!(all.len(), 4);
        let before: Vec<Vec<u8>> = all.iter().map(|path| fs::read(path).unwrap()).collect();
        open_harm.to(&all[3]);
        if let Some(harm) = &sealed_harm {
            harm.to(&all[2]);
        }
        let mut text = fs::read(dir.path().join("journal")).unwrap();
        text.truncate(journal);
        fs::write(dir.path().join("journal"), text).unwrap();
        let survive: Vec<usize> = all
            .iter()
            .zip(&before)
            .map(|(path, before)| whole(before, &fs::read(path).unwrap()))
            .collect();
        prop_assert_eq!(&survive[..2], &[300, 300]);

        let check = |times: Vec<u64>, said: &str| -> Result<(), TestCaseError> {
            prop_assert!(times.is_sorted_by(|a, b| a < b), "{said}: doubled");
            for (segment, survive) in (0u64..).zip(&survive) {
                let first = start + segment * EACH;
                let these: Vec<u64> =
                    times.iter().copied().filter(|t| (first..first + EACH).contains(t)).collect();
                let must: Vec<u64> = (first..first + *survive as u64).collect();
                prop_assert!(these.starts_with(&must), "{said}: {segment}: {} of {survive}", these.len());
            }
            Ok(())
        };
        check(times(&Recording::open(dir.path()).unwrap()), "as it lies")?;
        let (store, _) = Store::open(config(dir.path())).unwrap();
        check(read(store.window(Span::ALL, Choice::default())).0.iter().map(|g| g.time).collect(), "opened")?;
        store.close().unwrap();
        let reader = Recording::open(dir.path()).unwrap();
        check(times(&reader), "closed again")?;
        let (_, account) = read(reader.window(Span::ALL, Choice::default()));
        let damaged = usize::from(survive[2] < 300);
        prop_assert!(account.damaged.len() <= damaged.max(usize::from(sealed_harm.is_some())));
        prop_assert!(damaged == 0 || account.damaged.len() == 1, "a sealed one that is not whole is named");
    }
}
