//! Every field that is written, and every sum that has to follow, of every protocol and however much of a packet is there.

use super::*;
use crate::wire::parse::parse;
use crate::wire::{ICMP, TCP, UDP, read_u32, write_u8};

const FROM: Tuple<u32> = Tuple {
    source: 0x0a00_0002,
    destination: 0xcb00_7109,
    source_port: 40000,
    destination_port: 53,
};
const TO: Tuple<u32> = Tuple {
    source: 0xcb00_7101,
    destination: 0xc633_6407,
    source_port: 1025,
    destination_port: 8053,
};

/// Where the checksum of a protocol's header is, and whether it covers the addresses.
fn checksum_of(protocol: u8) -> Option<(usize, bool)> {
    match protocol {
        TCP => Some((16, true)),
        UDP | DCCP | UDP_LITE => Some((6, true)),
        ICMP => Some((2, false)),
        _ => None,
    }
}

/// An IPv4 packet between the ends of `tuple` with 40 bytes behind its header, its sums right. Ports are written where the
/// protocol has them; of ICMP it is an echo request whose id is the source port.
fn packet(tuple: &Tuple<u32>, protocol: u8, ports: bool) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..60u8)
        .map(|n| n.wrapping_mul(17).wrapping_add(1))
        .collect();
    bytes[..12].copy_from_slice(&[0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, protocol, 0, 0]);
    write_u32(&mut bytes, 12, tuple.source);
    write_u32(&mut bytes, 16, tuple.destination);
    if ports {
        write_u16(&mut bytes, 20, tuple.source_port);
        write_u16(&mut bytes, 22, tuple.destination_port);
    }
    match protocol {
        TCP => write_u8(&mut bytes, 32, 0x50),
        UDP => write_u16(&mut bytes, 24, 40),
        UDP_LITE => write_u16(&mut bytes, 24, 0),
        ICMP => {
            write_u16(&mut bytes, 20, 0x0800);
            write_u16(&mut bytes, 24, tuple.source_port);
        }
        GRE => {
            bytes[20..26].copy_from_slice(&[0x30, 1, 0x88, 0x0b, 0, 32]);
            write_u16(&mut bytes, 26, tuple.destination_port);
        }
        _ => {}
    }
    let sum = checksum::ipv4_header(&bytes[..20]);
    write_u16(&mut bytes, 10, sum);
    if let Some((at, covers)) = checksum_of(protocol) {
        write_u16(&mut bytes, 20 + at, 0);
        let sum = match covers {
            true => checksum::transport_v4(tuple.source, tuple.destination, protocol, &bytes[20..]),
            false => checksum::finish(checksum::sum(&bytes[20..])),
        };
        write_u16(&mut bytes, 20 + at, sum);
    } else if protocol == SCTP {
        let sum = sctp::checksum(&bytes[20..]).unwrap();
        sctp::set_checksum(&mut bytes, 20, sum);
    }
    bytes
}

