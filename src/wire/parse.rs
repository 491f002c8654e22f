//! The one pass that checks a frame and says where its headers are.
//!
//! ```text
//!  0        12   14 (18 with a tag)            l4
//!  | MACs   |type| IP header, options, ext. hdr | TCP, UDP, ICMP ... | padding
//!                ^ l3                            ^ l4
//!                |<------------------ ip_length ------------------->|
//! ```
//!
//! [`parse`] is what every received frame goes through. The common case, an untagged IPv4 TCP or UDP packet
//! with a 20-byte header, runs straight through; everything else leaves for a cold function. What comes back
//! in [`Parsed`] is true for the bytes: offsets lie in the frame, lengths agree, the header checksum holds.
//! Nothing here judges addresses, nor the transport checksum, which a translator passes on (RFC 1624).
//!
//! ICMP errors quote the packet they are about; [`parse_quoted`] reads the quote, which may be cut short.

mod ip6;
mod quoted;
#[cfg(test)]
mod tests;

pub use quoted::{Quoted, parse_quoted, parse_quoted_v6};

use super::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, GRE, ICMP, ICMPV6, SCTP, TCP,
    UDP, chunk, gre, read_u8, read_u16, read_u32, sctp,
};
use crate::base::{DropReason, VlanId};

/// What the EtherType announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Network {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
    /// ARP.
    Arp,
}

/// What the packet is to a translator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Transport {
    /// TCP with a whole header.
    Tcp,
    /// UDP with a whole header.
    Udp,
    /// SCTP with a whole common header.
    Sctp,
    /// An ICMP query: echo, timestamp, information or address-mask request.
    IcmpQuery,
    /// The reply to such a query.
    IcmpReply,
    /// An ICMP error that quotes a packet: IPv4 types 3, 4, 11, 12; IPv6 types 1 to 4.
    IcmpError,
    /// Any other ICMP: redirects, router and neighbour discovery, multicast listeners.
    IcmpOther,
    /// A protocol without ports as far as natgate knows, or ARP, or an IPv6 chain not walked to its end.
    #[default]
    Other,
    /// A fragment other than the first: no transport header here.
    LaterFragment,
}

/// The fragmentation fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// More fragments follow.
    pub more: bool,
    /// Where this fragment's payload belongs, in bytes; a multiple of 8.
    pub offset: u16,
    /// Identification: 16 bits in IPv4 (read for every packet), 32 in IPv6 (0 without a fragment header).
    pub id: u32,
    /// Routers must not fragment it: DF in IPv4, always true in IPv6.
    pub dont_fragment: bool,
    /// Bytes the whole datagram has from its transport header on; no single piece tells it.
    pub datagram: Option<u16>,
}

impl Fragment {
    /// Whether the packet is a piece of a datagram. An IPv6 "atomic fragment" (offset 0, nothing follows;
    /// RFC 6946) is not.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        self.more || self.offset != 0
    }

    /// Whether the packet is the piece that holds the transport header.
    #[inline]
    pub const fn is_first(&self) -> bool {
        self.more && self.offset == 0
    }
}

/// A checked frame. All offsets are from the frame's first byte and lie within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The network protocol.
    pub network: Network,
    /// The kind of transport.
    pub transport: Transport,
    /// The 802.1Q tag, if one with an id (id 0, a priority tag, is none; `l3` still is 18).
    pub vlan: Option<VlanId>,
    /// Offset of the IP or ARP header: 14 or 18.
    pub l3: u16,
    /// Offset of the transport header; of the payload for later fragments. IPv6: behind extension headers.
    pub l4: u16,
    /// Bytes of the IP packet from `l3`; the frame may go on with padding. ARP: 28.
    pub ip_length: u16,
    /// IP protocol number; IPv6: of the upper layer, or of the header the walk stopped at. ARP: 0.
    pub protocol: u8,
    /// TTL or hop limit as received; may be 0.
    pub ttl: u8,
    /// TCP flags (byte 13 of the header), 0 for others.
    pub tcp_flags: u8,
    /// IPv4 source, 0 otherwise.
    pub source: u32,
    /// IPv4 destination, 0 otherwise.
    pub destination: u32,
    /// TCP, UDP and SCTP source port; identifier of an ICMP query; 0 otherwise.
    pub source_port: u16,
    /// TCP, UDP and SCTP destination port; identifier of an ICMP reply, so that a reply's tuple is its query's
    /// reversed; the call a packet of PPTP's GRE goes to; 0 otherwise.
    pub destination_port: u16,
    /// Fragmentation fields.
    pub fragment: Fragment,
}

