//! Frames to be filled in. Every header is a prebuilt template in which a dozen bytes and one or two checksums change.

use crate::bench::family::{Family, long};
use crate::bench::traffic::{
    FLOW_AT, L3, L4_IPV4, L4_IPV6, L4_PIECE, LARGEST, Purpose, SEQUENCE_AT, TTL,
};
use crate::flow::key::Tuple;
use crate::wire::checksum;
use crate::wire::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT, MacAddr, TCP, UDP, ipv6, tcp, write_u16, write_u32,
};

/// The smallest IPv4 frame, and how much of every one comes from a template.
const HEAD_IPV4: usize = 60;
/// The same of IPv6 datagrams.
const HEAD_IPV6: usize = 70;
/// The longest template: a piece of an IPv6 datagram.
const LONGEST_HEAD: usize = L4_PIECE + PIECE as usize;
/// Payload of each piece of a fragmented datagram.
const PIECE: u16 = 24;
/// Bytes of a TCP header.
const TCP_HEADER: u16 = 20;

/// What kind of packet a template is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A UDP datagram with flow and sequence number.
    Datagram,
    /// A TCP SYN.
    Syn,
    /// The first piece of a UDP datagram.
    FirstPiece,
    /// The second piece.
    SecondPiece,
}

impl Kind {
    fn is_piece(self) -> bool {
        matches!(self, Kind::FirstPiece | Kind::SecondPiece)
    }

    fn protocol(self) -> u8 {
        match self {
            Kind::Syn => TCP,
            _ => UDP,
        }
    }
}

/// A frame to be filled in.
#[derive(Clone, Debug)]
pub struct Template {
    family: Family,
    kind: Kind,
    head: [u8; LONGEST_HEAD],
    length: usize,
    /// Where the transport header starts.
    l4: usize,
    /// One's complement sums of all that stays the same.
    ip_sum: u64,
    l4_sum: u64,
}

impl Template {
    /// A frame of `length` bytes (without the checksum the wire adds; no less than the smallest of its family) from one
    /// station to another. Other kinds than datagrams have their own length.
    pub fn new(
        family: Family,
        kind: Kind,
        purpose: Purpose,
        length: usize,
        to: MacAddr,
        from: MacAddr,
    ) -> Template {
        let l4 = match family {
            Family::Ipv4 => L4_IPV4,
            Family::Ipv6 if kind.is_piece() => L4_PIECE,
            Family::Ipv6 => L4_IPV6,
        };
        let (length, carried) = match kind {
            Kind::Datagram => {
                let length = length.clamp(family.smallest(), LARGEST);
                (length, (length - l4) as u16)
            }
            Kind::Syn => (family.smallest().max(l4 + 20), TCP_HEADER),
            _ => (family.smallest().max(l4 + usize::from(PIECE)), PIECE),
        };
        let mut head = [0; LONGEST_HEAD];
        head[..6].copy_from_slice(&to.0);
        head[6..12].copy_from_slice(&from.0);
        match family {
            Family::Ipv4 => header_v4(&mut head, kind, purpose, carried),
            Family::Ipv6 => header_v6(&mut head, kind, purpose, carried),
        }
        let segment = if kind.is_piece() { 2 * PIECE } else { carried };
        match kind {
            Kind::Datagram | Kind::FirstPiece => write_u16(&mut head, l4 + 4, segment),
            Kind::Syn => {
                write_u16(&mut head, l4 + 12, 0x5000 | u16::from(tcp::SYN));
                write_u16(&mut head, l4 + 14, 0xffff);
            }
            Kind::SecondPiece => {}
        }
        let pseudo = u64::from(kind.protocol()) + u64::from(segment) + family.addresses_sum();
        Template {
            family,
            kind,
            length,
            l4,
            ip_sum: u64::from(checksum::sum(&head[L3..L4_IPV4])),
            l4_sum: u64::from(checksum::sum(&head[l4..])) + pseudo,
            head,
        }
    }

