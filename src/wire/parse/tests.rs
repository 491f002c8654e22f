//! Tests of the parser: frames built by etherparse, golden bytes, and every kind of damage.

mod limits;

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::wire::{checksum, write_u16};

const A: [u8; 4] = [10, 0, 0, 7];
const B: [u8; 4] = [198, 51, 100, 9];

fn udp(payload: usize) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(A, B, 64)
        .udp(5000, 53)
        .write(&mut out, &vec![0xab; payload])
        .unwrap();
    out
}

fn tcp(payload: usize) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(A, B, 63)
        .tcp(40000, 443, 1, 1024)
        .syn()
        .write(&mut out, &vec![0xcd; payload])
        .unwrap();
    out
}

fn udp6(payload: usize) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6([1; 16], [2; 16], 60)
        .udp(1, 2)
        .write(&mut out, &vec![0; payload])
        .unwrap();
    out
}

/// An IPv4 frame with any header fields, options and payload; checksum right.
fn ipv4(protocol: u8, flags: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = vec![2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 8, 0];
    let header = 20 + options.len();
    out.push(0x40 | (header / 4) as u8);
    out.push(0);
    out.extend(((header + payload.len()) as u16).to_be_bytes());
    out.extend([0x12, 0x34]);
    out.extend(flags.to_be_bytes());
    out.extend([64, protocol, 0, 0]);
    out.extend(A);
    out.extend(B);
    out.extend(options);
    let sum = checksum::ipv4_header(&out[14..]);
    write_u16(&mut out, 24, sum);
    out.extend(payload);
    out
}

/// An IPv6 frame whose chain starts with `next`.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![
        2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 0x86, 0xdd, 0x60, 0, 0, 0,
    ];
    out.extend((payload.len() as u16).to_be_bytes());
    out.extend([next, 61]);
    out.extend([1; 16]);
    out.extend([2; 16]);
    out.extend(payload);
    out
}

fn fix_checksum(frame: &mut [u8]) {
    let sum = checksum::ipv4_header(&frame[14..34]);
    write_u16(frame, 24, sum);
}

const UDP_HEADER: [u8; 8] = [0, 7, 0, 8, 0, 8, 0, 0];

#[test]
fn plain_udp_and_tcp() {
    let mut frame = udp(10);
    frame.extend([0; 8]); // padding does not belong to the packet
    let p = parse(&frame).unwrap();
    assert_eq!(
        (p.network, p.transport, p.vlan),
        (Network::Ipv4, Transport::Udp, None)
    );
    assert_eq!(
        (p.l3, p.l4, p.ip_length, p.l4_length(), p.end()),
        (14, 34, 38, 18, 52)
    );
    assert_eq!((p.source, p.destination), (0x0a00_0007, 0xc633_6409));
    assert_eq!(
        (p.source_port, p.destination_port, p.ttl, p.protocol),
        (5000, 53, 64, 17)
    );
    assert!(!p.fragment.is_fragment());

    let p = parse(&tcp(0)).unwrap();
    assert_eq!((p.transport, p.tcp_flags, p.ttl), (Transport::Tcp, 2, 63));
    assert_eq!((p.source_port, p.destination_port), (40000, 443));
}

#[test]
fn vlan_tags() {
    let tagged = |control: u16, inner: &[u8]| {
        let mut out = inner[..12].to_vec();
        out.extend([0x81, 0]);
        out.extend(control.to_be_bytes());
        out.extend(&inner[12..]);
        out
    };
    let p = parse(&tagged(0xe123, &udp(0))).unwrap();
    assert_eq!(
        (p.vlan, p.l3, p.l4, p.destination_port),
        (Some(VlanId(0x123)), 18, 38, 53)
    );
    let p = parse(&tagged(0x2000, &udp6(0))).unwrap();
    assert_eq!(
        (p.vlan, p.l3, p.network),
        (None, 18, Network::Ipv6),
        "priority tag"
    );
    assert_eq!(
        parse(&tagged(0x0fff, &udp(0))),
        Err(DropReason::UnknownVlan)
    );
    assert_eq!(
        parse(&tagged(5, &tagged(6, &udp(0)))),
        Err(DropReason::FrameType)
    );
    assert_eq!(
        parse(&tagged(5, &udp(0))[..17]),
        Err(DropReason::FrameShort)
    );
}

