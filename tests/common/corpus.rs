//! What mutation starts from: frames of every kind the data plane knows, and the inputs of the golden rows. The gateway
//! they are meant for, and what may leave it.

use std::path::Path;

use etherparse::PacketBuilder;
use natgate::base::PortId;
use natgate::wire::parse::{Network, parse};
use natgate::wire::{MacAddr, arp, nd};

use super::mutate::{covered, mend_all, put16};
use super::{HOST_MAC, LAN, WAN, icmp_error, pcap, ping, pong, tcp, udp, udp_ttl};

/// Masquerade, a port forward, static NAT, a service, a tagged interface with a small MTU, and a filter that also tracks IPv6.
pub const RULES: &str = r#"
[[interface]]
name = "lan7"
port = "p-lan"
vlan = 7
mtu = 600
clamp_mss = 536
address = ["10.7.0.1/24"]
[[source-nat]]
out = "wan0"
via = "interface"
[[port-forward]]
in = "wan0"
dst = "203.0.113.1"
proto = "tcp"
dport = "9000-9002"
to = "10.0.0.2:20-22"
[[static-nat]]
external = "203.0.113.64/28"
internal = "10.0.0.0/28"
interface = "wan0"
[[service]]
address = "198.18.0.2"
proto = "any"
unmatched = "reject"
ping = true
affinity = "client"
lb = "maglev"
maglev_size = 1009
backends = [{ to = "10.0.0.2" }, { to = "10.0.0.3", source = "10.0.0.1" }, { to = "10.0.0.4", forward_only = true }]
[filter]
[[filter.rule]]
proto = "tcp"
dport = "25,9001"
action = "reject"
reject_with = "tcp-reset"
[[filter.rule]]
in = "wan0"
src = ["203.0.113.10", "2001:db8::10-2001:db8::ff"]
action = "reject"
[[filter.rule]]
state = "invalid"
action = "drop"
"#;

/// What a frame that leaves the lab with [`RULES`] must be; `sound` if all checksums were right when it came.
pub fn check_sent(port: PortId, frame: &[u8], sound: bool) {
    let parsed = parse(frame)
        .unwrap_or_else(|reason| panic!("sent a frame to be dropped for {reason}: {frame:02x?}"));
    assert!(port.0 < 2, "a port that exists");
    if parsed.network != Network::Arp {
        assert_eq!(
            parsed.end(),
            frame.len(),
            "no padding is passed on: {frame:02x?}"
        );
        assert!(parsed.ttl > 0, "TTL 0 leaves: {frame:02x?}");
    }
    let tagged = port == PortId(0) && frame[12..14] == [0x81, 0];
    let mtu = if tagged { 600 } else { 1500 };
    assert!(
        parsed.ip_length <= mtu,
        "{} bytes on a link of {mtu}",
        parsed.ip_length
    );
    if sound && let Some(covered) = covered(frame) {
        assert!(
            covered.holds(frame),
            "a correct checksum was broken: {frame:02x?}"
        );
    }
}

/// All frames to start from.
pub fn frames() -> Vec<Vec<u8>> {
    let mut all = flows();
    all.extend(awkward());
    all.extend(neighbours());
    all.extend(ipv6());
    all.extend(golden());
    all
}

/// Flows out and answers to them, forwards, static NAT, hairpins, errors.
fn flows() -> Vec<Vec<u8>> {
    let (inside, server, public) = (
        ("10.0.0.2", 40000),
        ("203.0.113.9", 5000),
        ("203.0.113.1", 40000),
    );
    let out = udp(LAN, inside, server, b"data");
    let translated = udp(WAN, public, server, b"data");
    let mut all = vec![
        icmp_error(WAN, "203.0.113.9", "203.0.113.1", (3, 3), &translated),
        icmp_error(WAN, "203.0.113.10", "203.0.113.1", (11, 0), &translated),
        icmp_error(
            LAN,
            "10.0.0.2",
            "203.0.113.9",
            (3, 4),
            &udp(LAN, server, inside, b"data"),
        ),
        out,
        udp(WAN, server, public, b"answer"),
        udp_ttl(LAN, inside, server, 1),
        udp(LAN, ("10.0.0.3", 40000), ("203.0.113.1", 9000), b"hairpin"),
        udp(WAN, server, ("203.0.113.66", 53), b"static"),
        udp(LAN, inside, ("203.0.113.77", 53), b"nobody there"),
        udp(LAN, inside, server, &[7; 1800]),
        ping(LAN, "10.0.0.2", "203.0.113.9", 7),
        pong(WAN, "203.0.113.9", "203.0.113.1", 7),
        ping(LAN, "10.0.0.2", "10.0.0.1", 7),
    ];
    for flags in ["S", "SA", "A", "F", "R"] {
        all.push(tcp(LAN, inside, ("203.0.113.9", 80), flags));
        all.push(tcp(WAN, ("203.0.113.9", 80), public, flags));
        all.push(tcp(
            WAN,
            ("203.0.113.10", 6000),
            ("203.0.113.1", 9001),
            flags,
        ));
        all.push(tcp(LAN, ("10.0.0.2", 21), ("203.0.113.10", 6000), flags));
    }
    all
}

