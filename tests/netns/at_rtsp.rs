//! RTSP: clients and servers inside, with streams both ways over the ports they agreed on.

use std::net::SocketAddr;
use std::path::Path;

use crate::lab::{Setup, on_natgate};
use crate::ns::Ns;
use crate::servers::Server;

fn peer(arguments: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netns/peers/rtsp.py");
    format!("/usr/bin/python3 {} {arguments}", script.display())
}

fn server(ns: &Ns, address: &str) -> Server {
    let at = SocketAddr::new(address.parse().unwrap(), 554).to_string();
    Server::start(ns, &peer(&format!("server {address}"))).wait_for_tcp(ns, &at)
}

#[test]
fn streams_reach_clients_and_servers_inside() {
    on_natgate(&Setup::helped("rtsp", "tcp", 8554, 554), |lab| {
        lab.outside.ip("route del 10.0.0.0/24 via 203.0.113.1");
        let outside = server(&lab.outside, "203.0.113.9");
        lab.inside.sh(&peer("client 10.0.0.2 203.0.113.9 554"));
        drop(outside);
        let _inside = server(&lab.inside, "10.0.0.3");
        lab.outside
            .sh(&peer("client 203.0.113.10 203.0.113.20 8554"));
    });
}

#[test]
fn streams_work_over_ipv6() {
    on_natgate(&Setup::helped("rtsp", "tcp", 8554, 554), |lab| {
        lab.outside.ip("route del fd00:1::/64 via 2001:db8::1");
        let outside = server(&lab.outside, "2001:db8::9");
        lab.inside.sh(&peer("client fd00:1::2 2001:db8::9 554"));
        drop(outside);
        let _inside = server(&lab.inside, "fd00:1::3");
        lab.outside
            .sh(&peer("client 2001:db8::9 2001:db8::20 8554"));
    });
}
