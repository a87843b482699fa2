//! The double as a process: prints its kubeconfig's path, serves until it is stopped.

use std::{net::SocketAddr, path::PathBuf};

use kuberewind_apiserver_double::Double;

/// `kuberewind-apiserver-double [ADDRESS [KUBECONFIG]]`
#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut words = std::env::args().skip(1);
    let address: SocketAddr = match words.next().map(|word| word.parse()) {
        None => ([127, 0, 0, 1], 0).into(),
        Some(Ok(address)) => address,
        Some(Err(error)) => return Err(std::io::Error::other(error)),
    };
    let double = Double::bind(address).await?;
    if let Some(path) = words.next() {
        double.write_kubeconfig(&PathBuf::from(path))?;
    }
    println!("http://{}", double.address());
    tokio::signal::ctrl_c().await
}