    /// Bytes of the frame.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Writes the headers of a datagram; what lies behind the longest template must be zero.
    #[inline]
    pub fn write(&self, frame: &mut [u8], tuple: &Tuple<u32>, flow: u32, sequence: u32) {
        match self.family {
            Family::Ipv4 => {
                let Some(head) = self.copied::<HEAD_IPV4>(frame) else {
                    return;
                };
                self.address_v4(head, tuple, 0);
                self.datagram(head, L4_IPV4, tuple, flow, sequence);
            }
            Family::Ipv6 => {
                // A frame of another kind may have been longer.
                let end = frame.len().min(LONGEST_HEAD);
                if end > HEAD_IPV6 {
                    frame[HEAD_IPV6..end].fill(0);
                }
                let Some(head) = self.copied::<HEAD_IPV6>(frame) else {
                    return;
                };
                address_v6(head, tuple);
                self.datagram(head, L4_IPV6, tuple, flow, sequence);
            }
        }
    }

    /// Writes a frame of any kind; `id` is the identification of fragments.
    pub fn write_kind(
        &self,
        frame: &mut [u8],
        tuple: &Tuple<u32>,
        flow: u32,
        sequence: u32,
        id: u16,
    ) {
        if self.kind == Kind::Datagram {
            return self.write(frame, tuple, flow, sequence);
        }
        let l4 = self.l4;
        let (Some(head), Some(form)) = (frame.get_mut(..self.length), self.head.get(..self.length))
        else {
            return;
        };
        head.copy_from_slice(form);
        match self.family {
            Family::Ipv4 => self.address_v4(head, tuple, if self.kind.is_piece() { id } else { 0 }),
            Family::Ipv6 => {
                address_v6(head, tuple);
                if self.kind.is_piece() {
                    write_u32(head, L4_IPV6 + 4, u32::from(id));
                }
            }
        }
        let numbers = u64::from(flow) + u64::from(sequence);
        let sum = self.l4_sum + sum_of(tuple);
        if self.kind != Kind::SecondPiece {
            write_u16(head, l4, tuple.source_port);
            write_u16(head, l4 + 2, tuple.destination_port);
        }
        match self.kind {
            Kind::Syn => {
                write_u32(head, l4 + 4, flow);
                write_u16(head, l4 + 16, finish(sum + u64::from(flow)));
                return;
            }
            Kind::FirstPiece => {
                // The second piece carries the same numbers once more.
                write_u16(head, l4 + 6, checksum::for_udp(finish(sum + 2 * numbers)));
            }
            Kind::SecondPiece | Kind::Datagram => {}
        }
        write_u32(head, l4 + FLOW_AT, flow);
        write_u32(head, l4 + SEQUENCE_AT, sequence);
    }

    /// The frame's first bytes, as the template has them.
    #[inline(always)]
    fn copied<'a, const HEAD: usize>(&self, frame: &'a mut [u8]) -> Option<&'a mut [u8; HEAD]> {
        let head = frame.first_chunk_mut()?;
        *head = *self.head.first_chunk()?;
        Some(head)
    }

    /// Addresses, identification and the header's checksum.
    #[inline(always)]
    fn address_v4(&self, head: &mut [u8], tuple: &Tuple<u32>, id: u16) {
        write_u16(head, 18, id);
        write_u32(head, 26, tuple.source);
        write_u32(head, 30, tuple.destination);
        let sum = self.ip_sum + u64::from(tuple.source) + u64::from(tuple.destination);
        write_u16(head, 24, finish(sum + u64::from(id)));
    }

    /// Ports, numbers and checksum of a datagram.
    #[inline(always)]
    fn datagram(&self, head: &mut [u8], l4: usize, tuple: &Tuple<u32>, flow: u32, sequence: u32) {
        write_u16(head, l4, tuple.source_port);
        write_u16(head, l4 + 2, tuple.destination_port);
        write_u32(head, l4 + FLOW_AT, flow);
        write_u32(head, l4 + SEQUENCE_AT, sequence);
        let sum = self.l4_sum + sum_of(tuple) + u64::from(flow) + u64::from(sequence);
        write_u16(head, l4 + 6, checksum::for_udp(finish(sum)));
    }
}

