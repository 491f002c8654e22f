//! Packets too large for the next link, and packets that come in pieces.

use natgate::base::DropReason;
use natgate::wire::checksum;

use crate::common::*;
use crate::*;

const CLIENT: End = ("10.0.0.2", 40000);

/// The lab with an MTU on its outside interface.
pub fn narrow(workers: u8, mtu: u16, rules: &str) -> Rack {
    let name = "name = \"wan0\"\n";
    let text = lab_text(workers, rules, "");
    rack(&text.replacen(name, &format!("{name}mtu = {mtu}\n"), 1))
}

/// Sets id and flags (DF 0x4000, MF 0x2000, offset / 8) of an IPv4 frame.
pub fn mark(frame: &mut [u8], id: u16, flags: u16) {
    frame[18..20].copy_from_slice(&id.to_be_bytes());
    frame[20..22].copy_from_slice(&flags.to_be_bytes());
    finish(frame);
}

/// Repairs total length and header checksum.
pub fn finish(frame: &mut [u8]) {
    let length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = checksum::ipv4_header(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

pub fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 % 251) as u8).collect()
}

/// A datagram of the client, with DF or without.
pub fn datagram(length: usize, df: bool) -> Vec<u8> {
    let mut frame = udp(LAN, CLIENT, SERVER, &payload(length));
    mark(&mut frame, 0x4711, if df { 0x4000 } else { 0 });
    frame
}

/// Cuts a frame's IP payload at multiples of `size`.
pub fn cut(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let body = &frame[34..];
    let count = body.len().div_ceil(size);
    let id = u16::from_be_bytes([frame[18], frame[19]]);
    let pieces = body.chunks(size).enumerate();
    let piece = |(i, chunk): (usize, &[u8])| {
        let mut out = frame[..34].to_vec();
        out.extend(chunk);
        let more = if i + 1 < count { 0x2000 } else { 0 };
        mark(&mut out, id, more | (i * size / 8) as u16);
        out
    };
    pieces.map(piece).collect()
}

/// Puts fragments together by hand: the frame as if it had never been cut.
pub fn reassemble(mut pieces: Vec<(PortId, Vec<u8>)>) -> (PortId, Vec<u8>) {
    let flags = |f: &[u8]| u16::from_be_bytes([f[20], f[21]]);
    pieces.sort_by_key(|p| flags(&p.1) & 0x1fff);
    let mut whole = pieces[0].1[..34].to_vec();
    let last = pieces.len() - 1;
    for (i, (_, piece)) in pieces.iter().enumerate() {
        assert!(checksum::verify(&piece[14..34]), "header checksum");
        let length = usize::from(u16::from_be_bytes([piece[16], piece[17]]));
        assert_eq!(piece.len(), 14 + length, "no padding");
        assert_eq!(
            usize::from(flags(piece) & 0x1fff) * 8,
            whole.len() - 34,
            "no gap"
        );
        assert_eq!(flags(piece) & 0x2000 != 0, i < last, "more fragments");
        assert_eq!(piece[18..20], pieces[0].1[18..20], "one identification");
        assert_eq!(piece[26..34], pieces[0].1[26..34], "one pair of addresses");
        whole.extend(&piece[34..]);
    }
    let id = u16::from_be_bytes([whole[18], whole[19]]);
    mark(&mut whole, id, 0);
    (pieces[0].0, whole)
}

// Proves: U13, F6.
#[test]
fn df_is_told_the_mtu_of_the_narrow_link() {
    everywhere(|workers, at| {
        let mut rack = narrow(workers, 1400, MASQUERADE);
        for round in 0..2 {
            let large = datagram(1373, true);
            let error = one(&mut rack, at, LAN, &large);
            assert_eq!((error.port, error.source.0), (LAN, ip("10.0.0.1")));
            assert_eq!(error.destination.0, ip("10.0.0.2"));
            assert_eq!(error.payload[..8][..2], [3, 4]);
            assert_eq!(error.payload[6..8], 1400u16.to_be_bytes());
            let quote = &error.payload[8..];
            assert_eq!(quote, &large[14..14 + quote.len()], "the packet as sent");
            assert!(quote.len() >= 28);
            assert_eq!(rack.drops(DropReason::MtuDf), round + 1);
            // One byte less fits.
            let fits = one(&mut rack, at, LAN, &datagram(1372, true));
            assert_eq!((fits.port, fits.payload.len()), (WAN, 1372));
            // The next round starts with a known flow.
        }
    });
}

// Proves: U13a.
#[test]
fn without_df_it_is_cut_and_nothing_is_lost() {
    for mtu in [1400, 1339, 1280] {
        everywhere(|workers, at| {
            let mut rack = narrow(workers, mtu, MASQUERADE);
            for length in [1373, 1472, 1400] {
                let sent = send(&mut rack, at, LAN, &datagram(length, false));
                assert!(sent.len() > 1 || length + 28 <= usize::from(mtu));
                let flags = |p: &(PortId, Vec<u8>)| u16::from_be_bytes([p.1[20], p.1[21]]);
                let offsets = sent.iter().map(|p| flags(p) & 0x1fff);
                assert!(offsets.is_sorted(), "in order");
                for (port, piece) in &sent {
                    assert!(piece.len() <= 14 + usize::from(mtu));
                    assert_eq!((*port, piece[22]), (WAN, 63));
                }
                let whole = seen(&reassemble(sent));
                assert_eq!(whole.source.0, ip("203.0.113.1"));
                assert_eq!(whole.destination, (ip(SERVER.0), SERVER.1));
                assert_eq!(whole.payload, payload(length));
            }
        });
    }
}

