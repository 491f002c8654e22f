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
/// IP header and UDP header: what every plain packet has.
const LEAST: usize = IP_HEADER + 8;

/// A plain packet. Everything in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plain {
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

/// Offset and tag of the IPv4 packet in a frame; `None` when it carries something else.
#[inline(always)]
pub fn locate(frame: &[u8]) -> Option<(usize, Option<VlanId>)> {
    let head = frame.first_chunk::<18>()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    match word(12) {
        ETHERTYPE_IPV4 => Some((14, None)),
        // A priority tag and the reserved id are rare enough for the long way.
        ETHERTYPE_VLAN if word(16) == ETHERTYPE_IPV4 => match word(14) & 0x0fff {
            0 | 0x0fff => None,
            id => Some((18, Some(VlanId(id)))),
        },
        _ => None,
    }
}

impl Plain {
    /// Reads the IPv4 packet that `packet` begins with; `None` when it is not plain or anything is wrong with it.
    #[inline(always)]
    pub fn read(packet: &[u8]) -> Option<Plain> {
        let header = packet.first_chunk::<LEAST>()?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let eight = |at: usize| -> u64 {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        let (first, second) = (eight(0), eight(8));
        let addresses = eight(12);
        // Version 4, five words of header; neither "more fragments" nor an offset.
        if first & 0xff00_0000_0000_3fff != 0x4500_0000_0000_0000 {
            return None;
        }
        let halves = |eight: u64| (eight >> 32) + (eight & 0xffff_ffff);
        let sum = halves(first) + halves(second) + (addresses & 0xffff_ffff);
        let sum = (sum >> 32) + (sum & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        if (sum >> 16) + (sum & 0xffff) != 0xffff {
            return None;
        }
        let ip_length = (first >> 32) as u16;
        let segment = usize::from(ip_length).wrapping_sub(IP_HEADER);
        if usize::from(ip_length) > packet.len() || segment > usize::from(u16::MAX) {
            return None;
        }
        let protocol = (second >> 48) as u8;
        let tcp_flags = match protocol {
            UDP => {
                let length = usize::from(word(24));
                if length < 8 || length > segment {
                    return None;
                }
                0
            }
            TCP => {
                let tcp = packet.get(IP_HEADER..)?.first_chunk::<20>()?;
                let length = usize::from(tcp[12] >> 4) * 4;
                if length < 20 || length > segment || !possible_flags(tcp[13]) {
                    return None;
                }
                tcp[13]
            }
            _ => return None,
        };
        Some(Plain {
            addresses: addresses.rotate_left(32),
            ports: (u32::from(word(22)) << 16) | u32::from(word(20)),
            ip_length,
            protocol,
            ttl: (second >> 56) as u8,
            tcp_flags,
        })
    }
}
