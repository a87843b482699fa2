//! placeholder replaced at merge
use serde::{Deserialize, Serialize};
/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteSize(u64);
impl ByteSize {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }
    /// How many bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}
/// Not a size.
#[derive(Debug, thiserror::Error)]
#[error("not a size")]
pub struct ParseByteSizeError;
