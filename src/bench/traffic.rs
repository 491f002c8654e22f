//! Generated traffic: flows, and what is read of a frame that comes back. Flows are computed, not stored: the generator
//! touches almost no memory of its own per flow. Addresses are numbers ([`Family`]).

use crate::bench::family::{Family, number};
use crate::flow::key::Tuple;
use crate::wire::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT, TCP, UDP, checksum, ipv6, read_u16, read_u32,
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

/// Where the IP header starts.
pub(super) const L3: usize = 14;
/// Where the transport header of a packet starts.
pub(super) const L4_IPV4: usize = L3 + 20;
/// See [`L4_IPV4`].
pub(super) const L4_IPV6: usize = L3 + ipv6::HEADER;
/// Where that of a piece of an IPv6 datagram starts: behind the fragment header.
pub(super) const L4_PIECE: usize = L4_IPV6 + 8;
/// Where a frame carries its flow number, then its sequence number, from its transport header.
pub(super) const FLOW_AT: usize = 8;
/// See [`FLOW_AT`].
pub(super) const SEQUENCE_AT: usize = 12;
/// As much of a packet as has to be looked at when it comes back, from the transport header.
const LOOKED_AT: usize = 16;
/// The largest frame.
pub const LARGEST: usize = 1514;
/// TTL of generated packets.
pub(super) const TTL: u8 = 64;

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
    pub fn leads_out(&self, frame: &Seen) -> bool {
        frame.destination == remote(frame.flow)
            && (!frame.has_ports || frame.destination_port == REMOTE_PORT)
    }

    /// Whether a frame that left the inside port goes to its flow's host, from where the flow went.
    #[inline]
    pub fn leads_in(&self, frame: &Seen) -> bool {
        let tuple = self.tuple(frame.flow);
        frame.source == tuple.destination
            && frame.destination == tuple.source
            && (!frame.has_ports || frame.destination_port == tuple.source_port)
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

/// What a frame is for. It travels in the type-of-service byte (IPv6: traffic class), which no translator changes.
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

    /// The type-of-service byte that tells it.
    pub(super) fn service(self) -> u8 {
        (self as u8) << Purpose::SHIFT
    }

    /// What a type-of-service byte tells.
    #[inline]
    fn told(service: u8) -> Option<Purpose> {
        Some(match service >> Purpose::SHIFT {
            0 => Purpose::Established,
            1 => Purpose::Opening,
            2 => Purpose::Fragment,
            3 => Purpose::Scan,
            _ => return None,
        })
    }
}

/// A frame of ours, as far as it is looked at when it comes back.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// What it is for.
    pub purpose: Purpose,
    /// The flow number it carries.
    pub flow: u32,
    /// The sequence number it carries.
    pub sequence: u32,
    /// Number of its source address.
    source: u32,
    /// Number of its destination address.
    destination: u32,
    /// Whether both addresses have numbers.
    pub is_numbered: bool,
    /// Whether there are ports: not in a later fragment.
    pub has_ports: bool,
    source_port: u16,
    destination_port: u16,
}

impl Seen {
    /// Looks at a frame; `None` if it is none of ours: not UDP or TCP over this family.
    #[inline(always)]
    pub fn read(family: Family, frame: &[u8]) -> Option<Seen> {
        match family {
            Family::Ipv4 => Seen::read_v4(frame),
            Family::Ipv6 => Seen::read_v6(frame),
        }
    }

    #[inline(always)]
    fn read_v4(frame: &[u8]) -> Option<Seen> {
        let head = frame.first_chunk::<{ L4_IPV4 + LOOKED_AT }>()?;
        if read_u16(head, 12) != ETHERTYPE_IPV4 || !matches!(head[23], UDP | TCP) {
            return None;
        }
        Some(Seen {
            purpose: Purpose::told(head[15])?,
            source: read_u32(head, 26),
            destination: read_u32(head, 30),
            is_numbered: true,
            has_ports: read_u16(head, 20) & 0x1fff == 0,
            ..Seen::behind(head, L4_IPV4)
        })
    }

    #[inline(always)]
    fn read_v6(frame: &[u8]) -> Option<Seen> {
        let head = frame.first_chunk::<{ L4_IPV6 + LOOKED_AT }>()?;
        if read_u16(head, 12) != ETHERTYPE_IPV6 {
            return None;
        }
        let behind = match head[20] {
            UDP | TCP => Seen::behind(head, L4_IPV6),
            FRAGMENT => Seen {
                has_ports: read_u16(head, L4_IPV6 + 2) & 0xfff8 == 0,
                ..Seen::behind(frame, L4_PIECE)
            },
            _ => return None,
        };
        let source = number(ipv6::source(head, L3));
        let destination = number(ipv6::destination(head, L3));
        Some(Seen {
            purpose: Purpose::told(ipv6::traffic_class(head, L3))?,
            is_numbered: source.is_some() && destination.is_some(),
            source: source.unwrap_or_default(),
            destination: destination.unwrap_or_default(),
            ..behind
        })
    }

    /// What lies from the transport header on.
    #[inline(always)]
    fn behind(bytes: &[u8], l4: usize) -> Seen {
        Seen {
            purpose: Purpose::Established,
            flow: read_u32(bytes, l4 + FLOW_AT),
            sequence: read_u32(bytes, l4 + SEQUENCE_AT),
            source: 0,
            destination: 0,
            is_numbered: false,
            has_ports: true,
            source_port: read_u16(bytes, l4),
            destination_port: read_u16(bytes, l4 + 2),
        }
    }

    /// Where a frame that has ports comes from: number of its address, port.
    #[inline]
    pub fn source(&self) -> (u32, u16) {
        (self.source, self.source_port)
    }
}

/// Whether everything a router must do to a whole UDP frame was done: TTL one less, every checksum right.
pub fn is_sound(family: Family, frame: &[u8]) -> bool {
    let (l4, end, ttl, header) = match family {
        Family::Ipv4 => {
            let end = L3 + usize::from(read_u16(frame, L3 + 2));
            let header = frame.get(L3..L4_IPV4).is_some_and(checksum::verify);
            (L4_IPV4, end, frame.get(22), header)
        }
        Family::Ipv6 => {
            let end = L4_IPV6 + usize::from(ipv6::payload_length(frame, L3));
            (L4_IPV6, end, frame.get(21), true)
        }
    };
    let Some(segment) = frame.get(l4..end) else {
        return false;
    };
    let length = segment.len() as u16;
    let pseudo = match family {
        Family::Ipv4 => checksum::pseudo_v4(read_u32(frame, 26), read_u32(frame, 30), UDP, length),
        Family::Ipv6 => checksum::pseudo_v6(
            ipv6::source(frame, L3),
            ipv6::destination(frame, L3),
            UDP,
            u32::from(length),
        ),
    };
    header && ttl == Some(&(TTL - 1)) && checksum::finish(pseudo + checksum::sum(segment)) == 0
}