/// An IPv4 header without addresses before `carried` bytes.
fn header_v4(head: &mut [u8], kind: Kind, purpose: Purpose, carried: u16) {
    write_u16(head, 12, ETHERTYPE_IPV4);
    head[14] = 0x45;
    head[15] = purpose.service();
    write_u16(head, 16, 20 + carried);
    let fragment = match kind {
        Kind::Datagram | Kind::Syn => 0x4000,
        Kind::FirstPiece => 0x2000,
        Kind::SecondPiece => PIECE / 8,
    };
    write_u16(head, 20, fragment);
    head[22] = TTL;
    head[23] = kind.protocol();
}

/// An IPv6 header without addresses before `carried` bytes, and the fragment header of pieces.
fn header_v6(head: &mut [u8], kind: Kind, purpose: Purpose, carried: u16) {
    write_u16(head, 12, ETHERTYPE_IPV6);
    write_u16(head, L3, 0x6000 | u16::from(purpose.service()) << 4);
    head[21] = TTL;
    if kind.is_piece() {
        ipv6::set_payload_length(head, L3, 8 + carried);
        head[20] = FRAGMENT;
        head[L4_IPV6] = kind.protocol();
        let field = match kind {
            Kind::SecondPiece => PIECE,
            _ => 1,
        };
        write_u16(head, L4_IPV6 + 2, field);
    } else {
        ipv6::set_payload_length(head, L3, carried);
        head[20] = kind.protocol();
    }
}

#[inline(always)]
fn address_v6(head: &mut [u8], tuple: &Tuple<u32>) {
    ipv6::set_source(head, L3, long(tuple.source));
    ipv6::set_destination(head, L3, long(tuple.destination));
}

/// The sum of addresses' numbers and ports. Words of 32 bits may be added like those of 16 (RFC 1071 section 2B), as long
/// as nothing is lost at the top.
#[inline]
fn sum_of(tuple: &Tuple<u32>) -> u64 {
    u64::from(tuple.source)
        + u64::from(tuple.destination)
        + u64::from(tuple.source_port)
        + u64::from(tuple.destination_port)
}

