//! Header layouts in place, parsing, incremental checksums.
//!
//! Everything here is a pure function of bytes: no policy, no state, no allocation, and no panic on any
//! input. A frame is checked once by [`parse::parse`]; what it returns says where the headers are, and the
//! modules named after the protocols read and write fields at those offsets.
//!
//! | module | protocol | RFC |
//! |---|---|---|
//! | [`ethernet`] | Ethernet II, one 802.1Q tag | 894 |
//! | [`arp`], [`nd`] | neighbour resolution | 826, 4861 |
//! | [`ipv4`], [`ipv6`] | network headers, fragmentation | 791, 8200 |
//! | [`tcp`], [`udp`], [`icmp`], [`reset`] | transports, ICMP errors, TCP resets | 9293, 768, 792, 4443 |
//! | [`datagram`] | whole UDP datagrams of the gateway's own | 768 |
//! | [`sctp`] | SCTP's header, the chunks that begin and end an association | 9260 |
//! | [`checksum`], [`crc32c`] | full and incremental checksums | 1071, 1624, 9260 |
//! | [`plain`] | the short way through plain TCP and UDP packets | 791, 9293, 768 |
//!
//! Numbers are in host order on this side of the accessors, in network order in the packet. Field
//! accessors take the frame and the offset of their header. A read beyond the end gives 0 and a write
//! beyond the end does nothing: a wrong offset must not take the worker down, and after `parse` it cannot
//! happen.

pub mod arp;
pub mod checksum;
pub mod crc32c;
pub mod datagram;
pub mod ethernet;
pub mod gre;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
mod mac;
pub mod nd;
pub mod parse;
pub mod plain;
pub mod reset;
pub mod sctp;
pub mod tcp;
pub mod udp;

pub use mac::{MacAddr, MacAddrError};
pub use parse::{
    Fragment, Network, Parsed, Quoted, Transport, parse, parse_quoted, parse_quoted_v6,
};

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag, which natgate does not forward.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of IGMP.
pub const IGMP: u8 = 2;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of DCCP.
pub const DCCP: u8 = 33;
/// IP protocol number of IPv6 in IP.
pub const IPV6: u8 = 41;
/// IP protocol number of GRE.
pub const GRE: u8 = 47;
/// IP protocol number of ESP.
pub const ESP: u8 = 50;
/// IP protocol number of AH.
pub const AH: u8 = 51;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;
/// IP protocol number of UDP-Lite.
pub const UDP_LITE: u8 = 136;
/// Next header: IPv6 hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: IPv6 routing header.
pub const ROUTING: u8 = 43;
/// Next header: IPv6 fragment header.
pub const FRAGMENT: u8 = 44;
/// Next header: nothing follows.
pub const NO_NEXT_HEADER: u8 = 59;
/// Next header: IPv6 destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// The `N` bytes at `offset`, or nothing if they do not all exist.
#[inline]
fn chunk<const N: usize>(bytes: &[u8], offset: usize) -> Option<&[u8; N]> {
    bytes.get(offset..)?.first_chunk()
}

/// Writable counterpart of [`chunk`].
#[inline]
fn chunk_mut<const N: usize>(bytes: &mut [u8], offset: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(offset..)?.first_chunk_mut()
}

/// The first eight bytes of a frame: its destination in the low six bytes, the first two of its source above.
#[inline(always)]
pub fn mac_word(frame: &[u8]) -> Option<u64> {
    frame.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The byte at `offset`; 0 beyond the end.
#[inline]
pub fn read_u8(bytes: &[u8], offset: usize) -> u8 {
    bytes.get(offset).copied().unwrap_or(0)
}

/// The big-endian 16-bit number at `offset`; 0 beyond the end.
#[inline]
pub fn read_u16(bytes: &[u8], offset: usize) -> u16 {
    chunk(bytes, offset).map_or(0, |c| u16::from_be_bytes(*c))
}

/// The big-endian 32-bit number at `offset`; 0 beyond the end.
#[inline]
pub fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    chunk(bytes, offset).map_or(0, |c| u32::from_be_bytes(*c))
}

/// The big-endian 128-bit number at `offset`; 0 beyond the end.
#[inline]
pub fn read_u128(bytes: &[u8], offset: usize) -> u128 {
    chunk(bytes, offset).map_or(0, |c| u128::from_be_bytes(*c))
}

