//! Lengths and numbers exactly at their limits, and one beyond.

use super::*;
use crate::wire::GRE;

const ESP: u8 = 50;

fn error(frame: &[u8]) -> Option<DropReason> {
    parse(frame).err()
}

/// `frame` with a tag of VLAN 5.
fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat()
}

#[test]
fn the_shortest_frames() {
    // A header and nothing in it: the type is judged, and then what it announces is missing.
    let header = [2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 0x88, 0xcc];
    assert_eq!(error(&header), Some(DropReason::FrameType));
    assert_eq!(error(&header[..13]), Some(DropReason::FrameShort));
    assert_eq!(error(&tagged(&header)), Some(DropReason::FrameType));
    assert_eq!(error(&tagged(&header)[..17]), Some(DropReason::FrameShort));
    for length in 14..34 {
        assert_eq!(error(&udp(0)[..length]), Some(DropReason::FrameShort));
    }
    for length in 14..54 {
        assert_eq!(error(&udp6(0)[..length]), Some(DropReason::FrameShort));
    }
    let mut arp = header.to_vec();
    arp[12..].copy_from_slice(&[0x08, 0x06]);
    arp.extend([0; 28]);
    for (frame, l3) in [(arp.clone(), 14), (tagged(&arp), 18)] {
        let p = parse(&frame).unwrap();
        assert_eq!(
            (p.network, p.l3, p.l4, p.end()),
            (Network::Arp, l3, l3 + 28, frame.len())
        );
        assert_eq!((p.l4_length(), p.transport), (0, Transport::Other));
        assert_eq!(
            error(&frame[..frame.len() - 1]),
            Some(DropReason::FrameShort)
        );
    }
}

#[test]
fn the_flags_of_an_ipv4_header() {
    for (field, more, fixed) in [
        (0u16, false, false),
        (0x4000, false, true),
        (0x8000, false, false),
        (0x2000, true, false),
        (0x6000, true, true),
    ] {
        let fragment = parse(&ipv4(UDP, field, &[], &UDP_HEADER)).unwrap().fragment;
        assert_eq!(
            (fragment.more, fragment.dont_fragment),
            (more, fixed),
            "{field:#x}"
        );
        assert_eq!((fragment.offset, fragment.id), (0, 0x1234));
        assert_eq!((fragment.is_fragment(), fragment.is_first()), (more, more));
    }
    for (field, offset, more) in [
        (1u16, 8, false),
        (0x2002, 16, true),
        (0x1f00, 0xf800, false),
    ] {
        let p = parse(&ipv4(UDP, field, &[], &[7; 9])).unwrap();
        assert_eq!((p.fragment.offset, p.fragment.more), (offset, more));
        assert!(p.fragment.is_fragment() && !p.fragment.is_first());
        assert_eq!(
            (p.transport, p.datagram_length()),
            (Transport::LaterFragment, None)
        );
    }
}