/// What a protocol shows of a tuple: of ICMP the id, of calls their number.
fn shown(tuple: Tuple<u32>, protocol: u8) -> Tuple<u32> {
    let (source_port, destination_port) = match protocol {
        TCP | UDP | SCTP => (tuple.source_port, tuple.destination_port),
        ICMP => (tuple.source_port, 0),
        GRE => (0, tuple.destination_port),
        _ => (0, 0),
    };
    Tuple {
        source_port,
        destination_port,
        ..tuple
    }
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

const PROTOCOLS: [u8; 8] = [TCP, UDP, ICMP, SCTP, DCCP, UDP_LITE, GRE, 200];

#[test]
fn a_translated_packet_is_the_one_its_new_sender_would_have_sent() {
    for protocol in PROTOCOLS {
        let (from, to) = (shown(FROM, protocol), shown(TO, protocol));
        let mut frame = vec![2; 12];
        frame.extend([8, 0]);
        frame.extend(packet(&from, protocol, has_ports(protocol)));
        let parsed = parse(&frame).unwrap();
        let (addresses, transport) = deltas(&from, &to, protocol);
        translate(&mut frame, &parsed, &to, addresses, transport);
        let expected = packet(&to, protocol, has_ports(protocol));
        assert_eq!(frame[14..], expected, "protocol {protocol}");
        decrement_ttl(&mut frame, 14);
        assert_eq!(frame[14 + TTL], 63);
        assert!(checksum::verify(&frame[14..34]));
    }
}

#[test]
fn a_session_translates_both_ways() {
    for protocol in PROTOCOLS {
        let (before, after) = (shown(FROM, protocol), shown(TO, protocol));
        let (addresses, transport) = deltas(&before, &after, protocol);
        let session = Session {
            before,
            after,
            address_delta: addresses.raw(),
            transport_delta: transport.raw(),
            protocol,
            ..Session::default()
        };
        let mut frame = vec![2; 12];
        frame.extend([8, 0]);
        frame.extend(packet(&before, protocol, has_ports(protocol)));
        let whole = frame.clone();
        let parsed = parse(&frame).unwrap();
        forward(&mut frame, &parsed, &session, Direction::Forward);
        let mut expected = packet(&after, protocol, has_ports(protocol));
        decrement_ttl(&mut expected, 0);
        assert_eq!(frame[14..], expected, "protocol {protocol}");
        // The same bytes seen as an answer lead back to the beginning.
        let turned = Session {
            before: before.reversed(),
            after: after.reversed(),
            ..session
        };
        let parsed = parse(&frame).unwrap();
        forward(&mut frame, &parsed, &turned, Direction::Reverse);
        let mut expected = whole[14..].to_vec();
        decrement_ttl(&mut expected, 0);
        decrement_ttl(&mut expected, 0);
        assert_eq!(frame[14..], expected, "protocol {protocol}");
    }
}

#[test]
fn an_udp_checksum_of_zero_is_none_and_is_never_computed() {
    for protocol in [UDP, UDP_LITE] {
        let (from, to) = (shown(FROM, protocol), shown(TO, protocol));
        let (addresses, transport) = deltas(&from, &to, protocol);
        let mut frame = vec![2; 12];
        frame.extend([8, 0]);
        frame.extend(packet(&from, protocol, has_ports(protocol)));
        let parsed = parse(&frame).unwrap();
        write_u16(&mut frame, 40, 0);
        translate(&mut frame, &parsed, &to, addresses, transport);
        assert_eq!(read_u16(&frame, 40), 0);
        // The sum that would become zero.
        let before = transport.inverse().apply(0);
        write_u16(&mut frame, 40, before);
        translate(&mut frame, &parsed, &to, addresses, transport);
        assert_eq!(read_u16(&frame, 40), 0xffff);
    }
}

#[test]
fn a_checksum_that_is_not_all_there_is_left_alone() {
    for protocol in [DCCP, UDP_LITE] {
        let to = shown(TO, protocol);
        let (addresses, transport) = deltas(&shown(FROM, protocol), &to, protocol);
        for there in [7u16, 8] {
            let mut frame = vec![2; 12];
            frame.extend([8, 0]);
            frame.extend(packet(&shown(FROM, protocol), protocol, false));
            write_u16(&mut frame, 16, 20 + there);
            let sum = checksum::ipv4_header(&frame[14..34]);
            write_u16(&mut frame, 24, sum);
            let parsed = parse(&frame).unwrap();
            let before = frame[34..].to_vec();
            translate(&mut frame, &parsed, &to, addresses, transport);
            let changed = frame[34..] != before;
            assert_eq!(changed, there == 8, "{protocol}: {there} bytes");
        }
    }
}

#[test]
fn a_call_that_is_none_keeps_its_bytes() {
    let tuple = |to: Tuple<u32>| Tuple {
        source_port: 0,
        destination_port: 0,
        ..to
    };
    let mut frame = vec![2; 12];
    frame.extend([8, 0]);
    frame.extend(packet(&FROM, GRE, false));
    let before = frame[34..].to_vec();
    let parsed = parse(&frame).unwrap();
    let (addresses, transport) = deltas(&tuple(FROM), &tuple(TO), GRE);
    translate(&mut frame, &parsed, &tuple(TO), addresses, transport);
    assert_eq!(frame[34..], before);
    quoted(&mut frame[14..], 20, (GRE, None), &tuple(TO), &tuple(FROM));
    assert_eq!(frame[34..], before);
}

/// The one's complement sum over bytes.
fn sum(bytes: &[u8]) -> u16 {
    checksum::sum(bytes) as u16
}

/// Sums that differ only in which zero they are.
fn alike(a: u16, b: u16) -> bool {
    let zero = |sum: u16| if sum == u16::MAX { 0 } else { sum };
    zero(a) == zero(b)
}

// Proves: I4a, I5a.
#[test]
fn a_quote_cut_anywhere_becomes_what_was_sent_and_its_sum_is_told() {
    for protocol in PROTOCOLS {
        let (from, to) = (shown(FROM, protocol), shown(TO, protocol));
        let whole = packet(&from, protocol, has_ports(protocol));
        let original = packet(&to, protocol, has_ports(protocol));
        for length in 28..=whole.len() {
            let mut quote = whole[..length].to_vec();
            let before = sum(&quote);
            let change = quoted(&mut quote, 20, (protocol, Some(40)), &from, &to);
            let mut expected = original[..length].to_vec();
            // A checksum that is cut off is not repaired.
            let field = match protocol {
                SCTP => Some((8, 4)),
                _ => checksum_of(protocol).map(|(at, _)| (at, 2)),
            };
            if let Some((at, bytes)) = field
                && 20 + at + bytes > length
            {
                let kept = (20 + at).min(length);
                expected[kept..].copy_from_slice(&whole[kept..length]);
            }
            assert_eq!(quote, expected, "protocol {protocol}, {length} bytes");
            let told = alike(change.apply(!before), !sum(&quote));
            assert!(told, "protocol {protocol}, {length} bytes");
        }
    }
}

#[test]
fn quotes_show_answers_and_datagrams_without_a_checksum() {
    // An echo reply has its id as the destination port.
    let id = |tuple: Tuple<u32>, id| Tuple {
        source_port: 0,
        destination_port: id,
        ..tuple
    };
    let (from, to) = (id(FROM, 7), id(TO, 9));
    let mut quote = packet(&from, ICMP, false);
    write_u16(&mut quote, 24, 7);
    let before = read_u16(&quote, 22);
    quoted(&mut quote, 20, (ICMP, Some(40)), &from, &to);
    assert_eq!(
        (read_u16(&quote, 24), read_u16(&quote, 22)),
        (9, before - 2)
    );
    let mut quote = packet(&FROM, UDP, true);
    write_u16(&mut quote, 26, 0);
    let was = sum(&quote);
    let change = quoted(&mut quote, 20, (UDP, Some(40)), &FROM, &TO);
    assert_eq!(
        (read_u32(&quote, 20), read_u16(&quote, 26)),
        (0x0401_1f75, 0)
    );
    assert!(alike(change.apply(!was), !sum(&quote)));
    // How long a quoted fragment's datagram was is not known.
    let mut quote = packet(&FROM, SCTP, true);
    let before = quote.clone();
    quoted(&mut quote, 20, (SCTP, None), &FROM, &TO);
    assert_eq!(quote[24..], before[24..]);
}

#[test]
fn an_error_of_the_gateways_own_gets_another_source() {
    let mut frame = vec![2; 12];
    frame.extend([8, 0]);
    frame.extend(packet(&FROM, ICMP, false));
    write_u16(&mut frame, 34, 0x0b00);
    write_u16(&mut frame, 36, 0);
    let sum = checksum::finish(checksum::sum(&frame[34..]));
    write_u16(&mut frame, 36, sum);
    let parsed = parse(&frame).unwrap();
    let ends = (FROM.source, FROM.destination);
    set_source::<u32>(&mut frame, &parsed, ends, 0xcb00_7101);
    assert_eq!(read_u32(&frame, 26), 0xcb00_7101);
    assert_eq!(read_u32(&frame, 30), FROM.destination);
    assert!(checksum::verify(&frame[14..34]) && checksum::verify(&frame[34..]));
}

#[test]
fn an_ipv6_error_of_the_gateways_own_gets_another_source() {
    let (from, to, source) = (
        0xfd00_0001u128 << 96 | 1,
        0xfd00_0001u128 << 96 | 2,
        0x2001_0db8u128 << 96 | 9,
    );
    let mut frame = vec![2; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 56, crate::wire::ICMPV6, 64]);
    frame.extend(from.to_be_bytes());
    frame.extend(to.to_be_bytes());
    frame.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    frame.extend((0..48u8).map(|n| n.wrapping_mul(29)));
    let sum = checksum::transport_v6(from, to, crate::wire::ICMPV6, &frame[54..]);
    write_u16(&mut frame, 56, sum);
    let parsed = parse(&frame).unwrap();
    let before = frame.clone();
    set_source::<u128>(&mut frame, &parsed, (from, to), source);
    assert_eq!(frame[22..38], source.to_be_bytes());
    assert_eq!(frame[38..54], to.to_be_bytes());
    assert_eq!(frame[58..], before[58..]);
    assert_eq!(
        checksum::transport_v6(source, to, crate::wire::ICMPV6, &frame[54..]),
        0
    );
}
