//! The way of a window from a node into a file, judged by the tools that users open it with.

mod files;
mod made;
mod merge;
mod older;
mod stream;
mod tls;
mod vantage;
mod wire;
