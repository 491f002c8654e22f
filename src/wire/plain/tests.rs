//! The short way against the long one: it takes exactly the plain packets, and reads what the other reads.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::wire::{Network, Parsed, Transport, checksum, parse, write_u8, write_u16};

/// A frame of either family: TCP with the flags of `flags` or a datagram, `payload` bytes, perhaps with a tag.
fn frame(v6: bool, tcp: bool, vlan: Option<u16>, payload: usize) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let (from, to) = ([10, 1, 2, 3], [198, 51, 100, 9]);
    let (from6, to6) = (
        [0x20, 1, 13, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        [
            0x20, 1, 13, 0xb8, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
        ],
    );
    let ip = match (vlan, v6) {
        (None, false) => ethernet.ipv4(from, to, 63),
        (None, true) => ethernet.ipv6(from6, to6, 63),
        (Some(id), false) => {
            let tag = ethernet.single_vlan(id.try_into().unwrap());
            tag.ipv4(from, to, 63)
        }
        (Some(id), true) => {
            let tag = ethernet.single_vlan(id.try_into().unwrap());
            tag.ipv6(from6, to6, 63)
        }
    };
    let (mut out, payload) = (Vec::new(), vec![0xab; payload]);
    if tcp {
        let segment = ip.tcp(0x9c41, 443, 7, 1024).syn();
        segment.write(&mut out, &payload).unwrap();
    } else {
        let datagram = ip.udp(0x9c41, 53);
        datagram.write(&mut out, &payload).unwrap();
    }
    out
}

/// What the long way says of a frame, if that is plain.
fn expected<E>(
    frame: &[u8],
    network: Network,
    header: u16,
    addresses: impl Fn(&Parsed) -> E,
) -> Option<Plain<E>> {
    let p = parse(frame).ok()?;
    let plain = p.network == network
        && p.l4 == p.l3 + header
        && (p.l3 == 14 || p.vlan.is_some())
        && !p.fragment.is_fragment()
        && matches!(p.transport, Transport::Tcp | Transport::Udp)
        && frame.len() >= 18 + usize::from(header) + 8;
    plain.then(|| Plain {
        l3: p.l3,
        vlan: p.vlan,
        addresses: addresses(&p),
        ports: u32::from(p.source_port) | u32::from(p.destination_port) << 16,
        ip_length: p.ip_length,
        protocol: p.protocol,
        ttl: p.ttl,
        tcp_flags: p.tcp_flags,
    })
}

/// Holds both ways against each other, and says whether the frame was plain.
fn agree(frame: &[u8]) -> bool {
    let v4 = expected(frame, Network::Ipv4, 20, |p| {
        u64::from(p.source) | u64::from(p.destination) << 32
    });
    assert_eq!(Plain::<u64>::read(frame), v4, "{frame:02x?}");
    let v6 = expected(frame, Network::Ipv6, 40, |p| {
        let l3 = usize::from(p.l3);
        [ipv6::source(frame, l3), ipv6::destination(frame, l3)]
    });
    assert_eq!(Plain::<[u128; 2]>::read(frame), v6, "{frame:02x?}");
    v4.is_some() || v6.is_some()
}

/// Sets the checksum of an IPv4 header of 20 bytes right.
fn repair(frame: &mut [u8], l3: usize) {
    write_u16(frame, l3 + 10, 0);
    let sum = checksum::ipv4_header(&frame[l3..l3 + 20]);
    write_u16(frame, l3 + 10, sum);
}

fn l3_of(vlan: Option<u16>) -> usize {
    if vlan.is_some() { 18 } else { 14 }
}

/// Every kind of plain frame: its family, whether TCP, its tag.
fn kinds() -> impl Iterator<Item = (bool, bool, Option<u16>)> {
    let tags = [None, Some(1), Some(0x123), Some(4094)];
    (0..16).map(move |i| (i & 1 != 0, i & 2 != 0, tags[i >> 2]))
}