/// Writes one byte at `offset`; does nothing beyond the end.
#[inline]
pub fn write_u8(bytes: &mut [u8], offset: usize, value: u8) {
    if let Some(byte) = bytes.get_mut(offset) {
        *byte = value;
    }
}

/// Writes a big-endian 16-bit number at `offset`; does nothing beyond the end.
#[inline]
pub fn write_u16(bytes: &mut [u8], offset: usize, value: u16) {
    if let Some(chunk) = chunk_mut(bytes, offset) {
        *chunk = value.to_be_bytes();
    }
}

/// Writes a big-endian 32-bit number at `offset`; does nothing beyond the end.
#[inline]
pub fn write_u32(bytes: &mut [u8], offset: usize, value: u32) {
    if let Some(chunk) = chunk_mut(bytes, offset) {
        *chunk = value.to_be_bytes();
    }
}

/// Writes a big-endian 128-bit number at `offset`; does nothing beyond the end.
#[inline]
pub fn write_u128(bytes: &mut [u8], offset: usize, value: u128) {
    if let Some(chunk) = chunk_mut(bytes, offset) {
        *chunk = value.to_be_bytes();
    }
}

/// The MAC address at `offset`; [`MacAddr::ZERO`] beyond the end.
#[inline]
pub fn read_mac(bytes: &[u8], offset: usize) -> MacAddr {
    chunk(bytes, offset).map_or(MacAddr::ZERO, |c| MacAddr(*c))
}

/// Writes a MAC address at `offset`; does nothing beyond the end.
#[inline]
pub fn write_mac(bytes: &mut [u8], offset: usize, value: MacAddr) {
    if let Some(chunk) = chunk_mut(bytes, offset) {
        *chunk = value.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_big_endian_and_the_end_is_harmless() {
        let mut bytes = [0u8; 20];
        write_u128(&mut bytes, 1, 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
        assert_eq!(
            bytes[1..17],
            std::array::from_fn::<u8, 16, _>(|i| i as u8 + 1)
        );
        assert_eq!(read_u16(&bytes, 1), 0x0102);
        assert_eq!(read_u32(&bytes, 2), 0x0203_0405);
        assert_eq!(read_u128(&bytes, 1) >> 120, 1);
        assert_eq!(read_u16(&bytes, 19), 0);
        assert_eq!(read_u32(&bytes, usize::MAX), 0);
        let before = bytes;
        write_u32(&mut bytes, 17, u32::MAX);
        write_u16(&mut bytes, usize::MAX, 1);
        write_mac(&mut bytes, 15, MacAddr::BROADCAST);
        assert_eq!(bytes, before, "a write past the end must not be partial");
    }

    #[test]
    fn what_is_not_there_whole_reads_as_zero_and_is_not_written() {
        let mut bytes = [0xee; 16];
        assert_eq!((read_u8(&bytes, 15), read_u8(&bytes, 16)), (0xee, 0));
        assert_eq!((read_u16(&bytes, 14), read_u16(&bytes, 15)), (0xeeee, 0));
        assert_eq!(
            (read_u32(&bytes, 12), read_u32(&bytes, 13)),
            (0xeeee_eeee, 0)
        );
        assert_eq!(
            (read_u128(&bytes, 0) >> 120, read_u128(&bytes, 1)),
            (0xee, 0)
        );
        assert_eq!(read_mac(&bytes, 10), MacAddr([0xee; 6]));
        assert_eq!(read_mac(&bytes, 11), MacAddr::ZERO);
        write_u8(&mut bytes, 16, 1);
        write_u16(&mut bytes, 15, 1);
        write_u32(&mut bytes, 13, 1);
        write_u128(&mut bytes, 1, 1);
        write_mac(&mut bytes, 11, MacAddr::ZERO);
        assert_eq!(bytes, [0xee; 16]);
        write_u8(&mut bytes, 15, 1);
        write_u16(&mut bytes, 13, 0x0203);
        write_u32(&mut bytes, 9, 0x0405_0607);
        write_mac(&mut bytes, 3, MacAddr([8, 9, 10, 11, 12, 13]));
        assert_eq!(bytes[..3], [0xee; 3]);
        assert_eq!(bytes[3..], [8, 9, 10, 11, 12, 13, 4, 5, 6, 7, 2, 3, 1]);
    }
}