impl Parsed {
    /// End of the IP packet in the frame.
    #[inline]
    pub const fn end(&self) -> usize {
        self.l3 as usize + self.ip_length as usize
    }

    /// Bytes from the transport header to the end of the IP packet.
    #[inline]
    pub const fn l4_length(&self) -> u16 {
        self.ip_length.saturating_sub(self.l4 - self.l3)
    }

    /// Bytes the datagram has from its transport header on, as far as that is known.
    #[inline]
    pub fn datagram_length(&self) -> Option<u16> {
        match self.fragment.is_fragment() {
            true => self.fragment.datagram,
            false => Some(self.l4_length()),
        }
    }

    /// What IP and transport checks start from.
    #[inline]
    fn at(network: Network, l3: usize, vlan: Option<VlanId>) -> Parsed {
        Parsed {
            network,
            transport: Transport::Other,
            vlan,
            l3: l3 as u16,
            l4: l3 as u16,
            ip_length: 0,
            protocol: 0,
            ttl: 0,
            tcp_flags: 0,
            source: 0,
            destination: 0,
            source_port: 0,
            destination_port: 0,
            fragment: Fragment::default(),
        }
    }
}

/// Checks a received frame (RFC 1812 section 5.2.2, RFC 8200, RFC 1858) and finds its headers.
///
/// # Errors
///
/// The reason to drop and count the frame by.
// Implements: F1.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    if read_u16(frame, 12) == ETHERTYPE_IPV4 {
        parse_ipv4(frame, 14, None)
    } else {
        parse_uncommon(frame)
    }
}

/// Tagged frames, IPv6 and ARP.
#[inline(never)]
fn parse_uncommon(frame: &[u8]) -> Result<Parsed, DropReason> {
    if frame.len() < 14 {
        return Err(DropReason::FrameShort);
    }
    let (ethertype, l3, vlan) = match read_u16(frame, 12) {
        ETHERTYPE_VLAN if frame.len() < 18 => return Err(DropReason::FrameShort),
        ETHERTYPE_VLAN => (read_u16(frame, 16), 18, tag(read_u16(frame, 14))?),
        other => (other, 14, None),
    };
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(frame, l3, vlan),
        ETHERTYPE_IPV6 => ip6::parse_ipv6(frame, l3, vlan),
        ETHERTYPE_ARP if frame.len() < l3 + 28 => Err(DropReason::FrameShort),
        ETHERTYPE_ARP => Ok(Parsed {
            l4: l3 as u16 + 28,
            ip_length: 28,
            ..Parsed::at(Network::Arp, l3, vlan)
        }),
        _ => Err(DropReason::FrameType),
    }
}

/// The VLAN of tag control information: id 0 is a priority tag, id 4095 is reserved (802.1Q section 9.6).
fn tag(control: u16) -> Result<Option<VlanId>, DropReason> {
    match control & 0x0fff {
        0 => Ok(None),
        0x0fff => Err(DropReason::UnknownVlan),
        id => Ok(Some(VlanId(id))),
    }
}