#[test]
fn ethernet_and_arp() {
    assert_eq!(parse(&[]), Err(DropReason::FrameShort));
    assert_eq!(parse(&udp(0)[..13]), Err(DropReason::FrameShort));
    let mut frame = udp(0);
    frame[12..14].copy_from_slice(&[0x88, 0xcc]);
    assert_eq!(parse(&frame), Err(DropReason::FrameType));
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    let p = parse(&frame[..42]).unwrap();
    assert_eq!((p.network, p.l3, p.ip_length), (Network::Arp, 14, 28));
    assert_eq!(parse(&frame[..41]), Err(DropReason::FrameShort));
}

#[test]
fn ipv4_header_damage() {
    let good = udp(4);
    assert_eq!(parse(&good[..33]), Err(DropReason::FrameShort));
    assert_eq!(parse(&good[..45]), Err(DropReason::IpTotalLength));
    let with = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        parse(&frame).err()
    };
    assert_eq!(with(14, 0x65), Some(DropReason::IpVersion));
    assert_eq!(with(14, 0x44), Some(DropReason::IpHeaderLength));
    assert_eq!(with(14, 0x4f), Some(DropReason::IpHeaderLength));
    assert_eq!(with(22, 63), Some(DropReason::IpChecksum));
    let mut short = good.clone();
    write_u16(&mut short, 16, 19);
    fix_checksum(&mut short);
    assert_eq!(parse(&short), Err(DropReason::IpTotalLength));
}

#[test]
fn ipv4_options() {
    let p = parse(&ipv4(UDP, 0, &[1, 148, 4, 0, 0, 0, 9, 9], &UDP_HEADER)).unwrap();
    assert_eq!((p.l4, p.source_port, p.destination_port), (42, 7, 8));
    let error = |options: &[u8]| parse(&ipv4(UDP, 0, options, &UDP_HEADER)).err();
    assert_eq!(error(&[131, 3, 4, 0]), Some(DropReason::IpSourceRoute));
    assert_eq!(error(&[1, 137, 3, 4]), Some(DropReason::IpSourceRoute));
    assert_eq!(error(&[148, 1, 0, 0]), Some(DropReason::IpHeaderLength));
    assert_eq!(error(&[148, 0, 0, 0]), Some(DropReason::IpHeaderLength));
    assert_eq!(error(&[1, 1, 148, 3]), Some(DropReason::IpHeaderLength));
    assert_eq!(error(&[1, 1, 1, 148]), Some(DropReason::IpHeaderLength));
    let mut frame = ipv4(UDP, 0, &[1; 4], &UDP_HEADER);
    frame[34] = 7;
    assert_eq!(
        parse(&frame),
        Err(DropReason::IpChecksum),
        "options are covered"
    );
}

#[test]
fn transport_damage() {
    let error = |protocol, payload: &[u8]| parse(&ipv4(protocol, 0, &[], payload)).err();
    assert_eq!(error(UDP, &[0; 7]), Some(DropReason::L4Truncated));
    assert_eq!(
        error(UDP, &[0, 1, 0, 1, 0, 7, 0, 0]),
        Some(DropReason::L4Length)
    );
    assert_eq!(
        error(UDP, &[0, 1, 0, 1, 0, 9, 0, 0]),
        Some(DropReason::L4Length)
    );
    assert_eq!(error(ICMP, &[8; 7]), Some(DropReason::L4Truncated));
    assert_eq!(error(TCP, &[0; 19]), Some(DropReason::L4Truncated));
    let with = |offset: u8, flags: u8| {
        let mut segment = [0u8; 20];
        segment[12] = offset << 4;
        segment[13] = flags;
        error(TCP, &segment)
    };
    assert_eq!(with(5, 0x10), None);
    assert_eq!(with(4, 0x10), Some(DropReason::L4Truncated));
    assert_eq!(with(6, 0x10), Some(DropReason::L4Truncated));
    for flags in [0x00, 0xc0, 0x03, 0x06, 0x3f] {
        assert_eq!(with(5, flags), Some(DropReason::TcpFlags), "{flags:#x}");
    }
    for flags in [0x01, 0x02, 0x04, 0x12, 0x14, 0xc2] {
        assert_eq!(with(5, flags), None, "{flags:#x}");
    }
}

