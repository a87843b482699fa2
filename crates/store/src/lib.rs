//! Segments on disk: written, sealed, retained, recovered, read as a window.
