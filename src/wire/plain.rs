//! The short way through a frame, for what nearly every frame carries: an IPv4 packet without options that is no fragment
//! and carries TCP or UDP.
//!
//! [`Plain::read`] checks all that [`parse`](super::parse::parse) checks of such a packet, reading each word of the headers
//! once, and keeps what a translator needs in the form it needs it: addresses and ports as one number each, as a flow
//! key has them. Whatever is not plain, or wrong in any way, goes the long way, which knows what to say about it.

use super::{ETHERTYPE_IPV4, ETHERTYPE_VLAN, TCP, UDP};
use crate::base::VlanId;
use crate::wire::tcp::possible_flags;

/// Bytes of an IPv4 header without options.
const IP_HEADER: usize = 20;
/// What every plain packet has: IP header and UDP header.
const LEAST: usize = IP_HEADER + 8;
/// Bytes below which a frame goes the long way: a tagged frame with a packet of the least size. Ethernet pads beyond.
pub const LEAST_FRAME: usize = 18 + LEAST;

/// A plain packet. Everything in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plain {
    /// Where the IP header begins: 14, or 18 with a tag.
    pub l3: u16,
    /// The 802.1Q tag.
    pub vlan: Option<VlanId>,
    /// Source in the low half, destination in the high half.
    pub addresses: u64,
    /// Source port in the low half, destination port in the high half.
    pub ports: u32,
    /// Bytes of the IP packet; the frame may go on with padding.
    pub ip_length: u16,
    /// TCP or UDP.
    pub protocol: u8,
    /// TTL as received; may be 0.
    pub ttl: u8,
    /// TCP flags, 0 for UDP.
    pub tcp_flags: u8,
}

impl Plain {
    /// Reads a frame; `None` when its packet is not plain, or anything is wrong with it.
    #[inline(always)]
    pub fn read(frame: &[u8]) -> Option<Plain> {
        let head = frame.first_chunk::<LEAST_FRAME>()?;
        match word(head, 12) {
            ETHERTYPE_IPV4 => packet::<14>(frame, head, None),
            // A priority tag and the reserved id are rare enough for the long way.
            ETHERTYPE_VLAN if word(head, 16) == ETHERTYPE_IPV4 => match word(head, 14) & 0x0fff {
                0 | 0x0fff => None,
                id => packet::<18>(frame, head, Some(VlanId(id))),
            },
            _ => None,
        }
    }
}

#[inline(always)]
fn word(head: &[u8; LEAST_FRAME], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

#[inline(always)]
fn eight(head: &[u8; LEAST_FRAME], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[at..at + 8]);
    u64::from_be_bytes(bytes)
}

/// Reads the packet that begins at `L3`.
#[inline(always)]
fn packet<const L3: usize>(
    frame: &[u8],
    head: &[u8; LEAST_FRAME],
    vlan: Option<VlanId>,
) -> Option<Plain> {
    let (first, second) = (eight(head, L3), eight(head, L3 + 8));
    let addresses = eight(head, L3 + 12);
    // Version 4, five words of header; neither "more fragments" nor an offset.
    if first & 0xff00_0000_0000_3fff != 0x4500_0000_0000_0000 {
        return None;
    }
    if !sums_up(first, second, addresses as u32) {
        return None;
    }
    let ip_length = (first >> 32) as u16;
    let segment = usize::from(ip_length).wrapping_sub(IP_HEADER);
    if L3 + usize::from(ip_length) > frame.len() || segment > usize::from(u16::MAX) {
        return None;
    }
    let protocol = (second >> 48) as u8;
    let tcp_flags = if protocol == UDP {
        let length = usize::from(word(head, L3 + 24));
        if length < 8 || length > segment {
            return None;
        }
        0
    } else if protocol == TCP {
        let &[offset, flags] = frame.get(L3 + IP_HEADER + 12..)?.first_chunk()?;
        let length = usize::from(offset >> 4) * 4;
        if length < 20 || length > segment || !possible_flags(flags) {
            return None;
        }
        flags
    } else {
        return None;
    };
    Some(Plain {
        l3: L3 as u16,
        vlan,
        addresses: addresses.rotate_left(32),
        ports: u32::from(word(head, L3 + 20)) | u32::from(word(head, L3 + 22)) << 16,
        ip_length,
        protocol,
        ttl: (second >> 56) as u8,
        tcp_flags,
    })
}

/// Whether the five words of an IPv4 header, its checksum among them, sum to minus zero (RFC 1071): sums of wider words
/// with the carry added back are sums of 16-bit words. That sum is a multiple of 65535, and not zero, which only a header
/// of zeros gives. Whether an odd number divides another shows in one multiplication by its inverse modulo 2⁶⁴: the
/// product is the quotient if it does, and too large to be one if not.
#[inline(always)]
fn sums_up(first: u64, second: u64, last: u32) -> bool {
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const _: () = assert!(INVERSE.wrapping_mul(0xffff) == 1);
    let (sum, carry) = first.overflowing_add(second);
    let (sum, more) = sum.overflowing_add(u64::from(last) + u64::from(carry));
    (sum + u64::from(more)).wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}
