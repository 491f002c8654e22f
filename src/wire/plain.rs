//! The short way through a frame, for what nearly every frame carries: an IPv4 packet without options or an IPv6 packet
//! without extension headers that is no fragment and carries TCP or UDP.
//!
//! [`Plain::read`] checks all that [`parse`](super::parse::parse) checks of such a packet, reading each word of the headers
//! once, and keeps what a translator needs in the form it needs it: addresses and ports as a flow key has them. Whatever
//! is not plain, or wrong in any way, goes the long way, which knows what to say about it.

use super::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, TCP, UDP, ipv6};
use crate::base::VlanId;
use crate::wire::tcp::possible_flags;

/// Bytes of an IPv4 header without options.
const IP_HEADER: usize = 20;
/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// Bytes below which a frame goes the long way: a tagged frame with a packet of the least size, IP header and UDP header.
/// Ethernet pads beyond in IPv4.
pub const LEAST_V4: usize = 18 + IP_HEADER + UDP_HEADER;
/// The same of IPv6, of whose packets only empty datagrams and such with three bytes or less go the long way for it.
pub const LEAST_V6: usize = 18 + ipv6::HEADER + UDP_HEADER;

/// A plain packet, its addresses as `E`. Everything in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plain<E> {
    /// Where the IP header begins: 14, or 18 with a tag.
    pub l3: u16,
    /// The 802.1Q tag.
    pub vlan: Option<VlanId>,
    /// Source and destination.
    pub addresses: E,
    /// Source port in the low half, destination port in the high half.
    pub ports: u32,
    /// Bytes of the IP packet; the frame may go on with padding.
    pub ip_length: u16,
    /// TCP or UDP.
    pub protocol: u8,
    /// TTL or hop limit as received; may be 0.
    pub ttl: u8,
    /// TCP flags, 0 for UDP.
    pub tcp_flags: u8,
}

/// Both addresses of a packet. IPv4: one number, the source in the low half. IPv6: source, destination.
pub trait Ends: Copy {
    /// The EtherType of their packets.
    const ETHERTYPE: u16;
    /// As many bytes as a frame has at least.
    type Head: AsRef<[u8]> + AsMut<[u8]>;

    /// The beginning of a frame; `None` if it is shorter.
    fn head(frame: &[u8]) -> Option<&Self::Head>;
    /// The same, to change.
    fn head_mut(frame: &mut [u8]) -> Option<&mut Self::Head>;
    /// Reads the packet that begins at `L3`.
    fn packet<const L3: usize>(
        frame: &[u8],
        head: &Self::Head,
        vlan: Option<VlanId>,
    ) -> Option<Plain<Self>>;
}

impl<E: Ends> Plain<E> {
    /// Reads a frame; `None` when its packet is not plain, of another family, or anything is wrong with it.
    #[inline(always)]
    pub fn read(frame: &[u8]) -> Option<Plain<E>> {
        let head = E::head(frame)?;
        match word(head.as_ref(), 12) {
            ethertype if ethertype == E::ETHERTYPE => E::packet::<14>(frame, head, None),
            ETHERTYPE_VLAN if word(head.as_ref(), 16) == E::ETHERTYPE => {
                // A priority tag and the reserved id are rare enough for the long way.
                match word(head.as_ref(), 14) & 0x0fff {
                    0 | 0x0fff => None,
                    id => E::packet::<18>(frame, head, Some(VlanId(id))),
                }
            }
            _ => None,
        }
    }
}

impl Ends for u64 {
    const ETHERTYPE: u16 = ETHERTYPE_IPV4;
    type Head = [u8; LEAST_V4];

    #[inline(always)]
    fn head(frame: &[u8]) -> Option<&[u8; LEAST_V4]> {
        frame.first_chunk()
    }

    #[inline(always)]
    fn head_mut(frame: &mut [u8]) -> Option<&mut [u8; LEAST_V4]> {
        frame.first_chunk_mut()
    }

