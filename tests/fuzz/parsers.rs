//! One target for every function that reads a packet: no panic, and nothing it returns lies outside the bytes.

use natgate::base::{DropReason, Random};
use natgate::nat::icmp::Complaint;
use natgate::wire::ipv6;
use natgate::wire::parse::{
    Network, Parsed, Quoted, Transport, parse, parse_quoted, parse_quoted_v6,
};
use natgate::wire::plain::Plain;
use natgate::wire::{arp, ipv4, nd, sctp, tcp};

use crate::common::corpus;
use crate::common::mutate::{self, l3_of, mend_ipv4, ones_sum, pick};
use crate::engine::{Target, fuzz, signature};

/// A target made of a function over frames.
struct Frames(fn(&[u8]) -> u64);

impl Target for Frames {
    fn run(&self, input: &[u8]) -> Vec<u64> {
        vec![(self.0)(input)]
    }

    fn next(&self, corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let sound = random.below(2) == 0;
        mutate::frame(corpus, sound, random)
    }

    fn smaller(&self, input: &[u8]) -> Vec<Vec<u8>> {
        let half = input.len() / 2;
        [half, input.len().saturating_sub(1)]
            .into_iter()
            .filter(|length| *length < input.len())
            .map(|length| input[..length].to_vec())
            .collect()
    }
}

/// A target made of a function over what is inside frames.
struct Packets(fn(&[u8]) -> u64);

impl Target for Packets {
    fn run(&self, input: &[u8]) -> Vec<u64> {
        vec![(self.0)(input)]
    }

    fn next(&self, corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut packet = pick(corpus, random).cloned().unwrap_or_default();
        let other = pick(corpus, random).cloned().unwrap_or_default();
        mutate::blindly(&mut packet, 0, &other, random);
        if packet.len() >= 20 && random.below(8) != 0 {
            mend_ipv4(&mut packet, 0, random.below(4) == 0);
        }
        packet
    }
}

/// The corpus without Ethernet headers.
fn packets(ethertype: u16) -> Vec<Vec<u8>> {
    let all = corpus::frames();
    let inside = all.iter().filter_map(|frame| match l3_of(frame) {
        Some((l3, found)) if found == ethertype => Some(frame[l3..].to_vec()),
        _ => None,
    });
    inside.collect()
}

/// What [`Parsed`] promises.
fn check_parsed(frame: &[u8], p: &Parsed) {
    let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));
    assert!(l3 == 14 || l3 == 18, "{p:?}");
    assert!(l3 < l4 && l4 <= p.end() && p.end() <= frame.len(), "{p:?}");
    assert_eq!(usize::from(p.l4_length()), p.end() - l4);
    if p.network == Network::Ipv4 {
        assert_eq!(
            ones_sum(&[&frame[l3..l4]]),
            0xffff,
            "a wrong header checksum passed"
        );
        assert!(
            u32::from(p.fragment.offset) + u32::from(p.ip_length) <= 65_535
                || !p.fragment.is_fragment()
        );
    }
    let least = match p.transport {
        Transport::Tcp if p.fragment.is_fragment() => 16,
        Transport::Tcp => 20,
        Transport::Sctp => 12,
        Transport::Udp => 8,
        Transport::IcmpQuery
        | Transport::IcmpReply
        | Transport::IcmpError
        | Transport::IcmpOther => 8,
        Transport::Other | Transport::LaterFragment => 0,
    };
    assert!(p.end() - l4 >= least, "{p:?}");
    if p.transport == Transport::Sctp {
        check_sctp(&frame[l4..p.end()]);
    }
}

/// Other ports and back are the same packet, and a wrong checksum stays as wrong as it was.
fn check_sctp(segment: &[u8]) {
    let wrong_by =
        |segment: &[u8]| sctp::carried_checksum(segment, 0) ^ sctp::checksum(segment).unwrap();
    let told = sctp::Told::read(segment);
    let (mut copy, length) = (segment.to_vec(), Some(segment.len() as u16));
    sctp::set_ports(&mut copy, 0, length, 0xffff, 0x8001);
    assert_eq!(
        (sctp::Told::read(&copy), wrong_by(&copy)),
        (told, wrong_by(segment))
    );
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    sctp::set_ports(&mut copy, 0, length, port(0), port(2));
    assert_eq!(copy, segment);
}