#[test]
fn first_fragments_that_just_suffice() {
    let mut tcp = [0u8; 40];
    (tcp[1], tcp[3], tcp[12], tcp[13]) = (7, 8, 0x50, 0x10);
    let mut longer = tcp;
    longer[12] = 0xf0;
    let mut shorter = tcp;
    shorter[12] = 0x4f;
    let mut flagless = tcp;
    flagless[13] = 0xc0;
    let sctp = [0, 7, 0, 8, 1, 2, 3, 4, 0, 0, 0, 0];
    let whole = [0, 7, 0, 8, 0, 8, 0, 0];
    let stated_less = [0, 7, 0, 8, 0, 7, 0, 0];
    let echo = [8, 0, 0, 0, 0, 7, 0, 1];
    for (protocol, payload, found) in [
        (TCP, &tcp[..20], Ok((Transport::Tcp, 7, 8))),
        (TCP, &tcp[..19], Err(DropReason::FragmentTiny)),
        (TCP, &longer[..20], Ok((Transport::Tcp, 7, 8))),
        (TCP, &shorter[..], Err(DropReason::L4Truncated)),
        (TCP, &flagless[..], Err(DropReason::TcpFlags)),
        (SCTP, &sctp, Ok((Transport::Sctp, 7, 8))),
        (SCTP, &sctp[..11], Err(DropReason::FragmentTiny)),
        (UDP, &whole, Ok((Transport::Udp, 7, 8))),
        (UDP, &whole[..7], Err(DropReason::FragmentTiny)),
        (UDP, &stated_less, Err(DropReason::L4Length)),
        (ICMP, &echo, Ok((Transport::IcmpQuery, 7, 0))),
        (ICMP, &echo[..7], Err(DropReason::FragmentTiny)),
        (ESP, &[1], Ok((Transport::Other, 0, 0))),
        (ESP, &[], Err(DropReason::FragmentTiny)),
    ] {
        let p = parse(&ipv4(protocol, 0x2000, &[], payload));
        let ports = p.map(|p| (p.transport, p.source_port, p.destination_port));
        assert_eq!(ports, found, "{protocol} {payload:02x?}");
    }
    let echo6 = [ICMPV6, 0, 0, 1, 0, 0, 0, 9, 128, 0, 0, 0, 0, 7, 0, 1];
    let fragment6 = |length: usize| parse(&ipv6(44, &echo6[..length]));
    assert_eq!(fragment6(16).map(|p| p.transport), Ok(Transport::IcmpQuery));
    assert_eq!(fragment6(15), Err(DropReason::FragmentTiny));
}

#[test]
fn later_fragments() {
    // Only a second piece of TCP can rewrite the first one's header; an empty piece helps nobody.
    assert_eq!(
        error(&ipv4(TCP, 1, &[], &[0; 8])),
        Some(DropReason::FragmentTiny)
    );
    assert_eq!(error(&ipv4(TCP, 2, &[], &[0; 8])), None);
    assert_eq!(error(&ipv4(UDP, 1, &[], &[0; 8])), None);
    assert_eq!(error(&ipv4(UDP, 2, &[], &[0])), None);
    assert_eq!(
        error(&ipv4(UDP, 2, &[], &[])),
        Some(DropReason::FragmentTiny)
    );
    // Put together, an IPv4 packet has 65,535 bytes at most with its header, an IPv6 packet as many behind its own.
    assert_eq!(error(&ipv4(UDP, 0x1ffd, &[], &[0; 3])), None);
    assert_eq!(
        error(&ipv4(UDP, 0x1ffd, &[], &[0; 4])),
        Some(DropReason::FragmentOversize)
    );
    let last6 = |bytes: usize| {
        ipv6(
            44,
            &[&[UDP, 0, 0xff, 0xf8, 0, 0, 0, 1], &[0; 8][..bytes]].concat(),
        )
    };
    assert_eq!(error(&last6(7)), None);
    assert_eq!(error(&last6(8)), Some(DropReason::FragmentOversize));
}

#[test]
fn pptp_calls_are_told_in_ipv4_alone() {
    let packet = [0x30, 0x81, 0x88, 0x0b, 0, 4, 0x12, 0x34, 9, 9, 9, 9];
    let ports = |frame: &[u8]| {
        let p = parse(frame).unwrap();
        (p.transport, p.source_port, p.destination_port)
    };
    assert_eq!(
        ports(&ipv4(GRE, 0, &[], &packet)),
        (Transport::Other, 0, 0x1234)
    );
    assert_eq!(
        ports(&ipv4(GRE, 0, &[], &packet[..7])),
        (Transport::Other, 0, 0)
    );
    assert_eq!(ports(&ipv6(GRE, &packet)), (Transport::Other, 0, 0));
    let quoted = parse_quoted(&ipv4(GRE, 0, &[], &packet)[14..]).unwrap();
    assert_eq!((quoted.source_port, quoted.destination_port), (0, 0x1234));
    let quoted = parse_quoted_v6(&ipv6(GRE, &packet)[14..]).unwrap();
    assert_eq!((quoted.source_port, quoted.destination_port), (0, 0));
}