#[test]
fn plain_frames_are_read_with_and_without_padding() {
    for (v6, tcp, vlan) in kinds() {
        for payload in [4, 5, 40, 1400] {
            let mut frame = frame(v6, tcp, vlan, payload);
            assert!(agree(&frame), "{v6} {tcp} {vlan:?} {payload}");
            frame.extend([0xee; 9]);
            assert!(agree(&frame), "padded");
        }
    }
}

#[test]
fn a_golden_frame() {
    let plain = Plain::<u64>::read(&frame(false, true, Some(0x123), 5)).unwrap();
    let expected = Plain {
        l3: 18,
        vlan: Some(VlanId(0x123)),
        addresses: 0xc633_6409_0a01_0203,
        ports: 443 << 16 | 0x9c41,
        ip_length: 45,
        protocol: TCP,
        ttl: 63,
        tcp_flags: 2,
    };
    assert_eq!(plain, expected);
}

#[test]
fn a_frame_that_ends_early_is_not_plain() {
    for (v6, tcp, vlan) in kinds() {
        let whole = frame(v6, tcp, vlan, 20);
        assert!((0..whole.len()).all(|length| !agree(&whole[..length])));
    }
}

#[test]
fn tags_without_a_vlan_go_the_long_way() {
    for v6 in [false, true] {
        for control in [0u16, 0x0fff, 0x2000, 0xefff, 0x2001, 0xe123] {
            let mut tagged = frame(v6, false, Some(7), 10);
            write_u16(&mut tagged, 14, control);
            assert_eq!(agree(&tagged), !matches!(control & 0xfff, 0 | 0xfff));
        }
        let mut tagged = frame(v6, false, Some(7), 10);
        for (at, ethertype) in [(12, 0x88a8), (16, 0x8100), (16, 0x0806), (12, 0x0806)] {
            write_u16(&mut tagged, at, ethertype);
            assert!(!agree(&tagged), "{at}: {ethertype:#x}");
        }
    }
}

#[test]
fn each_wrong_byte_of_a_header_is_seen() {
    // All headers of a frame, byte by byte; without and, in IPv4, with a checksum that fits.
    for (v6, tcp, vlan) in kinds().filter(|(_, _, vlan)| *vlan != Some(4094)) {
        let good = frame(v6, tcp, vlan, 30);
        let l3 = l3_of(vlan);
        for at in 12..l3 + if v6 { 60 } else { 40 } {
            let flipped = (0..8).map(|bit| good[at] ^ 1 << bit);
            for value in flipped.chain([0, 0xff]) {
                let mut damaged = good.clone();
                write_u8(&mut damaged, at, value);
                agree(&damaged);
                if !v6 && at < l3 + 20 {
                    repair(&mut damaged, l3);
                    agree(&damaged);
                }
            }
        }
    }
}

#[test]
fn lengths_at_their_limits() {
    for (v6, tcp, vlan) in kinds() {
        let good = frame(v6, tcp, vlan, 30);
        let l3 = l3_of(vlan);
        let (l4, field) = if v6 {
            (l3 + 40, l3 + 4)
        } else {
            (l3 + 20, l3 + 2)
        };
        let stated = u16::from_be_bytes([good[field], good[field + 1]]);
        let with = |at: usize, value: u16| {
            let mut frame = good.clone();
            write_u16(&mut frame, at, value);
            if !v6 {
                repair(&mut frame, l3);
            }
            agree(&frame)
        };
        assert!(with(field, stated) && !with(field, stated + 1));
        assert!(!with(field, 0xffff) && !with(field, 0));
        if tcp {
            // The header may take all of the packet, and no byte more.
            let offset = |words: u16| with(l4 + 12, words << 12 | 0x10);
            assert!(offset(5) && offset(12) && !offset(4) && !offset(13) && !offset(0));
            let header = |length: u16| with(field, if v6 { length } else { length + 20 });
            assert!(header(20) && !header(19));
        } else {
            let length = |bytes: u16| with(l4 + 4, bytes);
            assert!(length(38) && length(8) && !length(39) && !length(7) && !length(0));
        }
    }
}

