//! Compiles the TLS probes' BPF programs.
//!
//! Needs clang. libbpf's headers come with `libbpf-sys`; what the programs know of the kernel is in
//! `kernel.h`, so neither kernel headers nor a `vmlinux.h` of this machine are needed.

use std::env;
use std::path::Path;
use std::process::Command;

const SECRETS: &str = "src/tls/bpf/tls.bpf.c";
const PLAIN: &str = "src/tls/bpf/plain.bpf.c";
const HEADERS: [&str; 2] = ["src/tls/bpf/kernel.h", "src/tls/bpf/probe.h"];

fn main() {
    for source in [SECRETS, PLAIN].into_iter().chain(HEADERS) {
        println!("cargo:rerun-if-changed={source}");
    }
    println!("cargo:rerun-if-env-changed=CLANG");
    // Programs that may sleep read a page that is not in memory yet; Linux 6.0 and later take them.
    compile(SECRETS, "tls.bpf.o", &[]);
    compile(SECRETS, "tls_sleepable.bpf.o", &["-DSLEEPABLE"]);
    // Links of many probes, even if it is one, go together; Linux 6.6.
    compile(SECRETS, "tls_multi.bpf.o", &["-DSLEEPABLE", "-DMULTI"]);
    compile(PLAIN, "plain.bpf.o", &[]);
}

fn compile(source: &str, object: &str, flags: &[&str]) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let out = Path::new(&given("OUT_DIR")).join(object);
    let architecture = match given("CARGO_CFG_TARGET_ARCH").as_str() {
        "x86_64" => "-D__TARGET_ARCH_x86",
        "aarch64" => "-D__TARGET_ARCH_arm64",
        other => panic!("there are no TLS probes for {other}: only for x86_64 and aarch64"),
    };
    let mut command = Command::new(&clang);
    command.args(["-g", "-O2", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3", architecture]);
    command.arg(format!("-I{}", given("DEP_BPF_INCLUDE")));
    command.args(flags).args(["-c", source, "-o"]).arg(&out);
    let status = command.status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} did not compile {source}: {status}"),
        Err(error) => panic!("run {clang}: {error} (Debian: apt-get install clang)"),
    }
}

fn given(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo did not set {name}"))
}
