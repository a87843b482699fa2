//! Segments on disk: written, sealed, retained, recovered, read as a window.
//!
//! ```text
//! capture thread --packets--> Appender --whole buffers--> writer --segments--> disk
//!                                                           |                    |
//!                                                        Catalog ------------> Window --packets in order--> export
//! ```
//!
//! What is in the directory: `<time>-<sequence>.pcapng`, sealed segments; `….pcapng.open`, the one
//! that is being written; `journal`, when recording was on and what was deleted; `lock`.

mod appender;
mod buffer;
mod catalog;
mod clock;
mod disk;
mod error;
mod index;
mod inlet;
mod journal;
mod limits;
mod lock;
mod note;
mod reach;
mod recover;
mod retention;
mod route;
mod segment;
mod status;
mod store;
mod window;
mod writer;

pub use appender::Appender;
pub use clock::Clock;
pub use disk::Disk;
pub use error::StoreError;
pub use inlet::Inlet;
pub use limits::Limits;
pub use limits::MinFree;
pub use lock::Lock;
pub use lock::is_locked;
pub use note::Note;
pub use note::Notes;
pub use reach::Reach;
pub use reach::SegmentNumber;
pub use status::InterfaceLoss;
pub use status::StoreStatus;
pub use status::WriterState;
pub use store::Machine;
pub use store::Recording;
pub use store::Store;
pub use store::StoreConfig;
pub use window::Choice;
pub use window::Keep;
pub use window::KeepInterface;
pub use window::KeepOwner;
pub use window::Window;
