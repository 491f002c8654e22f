//! IPv4 header fields (RFC 791) and fragmentation.
//!
//! ```text
//!  0        1        2                 4
//!  | v, IHL | TOS    | total length    | identification  | flags, offset   |
//!  | TTL    | proto  | checksum        | source                            |
//!  | destination                       | options ...
//! ```
//!
//! Setters change one field and leave the checksum alone; [`apply_checksum`] brings it up to date with the
//! [`Delta`] of everything changed, once.

mod fragment;

pub use fragment::{Fragments, MIN_MTU, Piece, fragment, write_fragment};

use super::checksum::{self, Delta};
use super::{read_u8, read_u16, read_u32, write_u8, write_u16, write_u32};

/// Length of a header without options.
pub const HEADER: usize = 20;
/// In the flags and offset field: do not fragment.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// In the flags and offset field: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// In the flags and offset field: the offset, in units of 8 bytes.
pub const OFFSET_MASK: u16 = 0x1fff;
/// TTL of packets natgate makes itself.
pub const DEFAULT_TTL: u8 = 64;

/// Offset of the checksum field in the header.
const CHECKSUM: usize = 10;

/// Header length in bytes, options included: 0 to 60, as the packet claims.
#[inline]
pub fn header_length(frame: &[u8], l3: usize) -> usize {
    usize::from(read_u8(frame, l3) & 0x0f) * 4
}

/// Type of service: DSCP and ECN.
#[inline]
pub fn tos(frame: &[u8], l3: usize) -> u8 {
    read_u8(frame, l3 + 1)
}

/// Length of header and payload in bytes.
#[inline]
pub fn total_length(frame: &[u8], l3: usize) -> u16 {
    read_u16(frame, l3 + 2)
}

/// Identification.
#[inline]
pub fn id(frame: &[u8], l3: usize) -> u16 {
    read_u16(frame, l3 + 4)
}

/// Flags and fragment offset as one field: [`DONT_FRAGMENT`], [`MORE_FRAGMENTS`], [`OFFSET_MASK`].
#[inline]
pub fn flags_offset(frame: &[u8], l3: usize) -> u16 {
    read_u16(frame, l3 + 6)
}

/// Time to live.
#[inline]
pub fn ttl(frame: &[u8], l3: usize) -> u8 {
    read_u8(frame, l3 + 8)
}

/// Protocol number.
#[inline]
pub fn protocol(frame: &[u8], l3: usize) -> u8 {
    read_u8(frame, l3 + 9)
}

/// Header checksum.
#[inline]
pub fn checksum(frame: &[u8], l3: usize) -> u16 {
    read_u16(frame, l3 + CHECKSUM)
}

/// Source address.
#[inline]
pub fn source(frame: &[u8], l3: usize) -> u32 {
    read_u32(frame, l3 + 12)
}

/// Destination address.
#[inline]
pub fn destination(frame: &[u8], l3: usize) -> u32 {
    read_u32(frame, l3 + 16)
}

/// Sets the total length.
#[inline]
pub fn set_total_length(frame: &mut [u8], l3: usize, value: u16) {
    write_u16(frame, l3 + 2, value);
}

/// Sets the identification.
#[inline]
pub fn set_id(frame: &mut [u8], l3: usize, value: u16) {
    write_u16(frame, l3 + 4, value);
}

/// Sets flags and fragment offset.
#[inline]
pub fn set_flags_offset(frame: &mut [u8], l3: usize, value: u16) {
    write_u16(frame, l3 + 6, value);
}

/// Sets the TTL.
#[inline]
pub fn set_ttl(frame: &mut [u8], l3: usize, value: u8) {
    write_u8(frame, l3 + 8, value);
}

/// Sets the header checksum.
#[inline]
pub fn set_checksum(frame: &mut [u8], l3: usize, value: u16) {
    write_u16(frame, l3 + CHECKSUM, value);
}

/// Sets the source address.
#[inline]
pub fn set_source(frame: &mut [u8], l3: usize, value: u32) {
    write_u32(frame, l3 + 12, value);
}

/// Sets the destination address.
#[inline]
pub fn set_destination(frame: &mut [u8], l3: usize, value: u32) {
    write_u32(frame, l3 + 16, value);
}

/// Brings the header checksum up to date with a change of header fields.
#[inline]
pub fn apply_checksum(frame: &mut [u8], l3: usize, change: Delta) {
    let field = change.apply(checksum(frame, l3));
    set_checksum(frame, l3, field);
}

/// The checksum difference of a TTL change; the protocol beside it stays.
#[inline]
pub const fn ttl_delta(old: u8, new: u8) -> Delta {
    Delta::u16((old as u16) << 8, (new as u16) << 8)
}

/// Takes one off the TTL, unless it is 0, and corrects the checksum; returns what is left. The caller has
/// dropped packets that arrive with 1 or less (RFC 1812 section 5.3.1).
#[inline]
pub fn decrement_ttl(frame: &mut [u8], l3: usize) -> u8 {
    let old = ttl(frame, l3);
    let new = old.saturating_sub(1);
    set_ttl(frame, l3, new);
    apply_checksum(frame, l3, ttl_delta(old, new));
    new
}

/// Computes and writes the checksum of the header at `l3` from scratch; for headers made here.
pub fn fill_checksum(frame: &mut [u8], l3: usize) {
    let length = header_length(frame, l3);
    let header = frame.get(l3..).and_then(|packet| packet.get(..length));
    let field = checksum::ipv4_header(header.unwrap_or(&[]));
    set_checksum(frame, l3, field);
}