#[test]
fn icmp_kinds_v4_and_v6() {
    let kind = |network, kind: u8| {
        let payload = [kind, 0, 0, 0, 0x12, 0x34, 0, 1];
        let frame = match network {
            Network::Ipv4 => ipv4(ICMP, 0, &[], &payload),
            _ => ipv6(ICMPV6, &payload),
        };
        let p = parse(&frame).unwrap();
        (p.transport, p.source_port, p.destination_port)
    };
    for t in [8, 13, 15, 17] {
        assert_eq!(kind(Network::Ipv4, t), (Transport::IcmpQuery, 0x1234, 0));
    }
    for t in [0, 14, 16, 18] {
        assert_eq!(kind(Network::Ipv4, t), (Transport::IcmpReply, 0, 0x1234));
    }
    for t in [3, 4, 11, 12] {
        assert_eq!(kind(Network::Ipv4, t), (Transport::IcmpError, 0, 0));
    }
    for t in [5, 9, 10, 40] {
        assert_eq!(kind(Network::Ipv4, t), (Transport::IcmpOther, 0, 0));
    }
    assert_eq!(kind(Network::Ipv6, 128), (Transport::IcmpQuery, 0x1234, 0));
    assert_eq!(kind(Network::Ipv6, 129), (Transport::IcmpReply, 0, 0x1234));
    for t in 1..=4 {
        assert_eq!(kind(Network::Ipv6, t), (Transport::IcmpError, 0, 0));
    }
    for t in [130, 135, 136, 137] {
        assert_eq!(kind(Network::Ipv6, t), (Transport::IcmpOther, 0, 0));
    }
    let crossed = parse(&ipv4(ICMPV6, 0, &[], &[128; 8])).unwrap();
    assert_eq!(crossed.transport, Transport::Other);
}

#[test]
fn ipv4_fragments() {
    let mut segment = [0u8; 24];
    segment[..4].copy_from_slice(&[0, 7, 0, 8]);
    segment[12] = 0xa0; // options beyond this fragment
    segment[13] = 0x02;
    let first = parse(&ipv4(TCP, 0x2000, &[], &segment)).unwrap();
    assert_eq!(
        (first.transport, first.source_port, first.tcp_flags),
        (Transport::Tcp, 7, 2)
    );
    assert!(first.fragment.is_first());
    assert_eq!(first.fragment.id, 0x1234);
    let error = |protocol, flags, payload: &[u8]| parse(&ipv4(protocol, flags, &[], payload)).err();
    assert_eq!(
        error(TCP, 0x2000, &segment[..8]),
        Some(DropReason::FragmentTiny)
    );
    assert_eq!(
        error(TCP, 0x2000, &segment[..16]),
        Some(DropReason::FragmentTiny)
    );
    assert_eq!(error(UDP, 0x2000, &[0; 7]), Some(DropReason::FragmentTiny));
    assert_eq!(
        error(UDP, 0x2000, &[0, 1, 0, 2, 9, 9, 0, 0]),
        None,
        "the length is the datagram's"
    );
    assert_eq!(
        error(UDP, 0x2000, &[0, 1, 0, 2, 0, 7, 0, 0]),
        Some(DropReason::L4Length)
    );
    assert_eq!(error(ICMP, 0x2000, &[8; 4]), Some(DropReason::FragmentTiny));
    assert_eq!(error(TCP, 0x2001, &segment), Some(DropReason::FragmentTiny));
    assert_eq!(error(TCP, 0x0001, &segment), Some(DropReason::FragmentTiny));
    assert_eq!(error(UDP, 0x0001, &segment), None);
    assert_eq!(
        error(UDP, 0x1fff, &segment[..8]),
        Some(DropReason::FragmentOversize)
    );
    assert_eq!(
        error(UDP, 0x1ffc, &segment[..12]),
        Some(DropReason::FragmentOversize)
    );
    assert_eq!(
        error(UDP, 0x1ffc, &segment[..11]),
        None,
        "65,535 bytes exactly"
    );
    let last = parse(&ipv4(UDP, 0x0002, &[], &segment)).unwrap();
    assert_eq!(
        (last.transport, last.source_port),
        (Transport::LaterFragment, 0)
    );
    assert_eq!((last.fragment.offset, last.fragment.more), (16, false));
    assert!(
        parse(&ipv4(UDP, 0x4000, &[], &UDP_HEADER))
            .unwrap()
            .fragment
            .dont_fragment
    );
}

