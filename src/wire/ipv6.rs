//! IPv6 header fields (RFC 8200 section 3). There is no header checksum; the pseudo header covers addresses.
//!
//! ```text
//!  0                 4                 6        7
//!  | v, class, flow  | payload length  | next   | hop limit | source (16) | destination (16) |
//! ```

use super::{read_u8, read_u16, read_u32, read_u128, write_u8, write_u16, write_u32, write_u128};

/// Length of the fixed header.
pub const HEADER: usize = 40;
/// Smallest MTU an IPv6 link may have (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;
/// Hop limit of packets natgate makes itself.
pub const DEFAULT_HOP_LIMIT: u8 = 64;

/// Traffic class: DSCP and ECN.
#[inline]
pub fn traffic_class(frame: &[u8], l3: usize) -> u8 {
    (read_u16(frame, l3) >> 4) as u8
}

/// Flow label, 20 bits.
#[inline]
pub fn flow_label(frame: &[u8], l3: usize) -> u32 {
    read_u32(frame, l3) & 0x000f_ffff
}

/// Bytes behind the fixed header.
#[inline]
pub fn payload_length(frame: &[u8], l3: usize) -> u16 {
    read_u16(frame, l3 + 4)
}

/// Number of the first header behind the fixed one.
#[inline]
pub fn next_header(frame: &[u8], l3: usize) -> u8 {
    read_u8(frame, l3 + 6)
}

/// Hop limit.
#[inline]
pub fn hop_limit(frame: &[u8], l3: usize) -> u8 {
    read_u8(frame, l3 + 7)
}

/// Source address.
#[inline]
pub fn source(frame: &[u8], l3: usize) -> u128 {
    read_u128(frame, l3 + 8)
}

/// Destination address.
#[inline]
pub fn destination(frame: &[u8], l3: usize) -> u128 {
    read_u128(frame, l3 + 24)
}

/// Sets the payload length.
#[inline]
pub fn set_payload_length(frame: &mut [u8], l3: usize, value: u16) {
    write_u16(frame, l3 + 4, value);
}

/// Sets the hop limit.
#[inline]
pub fn set_hop_limit(frame: &mut [u8], l3: usize, value: u8) {
    write_u8(frame, l3 + 7, value);
}

/// Takes one off the hop limit, unless it is 0; returns what is left.
#[inline]
pub fn decrement_hop_limit(frame: &mut [u8], l3: usize) -> u8 {
    let left = hop_limit(frame, l3).saturating_sub(1);
    set_hop_limit(frame, l3, left);
    left
}

/// Sets the source address.
#[inline]
pub fn set_source(frame: &mut [u8], l3: usize, value: u128) {
    write_u128(frame, l3 + 8, value);
}

/// Sets the destination address.
#[inline]
pub fn set_destination(frame: &mut [u8], l3: usize, value: u128) {
    write_u128(frame, l3 + 24, value);
}

/// What a header made here says; traffic class and flow label are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes behind the header.
    pub payload_length: u16,
    /// Number of the header that follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: u128,
    /// Destination address.
    pub destination: u128,
}

/// Writes a fixed header; returns 40, or 0 if `out` is shorter.
pub fn write_header(out: &mut [u8], header: &Header) -> usize {
    if out.len() < HEADER {
        return 0;
    }
    write_u32(out, 0, 0x6000_0000);
    set_payload_length(out, 0, header.payload_length);
    write_u8(out, 6, header.next_header);
    set_hop_limit(out, 0, header.hop_limit);
    set_source(out, 0, header.source);
    set_destination(out, 0, header.destination);
    HEADER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn getters_and_setters() {
        let mut frame = vec![0u8; 54];
        frame[14..22].copy_from_slice(&[0x6b, 0x8a, 0xbc, 0xde, 0x01, 0x02, 58, 7]);
        assert_eq!(
            (traffic_class(&frame, 14), flow_label(&frame, 14)),
            (0xb8, 0x000a_bcde)
        );
        assert_eq!(
            (
                payload_length(&frame, 14),
                next_header(&frame, 14),
                hop_limit(&frame, 14)
            ),
            (0x0102, 58, 7)
        );
        assert_eq!(decrement_hop_limit(&mut frame, 14), 6);
        set_source(&mut frame, 14, 1 << 120);
        set_destination(&mut frame, 14, 2);
        assert_eq!((frame[22], frame[53]), (1, 2));
        assert_eq!((source(&frame, 14), destination(&frame, 14)), (1 << 120, 2));
        set_hop_limit(&mut frame, 14, 0);
        assert_eq!(decrement_hop_limit(&mut frame, 14), 0);

        let header = Header {
            payload_length: 8,
            next_header: 17,
            hop_limit: 64,
            source: 3,
            destination: 4,
        };
        assert_eq!(write_header(&mut frame, &header), 40);
        let read = etherparse::Ipv6HeaderSlice::from_slice(&frame).unwrap();
        assert_eq!(
            (
                read.payload_length(),
                read.hop_limit(),
                read.next_header().0
            ),
            (8, 64, 17)
        );
        assert_eq!(write_header(&mut frame[..39], &header), 0);
        assert_eq!(write_header(&mut frame[14..], &header), 40);
        assert_eq!((source(&frame, 14), destination(&frame, 14)), (3, 4));
        set_payload_length(&mut frame, 14, 0x1234);
        assert_eq!(frame[14..20], [0x60, 0, 0, 0, 0x12, 0x34]);
    }
}
