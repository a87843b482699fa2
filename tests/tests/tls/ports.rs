//! What was added never gets in the way of what was recorded.

use kuberewind_tests::succeed;

use crate::judge::Exchange;
use crate::lab::{End, Lab, NGINX, other_end, source, text};

#[test]
fn real_connections_to_port_80_are_left_alone() {
    let mut lab = Lab::new();
    let _nginx = lab.nginx();
    let plain = |lab: &mut Lab, name: &str| {
        let exchange = page(name);
        let uri = exchange.uri.clone();
        lab.expect_plain(name, vec![exchange]);
        ("80".to_owned(), uri)
    };
    let sealed = |lab: &mut Lab, name: &str| {
        let exchange = page(name);
        let uri = exchange.uri.clone();
        lab.expect(name, vec![exchange]);
        (NGINX.to_string(), uri)
    };
    for (local, asked) in [
        ("20001", [plain(&mut lab, "before"), sealed(&mut lab, "sealed-after")]),
        ("20002", [sealed(&mut lab, "sealed-before"), plain(&mut lab, "after")]),
    ] {
        let mut python = lab.exec(End::Peer, "python3");
        python.arg(source("ports.py")).args([local, other_end(End::Peer)]);
        succeed(python.args(asked.iter().flat_map(|(port, uri)| [port, uri])));
    }
    lab.judge();
}

fn page(name: &str) -> Exchange {
    let answered = text(10).into();
    Exchange { answered, ..Exchange::new("GET", &format!("/text/10?{name}")) }
}
