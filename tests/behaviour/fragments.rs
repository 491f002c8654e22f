//! Fragments that lie: about each other, or about themselves; and the numbers honest ones leave with.

use std::collections::BTreeSet;

use natgate::base::DropReason;

use crate::common::*;
use crate::mtu::{cut, datagram, finish, mark, narrow, payload, permutations, reassemble};
use crate::*;

const CLIENT: End = ("10.0.0.2", 40000);

/// Four pieces of a datagram with this number: 1000, 1000, 1000 and 908 bytes.
fn pieces(id: u16) -> Vec<Vec<u8>> {
    let mut whole = datagram(3900, false);
    mark(&mut whole, id, 0);
    cut(&whole, 1000)
}

/// The piece at another offset, in units of eight bytes.
fn moved(piece: &[u8], by: i16) -> Vec<u8> {
    let mut piece = piece.to_vec();
    let flags = u16::from_be_bytes([piece[20], piece[21]]);
    let id = u16::from_be_bytes([piece[18], piece[19]]);
    mark(&mut piece, id, flags.wrapping_add_signed(by));
    piece
}

/// The number a packet has.
fn number((_, frame): &(PortId, Vec<u8>)) -> u16 {
    u16::from_be_bytes([frame[18], frame[19]])
}

fn held(rack: &Rack) -> u64 {
    rack.shards.iter().map(|s| s.held()).sum()
}

/// Whatever arrived before the overlap was seen may have gone; nothing comes after it, and nothing is left waiting.
// Proves: F11, U14a.
#[test]
fn an_overlap_costs_the_whole_datagram_in_any_order() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        for (id, order) in (1..).zip(permutations()) {
            let pieces = pieces(id);
            // Eight bytes of the second piece come once more, as part of another.
            let mut given: Vec<_> = order.iter().map(|i| pieces[*i].clone()).collect();
            given.insert(2, moved(&pieces[1], -1));
            let sent: Vec<_> = given
                .iter()
                .flat_map(|p| send(&mut rack, at, LAN, p))
                .collect();
            assert!(sent.len() <= 2, "{order:?}: {} went on", sent.len());
            assert_eq!(held(&rack), 0, "{order:?}");
        }
        assert!(rack.drops(DropReason::FragmentOverlap) >= 24 * 3);
        // The others are not touched, and two seconds later the number is free again.
        let public = one(&mut rack, at, LAN, &call(CLIENT)).source;
        works(&mut rack, at, CLIENT, public);
        rack.advance(2_001);
        rack.maintain();
        let sent: Vec<_> = pieces(1)
            .iter()
            .flat_map(|p| send(&mut rack, at, LAN, p))
            .collect();
        assert_eq!(seen(&reassemble(sent)).payload, payload(3900));
    });
}

// Proves: F11, U14.
#[test]
fn an_exact_duplicate_harms_nothing() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        for (id, order) in (1..).zip(permutations()) {
            let pieces = pieces(id);
            let mut sent = Vec::new();
            for (n, i) in order.into_iter().enumerate() {
                sent.extend(send(&mut rack, at, LAN, &pieces[i]));
                if n < 3 {
                    sent.extend(send(&mut rack, at, LAN, &pieces[order[0]]));
                }
            }
            let distinct: BTreeSet<_> = sent.into_iter().map(|(port, f)| (port.0, f)).collect();
            let sent = distinct
                .into_iter()
                .map(|(port, f)| (PortId(port), f))
                .collect();
            assert_eq!(seen(&reassemble(sent)).payload, payload(3900), "{order:?}");
        }
        assert_eq!(rack.drops(DropReason::FragmentOverlap), 0);
    });
}

/// A second first piece must not lead the others elsewhere, nor a piece come behind the end.
// Proves: F11.
#[test]
fn a_datagram_has_one_beginning_and_one_end() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let pieces = pieces(1);
        one(&mut rack, at, LAN, &call(CLIENT));
        assert_eq!(send(&mut rack, at, LAN, &pieces[0]).len(), 1);
        let mut other = pieces[0].clone();
        other[35] ^= 1;
        let overlap = DropReason::FragmentOverlap;
        dropped(&mut rack, at, LAN, &other, overlap);
        dropped(&mut rack, at, LAN, &pieces[1], overlap);

        let pieces = self::pieces(2);
        send(&mut rack, at, LAN, &pieces[0]);
        assert_eq!(send(&mut rack, at, LAN, &pieces[3]).len(), 1);
        dropped(&mut rack, at, LAN, &moved(&pieces[1], 375), overlap);
    });
}

/// RFC 1858 and RFC 3128: a first piece shows its transport header, and nothing begins inside it.
// Proves: F11.
#[test]
fn headers_come_whole_and_stay() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let syn = tcp(LAN, CLIENT, SERVER, "S");
        let piece = |from: &[u8], bytes: std::ops::Range<usize>, flags| {
            let mut piece = from[..34].to_vec();
            piece.extend(&from[34..][bytes]);
            mark(&mut piece, 9, flags);
            finish(&mut piece);
            piece
        };
        for (length, protocol) in [(16, 6), (0, 17)] {
            let mut tiny = piece(&syn, 0..length, 0x2000);
            tiny[23] = protocol;
            finish(&mut tiny);
            dropped(&mut rack, at, LAN, &tiny, DropReason::FragmentTiny);
        }
        let inside = piece(&syn, 8..20, 1);
        dropped(&mut rack, at, LAN, &inside, DropReason::FragmentTiny);
        let long = piece(&datagram(1000, false), 0..1008, 8190);
        dropped(&mut rack, at, LAN, &long, DropReason::FragmentOversize);
        assert_eq!(rack.sessions(), 0);
    });
}

