//! Batches: a burst of whatever is made of the same packets one by one, every flow in its order, and the short way through
//! a packet gives what the long way gives.

use std::collections::BTreeMap;

use etherparse::PacketBuilder;
use natgate::base::Random;
use natgate::dataplane::buffer::BURST;
use natgate::wire::parse::parse;
use natgate::wire::{ipv6, read_u16, write_u16};

use crate::common::*;
use crate::filter_v6::{syn6, to_gateway, udp6};
use crate::*;

const INSIDE: [&str; 4] = ["fd00:1::2", "fd00:1::3", "fd00:1::4", "fd00:1::5"];
const INSIDE_V4: [&str; 4] = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
const OUTSIDE: &str = "2001:db8::9";
const GATEWAY: &str = "2001:db8::1";
/// Where the IPv6 header ends.
const L4: usize = 54;

/// Puts a header of eight bytes, the first of which names what follows, behind the IPv6 header.
fn with_header(frame: &[u8], number: u8, rest: [u8; 7]) -> Vec<u8> {
    let mut long = frame.to_vec();
    let mut header = [0; 8];
    header[0] = frame[20];
    header[1..].copy_from_slice(&rest);
    long.splice(L4..L4, header);
    long[20] = number;
    write_u16(&mut long, 18, read_u16(frame, 18) + 8);
    long
}

/// Destination options that say nothing.
fn with_options(frame: &[u8]) -> Vec<u8> {
    with_header(frame, 60, [0, 1, 4, 0, 0, 0, 0])
}

/// The frame without them.
fn without_options(frame: &[u8]) -> Vec<u8> {
    assert_eq!(frame[20], 60);
    let mut short = frame.to_vec();
    short[20] = frame[L4];
    short.drain(L4..L4 + 8);
    write_u16(&mut short, 18, read_u16(frame, 18) - 8);
    short
}

fn tcp6(port: PortId, from: (&str, u16), to: (&str, u16), number: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = to_gateway(port, from.0, to.0).tcp(from.1, to.1, number, 512);
    let builder = builder.ack(7);
    builder.write(&mut frame, &number.to_be_bytes()).unwrap();
    frame
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    let mut tagged = frame.to_vec();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    tagged
}

/// Frame `number` of a burst that arrives on `port`: some flow's, in some form.
fn frame(random: &mut Random, port: PortId, number: u32) -> Vec<u8> {
    let host = random.below(4) as usize;
    // Masquerading keeps a port as long as nobody else has it.
    let local = 4000 + 16 * host as u16 + random.below(4) as u16;
    let (from, to) = match port {
        LAN => ((INSIDE[host], local), (OUTSIDE, 53)),
        _ => ((OUTSIDE, 53), (GATEWAY, local)),
    };
    let from_v4 = match port {
        LAN => ((INSIDE_V4[host], local), ("203.0.113.9", 53)),
        _ => (("203.0.113.9", 53), ("203.0.113.1", local)),
    };
    let payload = u64::from(number).to_be_bytes();
    let datagram = udp6(port, from, to, &payload);
    match random.below(12) {
        0..=2 => datagram,
        3 | 4 => udp(port, from_v4.0, from_v4.1, &payload),
        5 => tcp(port, from_v4.0, from_v4.1, "A"),
        6 => tcp6(port, from, to, number),
        7 => with_options(&datagram),
        // The first piece of a datagram, or a later one of the datagram of some other frame.
        8 => {
            let (offset, id) = [(1, number as u8), (16, random.below(number.max(1)) as u8)]
                [random.below(2) as usize];
            with_header(&datagram, 44, [0, 0, offset, 0, 0, 0, id])
        }
        9 => tagged(&datagram),
        10 => {
            let mut last = datagram;
            ipv6::set_hop_limit(&mut last, 14, 1);
            last
        }
        _ => {
            let mut echo = Vec::new();
            let builder = to_gateway(port, from.0, to.0);
            let builder = match port {
                LAN => builder.icmpv6_echo_request(local, 1),
                _ => builder.icmpv6_echo_reply(local, 1),
            };
            builder.write(&mut echo, &payload).unwrap();
            echo
        }
    }
}

/// What was sent, by port and flow, in order; for packets with and without extension headers by themselves.
fn by_flow(sent: Vec<(PortId, Vec<u8>)>) -> BTreeMap<(u16, Vec<u8>), Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (port, frame) in sent {
        let packet = parse(&frame).unwrap();
        let l3 = usize::from(packet.l3);
        let addresses = match frame[12..14] {
            [0x86, 0xdd] => &frame[l3 + 8..l3 + 40],
            _ => &frame[l3 + 12..l3 + 20],
        };
        let mut flow = addresses.to_vec();
        flow.extend(packet.source_port.to_be_bytes());
        flow.extend(packet.destination_port.to_be_bytes());
        // An extension header makes a packet one that may be overtaken.
        flow.extend([packet.protocol, frame[l3 + 6]]);
        flows.entry((port.0, flow)).or_default().push(frame);
    }
    flows
}

