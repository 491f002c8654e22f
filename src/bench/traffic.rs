//! Generated traffic. Flows are computed, not stored: the generator touches almost no memory of its own per flow. Every
//! header is a prebuilt template in which a dozen bytes and two checksums change.

use crate::flow::key::Tuple;
use crate::wire::checksum;
use crate::wire::{
    ETHERTYPE_IPV4, MacAddr, TCP, UDP, read_u16, read_u32, tcp, write_u16, write_u32,
};

/// The first inside host: 10.0.0.0 and up.
const FIRST_HOST: u32 = 0x0a00_0000;
/// The first remote: 198.18.0.0 and up (RFC 2544 benchmarking space).
const FIRST_REMOTE: u32 = 0xc612_0000;
/// Remote addresses are this many bits apart from one another's end: 1,024 of them.
const REMOTE_BITS: u32 = 10;
/// The first source port of every host.
const FIRST_PORT: u16 = 1024;
/// Destination port of every flow.
const REMOTE_PORT: u16 = 4321;

/// Flows a host has: the scale of the public NAT benchmarks (64,512, 1,032,192, … flows).
pub const FLOWS_PER_HOST: u32 = 63;

/// Where the transport header starts.
const L4: usize = 34;
/// Where a frame carries its flow number, then its sequence number.
const FLOW_AT: usize = 42;
const SEQUENCE_AT: usize = 46;
/// The smallest frame, and how much of every frame comes from a template.
pub const SMALLEST: usize = 60;
/// As much of a frame as has to be looked at when it comes back; the shortest ones have no more than four bytes more.
pub type Head = [u8; 50];
/// The largest frame.
pub const LARGEST: usize = 1514;
/// Payload of each piece of a fragmented datagram.
const PIECE: u16 = 24;
/// TTL of generated packets.
const TTL: u8 = 64;

/// Flows of inside hosts. The flow with number `n` belongs to the host with number `n / 63`.
#[derive(Clone, Debug)]
pub struct Population {
    /// Addresses of the hosts, by number.
    hosts: Vec<u32>,
}

impl Population {
    /// Hosts with `flows` flows in all, and `further` hosts that have none, from the addresses that `belongs` accepts.
    pub fn new(flows: u32, further: u32, belongs: impl Fn(u32) -> bool) -> Population {
        let count = flows.div_ceil(FLOWS_PER_HOST) + further;
        Population {
            hosts: (FIRST_HOST..)
                .filter(|&host| belongs(host))
                .take(count as usize)
                .collect(),
        }
    }

    /// Number of hosts.
    pub fn hosts(&self) -> u32 {
        self.hosts.len() as u32
    }

    /// The tuple of a flow's packets as they leave the inside host.
    #[inline]
    pub fn tuple(&self, flow: u32) -> Tuple<u32> {
        let host = flow / FLOWS_PER_HOST;
        Tuple {
            source: self.address(host),
            destination: remote(flow),
            source_port: FIRST_PORT + (flow % FLOWS_PER_HOST) as u16,
            destination_port: REMOTE_PORT,
        }
    }

    /// Whether a frame that left the outside port goes where its flow goes.
    #[inline]
    pub fn leads_out(&self, flow: u32, frame: &Head) -> bool {
        read_u32(frame, 30) == remote(flow)
            && (!has_ports(frame) || read_u16(frame, L4 + 2) == REMOTE_PORT)
    }

    /// Whether a frame that left the inside port goes to its flow's host, from where the flow went.
    #[inline]
    pub fn leads_in(&self, flow: u32, frame: &Head) -> bool {
        let tuple = self.tuple(flow);
        read_u32(frame, 26) == tuple.destination
            && read_u32(frame, 30) == tuple.source
            && (!has_ports(frame) || read_u16(frame, L4 + 2) == tuple.source_port)
    }

    /// The address of a host.
    #[inline]
    pub fn address(&self, host: u32) -> u32 {
        self.hosts.get(host as usize).copied().unwrap_or(FIRST_HOST)
    }
}

/// The address a flow's packets go to.
#[inline]
fn remote(flow: u32) -> u32 {
    FIRST_REMOTE + (flow.wrapping_mul(0x9e37_79b1) >> (32 - REMOTE_BITS))
}

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

/// What a frame is for. It travels in the type-of-service byte, which no translator changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Of a flow that has a session.
    Established,
    /// The first of a flow.
    Opening,
    /// A piece of an established flow's datagram.
    Fragment,
    /// Of a scan: nobody expects it to arrive.
    Scan,
}

impl Purpose {
    /// Number of purposes.
    pub const COUNT: usize = 4;
    /// Every purpose, in order.
    pub const ALL: [Purpose; Purpose::COUNT] = [
        Purpose::Established,
        Purpose::Opening,
        Purpose::Fragment,
        Purpose::Scan,
    ];
    /// Bits above the two that routers may set (ECN).
    const SHIFT: u32 = 2;