#[test]
fn pieces_of_what_was_refused_are_refused() {
    let rules = format!(
        "{MASQUERADE}[[filter.rule]]\ndport = \"5000\"\nproto = \"udp\"\naction = \"drop\"\n"
    );
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let pieces = pieces(1);
        assert!(send(&mut rack, at, LAN, &pieces[2]).is_empty());
        assert!(send(&mut rack, at, LAN, &pieces[0]).is_empty());
        assert_eq!(rack.drops(DropReason::PolicyFilter), 1);
        assert_eq!(rack.drops(DropReason::FragmentNoFirst), 1, "it had waited");
        dropped(&mut rack, at, LAN, &pieces[1], DropReason::FragmentNoFirst);
        assert_eq!(rack.sessions(), 0);
    });
}

/// Two hosts use one number to one server at the same time, as RFC 3022 section 6.3 warns.
// Proves: F9, F10, P10.
#[test]
fn pieces_of_two_hosts_never_mix() {
    everywhere(|workers, at| {
        // A link beyond that cuts further, too.
        for mtu in [1500, 1280] {
            let mut rack = narrow(workers, mtu, MASQUERADE);
            let hosts = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
            let all: Vec<Vec<Vec<u8>>> = (0..)
                .zip(hosts)
                .map(|(n, host)| {
                    let body = vec![n as u8; 2900];
                    let mut whole = udp(LAN, (host, 5000 + n), SERVER, &body);
                    mark(&mut whole, 0x4711, 0);
                    cut(&whole, 1400)
                })
                .collect();
            // The last pieces first, then the first ones, host by host.
            let mut sent = Vec::new();
            for i in [2, 0, 1] {
                for pieces in &all {
                    sent.extend(send(&mut rack, at, LAN, &pieces[i]));
                }
            }
            let numbers: BTreeSet<u16> = sent.iter().map(number).collect();
            assert_eq!(numbers.len(), 4, "one for each datagram");
            let mut bodies = BTreeSet::new();
            for wanted in numbers {
                let own = sent.iter().filter(|p| number(p) == wanted).cloned();
                let whole = seen(&reassemble(own.collect()));
                assert_eq!(whole.source.0, ip("203.0.113.1"));
                assert_eq!(whole.payload, vec![whole.payload[0]; 2900]);
                bodies.insert(whole.payload[0]);
            }
            assert_eq!(bodies.len(), 4);
        }
    });
}

/// What is not translated, or comes in, keeps its sender's number; so does an atomic datagram.
// Proves: F9.
#[test]
fn other_numbers_stay() {
    let rules = format!("[[exempt]]\ndst = [\"198.51.100.0/24\"]\n{MASQUERADE}");
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let mut kept = udp(LAN, CLIENT, ("198.51.100.9", 7), &payload(1900));
        mark(&mut kept, 0x4711, 0);
        let mut atomic = datagram(100, true);
        mark(&mut atomic, 0x4711, 0x4000);
        let public = one(&mut rack, at, LAN, &call(CLIENT)).source;
        let mut answer = udp(WAN, SERVER, ("203.0.113.1", public.1), &payload(1900));
        mark(&mut answer, 0x4711, 0);
        let frames = [
            (LAN, cut(&kept, 1000)),
            (LAN, vec![atomic]),
            (WAN, cut(&answer, 1000)),
        ];
        for (port, pieces) in frames {
            for piece in pieces {
                let sent = send(&mut rack, at, port, &piece);
                assert_eq!((sent.len(), number(&sent[0])), (1, 0x4711));
            }
        }
    });
}

/// A hairpinned datagram keeps together, too, and gets one number.
// Proves: F9, U9, U14.
#[test]
fn fragments_take_hairpins() {
    let rules = pool("filtering = \"endpoint\"");
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let server = one(&mut rack, at, LAN, &call(("10.0.0.3", 53))).source;
        let mut whole = udp(LAN, CLIENT, ("203.0.113.20", server.1), &payload(2900));
        mark(&mut whole, 0x4711, 0);
        let pieces = cut(&whole, 1000);
        let sent: Vec<_> = [2, 0, 1]
            .iter()
            .flat_map(|i| send(&mut rack, at, LAN, &pieces[*i]))
            .collect();
        assert!(sent.iter().all(|p| number(p) != 0x4711));
        let whole = seen(&reassemble(sent));
        assert_eq!(whole.source.0, ip("203.0.113.20"));
        assert_eq!(whole.destination, (ip("10.0.0.3"), 53));
        assert_eq!(whole.payload, payload(2900));
    });
}
