//! IPv6: the fixed header and the chain of extension headers (RFC 8200).

use super::{DropReason, Fragment, Network, Parsed, VlanId, fragment, transport};
use crate::wire::{
    DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING, chunk, read_u8, read_u16, read_u32,
};

/// Extension headers walked at most. More make sense to nobody and cost a worker time (RFC 9098).
const MAX_HEADERS: usize = 8;

/// IPv6 at `l3`. A payload length of 0 would announce a jumbogram (RFC 2675), which no link here carries.
pub(super) fn parse_ipv6(
    frame: &[u8],
    l3: usize,
    vlan: Option<VlanId>,
) -> Result<Parsed, DropReason> {
    let bytes = frame.get(l3..).unwrap_or(&[]);
    let Some(header) = chunk::<40>(bytes, 0) else {
        return Err(DropReason::FrameShort);
    };
    if header[0] >> 4 != 6 {
        return Err(DropReason::IpVersion);
    }
    let payload = read_u16(header, 4);
    let total = payload.checked_add(40).filter(|_| payload != 0);
    let Some((total, packet)) = total.and_then(|t| Some((t, bytes.get(..usize::from(t))?))) else {
        return Err(DropReason::IpTotalLength);
    };
    let mut parsed = Parsed {
        ip_length: total,
        ttl: header[7],
        ..Parsed::at(Network::Ipv6, l3, vlan)
    };
    let chain = walk(packet)?;
    parsed.l4 = (l3 + chain.offset) as u16;
    parsed.protocol = chain.protocol;
    parsed.fragment = chain.fragment;
    let segment = packet.get(chain.offset..).unwrap_or(&[]);
    if parsed.fragment.is_fragment() {
        let end = u32::from(parsed.fragment.offset) + segment.len() as u32;
        fragment(&mut parsed, segment, end)?;
    } else if chain.complete {
        transport(&mut parsed, segment)?;
    }
    Ok(parsed)
}

/// Where a walk along the chain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Offset from the IPv6 header.
    pub(super) offset: usize,
    /// Number of the header there.
    pub(super) protocol: u8,
    /// Whether that header is the upper layer's, not one the walk gave up at.
    pub(super) complete: bool,
    /// Fields of the fragment header, if there was one.
    pub(super) fragment: Fragment,
}

/// Walks the chain of a packet that has its fixed header. Stops at the upper layer, at a later fragment's
/// payload, at a routing header with segments left, and at whatever else it does not know.
pub(super) fn walk(packet: &[u8]) -> Result<Chain, DropReason> {
    let mut chain = Chain {
        offset: 40,
        protocol: read_u8(packet, 6),
        complete: false,
        fragment: Fragment {
            dont_fragment: true,
            ..Fragment::default()
        },
    };
    let mut fragment_seen = false;
    for position in 0..MAX_HEADERS {
        let length = match chain.protocol {
            // Only directly behind the fixed header (RFC 8200 section 4.1).
            HOP_BY_HOP if position != 0 => return Ok(chain),
            FRAGMENT if fragment_seen => return Ok(chain),
            HOP_BY_HOP | DESTINATION_OPTIONS | ROUTING => {
                8 + 8 * usize::from(read_u8(packet, chain.offset + 1))
            }
            FRAGMENT => 8,
            _ => {
                chain.complete = true;
                return Ok(chain);
            }
        };
        let Some(header) = packet.get(chain.offset..chain.offset + length) else {
            // RFC 7112: a first fragment holds the whole chain.
            return Err(if chain.fragment.more {
                DropReason::FragmentTiny
            } else {
                DropReason::L4Truncated
            });
        };
        if chain.protocol == ROUTING && read_u8(header, 3) != 0 {
            return Ok(chain);
        }
        if chain.protocol == FRAGMENT {
            fragment_seen = true;
            let field = read_u16(header, 2);
            chain.fragment.offset = field & 0xfff8;
            chain.fragment.more = field & 1 != 0;
            chain.fragment.id = read_u32(header, 4);
        }
        chain.protocol = read_u8(header, 0);
        chain.offset += length;
        if chain.fragment.offset != 0 {
            return Ok(chain);
        }
    }
    Ok(chain)
}
