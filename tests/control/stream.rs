//! A listing of a million sessions: it comes as a stream, and the worker goes on with its packets meanwhile.

use crate::common::{LAN, udp};
use crate::gateway::Gateway;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

const SESSIONS: usize = 1_000_000;

/// Clients' ports and servers' ports, whose product is the number of sessions.
const SIDE: u16 = 1000;

fn open_a_million(gateway: &Gateway) {
    for client in 0..SIDE {
        let frames: Vec<_> = (0..SIDE)
            .map(|server| {
                let (from, to) = (20_000 + client, 30_000 + server);
                udp(LAN, ("10.0.0.2", from), ("203.0.113.9", to), b"x")
            })
            .collect();
        gateway.send(LAN, 0, &frames, frames.len());
    }
}

#[test]
fn a_million_sessions_stream_while_packets_flow() {
    let rules = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n";
    let gateway = Gateway::with_system(1, "sessions = 1_100_000", rules);
    open_a_million(&gateway);
    assert_eq!(gateway.json("show status")["sessions"], SESSIONS);
    let mut listing = Command::new(assert_cmd::cargo::cargo_bin!("natgate"))
        .arg("--socket")
        .arg(gateway.directory.path().join("api.sock"))
        .args(["show", "sessions", "max", "all"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(listing.stdout.take().unwrap()).lines();
    let heading = lines.next().unwrap().unwrap();
    assert!(heading.starts_with("PROTO  STATE"), "{heading}");
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("10.0.0.2:2"), "{first}");
    // Nobody reads now: the listing waits in the middle, and neither packets nor other questions wait with it.
    let probe = udp(LAN, ("10.0.0.2", 20_000), ("203.0.113.9", 30_000), b"y");
    for _ in 0..100 {
        gateway.send(LAN, 0, std::slice::from_ref(&probe), 1);
    }
    assert_eq!(gateway.json("show sessions port 20007")["total"], SIDE);
    // Somebody reads as fast as can be: packets still pass one by one.
    let reading = AtomicBool::new(true);
    let (rest, passed) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let rest = lines.map(Result::unwrap).count();
            reading.store(false, Ordering::Relaxed);
            rest
        });
        let mut passed = 0;
        while reading.load(Ordering::Relaxed) {
            gateway.send(LAN, 0, std::slice::from_ref(&probe), 1);
            passed += 1;
        }
        (reader.join().unwrap(), passed)
    });
    assert_eq!(rest, SESSIONS - 1, "every session is listed once");
    assert!(passed > 200, "{passed} packets passed during the listing");
    assert!(listing.wait().unwrap().success());
}
