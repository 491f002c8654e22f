//! SIP with a real program: calls out and calls in, and voice to where the other side was told to send it.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::lab::{Lab, Setup, on_natgate};
use crate::ns::Ns;
use crate::servers::Server;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// sipp at an address; it gives back the voice that comes to port 6000.
fn sipp(dir: &Path, name: &str, at: &str, more: &str) -> String {
    let dir = dir.display();
    format!(
        "sipp -i {at} -p 5060 -mi {at} -mp 6000 -rtp_echo -nostdin -trace_msg -message_file {dir}/{name}.msg {more}"
    )
}

/// Where the descriptions that one side read or wrote say media go, its own address aside.
fn media(log: &Path, own: &str) -> Option<SocketAddr> {
    let text = fs::read_to_string(log).ok()?;
    let own: IpAddr = own.parse().unwrap();
    let mut address = None;
    for line in text.lines() {
        if let Some(connection) = line.strip_prefix("c=IN IP") {
            address = connection.get(2..)?.trim().parse::<IpAddr>().ok();
        }
        if let Some(medium) = line.strip_prefix("m=audio ")
            && let Some(address) = address.filter(|address| *address != own)
        {
            let port = medium.split(' ').next()?;
            return Some(SocketAddr::new(address, port.parse().ok()?));
        }
    }
    None
}

/// Sends voice from `own` in `ns` to where the other side said in a message that `log` has, and hears it again.
fn hears_its_echo(ns: &Ns, own: &str, log: &Path) {
    let deadline = Instant::now() + PATIENCE;
    let to = loop {
        if let Some(to) = media(log, own) {
            break to;
        }
        assert!(Instant::now() < deadline, "nobody described a session");
        std::thread::sleep(Duration::from_millis(20));
    };
    // From a port nobody spoke of.
    let from = SocketAddr::new(own.parse().unwrap(), 0);
    ns.enter(|| {
        let socket = UdpSocket::bind(from).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"voice of no codec", to).unwrap();
        let mut heard = [0; 100];
        let (length, by) = socket.recv_from(&mut heard).expect("the echo comes back");
        assert_eq!((&heard[..length], by), (&b"voice of no codec"[..], to));
    });
}

/// A call of `caller` to `target`, where `called` listens; voice goes both ways while it lasts.
fn calls(lab: &Lab, (from, caller): (&Ns, &str), (to, called): (&Ns, &str), target: &str) {
    let dir = lab.dir.path();
    for name in ["uac", "uas"] {
        let _ = fs::remove_file(dir.join(format!("{name}.msg")));
    }
    let server = sipp(dir, "uas", called, "-sn uas");
    let _server = Server::start(to, &server);
    let deadline = Instant::now() + PATIENCE;
    while !to.sh("ss -Hlun").contains(":5060") {
        assert!(Instant::now() < deadline, "sipp does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let client = sipp(
        dir,
        "uac",
        caller,
        &format!("-sn uac -m 1 -d 2000 -timeout 20 {target}"),
    );
    let done = std::thread::scope(|scope| {
        let call = scope.spawn(|| from.try_sh(&format!("{client} > {}/uac.out", dir.display())));
        hears_its_echo(to, called, &dir.join("uas.msg"));
        hears_its_echo(from, caller, &dir.join("uac.msg"));
        call.join().unwrap()
    });
    let said = fs::read_to_string(dir.join("uac.out")).unwrap_or_default();
    assert!(done.status.success(), "the call failed: {said}");
}

#[test]
fn phones_call_out_and_are_called() {
    on_natgate(&Setup::helped("sip", "udp", 5070, 5060), |lab| {
        lab.outside.ip("route del 10.0.0.0/24 via 203.0.113.1");
        let (phone, outside) = ((&lab.inside, "10.0.0.2"), (&lab.outside, "203.0.113.9"));
        calls(lab, phone, outside, "203.0.113.9:5060");
        let server = (&lab.inside, "10.0.0.3");
        let outside = (&lab.outside, "203.0.113.10");
        calls(lab, outside, server, "203.0.113.20:5070");
    });
}

#[test]
fn phones_call_over_ipv6() {
    on_natgate(&Setup::helped("sip", "udp", 5070, 5060), |lab| {
        lab.outside.ip("route del fd00:1::/64 via 2001:db8::1");
        let (phone, outside) = ((&lab.inside, "fd00:1::2"), (&lab.outside, "2001:db8::9"));
        calls(lab, phone, outside, "[2001:db8::9]:5060");
        let server = (&lab.inside, "fd00:1::3");
        calls(lab, outside, server, "[2001:db8::20]:5070");
    });
}
