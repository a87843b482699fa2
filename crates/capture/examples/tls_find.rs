//! What the recorder finds in programs and libraries, and how long that takes.
//!
//! `cargo run --release -p kuberewind-capture --example tls_find FILE…`

use std::error::Error;
use std::fs::File;
use std::time::Instant;

use kuberewind_capture::fuzz::look_into;

fn main() -> Result<(), Box<dyn Error>> {
    for path in std::env::args().skip(1) {
        let file = File::open(&path)?;
        let megabytes = file.metadata()?.len() / 1_000_000;
        let start = Instant::now();
        let found = look_into(file);
        let took = start.elapsed().as_millis();
        println!("{took:5} ms  {megabytes:4} MB  {path}  {found:x?}");
    }
    Ok(())
}