#[test]
fn icmp_of_the_other_family_is_any_protocol() {
    // Too short for ICMP, which it is not.
    for frame in [ipv4(ICMPV6, 0, &[], &[128; 4]), ipv6(ICMP, &[8; 4])] {
        let p = parse(&frame).unwrap();
        assert_eq!((p.transport, p.source_port), (Transport::Other, 0));
    }
    for quote in [
        parse_quoted(&ipv4(ICMPV6, 0, &[], &[128; 8])[14..]),
        parse_quoted_v6(&ipv6(ICMP, &[8; 8])[14..]),
        // An error's type where there is no ICMP.
        parse_quoted_v6(&ipv6(ICMP, &[3; 8])[14..]),
    ] {
        let quote = quote.unwrap();
        assert_eq!((quote.transport, quote.source_port), (Transport::Other, 0));
    }
}

#[test]
fn lengths_of_ipv6_packets() {
    let with = |length: u16, frame: usize| {
        let mut bytes = ipv6(ESP, &[0; 20]);
        bytes.resize(frame, 0);
        write_u16(&mut bytes, 18, length);
        parse(&bytes).map(|p| p.ip_length)
    };
    assert_eq!(with(20, 74), Ok(60));
    assert_eq!(with(20, 90), Ok(60), "padding");
    assert_eq!(with(21, 74), Err(DropReason::IpTotalLength));
    assert_eq!(with(0, 74), Err(DropReason::IpTotalLength));
    assert_eq!(with(65_495, 80_000), Ok(65_535));
    assert_eq!(with(65_496, 80_000), Err(DropReason::IpTotalLength));
    let p = parse(&ipv6(SCTP, &[0; 12])).unwrap();
    assert!(p.fragment.dont_fragment && p.fragment.id == 0);
}

#[test]
fn as_many_extension_headers_as_are_walked() {
    let chain = |count: usize| {
        let mut bytes = [60, 0, 1, 4, 0, 0, 0, 0].repeat(count);
        bytes[8 * count - 8] = UDP;
        bytes.extend(UDP_HEADER);
        let frame = ipv6(60, &bytes);
        let (p, q) = (
            parse(&frame).unwrap(),
            parse_quoted_v6(&frame[14..]).unwrap(),
        );
        assert_eq!((p.transport, p.source_port), (q.transport, q.source_port));
        assert_eq!((p.l4, p.protocol), (q.l4 + 14, q.protocol));
        (p.transport, p.l4, p.protocol, p.source_port)
    };
    assert_eq!(chain(7), (Transport::Udp, 54 + 56, UDP, 7));
    // Of eight the last is passed, but nobody looks at what follows.
    assert_eq!(chain(8), (Transport::Other, 54 + 64, UDP, 0));
}

#[test]
fn extension_headers_out_of_place() {
    let atomic = |next: u8| [next, 0, 0, 0, 0, 0, 0, 9];
    let twice = [&atomic(44)[..], &atomic(UDP), &UDP_HEADER].concat();
    let p = parse(&ipv6(44, &twice)).unwrap();
    assert_eq!((p.transport, p.protocol, p.l4), (Transport::Other, 44, 62));
    let behind = [&atomic(0)[..], &[UDP, 0, 1, 4, 0, 0, 0, 0], &UDP_HEADER].concat();
    let p = parse(&ipv6(44, &behind)).unwrap();
    assert_eq!((p.transport, p.protocol, p.l4), (Transport::Other, 0, 62));
    // Only a routing header counts its segments in the fourth byte.
    let options = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &UDP_HEADER].concat();
    assert_eq!(
        parse(&ipv6(60, &options)).unwrap().transport,
        Transport::Udp
    );
    assert_eq!(parse(&ipv6(0, &options)).unwrap().transport, Transport::Udp);
    assert_eq!(
        parse(&ipv6(43, &options)).unwrap().transport,
        Transport::Other
    );
}

