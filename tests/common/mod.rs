//! Shared by the tests that run the data plane in memory: frames made and read by an independent library.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(dead_code, reason = "every test binary uses another part of it")]

pub mod corpus;
pub mod mutate;
pub mod ns;
pub mod pcap;
pub mod process;
pub mod row;
pub mod sctp;

use std::net::Ipv4Addr;
use std::sync::Arc;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use natgate::base::{PortId, WorkerId};
use natgate::config;
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;
use natgate::nat::policy::Policy;

pub const LAN: PortId = PortId(0);
pub const WAN: PortId = PortId(1);

/// MAC address of every host in the tests.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// The lab of the tests: 10.0.0.0/24 inside, 203.0.113.0/24 outside, every neighbour known.
pub const LAB: &str = r#"
schema = 1
[[port]]
name = "p-lan"
device = "null:"
mac = "02:00:00:00:01:00"
[[port]]
name = "p-wan"
device = "null:"
mac = "02:00:00:00:01:01"
[[interface]]
name = "lan0"
port = "p-lan"
address = ["10.0.0.1/24", "fd00:1::1/64"]
[[interface]]
name = "wan0"
port = "p-wan"
address = ["203.0.113.1/24", "2001:db8::1/64"]
[[route]]
prefix = "0.0.0.0/0"
via = "203.0.113.9"
[[route]]
prefix = "::/0"
via = "2001:db8::9"
"#;

/// Static neighbours for the lab's hosts, so that packets leave at once.
pub fn neighbours() -> String {
    let mut text = String::new();
    let mut add = |interface: &str, address: String| {
        text += &format!(
            "[[neighbour]]\ninterface = \"{interface}\"\naddress = \"{address}\"\nmac = \"02:00:00:00:00:09\"\n"
        );
    };
    for host in 2..10 {
        add("lan0", format!("10.0.0.{host}"));
        add("lan0", format!("fd00:1::{host}"));
    }
    for host in [9, 10, 11] {
        add("wan0", format!("203.0.113.{host}"));
    }
    add("wan0", "2001:db8::9".to_owned());
    text
}

/// Compiles the lab with `rules` appended, for `workers` workers.
pub fn lab_policy(workers: u8, rules: &str) -> Arc<Policy> {
    let text = format!(
        "{LAB}{}{rules}\n[system]\nworkers = {workers}\n",
        neighbours()
    );
    config::compile::compile_text("test", &text).unwrap_or_else(|report| panic!("{report}\n{text}"))
}

/// The lab as text, with `rules` appended, for `workers` workers; `system` is more of the table `[system]`.
pub fn lab_text(workers: u8, rules: &str, system: &str) -> String {
    format!(
        "{LAB}{}{rules}\n[system]\nworkers = {workers}\n{system}\n",
        neighbours()
    )
}

/// A rack that runs the configuration `text`.
pub fn rack(text: &str) -> Rack {
    let policy = config::compile::compile_text("test", text)
        .unwrap_or_else(|report| panic!("{report}\n{text}"));
    Rack::new(policy, ShardSize::small(), 1).unwrap()
}

/// Reloads the configuration `text`.
pub fn reload(rack: &mut Rack, text: &str) {
    let policy = config::compile::recompile_text("test", text, &rack.policy)
        .unwrap_or_else(|report| panic!("{report}\n{text}"));
    rack.reload(policy);
}

/// A rack that runs the lab.
pub fn lab(workers: u8, rules: &str) -> Rack {
    Rack::new(lab_policy(workers, rules), ShardSize::small(), 1).unwrap()
}

/// An address and a port.
pub type End = (&'static str, u16);

/// What a test says about one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub port: PortId,
    pub source: (Ipv4Addr, u16),
    pub destination: (Ipv4Addr, u16),
    pub payload: Vec<u8>,
    pub ttl: u8,
}

pub fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn to_gateway(
    port: PortId,
    source: &str,
    destination: &str,
    ttl: u8,
) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let gateway = [2, 0, 0, 0, 1, port.0 as u8];
    PacketBuilder::ethernet2(HOST_MAC, gateway).ipv4(
        ip(source).octets(),
        ip(destination).octets(),
        ttl,
    )
}

