//! TLS secrets, the flows that they belong to, and what they open.

mod event;

pub use event::Derived;
pub use event::KeyLogLabel;
pub use event::Secret;
pub use event::SecretBytes;
pub use event::SecretEvent;
