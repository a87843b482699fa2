//! Interfaces and network namespaces that come and go.

use std::process;
use std::time::Duration;

use kuberewind_tests::traffic::{number_of, numbered, send_frame};
use kuberewind_tests::{CaptureFile, Netns, Packet, Recorder, VethPair, data_dir, wait_until};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_namespace_is_recorded_from_when_it_appears_until_it_vanishes() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let later = format!("kr-{}-later", process::id());
    let present = pair.receiver.name();
    let recorder = Recorder::spawn(data.path(), &[present, &later], &[]);
    recorder.wait_status("the first namespace", SOON, |s| s.namespace(present).is_some());

    let new = VethPair::between(Netns::new("far"), Netns::named(&later), 1500);
    recorder.wait_status("the new namespace", SOON, |status| status.namespace(&later).is_some());
    send_frame(&new.sender, VethPair::INTERFACE, &numbered(7, 100));
    let VethPair { sender: far, receiver } = new;
    receiver.remove();

    recorder.wait_status("the end of it", SOON, |status| status.namespace(&later).is_none());
    let freed = Duration::from_secs(5);
    wait_until("the cable to go with it", freed, || !far.has_link(VethPair::INTERFACE));
    let window = recorder.window(&[]);
    let interface = format!("{later}/{}", VethPair::INTERFACE);
    assert_eq!(recorded(&window), [(Some(interface.as_str()), 7)]);
}

#[test]
fn an_interface_is_recorded_from_when_it_appears_until_it_vanishes() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let receiver = pair.receiver.name();
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    pair.receiver.ip(&[
        "link",
        "add",
        "late",
        "type",
        "veth",
        "peer",
        "name",
        "late",
        "netns",
        pair.sender.name(),
    ]);
    pair.receiver.ip(&["link", "set", "late", "up"]);
    pair.sender.ip(&["link", "set", "late", "up"]);
    send_frame(&pair.sender, "late", &numbered(3, 100));
    recorder.wait_status("the new interface", SOON, |status| {
        let namespace = status.namespace(receiver);
        namespace.and_then(|n| n.interface("late")).is_some_and(|late| late.packets > 0)
    });
    pair.receiver.ip(&["link", "del", "late"]);
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(4, 100));

    let (late, still) = (format!("{receiver}/late"), format!("{receiver}/{}", VethPair::INTERFACE));
    let window = recorder.window(&[]);
    assert_eq!(recorded(&window), [(Some(late.as_str()), 3), (Some(still.as_str()), 4)]);
}

#[test]
fn only_the_interfaces_asked_for_are_recorded() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let arguments = ["-i", VethPair::INTERFACE];
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &arguments);
    send_frame(&pair.receiver, "lo", &numbered(1, 100));
    send_frame(&pair.sender, VethPair::INTERFACE, &numbered(2, 100));
    let interface = format!("{}/{}", pair.receiver.name(), VethPair::INTERFACE);
    assert_eq!(recorded(&recorder.window(&[])), [(Some(interface.as_str()), 2)]);
}

#[test]
fn loopback_is_recorded_once() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &[]);
    send_frame(&pair.receiver, "lo", &numbered(1, 100));
    let interface = format!("{}/lo", pair.receiver.name());
    assert_eq!(recorded(&recorder.window(&[])), [(Some(interface.as_str()), 1)]);
}

#[test]
fn an_override_expression_chooses_what_is_recorded() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let only = "tap.bpfOverride=udp and src host 192.0.2.2"; // the flow of frame number 2
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &["--set", only]);
    for number in [1, 2, 3] {
        send_frame(&pair.sender, VethPair::INTERFACE, &numbered(number, 100));
    }
    let window = recorder.window(&[]);
    assert_eq!(recorded(&window).iter().map(|(_, number)| *number).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_cut_packet_keeps_its_original_length() {
    let (pair, data) = (VethPair::new(1500), data_dir());
    let cut = ["--set", "tap.snaplen=96"];
    let recorder = Recorder::start(data.path(), &[&pair.receiver], &cut);
    let frame = numbered(1, 1000);
    send_frame(&pair.sender, VethPair::INTERFACE, &frame);
    let window = recorder.window(&[]);
    let ours = |packet: &Packet<'_>| number_of(packet.data) == Some(1);
    let packet = window.packets().find(ours).expect("the packet");
    assert_eq!((packet.original_len as usize, packet.data), (frame.len(), &frame[..96]));
}

/// Interface and number of the frames sent here; what the kernels say themselves is left out.
fn recorded(file: &CaptureFile) -> Vec<(Option<&str>, u32)> {
    file.packets().filter_map(|p| Some((p.interface, number_of(p.data)?))).collect()
}
