//! Files that every reader takes, or no file at all.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use kuberewind_export::{
    Destination, Export, ExportError, FileOwner, Format, NodeReport, Place, Report, write,
};
use kuberewind_packet::{Gap, GapCause, Loss, LossAt, LossCause, MAX_CAPTURED};

use crate::made::{Made, Packet, WINDOW, export, packets, udp};

fn write_to(dir: &Path, format: Format, streams: Vec<Made>) -> Result<Report, ExportError> {
    let destination = Destination { place: Place::Directory(dir.to_owned()), format };
    let inputs = streams.into_iter().map(Made::input);
    write(&export(), inputs, &destination, |_| ControlFlow::Continue(()))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What a tool says of a file; it must say it without complaint.
fn run(tool: &str, args: &[&str], file: &Path) -> String {
    let output = Command::new(tool).args(args).arg(file).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{tool}: {errors}");
    for word in ["damaged", "corrupt", "cut short", "truncated", "rror"] {
        assert!(!errors.contains(word), "{tool}: {errors}");
    }
    String::from_utf8(output.stdout).unwrap()
}

/// Asks every judge for the file's packets.
fn assert_readable(report: &Report) {
    let file = report.file.as_ref().unwrap();
    assert_eq!(file.metadata().unwrap().len(), report.file_bytes);
    let count = usize::try_from(report.packets).unwrap();

    let infos = run("capinfos", &["-M"], file);
    let said = |line: &str| infos.lines().any(|l| l.split_whitespace().eq(line.split(' ')));
    assert!(said(&format!("Number of packets: {count}")), "{infos}");
    assert!(count == 0 || said("Strict time order: True"), "{infos}");
    assert!(said("File encapsulation: ether"), "{infos}");
    assert!(count == 0 || infos.contains("nanosecond"), "{infos}");

    assert_eq!(run("tshark", &["-n", "-r"], file).lines().count(), count);
    let dump = run("tcpdump", &["-n", "-t", "-q", "-r"], file);
    assert_eq!(dump.lines().filter(|line| !line.starts_with(['\t', ' '])).count(), count);

    let dir = tempfile::tempdir().unwrap();
    let merged = dir.path().join("merged.pcapng");
    let output = Command::new("mergecap").arg("-w").arg(&merged).args([file, file]).output();
    assert_eq!(String::from_utf8_lossy(&output.unwrap().stderr), "");
    let infos = run("capinfos", &["-M", "-c"], &merged);
    assert!(infos.contains(&format!(" {}\n", 2 * count)), "{infos}");
}

fn big(len: u32, original_len: u32) -> Vec<Packet> {
    let mut packets = packets(3, 1);
    packets[1].data = [udp(1000), vec![0; MAX_CAPTURED as usize]].concat()[..len as usize].to_vec();
    packets[1].original_len = original_len;
    packets
}

#[test]
fn every_reader_takes_every_kind_of_file() {
    for format in Format::ALL {
        for streams in [
            vec![Made::new("n1", Vec::new())],
            vec![Made::new("n1", packets(1, 1))],
            vec![Made::new("n1", packets(5000, 7))],
            vec![Made::new("n1", packets(300, 2)), Made::new("n2", packets(500, 5))],
            vec![Made::new("n1", big(60, 1400))],
            vec![Made::new("n1", big(MAX_CAPTURED, MAX_CAPTURED))],
            vec![Made::new("n1", big(MAX_CAPTURED, 512_000))],
        ] {
            let dir = tempfile::tempdir().unwrap();
            let report = write_to(dir.path(), format, streams).unwrap();
            assert!(report.is_complete());
            assert_readable(&report);
        }
    }
}

#[test]
fn packets_are_in_the_file_byte_for_byte_and_to_the_nanosecond() {
    for format in Format::ALL {
        let mut sent = packets(2000, 3);
        for (packet, nth) in sent.iter_mut().zip(0..) {
            packet.time += nth % 1000;
        }
        let dir = tempfile::tempdir().unwrap();
        let report = write_to(dir.path(), format, vec![Made::new("n1", sent.clone())]).unwrap();
        let fields = ["-e", "frame.time_epoch", "-e", "frame.len", "-e", "udp.payload"];
        let args = [&["-n", "-T", "fields"][..], &fields, &["-r"]].concat();
        let said = run("tshark", &args, report.file.as_ref().unwrap());
        let expected: String = sent.iter().map(field_line).collect();
        assert!(said == expected, "{format}");
    }
}

fn field_line(packet: &Packet) -> String {
    let payload: String = packet.data[42..]
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from_digit(nibble.into(), 16).unwrap())
        .collect();
    let (seconds, nanos) = (packet.time / 1_000_000_000, packet.time % 1_000_000_000);
    format!("{seconds}.{nanos:09}\t{}\t{payload}\n", packet.original_len)
}

