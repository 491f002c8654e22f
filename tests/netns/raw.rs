//! Packets no ordinary socket would send, and a look at what really is on the wire.
//!
//! Everything is built from bytes here, independently of natgate's own code: the lab must not share a
//! mistake with what it tests.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::ns::Ns;

/// IP protocol numbers.
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const UDP: u8 = 17;

/// An IPv4 packet as the lab sees it: without options, payload undivided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Sender.
    pub source: Ipv4Addr,
    /// Receiver.
    pub destination: Ipv4Addr,
    /// IP protocol number.
    pub protocol: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset as in the header: 0x4000 DF, 0x2000 MF, offset in units of 8 bytes.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Everything behind the header.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A packet with TTL 64.
    pub fn new(source: &str, destination: &str, protocol: u8, payload: Vec<u8>) -> Packet {
        Packet {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            id: 0x4e47,
            fragment: 0,
            ttl: 64,
            tos: 0,
            payload,
        }
    }

    /// A UDP datagram; `checksum` false sends it with checksum 0.
    pub fn udp(from: &str, to: &str, data: &[u8], checksum: bool) -> Packet {
        let (from, to): (SocketAddrV4, SocketAddrV4) = (from.parse().unwrap(), to.parse().unwrap());
        let length = (8 + data.len()) as u16;
        let mut payload = Vec::new();
        for field in [from.port(), to.port(), length, 0] {
            payload.extend(field.to_be_bytes());
        }
        payload.extend(data);
        if checksum {
            let mut pseudo = [from.ip().octets(), to.ip().octets()].concat();
            pseudo.extend([0, UDP]);
            pseudo.extend(length.to_be_bytes());
            pseudo.extend(&payload);
            // A computed 0 is sent as its other representation: 0 means "none".
            let sum = match ones_complement(&pseudo) {
                0 => 0xffff,
                sum => sum,
            };
            payload[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        Packet::new(&from.ip().to_string(), &to.ip().to_string(), UDP, payload)
    }

    /// An ICMP echo request.
    pub fn echo_request(source: &str, destination: &str, id: u16, sequence: u16) -> Packet {
        let mut payload = vec![8, 0, 0, 0];
        payload.extend(id.to_be_bytes());
        payload.extend(sequence.to_be_bytes());
        payload.extend(b"natgate lab");
        let sum = ones_complement(&payload);
        payload[2..4].copy_from_slice(&sum.to_be_bytes());
        Packet::new(source, destination, ICMP, payload)
    }

    /// The packet in fragments of at most `size` payload bytes (a multiple of 8), in order.
    pub fn fragments(&self, size: usize) -> Vec<Packet> {
        assert!(size.is_multiple_of(8));
        let count = self.payload.len().div_ceil(size);
        let pieces = self.payload.chunks(size).enumerate();
        pieces
            .map(|(n, piece)| Packet {
                fragment: (n * size / 8) as u16 | if n + 1 < count { 0x2000 } else { 0 },
                payload: piece.to_vec(),
                ..self.clone()
            })
            .collect()
    }

    /// The bytes from the IP header on; the kernel fills in the header checksum when it sends them.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x45, self.tos];
        bytes.extend((20 + self.payload.len() as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        let sum = ones_complement(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// Reads bytes from the IP header on; `None` unless they are a whole IPv4 packet without options.
    pub fn parse(bytes: &[u8]) -> Option<Packet> {
        let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let address = |at: usize| {
            let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets))
        };
        if *bytes.first()? != 0x45 {
            return None;
        }
        Some(Packet {
            tos: bytes[1],
            id: word(4)?,
            fragment: word(6)?,
            ttl: *bytes.get(8)?,
            protocol: *bytes.get(9)?,
            source: address(12)?,
            destination: address(16)?,
            payload: bytes.get(20..usize::from(word(2)?))?.to_vec(),
        })
    }

    /// Big-endian 16 bits of the payload.
    pub fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.payload[at], self.payload[at + 1]])
    }
}

/// The Internet checksum (RFC 1071) of these bytes.
pub fn ones_complement(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether the UDP or TCP or ICMP checksum of an undivided packet is right.
pub fn l4_checksum_is_right(packet: &Packet) -> bool {
    let mut bytes = Vec::new();
    if packet.protocol != ICMP {
        bytes.extend(packet.source.octets());
        bytes.extend(packet.destination.octets());
        bytes.extend([0, packet.protocol]);
        bytes.extend((packet.payload.len() as u16).to_be_bytes());
    }
    bytes.extend(&packet.payload);
    ones_complement(&bytes) == 0
}

/// Sends packets, as they are, from a namespace.
pub fn send(ns: &Ns, packets: &[Packet]) {
    let socket = ns.enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))));
    let socket = socket.unwrap();
    socket.set_header_included_v4(true).unwrap();
    socket.set_broadcast(true).unwrap();
    for packet in packets {
        let to = SocketAddr::from((packet.destination, 0));
        socket.send_to(&packet.bytes(), &to.into()).unwrap();
    }
}

/// Keeps the kernel of a namespace from answering "protocol unreachable" for this protocol.
pub fn claim_protocol(ns: &Ns, protocol: u8) -> Socket {
    let protocol = Protocol::from(i32::from(protocol));
    ns.enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(protocol)))
        .unwrap()
}

/// Everything that passes a namespace's devices, from the moment this is opened.
pub struct Capture {
    socket: Socket,
}

impl Capture {
    /// Starts listening on all devices of the namespace, both directions.
    pub fn start(ns: &Ns) -> Capture {
        const EVERY_PROTOCOL: u16 = 3;
        let protocol = Protocol::from(i32::from(EVERY_PROTOCOL.to_be()));
        let socket = ns.enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(protocol)));
        let socket = socket.expect("packet sockets need root");
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        Capture { socket }
    }

    /// The first IPv4 packet that `wanted` accepts, or `None` after the time is over.
    pub fn find(&self, within: Duration, wanted: impl Fn(&Packet) -> bool) -> Option<Packet> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(packet) = self.next().filter(|p| wanted(p)) {
                return Some(packet);
            }
        }
        None
    }

    fn next(&self) -> Option<Packet> {
        let mut frame = [0; 65536];
        let length = (&self.socket).read(&mut frame).ok()?;
        match frame.get(..length)? {
            [_, _, _, _, _, _, _, _, _, _, _, _, 8, 0, packet @ ..] => Packet::parse(packet),
            _ => None,
        }
    }
}