    /// The purpose of a frame with an IPv4 header.
    #[inline]
    pub fn of(frame: &Head) -> Option<Purpose> {
        Some(match frame[15] >> Purpose::SHIFT {
            0 => Purpose::Established,
            1 => Purpose::Opening,
            2 => Purpose::Fragment,
            3 => Purpose::Scan,
            _ => return None,
        })
    }
}

/// A frame to be filled in.
#[derive(Clone, Debug)]
pub struct Template {
    head: [u8; SMALLEST],
    length: usize,
    kind: Kind,
    /// One's complement sums of all that stays the same.
    ip_sum: u64,
    l4_sum: u64,
}

impl Template {
    /// A frame of `length` bytes (without the checksum the wire adds) from one station to another.
    pub fn new(
        kind: Kind,
        purpose: Purpose,
        length: usize,
        to: MacAddr,
        from: MacAddr,
    ) -> Template {
        let length = match kind {
            Kind::Datagram => length.clamp(SMALLEST, LARGEST),
            _ => SMALLEST,
        };
        let (protocol, ip_length, fragment) = match kind {
            Kind::Datagram => (UDP, (length - 14) as u16, 0x4000),
            Kind::Syn => (TCP, 40, 0x4000),
            Kind::FirstPiece => (UDP, 20 + PIECE, 0x2000),
            Kind::SecondPiece => (UDP, 20 + PIECE, PIECE / 8),
        };
        let mut head = [0; SMALLEST];
        head[..6].copy_from_slice(&to.0);
        head[6..12].copy_from_slice(&from.0);
        write_u16(&mut head, 12, ETHERTYPE_IPV4);
        head[14] = 0x45;
        head[15] = (purpose as u8) << Purpose::SHIFT;
        write_u16(&mut head, 16, ip_length);
        write_u16(&mut head, 20, fragment);
        head[22] = TTL;
        head[23] = protocol;
        let segment = match kind {
            Kind::FirstPiece | Kind::SecondPiece => 2 * PIECE,
            _ => ip_length - 20,
        };
        match kind {
            Kind::Datagram | Kind::FirstPiece => write_u16(&mut head, L4 + 4, segment),
            Kind::Syn => {
                write_u16(&mut head, L4 + 12, 0x5000 | u16::from(tcp::SYN));
                write_u16(&mut head, L4 + 14, 0xffff);
            }
            Kind::SecondPiece => {}
        }
        Template {
            ip_sum: u64::from(checksum::sum(&head[14..L4])),
            l4_sum: u64::from(
                checksum::sum(&head[L4..]) + u32::from(protocol) + u32::from(segment),
            ),
            head,
            length,
            kind,
        }
    }

    /// Bytes of the frame.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Writes the headers of a datagram; what lies behind them must be zero.
    #[inline]
    pub fn write(&self, frame: &mut [u8], tuple: &Tuple<u32>, flow: u32, sequence: u32) {
        let Some(head) = frame.first_chunk_mut::<SMALLEST>() else {
            return;
        };
        self.address(head, tuple, 0);
        write_u16(head, L4, tuple.source_port);
        write_u16(head, L4 + 2, tuple.destination_port);
        write_u32(head, FLOW_AT, flow);
        write_u32(head, SEQUENCE_AT, sequence);
        let sum = self.l4_sum + sum_of(tuple) + u64::from(flow) + u64::from(sequence);
        write_u16(head, L4 + 6, checksum::for_udp(finish(sum)));
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
        let Some(head) = frame.first_chunk_mut::<SMALLEST>() else {
            return;
        };
        let numbers = u64::from(flow) + u64::from(sequence);
        let sum = self.l4_sum + sum_of(tuple);
        self.address(head, tuple, if self.kind == Kind::Syn { 0 } else { id });
        if self.kind != Kind::SecondPiece {
            write_u16(head, L4, tuple.source_port);
            write_u16(head, L4 + 2, tuple.destination_port);
        }
        match self.kind {
            Kind::Syn => {
                write_u32(head, L4 + 4, flow);
                write_u16(head, L4 + 16, finish(sum + u64::from(flow)));
                return;
            }
            Kind::FirstPiece => {
                // The second piece carries the same numbers once more.
                write_u16(head, L4 + 6, checksum::for_udp(finish(sum + 2 * numbers)));
            }
            Kind::SecondPiece | Kind::Datagram => {}
        }
        write_u32(head, FLOW_AT, flow);
        write_u32(head, SEQUENCE_AT, sequence);
    }

    /// The template with addresses, identification and the header's checksum.
    #[inline]
    fn address(&self, head: &mut [u8; SMALLEST], tuple: &Tuple<u32>, id: u16) {
        *head = self.head;
        write_u16(head, 18, id);
        write_u32(head, 26, tuple.source);
        write_u32(head, 30, tuple.destination);
        let sum = self.ip_sum + u64::from(tuple.source) + u64::from(tuple.destination);
        write_u16(head, 24, finish(sum + u64::from(id)));
    }
}

