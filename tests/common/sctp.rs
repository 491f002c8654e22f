//! SCTP packets in frames, made and read without natgate's own code.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use natgate::base::PortId;

/// An address and a port.
type End = (&'static str, u16);

/// MAC address of every host in the tests.
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

pub const DATA: u8 = 0;
pub const INIT: u8 = 1;
pub const INIT_ACK: u8 = 2;
pub const ABORT: u8 = 6;
pub const COOKIE_ECHO: u8 = 10;
pub const SHUTDOWN_COMPLETE: u8 = 14;

/// A frame with one SCTP packet, as a test sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sctp {
    pub port: PortId,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub tag: u32,
    pub chunks: Vec<u8>,
}

pub fn socket((address, port): End) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// A chunk with its padding.
pub fn chunk(kind: u8, flags: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, flags];
    out.extend((4 + value.len() as u16).to_be_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// INIT or INIT ACK with the tag its sender wants to be called by.
pub fn init(kind: u8, own_tag: u32) -> Vec<u8> {
    let mut value = own_tag.to_be_bytes().to_vec();
    // Receiver window, streams out and in, first TSN.
    value.extend([0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]);
    chunk(kind, 0, &value)
}

/// CRC32c by its definition (RFC 9260 appendix A).
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// An SCTP packet with the right checksum.
pub fn segment(from: u16, to: u16, tag: u32, chunks: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(from.to_be_bytes());
    out.extend(to.to_be_bytes());
    out.extend(tag.to_be_bytes());
    out.extend([0; 4]);
    out.extend(chunks);
    let crc = crc32c(&out);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Whether the checksum of an SCTP packet is right.
pub fn is_right(segment: &[u8]) -> bool {
    let (carried, right) = checksums(segment);
    carried == right
}

/// A frame for the gateway's interface on `port`, of either family.
pub fn sctp(port: PortId, from: End, to: End, tag: u32, chunks: &[u8]) -> Vec<u8> {
    let (source, destination) = (socket(from), socket(to));
    let ethernet = PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8]);
    let builder = match (source.ip(), destination.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ethernet.ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => ethernet.ipv6(a.octets(), b.octets(), 64),
        _ => panic!("{from:?} and {to:?} are of different families"),
    };
    let mut frame = Vec::new();
    builder
        .write(&mut frame, 132.into(), &segment(from.1, to.1, tag, chunks))
        .unwrap();
    frame
}

/// The SCTP packet in an IP packet; its checksums are not looked at.
fn read(port: PortId, ip: &[u8]) -> (Sctp, &[u8]) {
    let be = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
    let address4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
    let address6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
    let (l4, length, protocol, ends) = match ip[0] >> 4 {
        4 => (20, be(2), ip[9], (address4(12), address4(16))),
        _ => (40, be(4) + 40, ip[6], (address6(8), address6(24))),
    };
    assert_eq!(protocol, 132, "{ip:02x?}");
    let segment = &ip[l4..ip.len().min(length.into())];
    let seen = Sctp {
        port,
        source: SocketAddr::new(ends.0, be(l4)),
        destination: SocketAddr::new(ends.1, be(l4 + 2)),
        tag: u32::from_be_bytes(segment[4..8].try_into().unwrap()),
        chunks: segment.get(12..).unwrap_or(&[]).to_vec(),
    };
    (seen, segment)
}

/// The checksum of a whole SCTP packet, and what it should be.
fn checksums(segment: &[u8]) -> (u32, u32) {
    let mut zeroed = segment.to_vec();
    zeroed[8..12].fill(0);
    let carried = u32::from_le_bytes(segment[8..12].try_into().unwrap());
    (carried, crc32c(&zeroed))
}

/// Reads a frame and checks its checksums.
pub fn seen((port, frame): &(PortId, Vec<u8>)) -> Sctp {
    let (seen, wrong) = seen_wrong_by(&(*port, frame.clone()));
    assert_eq!(wrong, 0, "CRC32c");
    seen
}

/// Reads a frame; also by what its CRC32c is wrong.
pub fn seen_wrong_by((port, frame): &(PortId, Vec<u8>)) -> (Sctp, u32) {
    let ip = &frame[14..];
    if ip[0] >> 4 == 4 {
        assert!(natgate::wire::checksum::verify(&ip[..20]), "IPv4 header");
    }
    let (seen, segment) = read(*port, ip);
    let (carried, right) = checksums(segment);
    (seen, carried ^ right)
}

/// The SCTP packet that an ICMP error in a frame quotes. Its checksum is checked if the whole packet is quoted.
pub fn quoted((port, frame): &(PortId, Vec<u8>)) -> Sctp {
    let ip = &frame[14..];
    let (quote, icmp) = match ip[0] >> 4 {
        4 => (&ip[28..], &ip[20..]),
        _ => (&ip[48..], &ip[40..]),
    };
    let pseudo: Vec<u8> = match ip[0] >> 4 {
        4 => Vec::new(),
        _ => {
            let length = (icmp.len() as u32).to_be_bytes();
            [&ip[8..40], &length[..], &[0, 0, 0, 58]].concat()
        }
    };
    let covered = [&pseudo[..], icmp].concat();
    assert!(natgate::wire::checksum::verify(&covered), "ICMP checksum");
    let (seen, segment) = read(*port, quote);
    let whole = match quote[0] >> 4 {
        4 => usize::from(u16::from_be_bytes([quote[2], quote[3]])) - 20,
        _ => usize::from(u16::from_be_bytes([quote[4], quote[5]])),
    };
    if segment.len() == whole {
        let (carried, right) = checksums(segment);
        assert_eq!(carried, right, "CRC32c in the quote");
    }
    seen
}

/// An ICMP error of the family of `about`, a frame of which `bytes` behind the IP header are quoted.
pub fn error(
    port: PortId,
    from: &str,
    to: &str,
    kind: (u8, u8),
    about: &[u8],
    bytes: usize,
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8]);
    let mut frame = Vec::new();
    match (from.parse().unwrap(), to.parse().unwrap()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let quote = &about[14..about.len().min(14 + 20 + bytes)];
            let builder = ethernet.ipv4(a.octets(), b.octets(), 64);
            let builder = builder.icmpv4_raw(kind.0, kind.1, [0; 4]);
            builder.write(&mut frame, quote).unwrap();
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let quote = &about[14..about.len().min(14 + 40 + bytes)];
            let builder = ethernet.ipv6(a.octets(), b.octets(), 64);
            let builder = builder.icmpv6_raw(kind.0, kind.1, [0; 4]);
            builder.write(&mut frame, quote).unwrap();
        }
        _ => panic!("{from} and {to} are of different families"),
    }
    frame
}
