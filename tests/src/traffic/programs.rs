//! Real programs that talk to each other.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::{Netns, Program, output, self_signed, succeed, wait_until};

const START: Duration = Duration::from_secs(10);

/// nginx with a page and a large file.
#[derive(Debug)]
pub struct HttpServer {
    _program: Program,
    _dir: TempDir,
}

impl HttpServer {
    /// Starts it on port 80 of all addresses, and waits until it listens.
    pub fn start(netns: &Netns, file_bytes: usize) -> Self {
        Self::serve(netns, file_bytes, 80, "listen 80; listen [::]:80;")
    }

    /// As [`Self::start`], with TLS on port 443, and without an end to a connection's requests.
    pub fn start_tls(netns: &Netns, file_bytes: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| dir.path().join(name));
        self_signed("localhost", &key, &certificate);
        let listen = format!(
            "listen 443 ssl; ssl_certificate {}; ssl_certificate_key {};\n\
             ssl_session_tickets off; keepalive_requests 1000000000;",
            certificate.display(),
            key.display()
        );
        Self::serve(netns, file_bytes, 443, &listen)
    }

    fn serve(netns: &Netns, file_bytes: usize, port: u16, listen: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path();
        fs::write(root.join("index.html"), "hello from nginx\n").expect("a page");
        fs::write(root.join("large"), vec![b'k'; file_bytes]).expect("a large file");
        let path = root.display();
        let configuration = format!(
            "daemon off; master_process off; pid {path}/pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {path}/b; proxy_temp_path {path}/p;\n\
             fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;\n\
             server {{ {listen} root {path}; }} }}\n"
        );
        let file = root.join("nginx.conf");
        fs::write(&file, configuration).expect("nginx's configuration");
        let program = Program::start(netns.exec("nginx").arg("-c").arg(&file));
        wait_to_listen(netns, "-t", port);
        Self { _program: program, _dir: dir }
    }

    /// The body of `http://ADDRESS/PATH`, fetched by curl.
    pub fn get(&self, from: &Netns, address: &str, path: &str) -> String {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        succeed(from.exec("curl").args(["-sS", "--fail", &format!("http://{host}/{path}")]))
    }
}

/// dnsmasq that knows one name, `recorder.test`.
#[derive(Debug)]
pub struct DnsServer {
    _program: Program,
}

impl DnsServer {
    /// Starts it on port 53, and waits until it listens.
    pub fn start(netns: &Netns) -> Self {
        let mut command = netns.exec("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--conf-file=/dev/null",
        ]);
        command.args(["--user=root", "--log-facility=-", "--pid-file="]);
        command
            .args(["--address=/recorder.test/192.0.2.7", "--address=/recorder.test/2001:db8::7"]);
        let program = Program::start(&mut command);
        wait_to_listen(netns, "-u", 53);
        Self { _program: program }
    }

    /// Asks it with dig, over UDP or TCP.
    pub fn ask(&self, from: &Netns, address: &str, kind: &str, tcp: bool) -> String {
        let mut command = from.exec("dig");
        command.args([&format!("@{address}"), "recorder.test", kind, "+short", "+tries=1"]);
        succeed(command.arg(if tcp { "+tcp" } else { "+notcp" })).trim().to_owned()
    }
}

/// iperf3, for bursts of real TCP and UDP.
#[derive(Debug)]
pub struct Iperf {
    _server: Program,
}

impl Iperf {
    /// Starts the server and waits until it listens.
    pub fn start(netns: &Netns) -> Self {
        let server = Program::start(netns.exec("iperf3").arg("--server"));
        wait_to_listen(netns, "-t", 5201);
        Self { _server: server }
    }

    /// Runs the client to its end.
    pub fn burst(&self, from: &Netns, address: &str, arguments: &[&str]) -> String {
        let mut command = from.exec("iperf3");
        succeed(command.args(["--client", address]).args(arguments))
    }
}

/// Sends `count` UDP super-packets of `bytes` bytes, which the kernel is asked to cut into pieces of
/// 1400 (`UDP_SEGMENT`): recorders see them whole.
///
/// Not before the neighbour is known: while it is being asked for, the kernel keeps only some packets.
pub fn udp_super_packets(from: &Netns, address: &str, bytes: u32, count: u32) {
    wait_until(&format!("{address} to answer"), START, || {
        output(from.exec("ping").args(["-c1", "-W1", address])).status.success()
    });
    let program = "import socket, sys\n\
        address, size, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])\n\
        family = socket.AF_INET6 if ':' in address else socket.AF_INET\n\
        out = socket.socket(family, socket.SOCK_DGRAM)\n\
        out.setsockopt(17, 103, 1400)  # SOL_UDP, UDP_SEGMENT\n\
        for number in range(count):\n    \
            out.sendto(bytes([number % 256]) * size, (address, 9))\n";
    let (bytes, count) = (bytes.to_string(), count.to_string());
    succeed(from.exec("python3").args(["-c", program, address, &bytes, &count]));
}

fn wait_to_listen(netns: &Netns, kind: &str, port: u16) {
    let filter = format!("sport = :{port}");
    wait_until(&format!("a server on port {port}"), START, || {
        let mut command: Command = netns.exec("ss");
        !succeed(command.args(["-H", "-n", "-l", kind, &filter])).trim().is_empty()
    });
}
