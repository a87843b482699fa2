//! Lets libpcap be linked statically.
//!
//! Debian's `libpcap.a` can capture from D-Bus and would want all of libdbus for it. With two stubs in
//! its place nothing of it is linked: a program without D-Bus capture, which nobody asks for.

use std::env;

fn main() {
    const STUBS: &str = "src/static_libpcap/dbus.c";
    println!("cargo:rerun-if-changed={STUBS}");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if !features.split(',').any(|feature| feature == "crt-static") {
        return;
    }
    cc::Build::new().file(STUBS).cargo_metadata(false).compile("kuberewind_dbus");
    if let Ok(folder) = env::var("OUT_DIR") {
        println!("cargo:rustc-link-search=native={folder}");
    }
    // Whole, so that the stubs are there before libpcap asks for them.
    println!("cargo:rustc-link-lib=static:+whole-archive=kuberewind_dbus");
}