// Proves: P10, F9.
#[test]
fn datagrams_of_two_hosts_with_one_number_get_one_each() {
    everywhere(|workers, at| {
        let mut rack = narrow(workers, 1280, MASQUERADE);
        let mut numbers = std::collections::BTreeSet::new();
        for (host, port) in [("10.0.0.2", 1), ("10.0.0.3", 2), ("10.0.0.4", 3)] {
            for _ in 0..20 {
                let mut frame = udp(LAN, (host, 40000 + port), SERVER, &payload(1400));
                mark(&mut frame, 0x4711, 0);
                let sent = send(&mut rack, at, LAN, &frame);
                assert_eq!(sent.len(), 2);
                numbers.insert(sent[0].1[18..20].to_vec());
                seen(&reassemble(sent));
            }
        }
        assert_eq!(numbers.len(), 60, "RFC 6864 section 5.3.1");
    });
}

#[test]
fn ipv6_is_told_and_never_cut() {
    let mut rack = narrow(1, 1400, MASQUERADE);
    let from: std::net::Ipv6Addr = "fd00:1::2".parse().unwrap();
    let to: std::net::Ipv6Addr = "2001:db8::9".parse().unwrap();
    let frame = |length: usize| {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, 0])
            .ipv6(from.octets(), to.octets(), 64)
            .udp(1, 2)
            .write(&mut frame, &payload(length))
            .unwrap();
        frame
    };
    let large = frame(1353);
    let sent = send(&mut rack, 0, LAN, &large);
    assert_eq!(sent.len(), 1);
    let error = &sent[0].1;
    assert_eq!(
        (sent[0].0, error[54], error[55]),
        (LAN, 2, 0),
        "packet too big"
    );
    assert_eq!(error[58..62], 1400u32.to_be_bytes());
    assert_eq!(error[62..], large[14..14 + error.len() - 62]);
    assert!(error.len() - 14 <= 1280);
    assert_eq!(rack.drops(DropReason::MtuDf), 1);
    let fits = send(&mut rack, 0, LAN, &frame(1352));
    assert_eq!((fits[0].0, fits[0].1[21]), (WAN, 63));
}

/// All orders of four things.
pub fn permutations() -> Vec<[usize; 4]> {
    let mut all = Vec::new();
    for n in 0..256 {
        let order = [n & 3, n >> 2 & 3, n >> 4 & 3, n >> 6];
        let mut sorted = order;
        sorted.sort_unstable();
        if sorted == [0, 1, 2, 3] {
            all.push(order);
        }
    }
    all
}

// Proves: U14.
#[test]
fn fragments_pass_in_every_order() {
    assert_eq!(permutations().len(), 24);
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        for (id, order) in (100..).zip(permutations()) {
            let mut whole = datagram(3900, false);
            mark(&mut whole, id, 0);
            let pieces = cut(&whole, 1000);
            let mut sent = Vec::new();
            for i in order {
                sent.extend(send(&mut rack, at, LAN, &pieces[i]));
            }
            assert_eq!(sent.len(), 4, "{order:?}; drops: {}", drops(&rack));
            let whole = seen(&reassemble(sent));
            assert_eq!(whole.payload, payload(3900));
            assert_eq!(whole.source, (ip("203.0.113.1"), 40000));
        }
        assert_eq!(rack.sessions(), 1);
        assert!(rack.shards.iter().all(|s| s.held() == 0));
    });
}

#[test]
fn without_the_first_fragment_the_others_time_out() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        for piece in &cut(&datagram(3900, false), 1000)[1..] {
            assert!(send(&mut rack, at, LAN, piece).is_empty());
        }
        let held: u64 = rack.shards.iter().map(|s| s.held()).sum();
        assert_eq!(held, 3);
        rack.advance(2_001);
        rack.maintain();
        balanced(&rack);
        assert_eq!(rack.drops(DropReason::FragmentTimeout), 3);
        assert_eq!(rack.sessions(), 0);
    });
}

// Proves: U14a.
#[test]
fn a_flood_of_fragments_hurts_fragments_only() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let public = one(&mut rack, at, LAN, &call(CLIENT)).source;
        for id in 0..3000 {
            let mut flood = datagram(100, false);
            mark(&mut flood, id, 0x2000 | 50);
            assert!(send(&mut rack, at, LAN, &flood).is_empty());
        }
        let refused = rack.drops(DropReason::FragmentSource);
        assert!(
            refused >= 3000 - 64 * u64::from(workers),
            "a quarter of 256"
        );
        assert_eq!(rack.drops(DropReason::FragmentBudget), 0);
        // Another host's fragments find room meanwhile, in order and not.
        let mut other = udp(LAN, ("10.0.0.3", 40000), SERVER, &payload(3900));
        for (id, order) in [(1, [0, 1, 2, 3]), (2, [3, 1, 2, 0])] {
            mark(&mut other, id, 0);
            let pieces = cut(&other, 1000);
            let sent = order.map(|i| send(&mut rack, at, LAN, &pieces[i])).concat();
            assert_eq!(seen(&reassemble(sent)).payload, payload(3900));
        }
        works(&mut rack, at, CLIENT, public);
        one(&mut rack, at, LAN, &call(("10.0.0.3", 1)));
        rack.advance(2_001);
        rack.maintain();
        balanced(&rack);
        let pieces = cut(&datagram(3900, false), 1000);
        let sent: Vec<_> = pieces
            .iter()
            .flat_map(|p| send(&mut rack, at, LAN, p))
            .collect();
        assert_eq!(seen(&reassemble(sent)).payload, payload(3900));
    });
}
