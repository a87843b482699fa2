//! Following a few objects of the API server: a list, then a watch, again and again.
//!
//! Our own loop, not kube's: a watch whose start lies in the future (a restored etcd) or whose connection
//! died says nothing at all, so silence for longer than the interval of bookmarks must lead to a new
//! list; and an odd object must not end the watch.

mod backoff;
mod event;
#[expect(clippy::module_inception, reason = "the loop, beside what it needs")]
mod follow;

pub use backoff::Backoff;
pub use follow::Timing;
pub use follow::WatchError;

pub(crate) use follow::Follower;
pub(crate) use follow::Subject;