/// Options, fragments, tags, protocols without ports.
fn awkward() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let plain = udp(LAN, ("10.0.0.2", 40000), ("203.0.113.9", 5000), &[1; 64]);
    for field in [0x2000u16, 0x2001, 0x2009, 0x0012, 0x1fff, 0x4000] {
        let mut frame = plain.clone();
        put16(&mut frame, 14 + 6, field);
        mend_all(&mut frame);
        all.push(frame);
    }
    for options in [[1u8, 1, 1, 0], [7, 4, 4, 0], [131, 4, 4, 0], [136, 4, 1, 2]] {
        let mut frame = plain.clone();
        frame.splice(34..34, options);
        frame[14] = 0x46;
        put16(&mut frame, 16, (20 + 4 + 8 + 64) as u16);
        mend_all(&mut frame);
        all.push(frame);
    }
    for protocol in [47, 50, 132] {
        let mut frame = plain.clone();
        frame[23] = protocol;
        mend_all(&mut frame);
        all.push(frame);
    }
    let mut syn = Vec::new();
    PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, 0])
        .ipv4([10, 0, 0, 2], [203, 0, 113, 9], 64)
        .tcp(40001, 80, 1, 1024)
        .syn()
        .options_raw(&[1, 2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 0])
        .unwrap()
        .write(&mut syn, b"")
        .unwrap();
    all.push(syn);
    let mut tagged = plain;
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    tagged[30..34].copy_from_slice(&[10, 7, 0, 2]);
    mend_all(&mut tagged);
    all.push(tagged);
    all
}

/// ARP and neighbour discovery.
fn neighbours() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (operation, sender, target) in [
        (arp::REQUEST, [10, 0, 0, 77], [10, 0, 0, 1]),
        (arp::REPLY, [10, 0, 0, 77], [10, 0, 0, 1]),
        (arp::REPLY, [203, 0, 113, 77], [203, 0, 113, 1]),
        (arp::REQUEST, [203, 0, 113, 9], [203, 0, 113, 66]),
        (arp::REQUEST, [0; 4], [10, 0, 0, 1]),
    ] {
        let packet = arp::Arp {
            operation,
            sender_mac: MacAddr(HOST_MAC),
            sender_ip: u32::from_be_bytes(sender),
            target_mac: MacAddr::ZERO,
            target_ip: u32::from_be_bytes(target),
        };
        let mut frame = [&[0xff; 6][..], &HOST_MAC, &[8, 6], &[0; 28]].concat();
        assert_eq!(packet.write(&mut frame[14..]), 28);
        all.push(frame);
    }
    let (us, them) = (v6("fd00:1::1"), v6("fd00:1::77"));
    let mut packet = [0u8; 128];
    let mac = MacAddr(HOST_MAC);
    let length = nd::solicitation(&mut packet, them, mac, us, None);
    all.push(
        [
            &[0x33, 0x33, 0xff, 0, 0, 1][..],
            &HOST_MAC,
            &[0x86, 0xdd],
            &packet[..length],
        ]
        .concat(),
    );
    let length = nd::advertisement(&mut packet, them, us, them, mac, nd::Flags::default());
    all.push(
        [
            &[2, 0, 0, 0, 1, 0][..],
            &HOST_MAC,
            &[0x86, 0xdd],
            &packet[..length],
        ]
        .concat(),
    );
    all
}

fn v6(text: &str) -> u128 {
    text.parse::<std::net::Ipv6Addr>().unwrap().into()
}

/// Routed IPv6: UDP, echo to the gateway, extension headers, too long, out of hops.
fn ipv6() -> Vec<Vec<u8>> {
    let ether = || PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, 0]);
    let (from, to) = (
        v6("fd00:1::2").to_be_bytes(),
        v6("2001:db8:1::5").to_be_bytes(),
    );
    let us = v6("fd00:1::1").to_be_bytes();
    let mut all = Vec::new();
    for (hops, payload) in [(64, 10), (1, 10), (64, 1600)] {
        let mut frame = Vec::new();
        let builder = ether().ipv6(from, to, hops).udp(1, 2);
        builder.write(&mut frame, &vec![5; payload]).unwrap();
        all.push(frame);
    }
    let mut echo = Vec::new();
    let builder = ether().ipv6(from, us, 64).icmpv6_echo_request(1, 1);
    builder.write(&mut echo, b"ping").unwrap();
    all.push(echo);
    // Hop-by-hop, destination options, fragment header, then UDP.
    let mut chain = all[0].clone();
    chain.splice(
        54..54,
        [
            60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9,
        ],
    );
    chain[20] = 0;
    put16(&mut chain, 18, 24 + 18);
    all.push(chain);
    all
}

/// The inputs of every golden row.
fn golden() -> Vec<Vec<u8>> {
    let rows = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<_> = std::fs::read_dir(rows)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .flat_map(|row| ["in.lan.pcap", "in.wan.pcap"].map(|file| row.join(file)))
        .collect();
    paths.sort();
    let records = paths.iter().flat_map(|path| pcap::read(path).unwrap());
    let all: Vec<Vec<u8>> = records.map(|(_, frame)| frame).collect();
    assert!(all.len() > 20, "the golden rows hold frames");
    all
}