#[test]
fn quotes_cut_at_each_length() {
    let tcp = ipv4(
        TCP,
        0x2000,
        &[148, 4, 0, 0],
        &[0, 7, 0, 8, 0, 0, 0, 1, 9, 9, 9, 9],
    );
    for length in 0..tcp.len() - 14 {
        let quote = parse_quoted(&tcp[14..14 + length]);
        match length {
            0..32 => assert_eq!(quote, Err(DropReason::IcmpInnerShort), "{length}"),
            _ => {
                let q = quote.unwrap();
                assert_eq!(
                    (q.network, q.transport, q.protocol),
                    (Network::Ipv4, Transport::Tcp, TCP)
                );
                assert_eq!(
                    (q.l4, usize::from(q.available), q.ip_length),
                    (24, length - 24, 36)
                );
                assert_eq!((q.source_port, q.destination_port, q.more), (7, 8, true));
                assert_eq!((q.source, q.destination), (0x0a00_0007, 0xc633_6409));
            }
        }
    }
    let six = ipv6(60, &[&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &UDP_HEADER].concat());
    for length in 0..six.len() - 14 {
        assert_eq!(
            parse_quoted_v6(&six[14..14 + length]),
            Err(DropReason::IcmpInnerShort)
        );
    }
    let q = parse_quoted_v6(&six[14..]).unwrap();
    assert_eq!(
        (q.network, q.transport, q.protocol),
        (Network::Ipv6, Transport::Udp, UDP)
    );
    assert_eq!((q.l4, q.available, q.ip_length, q.more), (48, 8, 56, false));
    assert_eq!((q.source_port, q.destination_port), (7, 8));
}

#[test]
fn quoted_headers_are_checked() {
    let good = ipv4(UDP, 0, &[], &UDP_HEADER)[14..].to_vec();
    let quote = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        parse_quoted(&packet).err()
    };
    assert_eq!(
        parse_quoted(&good).map(|q| (q.transport, q.more)),
        Ok((Transport::Udp, false))
    );
    assert_eq!(quote(0, 0x65), Some(DropReason::IpVersion));
    assert_eq!(quote(0, 0x44), Some(DropReason::IpHeaderLength));
    assert_eq!(quote(0, 0x4f), Some(DropReason::IcmpInnerShort));
    assert_eq!(quote(8, 1), Some(DropReason::IcmpInnerChecksum));
    // A later fragment shows no ports, however much of it is quoted.
    for (field, found) in [
        (0x3fffu16, false),
        (0x1fff, false),
        (1, false),
        (0xe000, true),
    ] {
        let packet = &ipv4(UDP, field, &[], &UDP_HEADER)[14..];
        assert_eq!(parse_quoted(packet).is_ok(), found, "{field:#x}");
    }
    // The quoted packet says that it is shorter than what follows it.
    let mut short = ipv4(UDP, 0, &[], &UDP_HEADER);
    write_u16(&mut short, 16, 27);
    fix_checksum(&mut short);
    assert_eq!(parse_quoted(&short[14..]), Err(DropReason::IcmpInnerShort));

    let fragment = |field: u16| {
        let [high, low] = field.to_be_bytes();
        let header = [UDP, 0, high, low, 0, 0, 0, 9];
        parse_quoted_v6(&ipv6(44, &[&header[..], &UDP_HEADER].concat())[14..])
    };
    assert_eq!(fragment(1).map(|q| (q.more, q.source_port)), Ok((true, 7)));
    assert_eq!(fragment(0).map(|q| (q.more, q.source_port)), Ok((false, 7)));
    assert_eq!(fragment(8), Err(DropReason::IcmpInnerShort));
    // The walk gives up at a routing header with segments left: there are no ports to read.
    let routing = ipv6(43, &[&[UDP, 0, 4, 1, 0, 0, 0, 0][..], &UDP_HEADER].concat());
    let q = parse_quoted_v6(&routing[14..]).unwrap();
    assert_eq!(
        (q.transport, q.protocol, q.source_port),
        (Transport::Other, 43, 0)
    );
    // An IPv6 length that ends before the frame does.
    let mut six = ipv6(UDP, &UDP_HEADER);
    write_u16(&mut six, 18, 7);
    assert_eq!(parse_quoted_v6(&six[14..]), Err(DropReason::IcmpInnerShort));
    write_u16(&mut six, 18, 65_535);
    assert_eq!(parse_quoted_v6(&six[14..]).unwrap().ip_length, 65_535);
}
