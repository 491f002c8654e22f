//! PPTP: calls of several clients to one server, and to one inside, in packets of GRE from raw sockets.

use std::path::Path;

use crate::lab::{Setup, on_natgate};
use crate::ns::Ns;
use crate::servers::Server;

/// One outside address for everybody, calls helped, and a server inside.
const HELPED: Setup = Setup {
    kernel: None,
    natgate: r#"
        [[pool]]
        name = "wan"
        addresses = ["203.0.113.20"]
        helpers = ["pptp"]
        [[source-nat]]
        out = "wan0"
        via = "pool:wan"
        [[port-forward]]
        in = "wan0"
        dst = "203.0.113.20"
        proto = "tcp"
        dport = "1723"
        to = "10.0.0.5:1723"
    "#,
    ..Setup::PLAIN
};

fn peer(arguments: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netns/peers/pptp.py");
    format!("/usr/bin/python3 {} {arguments}", script.display())
}

fn server(ns: &Ns, address: &str) -> Server {
    Server::start(ns, &peer(&format!("server {address}")))
        .wait_for_tcp(ns, &format!("{address}:1723"))
}

/// All at once; their calls have the same id.
fn call_together(ns: &Ns, clients: &[&str], to: &str) {
    std::thread::scope(|scope| {
        for client in clients {
            scope.spawn(move || ns.sh(&peer(&format!("client {client} {to} 7"))));
        }
    });
}

// Proves: OT3.
#[test]
fn clients_of_one_server_have_calls_of_their_own() {
    on_natgate(&HELPED, |lab| {
        lab.outside.ip("route del 10.0.0.0/24 via 203.0.113.1");
        let _outside = server(&lab.outside, "203.0.113.9");
        call_together(
            &lab.inside,
            &["10.0.0.2", "10.0.0.3", "10.0.0.4"],
            "203.0.113.9",
        );
    });
}

#[test]
fn a_server_inside_takes_calls() {
    on_natgate(&HELPED, |lab| {
        lab.outside.ip("route del 10.0.0.0/24 via 203.0.113.1");
        let _inside = server(&lab.inside, "10.0.0.5");
        call_together(
            &lab.outside,
            &["203.0.113.9", "203.0.113.10"],
            "203.0.113.20",
        );
    });
}