/// The short way for plain packets takes exactly the plain ones, and reads what the long way reads.
fn check_plain(frame: &[u8], parsed: &Result<Parsed, DropReason>) {
    let plain = |network: Network, header: u16| {
        parsed.as_ref().ok().filter(|p| {
            p.network == network
                && p.l4 == p.l3 + header
                && (p.l3 == 14 || p.vlan.is_some())
                && !p.fragment.is_fragment()
                && matches!(p.transport, Transport::Tcp | Transport::Udp)
                && frame.len() >= 18 + usize::from(header) + 8
        })
    };
    let v4 = plain(Network::Ipv4, 20).map(|p| {
        let addresses = u64::from(p.source) | u64::from(p.destination) << 32;
        as_plain(p, addresses)
    });
    assert_eq!(Plain::<u64>::read(frame), v4, "the two ways disagree");
    let v6 = plain(Network::Ipv6, 40).map(|p| {
        let l3 = usize::from(p.l3);
        as_plain(p, [ipv6::source(frame, l3), ipv6::destination(frame, l3)])
    });
    assert_eq!(Plain::<[u128; 2]>::read(frame), v6, "the two ways disagree");
}

fn as_plain<E>(p: &Parsed, addresses: E) -> Plain<E> {
    Plain {
        l3: p.l3,
        vlan: p.vlan,
        addresses,
        ports: u32::from(p.source_port) | u32::from(p.destination_port) << 16,
        ip_length: p.ip_length,
        protocol: p.protocol,
        ttl: p.ttl,
        tcp_flags: p.tcp_flags,
    }
}

fn parse_frame(frame: &[u8]) -> u64 {
    let parsed = parse(frame);
    check_plain(frame, &parsed);
    match parsed {
        Ok(p) => {
            check_parsed(frame, &p);
            let options = p.l4 - p.l3;
            signature((
                p.network,
                p.transport,
                p.vlan.is_some(),
                p.fragment.more,
                options,
            ))
        }
        Err(reason) => signature(reason),
    }
}

#[test]
fn frames() {
    fuzz("parse", &Frames(parse_frame), corpus::frames(), 25);
}

fn check_quoted(packet: &[u8], quoted: &Quoted) -> u64 {
    assert!(
        usize::from(quoted.l4) + usize::from(quoted.available) <= packet.len(),
        "{quoted:?}"
    );
    assert!(quoted.available >= 8, "{quoted:?}");
    assert!(!matches!(
        quoted.transport,
        Transport::IcmpError | Transport::LaterFragment
    ));
    signature((quoted.transport, quoted.l4))
}

#[test]
fn quotes() {
    let check = |packet: &[u8]| match parse_quoted(packet) {
        Ok(quoted) => check_quoted(packet, &quoted),
        Err(reason) => signature(reason),
    };
    fuzz("quoted", &Packets(check), packets(0x0800), 8);
}

#[test]
fn quotes_v6() {
    let check = |packet: &[u8]| match parse_quoted_v6(packet) {
        Ok(quoted) => check_quoted(packet, &quoted),
        Err(reason) => signature(reason),
    };
    fuzz("quoted_v6", &Packets(check), packets(0x86dd), 4);
}

fn read_arp(frame: &[u8]) -> u64 {
    let mut outcome = 0;
    let end = frame.len().saturating_sub(28);
    for (i, l3) in [14, 18, end, usize::MAX].into_iter().enumerate() {
        if let Some(packet) = arp::Arp::read(frame, l3) {
            let mut again = [0; 28];
            assert_eq!(packet.write(&mut again), 28);
            assert_eq!(again, frame[l3..l3 + 28], "what was read is what was there");
            outcome = signature((i, packet.operation.min(3)));
        }
    }
    outcome
}

