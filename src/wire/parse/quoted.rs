//! The packet an ICMP error quotes (RFC 792, RFC 4443, RFC 5508 section 4).
//!
//! A quote may end anywhere behind its first 8 transport bytes, and may be followed by padding and
//! extensions (RFC 4884); lengths are therefore bounded by the quote's own length field.

use super::{Network, Transport, icmp_kind, icmp_ports, ip6};
use crate::base::DropReason;
use crate::wire::{
    GRE, ICMP, ICMPV6, SCTP, TCP, UDP, checksum, chunk, gre, read_u8, read_u16, read_u32,
};

/// A quoted packet. Offsets are from the quote's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// [`Network::Ipv4`] or [`Network::Ipv6`].
    pub network: Network,
    /// The kind of transport; never an ICMP error or a later fragment.
    pub transport: Transport,
    /// Offset of the transport header.
    pub l4: u16,
    /// Bytes of the packet's transport part the quote holds, from `l4`: at least 8. A checksum field beyond
    /// them (TCP's with less than 18) cannot be rewritten and need not be.
    pub available: u16,
    /// Length the quoted IP packet had, whatever part of it is quoted.
    pub ip_length: u16,
    /// It was the first fragment of a datagram.
    pub more: bool,
    /// IP protocol number; IPv6: as in [`Parsed::protocol`](super::Parsed::protocol).
    pub protocol: u8,
    /// IPv4 source, 0 otherwise.
    pub source: u32,
    /// IPv4 destination, 0 otherwise.
    pub destination: u32,
    /// Source port or query identifier, as in [`Parsed`](super::Parsed).
    pub source_port: u16,
    /// Destination port or reply identifier, as in [`Parsed`](super::Parsed).
    pub destination_port: u16,
}

/// Reads the IPv4 packet quoted by an ICMPv4 error; `packet` is what follows the ICMP header, to the end of
/// the enclosing IP packet. Options are skipped; the quoted transport checksum is not judged (RFC 5508
/// REQ-3b and c).
///
/// # Errors
///
/// `IpVersion`, `IpHeaderLength`, `IcmpInnerChecksum`; `IcmpInnerShort` for less than the IP header and 8
/// bytes or for a later fragment, which shows no flow; `IcmpType` for an error about an error.
// Implements: I3a, I3b, I3c.
pub fn parse_quoted(packet: &[u8]) -> Result<Quoted, DropReason> {
    let Some(fixed) = chunk::<20>(packet, 0) else {
        return Err(DropReason::IcmpInnerShort);
    };
    if fixed[0] >> 4 != 4 {
        return Err(DropReason::IpVersion);
    }
    let l4 = usize::from(fixed[0] & 0x0f) * 4;
    if l4 < 20 {
        return Err(DropReason::IpHeaderLength);
    }
    let Some(header) = packet.get(..l4) else {
        return Err(DropReason::IcmpInnerShort);
    };
    if !checksum::verify(header) {
        return Err(DropReason::IcmpInnerChecksum);
    }
    if read_u16(fixed, 6) & 0x1fff != 0 {
        return Err(DropReason::IcmpInnerShort);
    }
    let ip_length = read_u16(fixed, 2);
    let end = packet.len().min(usize::from(ip_length));
    let mut quoted = Quoted {
        network: Network::Ipv4,
        transport: Transport::Other,
        l4: l4 as u16,
        available: 0,
        ip_length,
        more: read_u16(fixed, 6) & 0x2000 != 0,
        protocol: fixed[9],
        source: read_u32(fixed, 12),
        destination: read_u32(fixed, 16),
        source_port: 0,
        destination_port: 0,
    };
    quoted_transport(&mut quoted, packet.get(l4..end).unwrap_or(&[]), true)?;
    Ok(quoted)
}

/// Reads the IPv6 packet quoted by an ICMPv6 error; see [`parse_quoted`]. Addresses are read from the quote
/// at offset 0.
///
/// # Errors
///
/// As [`parse_quoted`], without header length and checksum, which IPv6 does not have.
pub fn parse_quoted_v6(packet: &[u8]) -> Result<Quoted, DropReason> {
    let Some(fixed) = chunk::<40>(packet, 0) else {
        return Err(DropReason::IcmpInnerShort);
    };
    if fixed[0] >> 4 != 6 {
        return Err(DropReason::IpVersion);
    }
    let ip_length = read_u16(fixed, 4).saturating_add(40);
    let end = packet.len().min(usize::from(ip_length));
    let bytes = packet.get(..end).unwrap_or(&[]);
    let chain = ip6::walk(bytes).map_err(|_| DropReason::IcmpInnerShort)?;
    if chain.fragment.offset != 0 {
        return Err(DropReason::IcmpInnerShort);
    }
    let mut quoted = Quoted {
        network: Network::Ipv6,
        transport: Transport::Other,
        l4: chain.offset as u16,
        available: 0,
        ip_length,
        more: chain.fragment.more,
        protocol: chain.protocol,
        source: 0,
        destination: 0,
        source_port: 0,
        destination_port: 0,
    };
    let segment = bytes.get(chain.offset..).unwrap_or(&[]);
    quoted_transport(&mut quoted, segment, chain.complete)?;
    Ok(quoted)
}

/// Fills in what the transport bytes say; `complete` is false where an IPv6 chain was not walked to its end.
fn quoted_transport(quoted: &mut Quoted, segment: &[u8], complete: bool) -> Result<(), DropReason> {
    if segment.len() < 8 {
        return Err(DropReason::IcmpInnerShort);
    }
    // A slice of at most ip_length, a u16.
    quoted.available = segment.len() as u16;
    match (quoted.network, quoted.protocol) {
        _ if !complete => return Ok(()),
        (_, TCP) => quoted.transport = Transport::Tcp,
        (_, UDP) => quoted.transport = Transport::Udp,
        (_, SCTP) => quoted.transport = Transport::Sctp,
        (Network::Ipv4, ICMP) | (Network::Ipv6, ICMPV6) => {
            quoted.transport = icmp_kind(quoted.network, read_u8(segment, 0));
            if quoted.transport == Transport::IcmpError {
                return Err(DropReason::IcmpType);
            }
            (quoted.source_port, quoted.destination_port) =
                icmp_ports(quoted.transport, read_u16(segment, 4));
            return Ok(());
        }
        (Network::Ipv4, GRE) => {
            quoted.destination_port = gre::call(segment).unwrap_or(0);
            return Ok(());
        }
        _ => return Ok(()),
    }
    quoted.source_port = read_u16(segment, 0);
    quoted.destination_port = read_u16(segment, 2);
    Ok(())
}
