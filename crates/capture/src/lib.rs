//! Bytes out of the kernel: network namespaces, capture rings, replay of a file.