#[test]
fn a_burst_gives_what_its_packets_give_one_by_one() {
    for seed in 0..20 {
        let mut random = Random::from_seed(seed);
        let (mut together, mut alone) = (lab(1, MASQUERADE), lab(1, MASQUERADE));
        let mut forwarded = [0; 2];
        for turn in 0..12 {
            let port = [LAN, WAN][turn % 2];
            let count = 1 + random.below(BURST as u32);
            let frames: Vec<Vec<u8>> = (0..count).map(|i| frame(&mut random, port, i)).collect();
            let whole: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            let sent = together.receive(WorkerId(0), port, &whole);
            let singly: Vec<_> = whole
                .iter()
                .flat_map(|frame| alone.receive(WorkerId(0), port, &[frame]))
                .collect();
            forwarded[turn % 2] += sent.iter().filter(|(to, _)| *to != port).count();
            assert_eq!(by_flow(sent), by_flow(singly), "seed {seed}, turn {turn}");
            balanced(&together);
            // Not so soon that what is limited in time comes out differently, and fragments end.
            for rack in [&mut together, &mut alone] {
                rack.advance(3000);
                rack.maintain();
            }
        }
        assert_eq!(drops(&together), drops(&alone), "seed {seed}");
        assert!(
            forwarded.iter().all(|n| *n > 30),
            "seed {seed}: {forwarded:?}"
        );
    }
}

#[test]
fn the_short_way_through_ipv6_gives_what_the_long_way_gives() {
    let mut rack = lab(1, MASQUERADE);
    let mut random = Random::from_seed(1);
    let (to, back) = ((OUTSIDE, 53), (GATEWAY, 4000));
    send(&mut rack, 0, LAN, &syn6(LAN, (INSIDE[0], 4000), to));
    let mut both_ways = |port, plain: &[u8]| {
        // A datagram without a checksum stays one without; every other field may be anything, too.
        let mut plain = plain.to_vec();
        plain[15] ^= random.below(256) as u8 & 0xf0;
        write_u16(&mut plain, 16, random.below(1 << 16) as u16);
        ipv6::set_hop_limit(&mut plain, 14, 2 + random.below(254) as u8);
        let short = send(&mut rack, 0, port, &plain);
        let long = send(&mut rack, 0, port, &with_options(&plain));
        assert_eq!((short.len(), long.len()), (1, 1), "{}", drops(&rack));
        assert_eq!(short[0].0, long[0].0);
        assert_eq!(short[0].1, without_options(&long[0].1));
        assert_eq!(short[0].1[21], plain[21] - 1, "one hop less");
    };
    for length in (0..64).chain([1000, 1400]) {
        let payload: Vec<u8> = (0..length).map(|i| (i * length) as u8).collect();
        let out = udp6(LAN, (INSIDE[0], 4000), to, &payload);
        both_ways(LAN, &out);
        both_ways(WAN, &udp6(WAN, to, back, &payload));
        let mut without = out;
        without[L4 + 6..L4 + 8].fill(0);
        both_ways(LAN, &without);
        both_ways(LAN, &tcp6(LAN, (INSIDE[0], 4000), to, length));
        both_ways(WAN, &tcp6(WAN, to, back, length));
    }
    // A computed sum of 0 is sent as its other form: of 65,536 payloads some have it.
    let mut zeros = 0;
    for word in 0..=u16::MAX {
        let plain = udp6(
            LAN,
            (INSIDE[0], 4000),
            to,
            &[word.to_be_bytes(), [0; 2]].concat(),
        );
        let sent = send(&mut rack, 0, LAN, &plain);
        let sum = read_u16(&sent[0].1, L4 + 6);
        assert_ne!(sum, 0, "that would mean there is none");
        zeros += u32::from(sum == 0xffff);
    }
    assert!(zeros > 0);
}

#[test]
fn packets_of_both_families_and_strangers_share_a_burst() {
    let mut rack = lab(1, MASQUERADE);
    let six = |n: u8| udp6(LAN, (INSIDE[0], 4000), (OUTSIDE, 53), &[n; 8]);
    let four = |n: u8| udp(LAN, ("10.0.0.2", 4000), ("203.0.113.9", 53), &[n; 8]);
    let mut arp = Vec::new();
    PacketBuilder::ethernet2(HOST_MAC, [0xff; 6])
        .arp(
            etherparse::ArpPacket::new(
                etherparse::ArpHardwareId::ETHERNET,
                etherparse::EtherType::IPV4,
                etherparse::ArpOperation::REQUEST,
                &HOST_MAC,
                &[10, 0, 0, 2],
                &[0; 6],
                &[10, 0, 0, 1],
            )
            .unwrap(),
        )
        .write(&mut arp)
        .unwrap();
    let noise = vec![0x55; 60];
    for first_is_six in [true, false] {
        let mut frames = [six(0), four(0), arp.clone(), noise.clone(), six(1), four(1)];
        if !first_is_six {
            frames.rotate_left(1);
        }
        let whole: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let sent = rack.receive(WorkerId(0), LAN, &whole);
        let out: Vec<_> = sent.iter().filter(|(port, _)| *port == WAN).collect();
        let numbers = |ethertype: [u8; 2]| -> Vec<u8> {
            let of_family = out.iter().filter(|(_, f)| f[12..14] == ethertype);
            of_family.map(|(_, f)| f[f.len() - 1]).collect()
        };
        assert_eq!(
            numbers([0x86, 0xdd]),
            if first_is_six { [0, 1] } else { [1, 0] }
        );
        assert_eq!(numbers([0x08, 0x00]), [0, 1]);
        assert_eq!(
            (out.len(), sent.len()),
            (4, 5),
            "the ARP request is answered"
        );
        assert!(drops(&rack).contains("frame_type"), "{}", drops(&rack));
        balanced(&rack);
    }
}