    #[inline(always)]
    fn packet<const L3: usize>(
        frame: &[u8],
        head: &[u8; LEAST_V4],
        vlan: Option<VlanId>,
    ) -> Option<Plain<u64>> {
        // As the words lie in memory of a little-endian machine: only what is kept needs turning round.
        let (first, second, ends) = (raw(head, L3), raw(head, L3 + 8), raw(head, L3 + 12));
        // Version 4, five words of header; neither "more fragments" nor an offset.
        const KIND: u64 = u64::from_le_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);
        if first & KIND != 0x45 || !sums_up(first, second, (ends >> 32) as u32) {
            return None;
        }
        let ip_length = ((first >> 16) as u16).swap_bytes();
        if L3 + usize::from(ip_length) > frame.len() {
            return None;
        }
        let protocol = (second >> 8) as u8;
        Some(Plain {
            l3: L3 as u16,
            vlan,
            addresses: ends.swap_bytes().rotate_left(32),
            ports: ports(head, L3 + IP_HEADER),
            ip_length,
            protocol,
            ttl: second as u8,
            tcp_flags: tcp_flags(frame, head, L3, L3 + IP_HEADER, protocol, ip_length)?,
        })
    }
}

impl Ends for [u128; 2] {
    const ETHERTYPE: u16 = ETHERTYPE_IPV6;
    type Head = [u8; LEAST_V6];

    #[inline(always)]
    fn head(frame: &[u8]) -> Option<&[u8; LEAST_V6]> {
        frame.first_chunk()
    }

    #[inline(always)]
    fn head_mut(frame: &mut [u8]) -> Option<&mut [u8; LEAST_V6]> {
        frame.first_chunk_mut()
    }

    #[inline(always)]
    fn packet<const L3: usize>(
        frame: &[u8],
        head: &[u8; LEAST_V6],
        vlan: Option<VlanId>,
    ) -> Option<Plain<[u128; 2]>> {
        let first = raw(head, L3).swap_bytes();
        let segment = first >> 16 & 0xffff;
        let ip_length = ipv6::HEADER as u64 + segment;
        // A length of 0 would announce a jumbogram; no checked segment is that short.
        if first >> 60 != 6 || ip_length > u64::from(u16::MAX) {
            return None;
        }
        if L3 + ip_length as usize > frame.len() {
            return None;
        }
        let protocol = (first >> 8) as u8;
        let l4 = L3 + ipv6::HEADER;
        Some(Plain {
            l3: L3 as u16,
            vlan,
            addresses: [sixteen(head, L3 + 8), sixteen(head, L3 + 24)],
            ports: ports(head, l4),
            ip_length: ip_length as u16,
            protocol,
            ttl: first as u8,
            tcp_flags: tcp_flags(frame, head, L3, l4, protocol, ip_length as u16)?,
        })
    }
}

#[inline(always)]
fn word(head: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

/// The eight bytes at `at`, the first the lowest.
#[inline(always)]
fn raw(head: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[inline(always)]
fn sixteen(head: &[u8], at: usize) -> u128 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&head[at..at + 16]);
    u128::from_be_bytes(bytes)
}

/// The ports of the transport header at `l4`.
#[inline(always)]
fn ports(head: &[u8], l4: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&head[l4..l4 + 4]);
    u32::from_be_bytes(bytes).rotate_left(16)
}

/// The flags of a TCP header at `l4`, 0 for a UDP header; `None` if it is neither, or if what its header says does not fit
/// into the `ip_length` bytes of a packet that begins at `l3`.
#[inline(always)]
fn tcp_flags(
    frame: &[u8],
    head: &[u8],
    l3: usize,
    l4: usize,
    protocol: u8,
    ip_length: u16,
) -> Option<u8> {
    let fits = |length: usize| l4 - l3 + length <= usize::from(ip_length);
    if protocol == UDP {
        let stated = usize::from(word(head, l4 + 4));
        (stated >= UDP_HEADER && fits(stated)).then_some(0)
    } else if protocol == TCP {
        let &[offset, flags] = frame.get(l4 + 12..)?.first_chunk()?;
        let header = usize::from(offset >> 4) * 4;
        (header >= 20 && fits(header) && possible_flags(flags)).then_some(flags)
    } else {
        None
    }
}

/// Whether the five words of an IPv4 header, its checksum among them, sum to minus zero (RFC 1071): sums of wider words
/// with the carry added back are sums of 16-bit words, in either byte order. That sum is a multiple of 65535, and not zero, which only a header
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

#[cfg(test)]
mod tests;