/// A UDP frame for the gateway's interface on `port`.
pub fn udp(port: PortId, from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let builder = to_gateway(port, from.0, to.0, 64).udp(from.1, to.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// A UDP frame with a given TTL.
pub fn udp_ttl(port: PortId, from: End, to: End, ttl: u8) -> Vec<u8> {
    let builder = to_gateway(port, from.0, to.0, ttl).udp(from.1, to.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"ttl").unwrap();
    frame
}

/// A segment that says something; `numbers` are sequence and acknowledgment number, `S` in `flags` is a SYN, any other letter
/// an ACK.
pub fn saying(
    port: PortId,
    (from, to): (End, End),
    flags: &str,
    numbers: (u32, u32),
    payload: &str,
) -> Vec<u8> {
    let builder = to_gateway(port, from.0, to.0, 64).tcp(from.1, to.1, numbers.0, 1024);
    spoken(builder, flags, numbers.1, payload)
}

/// A segment with flags as of [`saying`], what it acknowledges and what it says.
pub fn spoken(
    mut builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>,
    flags: &str,
    acknowledgment: u32,
    payload: &str,
) -> Vec<u8> {
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            _ => builder.ack(acknowledgment),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload.as_bytes()).unwrap();
    frame
}

/// A TCP segment; `flags` from "SAFR".
pub fn tcp(port: PortId, from: End, to: End, flags: &str) -> Vec<u8> {
    let mut builder = to_gateway(port, from.0, to.0, 64).tcp(from.1, to.1, 1000, 1024);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(7),
            'F' => builder.fin(),
            'R' => builder.rst(),
            other => panic!("no such flag: {other}"),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

/// An echo request.
pub fn ping(port: PortId, from: &str, to: &str, id: u16) -> Vec<u8> {
    let builder = to_gateway(port, from, to, 64).icmpv4_echo_request(id, 1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"ping").unwrap();
    frame
}

/// An echo reply.
pub fn pong(port: PortId, from: &str, to: &str, id: u16) -> Vec<u8> {
    let builder = to_gateway(port, from, to, 64).icmpv4_echo_reply(id, 1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"ping").unwrap();
    frame
}

/// An ICMP error of type and code about the IP packet in `about` (a whole frame).
pub fn icmp_error(port: PortId, from: &str, to: &str, kind: (u8, u8), about: &[u8]) -> Vec<u8> {
    let quote = &about[14..about.len().min(14 + 20 + 8)];
    let builder = to_gateway(port, from, to, 64).icmpv4_raw(kind.0, kind.1, [0; 4]);
    let mut frame = Vec::new();
    builder.write(&mut frame, quote).unwrap();
    frame
}

/// Reads a UDP or TCP frame and checks every checksum in it.
pub fn seen(sent: &(PortId, Vec<u8>)) -> Seen {
    let packet =
        SlicedPacket::from_ethernet(&sent.1).unwrap_or_else(|e| panic!("{e}: {:02x?}", sent.1));
    let Some(NetSlice::Ipv4(v4)) = &packet.net else {
        panic!("no IPv4 packet: {:02x?}", sent.1);
    };
    let header = v4.header();
    assert_eq!(
        header.header_checksum(),
        header.to_header().calc_header_checksum(),
        "IPv4 header checksum"
    );
    let addresses = (header.source_addr(), header.destination_addr());
    let (ports, payload) = match &packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            let expected = udp
                .to_header()
                .calc_checksum_ipv4_raw(header.source(), header.destination(), udp.payload())
                .unwrap();
            assert!(
                udp.checksum() == expected || udp.checksum() == 0,
                "UDP checksum"
            );
            (
                (udp.source_port(), udp.destination_port()),
                udp.payload().to_vec(),
            )
        }
        Some(TransportSlice::Tcp(tcp)) => {
            let expected = tcp
                .to_header()
                .calc_checksum_ipv4_raw(header.source(), header.destination(), tcp.payload())
                .unwrap();
            assert_eq!(tcp.checksum(), expected, "TCP checksum");
            (
                (tcp.source_port(), tcp.destination_port()),
                tcp.payload().to_vec(),
            )
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let bytes = icmp.slice();
            assert!(natgate::wire::checksum::verify(bytes), "ICMP checksum");
            (
                (u16::from_be_bytes([bytes[4], bytes[5]]), 0),
                bytes.to_vec(),
            )
        }
        other => panic!("unexpected transport {other:?}"),
    };
    Seen {
        port: sent.0,
        source: (addresses.0, ports.0),
        destination: (addresses.1, ports.1),
        payload,
        ttl: header.ttl(),
    }
}

/// Sends one frame into worker `worker` and expects exactly one out.
pub fn one(rack: &mut Rack, worker: u8, port: PortId, frame: &[u8]) -> Seen {
    let sent = rack.receive(WorkerId(worker), port, &[frame]);
    assert_eq!(
        sent.len(),
        1,
        "one packet in, one out; drops: {}",
        drops(rack)
    );
    balanced(rack);
    seen(&sent[0])
}

/// Sends one frame and expects that nothing comes out and `reason` is counted once more.
pub fn dropped(
    rack: &mut Rack,
    worker: u8,
    port: PortId,
    frame: &[u8],
    reason: natgate::base::DropReason,
) {
    let before = rack.drops(reason);
    let sent = rack.receive(WorkerId(worker), port, &[frame]);
    assert!(sent.is_empty(), "nothing may leave: {sent:02x?}");
    assert_eq!(
        rack.drops(reason),
        before + 1,
        "expected {reason}; drops: {}",
        drops(rack)
    );
    balanced(rack);
}

/// Asserts conservation on every worker.
pub fn balanced(rack: &Rack) {
    assert!(
        rack.imbalances().iter().all(|i| *i == 0),
        "packets in = packets out: {:?}",
        rack.imbalances()
    );
}

/// All drops so far, for messages.
pub fn drops(rack: &Rack) -> String {
    natgate::base::DropReason::ALL
        .iter()
        .filter(|r| rack.drops(**r) > 0)
        .map(|r| format!("{r}={} ", rack.drops(*r)))
        .collect()
}