#[test]
fn pcapng_tells_interfaces_losses_and_the_whole_report() {
    let mut lossy = Made::new("n1", packets(90, 9));
    let loss = |owner: &str, packets| LossAt {
        owner: owner.into(),
        loss: Loss { cause: LossCause::Ring, packets, from: WINDOW.from, to: WINDOW.to },
    };
    lossy.account.losses = vec![loss("host", 7), loss("shop/cart-2", 5)];
    let dir = tempfile::tempdir().unwrap();
    let streams = vec![lossy, Made::new("n2", packets(10, 1))];
    let report = write_to(dir.path(), Format::Pcapng, streams).unwrap();
    assert_readable(&report);
    assert!(!report.is_complete());

    let infos = run("capinfos", &["-M"], report.file.as_ref().unwrap());
    assert!(infos.contains("Capture application: kuberewind 0.1.0"), "{infos}");
    assert!(infos.contains("LOST 7 packets of host"), "{infos}");
    assert!(infos.contains("incomplete: n1 lost 12 packets while recording"), "{infos}");
    assert!(infos.contains("Description = node=n1 pod-uid=uid-5 netns=4026531840"), "{infos}");
    // Nine interfaces and n2's one, and one that carries the loss of the host's three together.
    assert!(infos.contains("Number of interfaces in file: 11"), "{infos}");
    let dump = std::fs::read(report.file.unwrap()).unwrap();
    let statistics: Vec<_> = kuberewind_packet::pcapng::Blocks::new(&dump)
        .filter_map(|block| match block.unwrap().1 {
            kuberewind_packet::pcapng::Block::Statistics(s) => Some((s.received, s.dropped)),
            _ => None,
        })
        .collect();
    // The second interface is n2's; the host's losses are its three interfaces' together.
    let (none, some, unknown) = (Some(0), Some(5), None);
    let dropped = [unknown, none, none, some, unknown, none, none, unknown, none, none];
    let mut expected = dropped.map(|dropped| (Some(10), dropped)).to_vec();
    expected.push((Some(0), Some(7)));
    assert_eq!(statistics, expected);
}

#[test]
fn names_are_not_taken_twice() {
    let dir = tempfile::tempdir().unwrap();
    for nth in ["", "-2", "-3"] {
        let made = vec![Made::new("n1", packets(3, 1))];
        let report = write_to(dir.path(), Format::Pcap, made).unwrap();
        let name = format!("web-1-20261122T213005Z{nth}.pcap");
        assert_eq!(report.file, Some(dir.path().join(name)));
    }
}

#[test]
fn a_file_that_appeared_meanwhile_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.pcap");
    std::fs::write(&path, "precious").unwrap();
    let destination = Destination { place: Place::File(path.clone()), format: Format::Pcap };
    let inputs = [Made::new("n1", packets(3, 1)).input()];
    let error = write(&export(), inputs, &destination, |_| ControlFlow::Continue(()));
    assert!(matches!(error, Err(ExportError::Exists(_))), "{error:?}");
    assert_eq!(std::fs::read(path).unwrap(), b"precious");
    assert_eq!(names(dir.path()), ["mine.pcap"]);
}

