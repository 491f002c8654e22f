//! Several devices as one link, with VLANs on it (S0.5, AT-0.13).

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::accounting;
use crate::lab::{Gateway, Lab, Setup, on_natgate, on_workers};
use crate::natgate::Natgate;
use crate::probe::Answer;
use crate::servers::Server;

/// Two cables in the middle namespace, `m0a`–`m0b` and `m1a`–`m1b`; the `b` ends and `wan0` are on one bridge.
const CABLES_TO_A_SWITCH: &str = "link add m0a type veth peer name m0b
    link add m1a type veth peer name m1b
    link add sw type bridge mcast_snooping 0
    link set wan0 master sw
    link set m0b master sw
    link set m1b master sw
    link set m0a up
    link set m0b up
    link set m1a up
    link set m1b up
    link set sw up";

/// The same without the switch.
const CABLES: &str = "link add m0a type veth peer name m0b
    link add m1a type veth peer name m1b
    link set m0a up
    link set m0b up
    link set m1a up
    link set m1b up";

/// Frames that left through an interface of the middle namespace.
fn sent_through(lab: &Lab, interface: &str) -> u64 {
    let text = lab.middle.sh(&format!(
        "cat /sys/class/net/{interface}/statistics/tx_packets"
    ));
    text.trim().parse().unwrap()
}