/// What a header made here says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type of service.
    pub tos: u8,
    /// Length of header and payload.
    pub total_length: u16,
    /// Identification.
    pub id: u16,
    /// Flags and offset.
    pub flags_offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
}

/// Writes a header without options, checksum included; returns 20, or 0 if `out` is shorter.
pub fn write_header(out: &mut [u8], header: &Header) -> usize {
    if out.len() < HEADER {
        return 0;
    }
    write_u8(out, 0, 0x45);
    write_u8(out, 1, header.tos);
    set_total_length(out, 0, header.total_length);
    set_id(out, 0, header.id);
    set_flags_offset(out, 0, header.flags_offset);
    set_ttl(out, 0, header.ttl);
    write_u8(out, 9, header.protocol);
    set_source(out, 0, header.source);
    set_destination(out, 0, header.destination);
    fill_checksum(out, 0);
    HEADER
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: [u8; 20] = [
        0x45, 0xb8, 0x05, 0xdc, 0x12, 0x34, 0x40, 0x03, 0x40, 0x11, 0xeb, 0xe1, 10, 1, 2, 3, 198,
        51, 100, 9,
    ];

    #[test]
    fn every_getter_on_golden_bytes() {
        let mut frame = vec![0xee; 14];
        frame.extend(GOLDEN);
        assert_eq!(header_length(&frame, 14), 20);
        assert_eq!(tos(&frame, 14), 0xb8);
        assert_eq!(total_length(&frame, 14), 1500);
        assert_eq!(id(&frame, 14), 0x1234);
        assert_eq!(flags_offset(&frame, 14), DONT_FRAGMENT | 3);
        assert_eq!((ttl(&frame, 14), protocol(&frame, 14)), (64, 17));
        assert_eq!(checksum(&frame, 14), 0xebe1);
        assert_eq!(
            (source(&frame, 14), destination(&frame, 14)),
            (0x0a01_0203, 0xc633_6409)
        );
    }

    #[test]
    fn setters_round_trip_and_the_checksum_follows() {
        let mut out = [0u8; 20];
        let header = Header {
            tos: 0xb8,
            total_length: 1500,
            id: 0x1234,
            flags_offset: DONT_FRAGMENT | 3,
            ttl: 64,
            protocol: 17,
            source: 0x0a01_0203,
            destination: 0xc633_6409,
        };
        assert_eq!(write_header(&mut out, &header), 20);
        assert!(checksum::verify(&out));
        assert_eq!(out, GOLDEN);
        assert_eq!(write_header(&mut [0; 19], &header), 0);
        let change = Delta::u32(source(&out, 0), 0xcb00_7101)
            .and(Delta::u32(destination(&out, 0), 1))
            .and(Delta::u16(id(&out, 0), 0xffff))
            .and(Delta::u16(total_length(&out, 0), 20))
            .and(Delta::u16(flags_offset(&out, 0), 0));
        set_source(&mut out, 0, 0xcb00_7101);
        set_destination(&mut out, 0, 1);
        set_id(&mut out, 0, 0xffff);
        set_total_length(&mut out, 0, 20);
        set_flags_offset(&mut out, 0, 0);
        apply_checksum(&mut out, 0, change);
        assert!(checksum::verify(&out));
        assert_eq!(
            (source(&out, 0), destination(&out, 0), id(&out, 0)),
            (0xcb00_7101, 1, 0xffff)
        );
    }

    #[test]
    fn ttl_counts_down_for_every_value() {
        for start in 0..=255u8 {
            let mut out = GOLDEN;
            set_ttl(&mut out, 0, start);
            fill_checksum(&mut out, 0);
            assert_eq!(decrement_ttl(&mut out, 0), start.saturating_sub(1));
            assert!(checksum::verify(&out));
        }
    }

    #[test]
    fn fields_of_a_header_that_begins_anywhere() {
        let mut frame = [&[0xee; 3][..], &[0; 20], &[0xee; 3]].concat();
        frame[3] = 0x45;
        set_total_length(&mut frame, 3, 0x0102);
        set_id(&mut frame, 3, 0x0304);
        set_flags_offset(&mut frame, 3, 0x0506);
        set_ttl(&mut frame, 3, 7);
        set_source(&mut frame, 3, 0x0809_0a0b);
        set_destination(&mut frame, 3, 0x0c0d_0e0f);
        set_checksum(&mut frame, 3, 0x1011);
        let expected = [
            0x45, 0, 1, 2, 3, 4, 5, 6, 7, 0, 0x10, 0x11, 8, 9, 10, 11, 12, 13, 14, 15,
        ];
        assert_eq!(frame[3..23], expected);
        assert_eq!(
            (&frame[..3], &frame[23..]),
            (&[0xee; 3][..], &[0xee; 3][..])
        );
        set_checksum(&mut frame, 3, 0);
        fill_checksum(&mut frame, 3);
        assert!(checksum::verify(&frame[3..23]));
        let sum = checksum(&frame, 3);
        apply_checksum(&mut frame, 3, ttl_delta(7, 200));
        set_ttl(&mut frame, 3, 200);
        assert!(checksum::verify(&frame[3..23]) && checksum(&frame, 3) != sum);
    }

    #[test]
    fn options_are_covered_by_the_checksum_that_is_filled_in() {
        let mut frame = [&GOLDEN[..], &[148, 4, 0, 0]].concat();
        frame[0] = 0x46;
        set_checksum(&mut frame, 0, 0);
        fill_checksum(&mut frame, 0);
        assert_eq!(header_length(&frame, 0), 24);
        assert!(checksum::verify(&frame));
    }
}