/// The sum of addresses and ports. Words of 32 bits may be added like those of 16 (RFC 1071 section 2B), as long as
/// nothing is lost at the top.
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

/// Whether a frame is one of ours: UDP or TCP over IPv4.
#[inline]
pub fn is_generated(frame: &Head) -> bool {
    read_u16(frame, 12) == ETHERTYPE_IPV4 && matches!(frame[23], UDP | TCP)
}

/// The flow number a datagram or a piece of one carries.
#[inline]
pub fn flow_of(frame: &Head) -> u32 {
    read_u32(frame, FLOW_AT)
}

/// The sequence number a datagram or a piece of one carries.
#[inline]
pub fn sequence_of(frame: &Head) -> u32 {
    read_u32(frame, SEQUENCE_AT)
}

/// Whether a frame carries ports.
#[inline]
pub fn has_ports(frame: &Head) -> bool {
    read_u16(frame, 20) & 0x1fff == 0
}

/// Where a frame that carries ports comes from: address, port.
#[inline]
pub fn source_of(frame: &Head) -> (u32, u16) {
    (read_u32(frame, 26), read_u16(frame, L4))
}

/// Whether everything a router must do to a whole UDP frame was done: TTL one less, both checksums right.
pub fn is_sound(frame: &[u8]) -> bool {
    let ip_length = usize::from(read_u16(frame, 16));
    let Some(segment) = frame.get(L4..14 + ip_length) else {
        return false;
    };
    let pseudo = checksum::pseudo_v4(
        read_u32(frame, 26),
        read_u32(frame, 30),
        UDP,
        segment.len() as u16,
    );
    frame[22] == TTL - 1
        && checksum::verify(&frame[14..L4])
        && checksum::finish(pseudo + checksum::sum(segment)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::parse::parse;

    const TO: MacAddr = MacAddr([2; 6]);
    const FROM: MacAddr = MacAddr([4; 6]);

    fn head(frame: &[u8]) -> &Head {
        frame.first_chunk().unwrap()
    }

    fn frame(kind: Kind, length: usize, tuple: &Tuple<u32>) -> Vec<u8> {
        let template = Template::new(kind, Purpose::Fragment, length, TO, FROM);
        let mut frame = vec![0; template.length()];
        template.write_kind(&mut frame, tuple, 0x0102_fffe, 0xfffe_ffff, 9);
        assert_eq!(Purpose::of(head(&frame)), Some(Purpose::Fragment));
        frame
    }

    #[test]
    fn datagrams_are_valid_and_distinct() {
        let population = Population::new(10_000, 0, |_| true);
        let mut tuples = std::collections::HashSet::new();
        for flow in 0..10_000 {
            let tuple = population.tuple(flow);
            assert!(tuples.insert((tuple.source, tuple.source_port)));
            let mut frame = frame(Kind::Datagram, 60 + (flow as usize % 1455), &tuple);
            assert_eq!(source_of(head(&frame)), (tuple.source, tuple.source_port));
            assert_eq!(flow_of(head(&frame)), 0x0102_fffe);
            let parsed = parse(&frame).unwrap();
            assert_eq!(parsed.source_port, tuple.source_port);
            assert!(!is_sound(&frame), "nobody has decremented the TTL");
            crate::wire::ipv4::decrement_ttl(&mut frame, 14);
            assert!(is_sound(&frame));
            frame[45] ^= 1;
            assert!(!is_sound(&frame));
        }
    }

    #[test]
    fn the_other_kinds_are_valid() {
        let tuple = Population::new(1, 0, |_| true).tuple(0);
        let syn = frame(Kind::Syn, 60, &tuple);
        let parsed = parse(&syn).unwrap();
        assert_eq!((parsed.protocol, parsed.tcp_flags), (TCP, tcp::SYN));
        let segment = &syn[L4..L4 + 20];
        let mut zeroed = segment.to_vec();
        zeroed[16..18].fill(0);
        let sum = checksum::transport_v4(tuple.source, tuple.destination, TCP, &zeroed);
        assert_eq!(read_u16(segment, 16), sum);

        // Both pieces together are a valid datagram.
        let (mut first, mut second) = (vec![0; SMALLEST], vec![0; SMALLEST]);
        let piece = |kind| Template::new(kind, Purpose::Fragment, 60, TO, FROM);
        piece(Kind::FirstPiece).write_kind(&mut first, &tuple, 7, 8, 9);
        piece(Kind::SecondPiece).write_kind(&mut second, &tuple, 7, 8, 9);
        assert!(parse(&first).unwrap().fragment.more);
        assert_eq!(parse(&second).unwrap().fragment.offset, PIECE);
        let end = L4 + usize::from(PIECE);
        let mut whole = [&first[L4..end], &second[L4..end]].concat();
        whole[6..8].fill(0);
        let sum = checksum::transport_v4(tuple.source, tuple.destination, UDP, &whole);
        assert_eq!(read_u16(&first, L4 + 6), sum);
    }
}