#[test]
fn active_backup_survives_the_loss_of_a_member() {
    let setup = Setup {
        links: CABLES_TO_A_SWITCH,
        ports: r#"
            [[port]]
            name = "p-lan"
            device = "af_packet:lan0"
            [[port]]
            name = "p-wan"
            bond = { mode = "active-backup", members = ["af_packet:m0a", "af_packet:m1a"] }
        "#,
        ..Setup::MASQUERADE
    };
    on_natgate(&setup, |lab| {
        lab.expect("TCP in 10.0.0.3:0 > 203.0.113.9:80 => seen 203.0.113.1:*, reply");
        let call = lab.hold("in", "10.0.0.2:40000");
        let public = lab.ask(&call, "203.0.113.9:5000").answered();
        for (lost, left) in [("m0", "m1"), ("m1", "m0")] {
            lab.middle.ip(&format!("link set {lost}b down"));
            let before = sent_through(lab, &format!("{left}a"));
            let cut = Instant::now();
            // A question waits a second for its answer: at most the first may be lost.
            let first = lab.ask(&call, "203.0.113.9:5000");
            let second = lab.ask(&call, "203.0.113.9:5000");
            assert_eq!(second.answered(), public, "the mapping is the same");
            println!(
                "{lost} lost: answered again after {:.2} s at most, first question: {:?}",
                cut.elapsed().as_secs_f32(),
                first.answer
            );
            assert!(sent_through(lab, &format!("{left}a")) > before);
            assert_eq!(lab.natgate().show("ports")["ports"][1]["link_up"], true);
            lab.middle.ip(&format!("link set {lost}b up"));
            assert_ne!(lab.ask(&call, "203.0.113.9:5000").answer, Answer::Timeout);
        }
        // Nothing is left to change to.
        lab.middle.ip("link set m0b down
                       link set m1b down");
        let deadline = Instant::now() + Duration::from_secs(2);
        while lab.natgate().show("ports")["ports"][1]["link_up"] == true {
            assert!(
                Instant::now() < deadline,
                "the port is down with all its members"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

/// Two natgates with the cables between them: the lab's translates towards VLANs 2 and 3 of the bond, the second one
/// routes between those and the outside.
fn with_vlans(mode: &'static str, ports: &'static str, second: &'static str) {
    let setup = Setup {
        links: CABLES,
        ports,
        natgate: r#"
            [[interface]]
            name = "wan2"
            port = "p-wan"
            vlan = 2
            address = ["198.18.2.1/24"]
            [[interface]]
            name = "wan3"
            port = "p-wan"
            vlan = 3
            address = ["198.18.3.1/24"]
            [[route]]
            prefix = "192.0.2.9/32"
            via = "198.18.2.9"
            [[route]]
            prefix = "192.0.2.10/32"
            via = "198.18.3.9"
            [[source-nat]]
            out = "wan*"
            via = "interface"
        "#,
        ..Setup::PLAIN
    };
    let second = format!(
        r#"{second}
        [[port]]
        name = "p-wan"
        device = "af_packet:wan0"
        [[interface]]
        name = "mid2"
        port = "to-first"
        vlan = 2
        address = ["198.18.2.9/24"]
        [[interface]]
        name = "mid3"
        port = "to-first"
        vlan = 3
        address = ["198.18.3.9/24"]
        [[interface]]
        name = "mid4"
        port = "to-first"
        vlan = 4
        address = ["198.18.4.9/24"]
        [[interface]]
        name = "wan0"
        port = "p-wan"
        address = ["192.0.2.1/24"]"#
    );
    on_workers(2, &setup, |lab| {
        lab.outside.ip("addr add 192.0.2.9/24 dev eth0
                        addr add 192.0.2.10/24 dev eth0
                        route add 198.18.0.0/16 via 192.0.2.1");
        let mut second = Natgate::beside(lab.middle.clone(), lab.dir.path(), 2, &second);
        // LACP needs a few seconds to agree.
        answered_within(lab, Duration::from_secs(15), "192.0.2.9:5000");
        let before = ["m0a", "m1a"].map(|member| sent_through(lab, member));
        for host in ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"] {
            for port in 41000..41004 {
                lab.expect(&format!(
                    "UDP in {host}:{port} > 192.0.2.9:5000 => seen 198.18.2.1:*, reply"
                ));
                lab.expect(&format!(
                    "UDP in {host}:{port} > 192.0.2.10:5000 => seen 198.18.3.1:*, reply"
                ));
            }
            lab.expect(&format!(
                "TCP in {host}:0 > 192.0.2.10:80 => seen 198.18.3.1:*, reply"
            ));
        }
        for (member, before) in ["m0a", "m1a"].into_iter().zip(before) {
            let frames = sent_through(lab, member) - before;
            println!("{mode}: {frames} frames through {member}");
            assert!(frames >= 8, "flows spread over both members");
        }
        // The second one looks for a host on VLAN 4, which the first one does not have.
        lab.outside.try_sh("ping -c 1 -W 1 198.18.4.77");
        assert!(accounting::dropped(lab.natgate(), "unknown_vlan") > 0);
        // The first one announces itself without a tag, too, and a bond without partners takes nothing.
        let mut losses = accounting::losses(&second);
        for expected in ["unknown_vlan", "neighbour_unresolved", "tx_full"] {
            losses.remove(expected);
        }
        assert_eq!(losses, BTreeMap::new());
        second.finish();
    });
}

/// Four flows in a row, each tried until it is answered: they take all members that are in use.
fn answered_within(lab: &Lab, patience: Duration, to: &str) {
    let deadline = Instant::now() + patience;
    for port in 40000..40004 {
        let call = lab.hold("in", &format!("10.0.0.2:{port}"));
        while lab.ask(&call, to).answer != Answer::Reply {
            assert!(
                Instant::now() < deadline,
                "no answer; log:\n{}",
                lab.natgate().log()
            );
        }
    }
}

#[test]
fn lacp_carries_vlans() {
    with_vlans(
        "lacp",
        r#"
            [[port]]
            name = "p-lan"
            device = "af_packet:lan0"
            [[port]]
            name = "p-wan"
            bond = { mode = "lacp", members = ["af_packet:m0a", "af_packet:m1a"] }
        "#,
        r#"
            [[port]]
            name = "to-first"
            bond = { mode = "lacp", members = ["af_packet:m0b", "af_packet:m1b"] }
        "#,
    );
}

#[test]
fn balance_carries_vlans() {
    with_vlans(
        "balance",
        r#"
            [[port]]
            name = "p-lan"
            device = "af_packet:lan0"
            [[port]]
            name = "p-wan"
            bond = { mode = "balance", members = ["af_packet:m0a", "af_packet:m1a"] }
        "#,
        r#"
            [[port]]
            name = "to-first"
            bond = { mode = "balance", members = ["af_packet:m0b", "af_packet:m1b"] }
        "#,
    );
}

/// A host that has no VLAN interfaces: it reads and writes tagged frames itself. It answers ARP and datagrams on two VLANs,
/// writes down what it got, and sends fifty frames on a third.
const TAGGED_HOST: &str = r#"
import sys
from scapy.all import ARP, Dot1Q, Ether, IP, UDP, conf, get_if_hwaddr
ADDRESSES = {2: "203.0.113.9", 3: "198.51.100.9"}
mac = get_if_hwaddr("eth0")
seen = open(sys.argv[1], "w", buffering=1)
wire = conf.L2socket(iface="eth0")
for _ in range(50):
    wire.send(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=4) / ARP(psrc="192.0.2.4", pdst="192.0.2.1"))
print("ready", file=seen)
while True:
    frame = wire.recv()
    if frame is None or Dot1Q not in frame or frame.src == mac:
        continue
    vlan = frame[Dot1Q].vlan
    mine = ADDRESSES.get(vlan)
    head = Ether(src=mac, dst=frame.src) / Dot1Q(vlan=vlan)
    if ARP in frame and frame[ARP].op == 1 and frame[ARP].pdst == mine:
        asked = frame[ARP]
        wire.send(head / ARP(op=2, hwsrc=mac, psrc=mine, hwdst=asked.hwsrc, pdst=asked.psrc))
    elif UDP in frame and frame[IP].dst == mine:
        print(vlan, frame[IP].src, file=seen)
        ports = UDP(sport=frame[UDP].dport, dport=frame[UDP].sport)
        wire.send(head / IP(src=mine, dst=frame[IP].src) / ports / bytes(frame[UDP].payload))
"#;

#[test]
fn at_0_13_tagged_frames_outside_untagged_ones_inside() {
    let setup = Setup {
        whole: Some(
            r#"
            [[port]]
            name = "p-lan"
            device = "af_packet:lan0"
            [[port]]
            name = "p-wan"
            device = "af_packet:wan0"
            [[interface]]
            name = "lan0"
            port = "p-lan"
            address = ["10.0.0.1/24"]
            [[interface]]
            name = "wan2"
            port = "p-wan"
            vlan = 2
            address = ["203.0.113.1/24"]
            [[interface]]
            name = "wan3"
            port = "p-wan"
            vlan = 3
            address = ["198.51.100.1/24"]
            [[source-nat]]
            out = "wan*"
            via = "interface"
        "#,
        ),
        ..Setup::PLAIN
    };
    on_natgate(&setup, |lab| {
        let dir = lab.dir.path();
        let (script, seen) = (dir.join("host.py"), dir.join("seen"));
        std::fs::write(&script, TAGGED_HOST).unwrap();
        let line = format!("/usr/bin/python3 {} {}", script.display(), seen.display());
        let _host = Server::start(&lab.outside, &line);
        let read = || std::fs::read_to_string(&seen).unwrap_or_default();
        let deadline = Instant::now() + Duration::from_secs(20);
        while read().is_empty() {
            assert!(Instant::now() < deadline, "the tagged host does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        let call = lab
            .inside
            .enter(|| UdpSocket::bind("10.0.0.2:40000"))
            .unwrap();
        call.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for to in ["203.0.113.9:5000", "198.51.100.9:5000"] {
            call.send_to(to.as_bytes(), to).unwrap();
            let mut answer = [0; 64];
            let (length, from) = call
                .recv_from(&mut answer)
                .expect("an answer without a tag");
            assert_eq!(
                (&answer[..length], from.to_string()),
                (to.as_bytes(), to.to_owned())
            );
        }
        assert_eq!(read(), "ready\n2 203.0.113.1\n3 198.51.100.1\n");
        // What the host's kernel says without a tag counts, too, but is not that much.
        assert!(accounting::dropped(lab.natgate(), "unknown_vlan") >= 50);
    });
}