/// IPv4 at `l3`.
#[inline]
fn parse_ipv4(frame: &[u8], l3: usize, vlan: Option<VlanId>) -> Result<Parsed, DropReason> {
    let packet = frame.get(l3..).unwrap_or(&[]);
    let Some(header) = chunk::<20>(packet, 0) else {
        return Err(DropReason::FrameShort);
    };
    let header_length = if header[0] == 0x45 {
        if !super::checksum::verify(header) {
            return Err(DropReason::IpChecksum);
        }
        20
    } else {
        header_with_options(packet)?
    };
    let total = read_u16(header, 2);
    let Some(segment) = packet.get(header_length..usize::from(total)) else {
        return Err(DropReason::IpTotalLength);
    };
    let flags = read_u16(header, 6);
    let mut parsed = Parsed {
        l4: (l3 + header_length) as u16,
        ip_length: total,
        protocol: header[9],
        ttl: header[8],
        source: read_u32(header, 12),
        destination: read_u32(header, 16),
        fragment: Fragment {
            more: flags & 0x2000 != 0,
            offset: flags << 3,
            id: u32::from(read_u16(header, 4)),
            dont_fragment: flags & 0x4000 != 0,
            datagram: None,
        },
        ..Parsed::at(Network::Ipv4, l3, vlan)
    };
    if flags & 0x3fff != 0 {
        let end = u32::from(parsed.fragment.offset) + u32::from(total);
        fragment(&mut parsed, segment, end)?;
    } else {
        transport(&mut parsed, segment)?;
    }
    Ok(parsed)
}

/// The length of a header that is not the plain 20 bytes, its options checked.
#[cold]
fn header_with_options(packet: &[u8]) -> Result<usize, DropReason> {
    let first = read_u8(packet, 0);
    if first >> 4 != 4 {
        return Err(DropReason::IpVersion);
    }
    let length = usize::from(first & 0x0f) * 4;
    let Some(header) = packet.get(..length).filter(|_| length >= 20) else {
        return Err(DropReason::IpHeaderLength);
    };
    if !super::checksum::verify(header) {
        return Err(DropReason::IpChecksum);
    }
    options(header.get(20..).unwrap_or(&[]))?;
    Ok(length)
}

/// Walks IPv4 options (RFC 791 section 3.1): lengths must add up, source routes are refused (RFC 7126
/// sections 4.3 and 4.4).
// Implements: I10.
fn options(mut rest: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    while let Some((&kind, tail)) = rest.split_first() {
        rest = match kind {
            END => return Ok(()),
            NOP => tail,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(DropReason::IpSourceRoute),
            _ => {
                let length = usize::from(read_u8(tail, 0));
                match rest.get(length..) {
                    Some(next) if length >= 2 => next,
                    _ => return Err(DropReason::IpHeaderLength),
                }
            }
        };
    }
    Ok(())
}

/// A piece of a datagram that reaches to byte `end` of it. RFC 1858 section 3 and RFC 3128: no fragment may
/// rewrite the TCP header an earlier one brought, and the first must show enough to be judged.
// Implements: F11.
#[cold]
fn fragment(parsed: &mut Parsed, segment: &[u8], end: u32) -> Result<(), DropReason> {
    if end > 65_535 {
        return Err(DropReason::FragmentOversize);
    }
    if parsed.fragment.offset == 0 {
        return first_fragment(parsed, segment);
    }
    if segment.is_empty() || (parsed.protocol == TCP && parsed.fragment.offset == 8) {
        return Err(DropReason::FragmentTiny);
    }
    parsed.transport = Transport::LaterFragment;
    Ok(())
}

/// The transport header of a first fragment, which may hold less than the whole of it.
fn first_fragment(parsed: &mut Parsed, segment: &[u8]) -> Result<(), DropReason> {
    let needed = match (parsed.network, parsed.protocol) {
        // The checksum, which a translator has to correct, must be in the same piece as the ports.
        (_, TCP) => 20,
        (_, SCTP) => sctp::HEADER,
        (_, UDP) | (Network::Ipv4, ICMP) | (Network::Ipv6, ICMPV6) => 8,
        _ => 1,
    };
    if segment.len() < needed {
        return Err(DropReason::FragmentTiny);
    }
    match parsed.protocol {
        TCP if read_u8(segment, 12) >> 4 < 5 => Err(DropReason::L4Truncated),
        TCP => tcp_fields(parsed, segment),
        UDP if read_u16(segment, 4) < 8 => Err(DropReason::L4Length),
        UDP => {
            parsed.transport = Transport::Udp;
            ports(parsed, segment);
            Ok(())
        }
        _ => transport(parsed, segment),
    }
}