#[test]
fn ipv6_plain_and_damage() {
    let good = udp6(3);
    let p = parse(&good).unwrap();
    assert_eq!(
        (p.network, p.transport, p.ttl),
        (Network::Ipv6, Transport::Udp, 60)
    );
    assert_eq!((p.l3, p.l4, p.ip_length, p.source), (14, 54, 51, 0));
    assert_eq!(parse(&good[..53]), Err(DropReason::FrameShort));
    assert_eq!(parse(&good[..64]), Err(DropReason::IpTotalLength));
    let mut bad = good.clone();
    bad[14] = 0x45;
    assert_eq!(parse(&bad), Err(DropReason::IpVersion));
    assert_eq!(
        parse(&ipv6(UDP, &[])),
        Err(DropReason::IpTotalLength),
        "jumbogram"
    );
    assert_eq!(
        parse(&ipv6(50, &[0; 9])).unwrap().transport,
        Transport::Other
    );
}

#[test]
fn ipv6_extension_headers() {
    let chain = |headers: &[&[u8]]| headers.concat();
    let hop = [60, 0, 1, 4, 0, 0, 0, 0];
    let destination: [u8; 16] = [43, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let routing = [17, 0, 4, 0, 0, 0, 0, 0];
    let p = parse(&ipv6(
        0,
        &chain(&[&hop, &destination, &routing, &UDP_HEADER]),
    ))
    .unwrap();
    assert_eq!(
        (p.transport, p.l4, p.protocol, p.source_port),
        (Transport::Udp, 14 + 40 + 32, 17, 7)
    );
    // Segments left: somebody's next hop, not an end-to-end packet we can judge.
    let left = [17, 0, 4, 1, 0, 0, 0, 0];
    let p = parse(&ipv6(43, &chain(&[&left, &UDP_HEADER]))).unwrap();
    assert_eq!((p.transport, p.protocol, p.l4), (Transport::Other, 43, 54));
    // Hop-by-hop anywhere but first.
    let p = parse(&ipv6(
        60,
        &chain(&[&[0, 0, 1, 4, 0, 0, 0, 0], &hop, &UDP_HEADER]),
    ))
    .unwrap();
    assert_eq!((p.transport, p.protocol), (Transport::Other, 0));
    assert_eq!(
        parse(&ipv6(60, &[17, 1, 0, 0, 0, 0, 0, 0])),
        Err(DropReason::L4Truncated)
    );
    // An endless chain ends the walk, not the worker.
    let p = parse(&ipv6(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(100))).unwrap();
    assert_eq!((p.transport, p.protocol), (Transport::Other, 60));
}

#[test]
fn ipv6_fragments() {
    let header = |offset_more: u16, next: u8| {
        let field = offset_more.to_be_bytes();
        [next, 0, field[0], field[1], 0xde, 0xad, 0xbe, 0xef]
    };
    let frame = |field, next, rest: &[u8]| ipv6(44, &[&header(field, next)[..], rest].concat());
    let p = parse(&frame(1, UDP, &UDP_HEADER)).unwrap();
    assert_eq!(
        (p.transport, p.l4, p.fragment.id),
        (Transport::Udp, 62, 0xdead_beef)
    );
    assert!(p.fragment.is_first());
    let p = parse(&frame(0x11, UDP, &[0; 8])).unwrap();
    assert_eq!(
        (p.transport, p.fragment.offset, p.protocol),
        (Transport::LaterFragment, 16, 17)
    );
    let p = parse(&frame(0, UDP, &UDP_HEADER)).unwrap();
    assert_eq!(
        (p.transport, p.fragment.is_fragment()),
        (Transport::Udp, false),
        "atomic"
    );
    assert_eq!(
        parse(&frame(9, TCP, &[0; 8])),
        Err(DropReason::FragmentTiny)
    );
    assert_eq!(
        parse(&frame(1, TCP, &[0; 8])),
        Err(DropReason::FragmentTiny)
    );
    assert_eq!(
        parse(&frame(1, 60, &[17, 3, 0, 0, 0, 0, 0, 0])),
        Err(DropReason::FragmentTiny)
    );
    assert_eq!(
        parse(&frame(0xfff8, UDP, &[0; 8])),
        Err(DropReason::FragmentOversize)
    );
}

#[test]
fn sctp_packets() {
    let mut header = [0; 16];
    header[..8].copy_from_slice(&[0x13, 0x88, 0, 80, 1, 2, 3, 4]);
    let p = parse(&ipv4(SCTP, 0, &[], &header)).unwrap();
    assert_eq!(
        (p.transport, p.source_port, p.destination_port),
        (Transport::Sctp, 5000, 80)
    );
    assert_eq!((p.datagram_length(), p.tcp_flags), (Some(16), 0));
    let p = parse(&ipv6(SCTP, &header)).unwrap();
    assert_eq!((p.transport, p.destination_port), (Transport::Sctp, 80));
    let error = |flags, header: &[u8]| parse(&ipv4(SCTP, flags, &[], header)).err();
    assert_eq!(error(0, &header[..12]), None);
    assert_eq!(error(0, &header[..11]), Some(DropReason::L4Truncated));
    // The ports come with the checksum that covers them.
    assert_eq!(error(0x2000, &header[..8]), Some(DropReason::FragmentTiny));
    let first = parse(&ipv4(SCTP, 0x2000, &[], &header)).unwrap();
    assert_eq!(
        (first.transport, first.source_port, first.datagram_length()),
        (Transport::Sctp, 5000, None)
    );
    let q = parse_quoted(&ipv4(SCTP, 0x2000, &[], &header[..8])[14..]).unwrap();
    assert_eq!(
        (q.transport, q.source_port, q.destination_port, q.more),
        (Transport::Sctp, 5000, 80, true)
    );
    let q = parse_quoted_v6(&ipv6(SCTP, &header)[14..]).unwrap();
    assert_eq!(
        (q.transport, q.ip_length, q.more),
        (Transport::Sctp, 56, false)
    );
}

#[test]
fn quotes() {
    let frame = udp(40);
    let q = parse_quoted(&frame[14..42]).unwrap();
    assert_eq!(
        (q.transport, q.l4, q.available, q.ip_length),
        (Transport::Udp, 20, 8, 68)
    );
    assert_eq!(
        (q.source, q.source_port, q.destination_port),
        (0x0a00_0007, 5000, 53)
    );
    assert_eq!(
        parse_quoted(&frame[14..41]),
        Err(DropReason::IcmpInnerShort)
    );
    let mut padded = udp(0)[14..].to_vec();
    padded.extend([0; 100]);
    assert_eq!(
        parse_quoted(&padded).unwrap().available,
        8,
        "padding is not the packet"
    );
    let options = ipv4(TCP, 0, &[131, 3, 4, 1], &[0, 5, 0, 6, 0, 0, 0, 0]);
    let q = parse_quoted(&options[14..]).unwrap();
    assert_eq!(
        (q.transport, q.l4, q.source_port, q.destination_port),
        (Transport::Tcp, 24, 5, 6)
    );
    let mut damaged = frame.clone();
    damaged[27] ^= 1;
    assert_eq!(
        parse_quoted(&damaged[14..]),
        Err(DropReason::IcmpInnerChecksum)
    );
    let echo = ipv4(ICMP, 0, &[], &[8, 0, 0, 0, 0x12, 0x34, 0, 1]);
    assert_eq!(parse_quoted(&echo[14..]).unwrap().source_port, 0x1234);
    let nested = ipv4(ICMP, 0, &[], &[3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(parse_quoted(&nested[14..]), Err(DropReason::IcmpType));
    let later = ipv4(UDP, 2, &[], &[0; 8]);
    assert_eq!(parse_quoted(&later[14..]), Err(DropReason::IcmpInnerShort));

    let six = udp6(40);
    let q = parse_quoted_v6(&six[14..62]).unwrap();
    assert_eq!(
        (q.transport, q.l4, q.available, q.source_port),
        (Transport::Udp, 40, 8, 1)
    );
    assert_eq!(
        parse_quoted_v6(&six[14..61]),
        Err(DropReason::IcmpInnerShort)
    );
    let nested = ipv6(ICMPV6, &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(parse_quoted_v6(&nested[14..]), Err(DropReason::IcmpType));
    assert_eq!(parse_quoted_v6(&frame[14..]), Err(DropReason::IpVersion));
}

fn check_offsets(frame: &[u8]) {
    if let Ok(p) = parse(frame) {
        assert!(p.l3 <= p.l4 && usize::from(p.l4) <= p.end() && p.end() <= frame.len());
        let needed = match p.transport {
            Transport::Tcp if p.fragment.is_first() => 16,
            Transport::Tcp => 20,
            Transport::Sctp => 12,
            Transport::Udp | Transport::IcmpQuery | Transport::IcmpReply => 8,
            Transport::IcmpError | Transport::IcmpOther => 8,
            Transport::Other | Transport::LaterFragment => 0,
        };
        assert!(p.l4_length() >= needed, "{p:?}");
        let mut copy = frame.to_vec();
        crate::wire::nd::read(frame, &p);
        crate::wire::arp::Arp::read(frame, usize::from(p.l3));
        crate::wire::tcp::clamp_mss(&mut copy[..p.end()], usize::from(p.l4), 536);
        crate::wire::icmp::turn_echo_request_into_reply(&mut copy, &p);
        assert_eq!(copy.len(), frame.len());
        assert_eq!(copy[p.end()..], frame[p.end()..], "padding is not ours");
    }
    for start in [0, 14, 42] {
        let quote = frame.get(start..).unwrap_or(&[]);
        for q in [parse_quoted(quote), parse_quoted_v6(quote)]
            .into_iter()
            .flatten()
        {
            assert!(q.available >= 8);
            assert!(usize::from(q.l4) + usize::from(q.available) <= quote.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_offsets(&bytes);
    }

    #[test]
    fn mutated_frames_never_panic(
        which in 0usize..8,
        changes in proptest::collection::vec((0usize..80, any::<u8>()), 0..4),
        length in 0usize..120,
        repair in any::<bool>(),
    ) {
        let mut frame = match which {
            0 => udp(30),
            1 => tcp(20),
            2 => udp6(20),
            3 => ipv6(0, &[[43, 0, 0, 0, 0, 0, 0, 0], [44, 0, 0, 0, 0, 0, 0, 0], [17, 0, 0, 1, 0, 0, 0, 0], UDP_HEADER].concat()),
            4 => ipv4(TCP, 0x2000, &[7, 7, 4, 0, 0, 0, 0, 0], &[2; 40]),
            5 => ipv4(ICMP, 0, &[], &[3; 40]),
            6 => ipv4(SCTP, 0, &[], &[1; 40]),
            _ => ipv6(ICMPV6, &[1; 60]),
        };
        for (at, value) in changes {
            let at = at % frame.len();
            frame[at] = value;
        }
        // A repaired checksum lets the damage through to the later checks.
        if repair && frame[12..14] == [8, 0] {
            let end = (14 + usize::from(frame[14] & 15) * 4).min(frame.len());
            let sum = checksum::ipv4_header(&frame[14..end]);
            write_u16(&mut frame, 24, sum);
        }
        frame.truncate(length.max(1));
        check_offsets(&frame);
    }

    #[test]
    fn etherparse_agrees(
        source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(), ttl in any::<u8>(),
        ports in any::<(u16, u16)>(), vlan in proptest::option::of(1u16..4095), payload in 0usize..40,
    ) {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = match vlan {
            Some(id) => builder.single_vlan(id.try_into().unwrap()).ipv4(source, destination, ttl),
            None => builder.ipv4(source, destination, ttl),
        };
        ip.udp(ports.0, ports.1).write(&mut frame, &vec![1; payload]).unwrap();
        let p = parse(&frame).unwrap();
        prop_assert_eq!(p.vlan, vlan.map(VlanId));
        prop_assert_eq!((p.source.to_be_bytes(), p.destination.to_be_bytes()), (source, destination));
        prop_assert_eq!((p.source_port, p.destination_port, p.ttl), (ports.0, ports.1, ttl));
        prop_assert_eq!(p.end(), frame.len());
        let segment = &frame[usize::from(p.l4)..];
        prop_assert_eq!(checksum::transport_v4(p.source, p.destination, UDP, segment), 0);
    }
}
