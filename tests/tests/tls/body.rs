//! A body of 100 MB is decrypted to the last byte.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use kuberewind_tests::{CaptureFile, succeed};

use crate::judge::MARK;
use crate::lab::{End, Lab, NGINX, curl_arguments, other_end};

const LEN: usize = 100_000_000;

#[test]
fn a_body_of_100_megabytes_is_decrypted_to_the_last_byte() {
    let mut lab = Lab::new();
    let _nginx = lab.nginx();
    let mut body = vec![0; LEN];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut body)).expect("noise");
    fs::write(lab.files.path("noise"), &body).expect("a file");

    let mut curl = lab.exec(End::Peer, "curl");
    // Not faster than the recorder can be relied on to keep up with on any machine.
    curl.args(curl_arguments("1.3")).args(["--limit-rate", "60M"]);
    succeed(curl.arg(format!("https://{}:{NGINX}/noise", other_end(End::Peer))));

    let twins = lab.files.path("twins.pcap");
    lab.expect("noise", Vec::new());
    lab.wait_for_secrets();
    let done = lab.recorder().pcapdump(&["--dest", &twins.display().to_string()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    let said = answer(&twins);
    let head = said.windows(4).position(|end| end == b"\r\n\r\n").expect("the answer's head") + 4;
    // Not `assert_eq!`: that would print both.
    assert!(said[head..] == body, "{} bytes of {LEN}, or others", said.len() - head);
}

/// What the server says in the one conversation that was added: its TCP payloads by their place.
fn answer(path: &Path) -> Vec<u8> {
    let file = CaptureFile::read(path);
    let mut said = Vec::new();
    for packet in file.packets().filter(|packet| packet.data[6..10] == MARK) {
        // IPv4 and TCP without options, as they are made.
        let (ip, tcp) = (&packet.data[14..34], &packet.data[34..54]);
        assert_eq!((ip[0], tcp[12]), (0x45, 0x50));
        let payload = &packet.data[54..];
        if tcp[..2] == [0, 80] && !payload.is_empty() {
            let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
            assert_eq!(sequence as usize, said.len() + 1, "a hole, or bytes twice");
            said.extend_from_slice(payload);
        }
    }
    said
}