/// The transport header of an unfragmented packet; `segment` is all the packet behind the IP header.
#[inline]
fn transport(parsed: &mut Parsed, segment: &[u8]) -> Result<(), DropReason> {
    match parsed.protocol {
        TCP => {
            let Some(header) = chunk::<20>(segment, 0) else {
                return Err(DropReason::L4Truncated);
            };
            let length = usize::from(header[12] >> 4) * 4;
            if length < 20 || length > segment.len() {
                return Err(DropReason::L4Truncated);
            }
            tcp_fields(parsed, header)
        }
        UDP => {
            let Some(header) = chunk::<8>(segment, 0) else {
                return Err(DropReason::L4Truncated);
            };
            let length = usize::from(read_u16(header, 4));
            if length < 8 || length > segment.len() {
                return Err(DropReason::L4Length);
            }
            parsed.transport = Transport::Udp;
            ports(parsed, header);
            Ok(())
        }
        ICMP | ICMPV6 => icmp(parsed, segment),
        SCTP => {
            if segment.len() < sctp::HEADER {
                return Err(DropReason::L4Truncated);
            }
            parsed.transport = Transport::Sctp;
            ports(parsed, segment);
            Ok(())
        }
        GRE if parsed.network == Network::Ipv4 => {
            parsed.destination_port = gre::call(segment).unwrap_or(0);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Ports and flags of a segment.
#[inline]
fn tcp_fields(parsed: &mut Parsed, segment: &[u8]) -> Result<(), DropReason> {
    let flags = read_u8(segment, 13);
    if !super::tcp::possible_flags(flags) {
        return Err(DropReason::TcpFlags);
    }
    parsed.transport = Transport::Tcp;
    parsed.tcp_flags = flags;
    ports(parsed, segment);
    Ok(())
}

/// Source and destination port.
#[inline]
fn ports(parsed: &mut Parsed, segment: &[u8]) {
    parsed.source_port = read_u16(segment, 0);
    parsed.destination_port = read_u16(segment, 2);
}

/// ICMP of the packet's own family; the other family's number is a protocol like any other.
fn icmp(parsed: &mut Parsed, segment: &[u8]) -> Result<(), DropReason> {
    let version = if parsed.protocol == ICMP {
        Network::Ipv4
    } else {
        Network::Ipv6
    };
    if parsed.network != version {
        return Ok(());
    }
    if segment.len() < 8 {
        return Err(DropReason::L4Truncated);
    }
    parsed.transport = icmp_kind(version, read_u8(segment, 0));
    let id = read_u16(segment, 4);
    (parsed.source_port, parsed.destination_port) = icmp_ports(parsed.transport, id);
    Ok(())
}

/// Sorts ICMP types (RFC 792, RFC 950, RFC 4443). A redirect quotes a packet too, but it is a matter of one
/// link and never translated.
// Implements: I1, I11.
fn icmp_kind(network: Network, kind: u8) -> Transport {
    match (network, kind) {
        (Network::Ipv4, 8 | 13 | 15 | 17) | (Network::Ipv6, 128) => Transport::IcmpQuery,
        (Network::Ipv4, 0 | 14 | 16 | 18) | (Network::Ipv6, 129) => Transport::IcmpReply,
        (Network::Ipv4, 3 | 4 | 11 | 12) | (Network::Ipv6, 1..=4) => Transport::IcmpError,
        _ => Transport::IcmpOther,
    }
}

/// Where the identifier goes: the querier's side of the tuple.
fn icmp_ports(transport: Transport, id: u16) -> (u16, u16) {
    match transport {
        Transport::IcmpQuery => (id, 0),
        Transport::IcmpReply => (0, id),
        _ => (0, 0),
    }
}
