//! Hostile input for everything that reads what comes from outside.
//!
//! A [`Target`] is a function over bytes and some real inputs for it. Inputs are made by changing real
//! ones ([`mutate`]); those that made a target answer in a new way are changed further. A stable
//! compiler cannot count branches, so the answer stands in for coverage.
//!
//! - `cargo test` gives each target a moment, always with the same inputs.
//! - `cargo xtask fuzz [TARGET] [--time 1m]` goes on for as long as it is told to, with new ones.
//!
//! Whatever is found becomes a test, named after the bug, beside the code that had it.

mod mutate;
mod random;
mod run;
mod targets;

pub use run::Crash;
pub use run::Done;
pub use run::Effort;
pub use run::Found;
pub use run::feed;
pub use run::read_again;
pub use run::run;
pub use targets::TARGETS;

/// Something that reads bytes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// How it is called on the command line.
    pub name: &'static str,
    /// Real inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What an input may well contain: words of its language.
    pub words: &'static [&'static str],
    /// Reads the input, whatever it is, and says in a few words what it made of it. Panics where
    /// something that must always hold does not.
    pub read: fn(&[u8]) -> String,
}
