//! Numbered datagrams from pods to their node, which hears them: what arrived was on the wire.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::inside::Inside;

const PORT: u16 = 9009;
const MARK: &[u8; 12] = b"first-packet";
/// Between two datagrams.
const PACE: Duration = Duration::from_millis(2);

/// A node's ear.
#[derive(Debug)]
pub struct Sounder {
    address: SocketAddr,
    heard: Arc<Mutex<BTreeSet<u32>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sounder {
    pub(super) fn start(inside: &Inside, address: Ipv4Addr) -> Self {
        let address = SocketAddr::new(address.into(), PORT);
        let socket = inside.run(|| UdpSocket::bind(address)).expect("a socket on the node");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let (heard, stop) = (Arc::<Mutex<BTreeSet<u32>>>::default(), Arc::<AtomicBool>::default());
        let (ears, end) = (heard.clone(), stop.clone());
        let thread = thread::spawn(move || {
            let mut datagram = [0; 64];
            while !end.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut datagram) else { continue };
                if let Some(number) = Self::number(&datagram[..len]) {
                    ears.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
                    let _ = socket.send_to(b"heard", from);
                }
            }
        });
        Self { address, heard, stop, thread: Some(thread) }
    }

    /// Has a pod say numbers, upwards from this one, until the node has answered `answers` times.
    pub fn sound(&self, netns: &Path, from: u32, answers: usize) {
        Inside::network(netns).run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket in the pod");
            socket.set_nonblocking(true).expect("a socket that does not wait");
            let (mut heard, mut number) = (0, from);
            while heard < answers {
                assert!(number < from + 5000, "the node hears nothing of {}", netns.display());
                // Not before the link carries.
                let _ = socket.send_to(&[&MARK[..], &number.to_be_bytes()].concat(), self.address);
                number += 1;
                thread::sleep(PACE);
                while socket.recv(&mut [0; 64]).is_ok() {
                    heard += 1;
                }
            }
        });
    }

    /// The numbers that arrived.
    pub fn heard(&self) -> BTreeSet<u32> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number in a packet that a pod sent, whatever its headers are.
    pub fn number(packet: &[u8]) -> Option<u32> {
        let at = packet.windows(MARK.len()).position(|window| window == MARK)?;
        packet.get(at + MARK.len()..)?.first_chunk().map(|number| u32::from_be_bytes(*number))
    }
}

impl Drop for Sounder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
