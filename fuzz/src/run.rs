//! Gives a target one input after the other.

use std::collections::HashSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use xxhash_rust::xxh3::xxh3_64;

use crate::Target;
use crate::mutate::mutate;
use crate::random::Random;

/// No input is longer.
const LONGEST: usize = 1 << 16;
/// Inputs that were answered in a new way and are changed further.
const MOST_INPUTS: usize = 2_000;
/// An input for which a target takes longer has found something.
const TOO_LONG: Duration = Duration::from_secs(20);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub enum Effort {
    /// So many inputs, always the same ones.
    Inputs(u64),
    /// So long, with inputs that depend on the seed.
    Time(Duration, u64),
}

/// What it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Inputs read.
    pub inputs: u64,
    /// Ways in which they were answered.
    pub answers: usize,
    /// How long that took.
    pub took: Duration,
}

/// How an input is wrong for its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// It panicked.
    Panic,
    /// It took too long.
    Slow(Duration),
}

/// An input with which a target does not do well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// How.
    pub crash: Crash,
    /// With what.
    pub input: Vec<u8>,
}

/// Feeds a target. Each input is in `current`, where one is given, before it is read: a process that
/// ends with it leaves it there. So does one that hangs, for its process is then ended.
///
/// # Errors
/// The first input that makes it panic or take far too long.
pub fn run(target: &Target, effort: Effort, current: Option<&Path>) -> Result<Done, Found> {
    let began = Instant::now();
    let mut random = Random::new(match effort {
        Effort::Inputs(_) => 1,
        Effort::Time(_, seed) => seed,
    });
    let mut inputs = (target.seeds)();
    inputs.push(Vec::new());
    let mut answers = HashSet::new();
    for input in &inputs {
        answers.insert(kind(&read(target, input, current)?));
    }
    let mut count = inputs.len() as u64;
    let goes_on = |count: u64| match effort {
        Effort::Inputs(most) => count < most,
        Effort::Time(time, _) => began.elapsed() < time,
    };
    while goes_on(count) {
        let one = random.pick(&inputs).cloned().unwrap_or_default();
        let other = random.pick(&inputs).cloned().unwrap_or_default();
        let input = mutate(&one, &other, target.words, LONGEST, &mut random);
        let answer = kind(&read(target, &input, current)?);
        if answers.insert(answer) && inputs.len() < MOST_INPUTS {
            inputs.push(input);
        }
        count += 1;
    }
    Ok(Done { inputs: count, answers: answers.len(), took: began.elapsed() })
}

/// Reads one input.
fn read(target: &Target, input: &[u8], current: Option<&Path>) -> Result<String, Found> {
    let found = |crash| Found { crash, input: input.to_vec() };
    if let Some(current) = current {
        let _ = fs::write(current, input); // only a help
    }
    let began = Instant::now();
    let answer = catch_unwind(AssertUnwindSafe(|| (target.read)(input)));
    match (answer, began.elapsed()) {
        (Err(_), _) => Err(found(Crash::Panic)),
        (Ok(_), took) if took > TOO_LONG => Err(found(Crash::Slow(took))),
        (Ok(answer), _) => Ok(answer),
    }
}

/// What an answer is, whatever large numbers are in it.
fn kind(answer: &str) -> u64 {
    let words = answer.split(|c: char| !c.is_alphanumeric());
    let large = |word: &&str| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_digit());
    let words: Vec<&str> = words.filter(|word| !large(word)).take(100).collect();
    xxh3_64(words.join(" ").as_bytes())
}

/// Feeds a target for so long; the input that finds something is kept in `dir`, also when the whole
/// process ends with it: then it lies in `/dev/shm/kuberewind-fuzz-TARGET.current`.
///
/// # Errors
/// In words, what was found and where the input is.
pub fn feed(target: &Target, time: Duration, dir: &Path) -> Result<String, String> {
    // In memory: a disk would be written to a thousand times a second.
    let current = Path::new("/dev/shm").join(format!("kuberewind-fuzz-{}.current", target.name));
    fs::create_dir_all(dir).map_err(|error| format!("make {}: {error}", dir.display()))?;
    fs::write(&current, []).map_err(|error| format!("write {}: {error}", current.display()))?;
    end_if_it_hangs(current.clone());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = u64::from(now.subsec_nanos()) << 32 | u64::from(std::process::id());
    let done = run(target, Effort::Time(time, seed), Some(&current));
    let done = done.map_err(|Found { crash, input }| {
        let kept = dir.join(format!("{}-{:016x}.input", target.name, xxh3_64(&input)));
        let written = fs::write(&kept, &input);
        format!("{}: {crash:?} with {} ({written:?})", target.name, kept.display())
    })?;
    let Done { inputs, answers, took } = done;
    let rate = inputs * 1000 / u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    let _ = fs::remove_file(&current);
    Ok(format!("{:<14} {inputs:>10} inputs {rate:>8}/s {answers:>6} answers", target.name))
}

/// Reads one input from a file and says what the target made of it.
///
/// # Errors
/// In words, what was found.
pub fn read_again(target: &Target, file: &Path) -> Result<String, String> {
    let input = fs::read(file).map_err(|error| format!("read {}: {error}", file.display()))?;
    read(target, &input, None).map_err(|found| format!("{}: {:?}", target.name, found.crash))
}

/// The file of the current input says since when it is the current one.
fn end_if_it_hangs(current: PathBuf) {
    thread::spawn(move || {
        loop {
            thread::sleep(TOO_LONG);
            let since = fs::metadata(&current).and_then(|meta| meta.modified());
            if since.is_ok_and(|since| since.elapsed().is_ok_and(|took| took > TOO_LONG * 2)) {
                eprintln!("it hangs with {}", current.display());
                std::process::abort();
            }
        }
    });
}
