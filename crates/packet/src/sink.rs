//! Where captured packets go.

use crate::{Frame, Interface, Loss};

/// An interface's number at one sink: small, dense, free for another interface once closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// Takes the packets of one capture thread.
///
/// Never blocks: a caller asks for room with [`PacketSink::reserve`] before it takes packets out of
/// the kernel, and leaves them in the ring while there is none.
pub trait PacketSink: Send {
    /// Makes an interface known; its packets then carry the slot.
    fn open_interface(&mut self, interface: Interface) -> Slot;

    /// Forgets an interface: no packet with this slot follows.
    fn close_interface(&mut self, slot: Slot);

    /// Whether packets that take `bytes` in the kernel's ring can be taken now.
    fn reserve(&mut self, bytes: usize) -> bool;

    /// Takes one packet. One that finds no room is counted as [`crate::LossCause::Buffer`].
    fn packet(&mut self, slot: Slot, frame: &Frame<'_>);

    /// Notes that packets of this interface were lost.
    fn loss(&mut self, slot: Slot, loss: Loss);

    /// Called a few times a second: hands on what has waited long enough.
    fn tick(&mut self);

    /// Hands on everything that was taken.
    fn flush(&mut self);
}