/// The checksum of a sum.
#[inline]
fn finish(sum: u64) -> u16 {
    let half = (sum >> 32) + (sum & 0xffff_ffff);
    let quarter = (half >> 16) + (half & 0xffff);
    checksum::finish(quarter as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::traffic::{Population, Seen, is_sound};
    use crate::wire::parse::parse;
    use crate::wire::read_u16;

    const TO: MacAddr = MacAddr([2; 6]);
    const FROM: MacAddr = MacAddr([4; 6]);
    const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    fn frame(family: Family, kind: Kind, length: usize, tuple: &Tuple<u32>) -> Vec<u8> {
        let template = Template::new(family, kind, Purpose::Fragment, length, TO, FROM);
        let mut frame = vec![0; template.length()];
        template.write_kind(&mut frame, tuple, 0x0102_fffe, 0xfffe_ffff, 9);
        frame
    }

    fn transport(family: Family, tuple: &Tuple<u32>, protocol: u8, segment: &[u8]) -> u16 {
        match family {
            Family::Ipv4 => {
                checksum::transport_v4(tuple.source, tuple.destination, protocol, segment)
            }
            Family::Ipv6 => checksum::transport_v6(
                long(tuple.source),
                long(tuple.destination),
                protocol,
                segment,
            ),
        }
    }

    #[test]
    fn datagrams_are_valid_and_distinct() {
        for family in FAMILIES {
            let population = Population::new(10_000, 0, |_| true);
            let mut tuples = std::collections::HashSet::new();
            for flow in 0..10_000 {
                let tuple = population.tuple(flow);
                assert!(tuples.insert((tuple.source, tuple.source_port)));
                let length = 60 + flow as usize % 1455;
                let mut frame = frame(family, Kind::Datagram, length, &tuple);
                assert_eq!(frame.len(), length.max(family.smallest()));
                let seen = Seen::read(family, &frame).unwrap();
                assert_eq!(seen.purpose, Purpose::Fragment);
                assert_eq!(seen.source(), (tuple.source, tuple.source_port));
                assert!(seen.is_numbered && seen.has_ports);
                assert_eq!((seen.flow, seen.sequence), (0x0102_fffe, 0xfffe_ffff));
                let parsed = parse(&frame).unwrap();
                assert_eq!(parsed.source_port, tuple.source_port);
                assert_eq!(usize::from(parsed.ip_length), frame.len() - L3);
                assert!(!is_sound(family, &frame), "nobody has decremented the TTL");
                match family {
                    Family::Ipv4 => crate::wire::ipv4::decrement_ttl(&mut frame, L3),
                    Family::Ipv6 => ipv6::decrement_hop_limit(&mut frame, L3),
                };
                assert!(is_sound(family, &frame));
                frame[usize::from(parsed.l4) + 11] ^= 1;
                assert!(!is_sound(family, &frame));
            }
        }
    }

    #[test]
    fn the_other_kinds_are_valid() {
        for family in FAMILIES {
            let tuple = Population::new(1, 0, |_| true).tuple(0);
            let syn = frame(family, Kind::Syn, 60, &tuple);
            let parsed = parse(&syn).unwrap();
            assert_eq!((parsed.protocol, parsed.tcp_flags), (TCP, tcp::SYN));
            let segment = &syn[parsed.l4.into()..][..20];
            let mut zeroed = segment.to_vec();
            zeroed[16..18].fill(0);
            let sum = transport(family, &tuple, TCP, &zeroed);
            assert_eq!(read_u16(segment, 16), sum);

            // Both pieces together are a valid datagram.
            let [first, second] = [Kind::FirstPiece, Kind::SecondPiece].map(|kind| {
                let template = Template::new(family, kind, Purpose::Fragment, 60, TO, FROM);
                let mut frame = vec![0; template.length()];
                template.write_kind(&mut frame, &tuple, 7, 8, 9);
                let seen = Seen::read(family, &frame).unwrap();
                assert_eq!((seen.flow, seen.sequence), (7, 8));
                assert_eq!(seen.has_ports, kind == Kind::FirstPiece);
                frame
            });
            let (start, later) = (parse(&first).unwrap(), parse(&second).unwrap());
            assert!(start.fragment.more && start.fragment.id == 9 && later.fragment.id == 9);
            assert_eq!(later.fragment.offset, PIECE);
            let mut whole = [
                &first[start.l4.into()..start.end()],
                &second[later.l4.into()..later.end()],
            ]
            .concat();
            whole[6..8].fill(0);
            let sum = transport(family, &tuple, UDP, &whole);
            assert_eq!(read_u16(&first, usize::from(start.l4) + 6), sum);
        }
    }

    #[test]
    fn what_a_longer_head_left_behind_is_wiped_out() {
        let tuple = Population::new(1, 0, |_| true).tuple(0);
        for length in [70, 71, 85, 86, 100] {
            let template = Template::new(
                Family::Ipv6,
                Kind::Datagram,
                Purpose::Established,
                length,
                TO,
                FROM,
            );
            let mut frame = vec![0; length];
            let end = length.min(LONGEST_HEAD);
            frame[..end].fill(0xff);
            template.write(&mut frame, &tuple, 1, 2);
            ipv6::decrement_hop_limit(&mut frame, L3);
            assert!(is_sound(Family::Ipv6, &frame), "{length}");
        }
    }
}
