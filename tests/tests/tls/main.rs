//! What TLS said is in the export, for Wireshark without any setting: programs of every kind, each
//! recorded by the whole recorder, each export read by tshark.

mod body;
mod boringssl;
mod envoy;
mod gnutls;
mod judge;
mod lab;
mod matrix;
mod mesh;
mod mutual;
mod nginx;
mod older;
mod openssl;
mod plaintext;
mod ports;
mod postgres;
mod programs;
mod switched_off;
mod window;
