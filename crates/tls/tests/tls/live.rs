//! A recording made in the test itself.
