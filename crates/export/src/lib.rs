//! How a window leaves a node and becomes one file: wire format, merge, completeness report.
