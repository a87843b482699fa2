//! Two processes share the rights of a recorder: the one that records, and the one that opens.

use std::collections::HashSet;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use caps::{CapSet, Capability};
use kuberewind_capture::{Doors, Opener, OpenerProcess};

use super::confined::{confine, confine_opener};

/// What the recorder keeps: files of the data directory may be another user's, more descriptors and
/// memory be wanted. To read filters libpcap opens a packet socket.
const OF_RECORDER: [Capability; 7] = [
    Capability::CAP_NET_RAW,
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_SYS_RESOURCE,
];

/// What the opener keeps: libraries may be readable by their owner only.
const OF_OPENER: [Capability; 4] = [
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_READ_SEARCH,
];

/// Starts an opener with the rights that this process has, and then gives up all that recording itself
/// does not take. To be called before there are threads: they would keep theirs.
pub(crate) fn part_with_rights(
    doors: Doors,
    on_end: impl FnOnce() + Send + 'static,
) -> anyhow::Result<Opener> {
    let (opener, process) = start(doors).context("start the process that opens namespaces")?;
    keep_only(&OF_RECORDER)?;
    confine();
    let wait = move || {
        process.wait();
        on_end();
    };
    let thread = std::thread::Builder::new().name("opener-end".to_owned()).spawn(wait);
    thread.context("start the thread that follows the opener")?;
    Ok(opener)
}

/// Gives up what the opener does not need, of those rights that it has. What is returned confines it,
/// once all its threads run.
pub(crate) fn become_opener() -> anyhow::Result<impl FnOnce()> {
    keep_only(&OF_OPENER)?;
    Ok(confine_opener)
}

fn start(doors: Doors) -> std::io::Result<(Opener, OpenerProcess)> {
    let mut program = Command::new("/proc/self/exe");
    program.arg0("kuberewind").arg("opener").arg("--proc").arg(doors.proc());
    for file in doors.files() {
        program.arg("--netns-file").arg(file);
    }
    OpenerProcess::start(program, doors)
}

fn keep_only(kept: &[Capability]) -> anyhow::Result<()> {
    let held = caps::read(None, CapSet::Permitted).context("read the own capabilities")?;
    let kept: HashSet<Capability> = held.iter().filter(|c| kept.contains(c)).copied().collect();
    // Only a program that is started looks at this set, and none ever is: a container may not change it.
    if held.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all().difference(&kept) {
            let _ = caps::drop(None, CapSet::Bounding, *capability);
        }
    }
    let given_up = caps::clear(None, CapSet::Ambient)
        .and_then(|()| caps::clear(None, CapSet::Inheritable))
        .and_then(|()| caps::set(None, CapSet::Effective, &kept))
        .and_then(|()| caps::set(None, CapSet::Permitted, &kept));
    given_up.context("give up capabilities")
}
