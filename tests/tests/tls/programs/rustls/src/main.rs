//! HTTP over rustls on blocking sockets: `server ADDRESS PORT CERTIFICATE KEY` and
//! `client ADDRESS PORT VERSION TAG`.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
#[cfg(feature = "aws-lc")]
use rustls::crypto::aws_lc_rs as provider;
#[cfg(not(feature = "aws-lc"))]
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};

type Done<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn text(len: usize) -> Vec<u8> {
    (0..=len / 8).flat_map(|number| format!("{number:07}.").into_bytes()).take(len).collect()
}

/// The first line and the body of a request or an answer; none at the end.
fn message(stream: &mut impl BufRead) -> Done<Option<(String, Vec<u8>)>> {
    let (mut first, mut len) = (String::new(), 0);
    if stream.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let line = line.trim().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            len = value.trim().parse()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    Ok(Some((first, body)))
}

fn write(stream: &mut impl Write, first: &str, body: &[u8]) -> Done<()> {
    let len = body.len();
    let head = format!(
        "{first}\r\nHost: here\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    Ok(stream.flush()?)
}

/// How much a path asks for: what its last part says, or a little.
fn number(path: &str) -> usize {
    let path = path.split('?').next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default().parse().unwrap_or(10)
}

fn serve(address: &str, port: &str, certificate: &str, key: &str) -> Done<()> {
    let certificate = CertificateDer::from_pem_file(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&TLS12, &TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    let config = Arc::new(config);
    let listener = TcpListener::bind(format!("{address}:{port}"))?;
    println!("ready");
    for connection in listener.incoming() {
        let (config, connection) = (Arc::clone(&config), connection?);
        thread::spawn(move || drop(handle(config, connection)));
    }
    Ok(())
}

fn handle(config: Arc<ServerConfig>, connection: TcpStream) -> Done<()> {
    let tls = StreamOwned::new(ServerConnection::new(config)?, connection);
    let mut stream = BufReader::new(tls);
    while let Some((first, _)) = message(&mut stream)? {
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let body = if method == "POST" { b"posted".to_vec() } else { text(number(path)) };
        write(stream.get_mut(), "HTTP/1.1 200 OK", &body)?;
    }
    Ok(())
}

/// Takes every certificate.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn ask(address: &str, port: &str, version: &str, tag: &str) -> Done<()> {
    let versions = if version == "1.2" { [&TLS12] } else { [&TLS13] };
    let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    let tls = ClientConnection::new(Arc::new(config), ServerName::try_from("server")?)?;
    let connection = TcpStream::connect(format!("{address}:{port}"))?;
    let mut stream = BufReader::new(StreamOwned::new(tls, connection));
    for (method, path, body) in [
        ("GET", "/text/10", Vec::new()),
        ("POST", "/post", text(3000)),
        ("GET", "/text/100000", Vec::new()),
        ("GET", "/text/1", Vec::new()),
    ] {
        write(stream.get_mut(), &format!("{method} {path}?{tag} HTTP/1.1"), &body)?;
        let (_, answer) = message(&mut stream)?.ok_or("no answer")?;
        let expected = if body.is_empty() { text(number(path)) } else { b"posted".to_vec() };
        assert_eq!(answer, expected);
    }
    stream.get_mut().conn.send_close_notify();
    Ok(stream.get_mut().flush()?)
}

fn main() -> Done<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["server", address, port, certificate, key] => serve(address, port, certificate, key),
        ["client", address, port, version, tag] => ask(address, port, version, tag),
        _ => Err("server or client?".into()),
    }
}