#[test]
fn an_ipv6_packet_is_no_longer_than_65535_bytes() {
    let mut long = frame(true, false, None, 10);
    long.resize(14 + 70_000, 0);
    for (payload, plain) in [(65_495u16, true), (65_496, false), (65_535, false)] {
        write_u16(&mut long, 18, payload);
        assert_eq!(agree(&long), plain, "{payload}");
    }
}

#[test]
fn other_protocols_and_fragments_go_the_long_way() {
    for v6 in [false, true] {
        let at = if v6 { 20 } else { 23 };
        for (protocol, plain) in [(6, false), (17, true), (1, false), (58, false), (0, false)] {
            let mut frame = frame(v6, false, None, 30);
            write_u8(&mut frame, at, protocol);
            repair_if(&mut frame, !v6);
            assert_eq!(agree(&frame), plain, "{protocol}");
        }
    }
    for (field, plain) in [
        (0u16, true),
        (0x4000, true),
        (0x8000, true),
        (0x2000, false),
        (0x1000, false),
        (1, false),
        (0x0100, false),
    ] {
        let mut frame = frame(false, false, None, 30);
        write_u16(&mut frame, 20, field);
        repair_if(&mut frame, true);
        assert_eq!(agree(&frame), plain, "{field:#x}");
    }
}

fn repair_if(frame: &mut [u8], v4: bool) {
    if v4 {
        repair(frame, 14);
    }
}

#[test]
fn heads_are_where_frames_begin() {
    let mut bytes: Vec<u8> = (0..100).collect();
    assert_eq!(<u64 as Ends>::head(&bytes).unwrap()[..], bytes[..46]);
    assert_eq!(<[u128; 2] as Ends>::head(&bytes).unwrap()[..], bytes[..66]);
    <u64 as Ends>::head_mut(&mut bytes).unwrap()[45] = 0xee;
    <[u128; 2] as Ends>::head_mut(&mut bytes).unwrap()[65] = 0xdd;
    assert_eq!((bytes[45], bytes[65]), (0xee, 0xdd));
    assert!(<u64 as Ends>::head(&bytes[..45]).is_none());
    assert!(<u64 as Ends>::head_mut(&mut bytes[..45]).is_none());
    assert!(<[u128; 2] as Ends>::head(&bytes[..65]).is_none());
    assert!(<[u128; 2] as Ends>::head_mut(&mut bytes[..65]).is_none());
}

#[test]
fn carries_out_of_either_sum_come_back_in() {
    let first = 0x1122_3344_5566_7745u64;
    let mut right = 0;
    for second in [!first - 1, !first, !first + 1, !first + 2, u64::MAX] {
        for last in [0, 1, 0xfffe, 0xffff, 0x1_0000, 0xffff_0000, u32::MAX] {
            let mut header = [0; 20];
            header[..8].copy_from_slice(&first.to_le_bytes());
            header[8..16].copy_from_slice(&second.to_le_bytes());
            header[16..].copy_from_slice(&last.to_le_bytes());
            let verified = checksum::verify(&header);
            assert_eq!(sums_up(first, second, last), verified, "{header:02x?}");
            right += u32::from(verified);
        }
    }
    assert!(right > 5, "{right}");
}

proptest! {
    #[test]
    fn any_header_sums_up_as_the_whole_checksum_says(
        mut header in any::<[u8; 20]>(),
        right in any::<bool>(),
    ) {
        header[0] = 0x45;
        if right {
            repair(&mut header, 0);
        }
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let last = (word(12) >> 32) as u32;
        prop_assert_eq!(sums_up(word(0), word(8), last), checksum::verify(&header));
    }

    #[test]
    fn any_frame_is_read_both_ways_alike(
        v6 in any::<bool>(), tcp in any::<bool>(), vlan in proptest::option::of(1u16..4095), payload in 0usize..60,
        changes in proptest::collection::vec((12usize..80, any::<u8>()), 0..3),
    ) {
        let mut frame = frame(v6, tcp, vlan, payload);
        for (at, value) in changes {
            write_u8(&mut frame, at, value);
        }
        if !v6 {
            repair(&mut frame, l3_of(vlan));
        }
        agree(&frame);
    }
}