#[test]
fn arp_packets() {
    fuzz("arp", &Frames(read_arp), corpus::frames(), 3);
}

fn read_nd(frame: &[u8]) -> u64 {
    let Ok(parsed) = parse(frame) else { return 0 };
    match nd::read(frame, &parsed) {
        Some(nd::Message::Solicitation { source_mac, .. }) => signature((1, source_mac.is_some())),
        Some(nd::Message::Advertisement {
            target_mac, flags, ..
        }) => signature((2, target_mac.is_some(), flags)),
        None => signature(parsed.transport),
    }
}

#[test]
fn neighbour_discovery() {
    fuzz("nd", &Frames(read_nd), corpus::frames(), 5);
}

fn clamp(frame: &[u8]) -> u64 {
    // At the place the parser found, and at others: a wrong offset must not take the worker down.
    let found = parse(frame).map_or(0, |p| usize::from(p.l4));
    let mut outcome = 0;
    for l4 in [found, 34, 38, frame.len(), frame.len() + 40] {
        let mut copy = frame.to_vec();
        let before = tcp::mss(&copy, l4);
        let changed = tcp::clamp_mss(&mut copy, l4, 500);
        assert_eq!(changed, before.is_some_and(|mss| mss > 500));
        // The lowered value can change where the option list is read only if the checksum field overlapped it.
        assert_eq!(
            tcp::mss(&copy, l4),
            before.map(|mss| mss.min(500)),
            "l4 {l4}"
        );
        assert_eq!(copy.len(), frame.len());
        outcome = signature((outcome, before.is_some(), changed));
    }
    // With a correct checksum before, it is correct after.
    if let (Ok(p), Some(covered)) = (parse(frame), mutate::covered(frame))
        && p.transport == Transport::Tcp
        && covered.holds(frame)
    {
        let mut copy = frame.to_vec();
        tcp::clamp_mss(&mut copy, usize::from(p.l4), 500);
        assert!(covered.holds(&copy), "clamping broke the checksum");
    }
    outcome
}

#[test]
fn mss_clamping() {
    fuzz("mss", &Frames(clamp), corpus::frames(), 3);
}

fn cut(packet: &[u8]) -> u64 {
    let mut outcome = 0;
    for mtu in [0, 67, 68, 69, 120, 576, 1500, u16::MAX] {
        let Some(pieces) = ipv4::fragment(packet, mtu) else {
            continue;
        };
        let (length, header) = (
            usize::from(ipv4::total_length(packet, 0)),
            ipv4::header_length(packet, 0),
        );
        let mut next = header;
        let mut out = vec![0; usize::from(mtu)];
        for (i, piece) in pieces.enumerate() {
            assert_eq!(piece.payload.start, next, "pieces are contiguous");
            assert!(i <= length / 8 + 1, "cutting ends");
            next = piece.payload.end;
            assert!(piece.len() <= usize::from(mtu), "{} > {mtu}", piece.len());
            assert_eq!(ipv4::write_fragment(&mut out, packet, &piece), piece.len());
            assert_eq!(ones_sum(&[piece.header()]), 0xffff, "header checksum");
            outcome = signature((outcome, piece.header().len()));
        }
        assert_eq!(next, length, "nothing is left out");
    }
    outcome
}

#[test]
fn fragmentation() {
    fuzz("fragment", &Packets(cut), packets(0x0800), 5);
}

fn complain(frame: &[u8]) -> u64 {
    let Ok(parsed) = parse(frame) else { return 0 };
    if parsed.transport != Transport::IcmpError || parsed.network != Network::Ipv4 {
        return 1;
    }
    match Complaint::read_v4(frame, &parsed) {
        Ok(complaint) => {
            let end = usize::from(parsed.l4) + 8 + usize::from(complaint.l4) + 8;
            assert!(end <= parsed.end(), "the quoted ports lie in the packet");
            signature((complaint.protocol, complaint.l4))
        }
        Err(reason) => signature(reason),
    }
}

#[test]
fn icmp_errors() {
    fuzz("complaint", &Frames(complain), corpus::frames(), 6);
}
