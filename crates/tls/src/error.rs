//! What can be wrong with what this crate is given.

/// Something given to this crate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line of a key log does not parse. It may hold a secret, so nothing of it is shown.
    #[error("read a key log: line {line} is not `LABEL CLIENT_RANDOM SECRET` in hexadecimal")]
    KeyLog {
        /// Counted from 1.
        line: usize,
    },
    /// A line that should say how a connection began does not parse.
    #[error(
        "read a handshake: the line is not `# handshake NANOSECONDS NETNS CLIENT SERVER \
        CLIENT_HELLO SERVER_HELLO`"
    )]
    Pin,
}