#[test]
fn a_file_belongs_to_whom_it_was_made_for() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.pcap");
    let destination = Destination { place: Place::File(path.clone()), format: Format::Pcap };
    let export = Export { owner: Some(FileOwner { uid: 1000, gid: 1001 }), ..export() };
    let inputs = [Made::new("n1", packets(3, 1)).input()];
    write(&export, inputs, &destination, |_| ControlFlow::Continue(())).unwrap();
    let meta = path.metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o600, 1000, 1001));
}

#[test]
fn a_node_that_fails_leaves_a_whole_file_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let streams = vec![Made::failing("n1", packets(20, 1)), Made::new("n2", packets(30, 1))];
    let report = write_to(dir.path(), Format::Pcapng, streams).unwrap();
    assert_readable(&report);
    assert!(!report.is_complete());
    let infos = run("capinfos", &["-M"], report.file.as_ref().unwrap());
    let line = "n1 FAILED: the disk caught fire (its first 20 packets are in the file)";
    assert!(infos.contains(line), "{infos}");
}

#[test]
fn no_file_is_made_of_a_window_that_no_node_gave_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for streams in [vec![], vec![Made::failing("n1", packets(5000, 1))]] {
        let error = write_to(dir.path(), Format::Pcap, streams).unwrap_err();
        assert!(matches!(error, ExportError::NoNode { .. }), "{error}");
    }
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_window_that_is_wholly_gone_is_said_to_be_and_makes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut gone = Made::new("n1", Vec::new());
    gone.account.gaps = vec![Gap { span: WINDOW, cause: GapCause::MaxTime }];
    let error = write_to(dir.path(), Format::Pcap, vec![gone]).unwrap_err();
    assert!(matches!(error, ExportError::NothingHeld { .. }), "{error}");
    assert!(error.to_string().contains("pcapdump.maxTime"), "{error}");
    assert!(names(dir.path()).is_empty());
}

#[test]
fn nodes_that_did_not_answer_are_in_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let unreachable = vec![NodeReport::failed("n9".into(), WINDOW, "connection refused".into())];
    let export = Export { unreachable, ..export() };
    let place = Place::Directory(dir.path().to_owned());
    let destination = Destination { place, format: Format::Pcapng };
    let inputs = [Made::new("n1", packets(3, 1)).input()];
    let report = write(&export, inputs, &destination, |_| ControlFlow::Continue(())).unwrap();
    assert!(report.to_string().contains("n9 FAILED: connection refused"), "{report}");
    assert!(!report.complete);
}

#[test]
fn an_export_that_is_stopped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let destination =
        Destination { place: Place::Directory(dir.path().to_owned()), format: Format::Pcap };
    let inputs = [Made::new("n1", packets(5000, 1)).input()];
    let error = write(&export(), inputs, &destination, |progress| {
        assert!(progress.packets > 0 && progress.bytes > 1 << 20);
        ControlFlow::Break(())
    });
    assert!(matches!(error, Err(ExportError::Stopped)), "{error:?}");
    assert!(names(dir.path()).is_empty());
}

/// A file system of its own, gone with it.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path, size: &str) -> Self {
        let options = format!("size={size}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status();
        assert!(mount.unwrap().success(), "mounting needs root");
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_with_what_it_takes_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Mount::tmpfs(dir.path(), "1m");
    for format in Format::ALL {
        let made = Made::new("n1", packets(5000, 1));
        let roomy = tempfile::tempdir().unwrap();
        let takes = write_to(roomy.path(), format, vec![made.clone()]).unwrap().file_bytes;
        match write_to(&disk.0, format, vec![made]).unwrap_err() {
            ExportError::DiskFull { needed, free, dir } => {
                assert_eq!((needed, free, dir), (takes, Some(1 << 20), disk.0.clone()));
            }
            error => panic!("{error}"),
        }
        assert!(names(&disk.0).is_empty());
    }
}

#[test]
fn a_missing_directory_is_named() {
    let error = write_to(Path::new("/nowhere/at/all"), Format::Pcap, vec![]).unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all: there is no such directory"), "{error}");
}
