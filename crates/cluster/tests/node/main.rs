//! The node's side on real processes, and against an API server that answers what was recorded.
//! Needs root: it makes control groups and network namespaces of its own and takes them away again.

mod api;
mod processes;
mod supervision;
