//! The Internet checksum (RFC 1071), in full and incrementally (RFC 1624).
//!
//! A translator must not recompute a checksum over a payload: it would hide damage, and cost a pass over
//! the packet. It applies the *difference* its rewrite makes. [`Delta`] is such a difference; it depends on
//! the rewritten fields alone, so a session can carry it ready-made.
//!
//! One's complement has two zeros. `0xffff` appears as a sum of any data that is a multiple of 65535, and
//! `0x0000` only as the sum of data that is all zero. Neither an IP header nor a pseudo header is all zero,
//! so a correct checksum field is never `0xffff`, and RFC 1624's equation 3 keeps it so. UDP alone gives a
//! meaning to the zero field ("no checksum") and writes a computed zero as `0xffff`: [`Delta::apply_udp`]
//! and [`for_udp`].

use super::{TCP, UDP};

/// The partial one's complement sum of `bytes` as big-endian 16-bit words, folded to 16 bits (at most
/// `0xffff`). An odd last byte counts as if followed by a zero byte. Sums of pieces may be added, provided
/// all but the last are of even length.
#[inline]
pub fn sum(bytes: &[u8]) -> u32 {
    // The sum is indifferent to byte order (RFC 1071 section 2B): add native words, swap the result once.
    let mut total: u64 = 0;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        if let Some(eight) = chunk.first_chunk() {
            let word = u64::from_ne_bytes(*eight);
            total += (word & 0xffff_ffff) + (word >> 32);
        }
    }
    let mut last = [0u8; 8];
    for (to, from) in last.iter_mut().zip(chunks.remainder()) {
        *to = *from;
    }
    let word = u64::from_ne_bytes(last);
    total += (word & 0xffff_ffff) + (word >> 32);
    let half = (total & 0xffff_ffff) + (total >> 32);
    let half = (half & 0xffff_ffff) + (half >> 32);
    u32::from(u16::from_be_bytes(fold(half as u32).to_ne_bytes()))
}

/// Folds carries into 16 bits.
#[inline]
const fn fold(value: u32) -> u16 {
    let value = (value & 0xffff) + (value >> 16);
    ((value & 0xffff) + (value >> 16)) as u16
}

/// The one's complement sum of two words: the carry comes back in at the low end.
#[inline(always)]
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum.wrapping_add(carry as u16)
}

/// Turns an accumulated sum into a checksum field: the complement of the folded sum.
#[inline]
pub const fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// Whether `bytes`, checksum field included, sum to minus zero: the checksum is right.
#[inline]
pub fn verify(bytes: &[u8]) -> bool {
    sum(bytes) == 0xffff
}

/// The checksum an IPv4 header should carry; the field's present value does not matter. `header` is the
/// header alone, options included; if shorter than the field's end the result is of no use.
#[inline]
pub fn ipv4_header(header: &[u8]) -> u16 {
    let carried = u32::from(super::read_u16(header, 10));
    // Taking the field out by adding its complement. With 0xffff - x added, an all-zero rest would give the
    // wrong zero, but the version nibble is never zero.
    finish(sum(header) + (0xffff - carried))
}

/// Sum of the IPv4 pseudo header (RFC 9293 section 3.1, RFC 768); `length` is that of header and payload.
#[inline]
pub fn pseudo_v4(source: u32, destination: u32, protocol: u8, length: u16) -> u32 {
    (source >> 16)
        + (source & 0xffff)
        + (destination >> 16)
        + (destination & 0xffff)
        + u32::from(protocol)
        + u32::from(length)
}

/// Sum of the IPv6 pseudo header (RFC 8200 section 8.1); `length` is that of header and payload.
#[inline]
pub fn pseudo_v6(source: u128, destination: u128, protocol: u8, length: u32) -> u32 {
    sum(&source.to_be_bytes())
        + sum(&destination.to_be_bytes())
        + u32::from(protocol)
        + (length >> 16)
        + (length & 0xffff)
}

/// The complement of the sum over pseudo header and `segment`. With the segment's checksum field zeroed this
/// is the checksum to send (for UDP pass it through [`for_udp`]); over a segment with a right checksum it
/// is 0. Segments beyond 65,535 bytes do not exist in IPv4; their length wraps.
#[inline]
pub fn transport_v4(source: u32, destination: u32, protocol: u8, segment: &[u8]) -> u16 {
    let pseudo = pseudo_v4(source, destination, protocol, segment.len() as u16);
    finish(pseudo + sum(segment))
}

/// The IPv6 counterpart of [`transport_v4`]; also for ICMPv6, whose checksum covers the pseudo header.
#[inline]
pub fn transport_v6(source: u128, destination: u128, protocol: u8, segment: &[u8]) -> u16 {
    let pseudo = pseudo_v6(source, destination, protocol, segment.len() as u32);
    finish(pseudo + sum(segment))
}

/// A computed checksum as UDP sends it: 0 means "none", so a computed 0 goes out as `0xffff` (RFC 768).
#[inline]
pub const fn for_udp(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// What a rewrite of 16-bit aligned fields does to a checksum that covers them: the one's complement sum of
/// new values minus old values. Order does not matter; differences add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Delta(u16);

impl Delta {
    /// Nothing changed.
    pub const NONE: Delta = Delta(0);

    /// A 16-bit field changes from `old` to `new`.
    #[inline]
    pub const fn u16(old: u16, new: u16) -> Delta {
        Delta(add(!old, new))
    }

    /// A 32-bit field changes from `old` to `new`: an IPv4 address.
    #[inline]
    pub const fn u32(old: u32, new: u32) -> Delta {
        let old = !old;
        Delta(fold(
            (old >> 16) + (old & 0xffff) + (new >> 16) + (new & 0xffff),
        ))
    }

    /// A 128-bit field changes from `old` to `new`: an IPv6 address.
    #[inline]
    pub fn u128(old: u128, new: u128) -> Delta {
        Delta(fold(sum(&(!old).to_be_bytes()) + sum(&new.to_be_bytes())))
    }

    /// Both changes.
    #[inline]
    pub const fn and(self, other: Delta) -> Delta {
        Delta(add(self.0, other.0))
    }

    /// This change, and one hop less in the TTL, which is the high byte of its word.
    #[inline]
    pub const fn and_hop(self) -> Delta {
        self.and(Delta::u16(0x0100, 0))
    }

    /// The change back.
    #[inline]
    pub const fn inverse(self) -> Delta {
        Delta(!self.0)
    }

    /// The same change for fields that start at an odd offset of the data summed (RFC 1071 section 2B).
    #[inline]
    pub const fn at_odd_offset(self) -> Delta {
        Delta(self.0.swap_bytes())
    }

    /// The new value of a checksum field: RFC 1624 equation 3, `HC' = ~(~HC + ~m + m')`. For IP, TCP, ICMP.
    // Implements: F7.
    #[inline]
    pub const fn apply(self, field: u16) -> u16 {
        !add(!field, self.0)
    }

    /// The new value of a UDP checksum field over IPv4: 0 ("no checksum") stays 0 (RFC 3022 section 4.1), a
    /// computed 0 becomes `0xffff` (RFC 768).
    #[inline]
    pub const fn apply_udp(self, field: u16) -> u16 {
        if field == 0 {
            0
        } else {
            for_udp(self.apply(field))
        }
    }

    /// [`Delta::apply_udp`] for UDP, [`Delta::apply`] for every other protocol.
    #[inline]
    pub const fn apply_to(self, protocol: u8, field: u16) -> u16 {
        if protocol == UDP {
            self.apply_udp(field)
        } else {
            self.apply(field)
        }
    }

    /// The value to store in a session.
    #[inline]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// A stored value back as a difference.
    #[inline]
    pub const fn from_raw(raw: u16) -> Delta {
        Delta(raw)
    }
}

/// Offset of the checksum field within a TCP or UDP header; nothing for protocols natgate does not rewrite.
#[inline]
pub const fn field_offset(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{read_u16, read_u32, write_u16, write_u32};

    /// The definition, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut total = 0u64;
        for pair in bytes.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while total >> 16 != 0 {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    /// Field values with the two zeros and their neighbours over-represented.
    fn field() -> impl Strategy<Value = u16> {
        prop_oneof![
            any::<u16>(),
            Just(0u16),
            Just(0xffff),
            Just(1),
            Just(0xfffe)
        ]
    }

    /// An IPv4 header as sent.
    const HEADER: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1,
        0xc0, 0xa8, 0, 0xc7,
    ];

    #[test]
    fn golden_ipv4_header() {
        assert!(verify(&HEADER));
        assert_eq!(ipv4_header(&HEADER), 0xb861);
    }

    #[test]
    fn a_hop_is_one_less_in_the_headers_ttl() {
        let mut header = HEADER;
        header[8] -= 1;
        let field = Delta::NONE.and_hop().apply(ipv4_header(&HEADER));
        assert_eq!(field, ipv4_header(&header));
    }

    #[test]
    fn the_pseudo_header_of_ipv6_has_long_lengths() {
        assert_eq!(pseudo_v6(0, 0, 6, 0x0003_0005), 6 + 3 + 5);
    }

    #[test]
    fn protocols_have_their_fields_and_zeros() {
        assert_eq!(field_offset(TCP), Some(16));
        assert_eq!(field_offset(UDP), Some(6));
        assert_eq!(field_offset(47), None);
        let change = Delta::u16(0x5555, 0x3285);
        assert_eq!(change.apply_to(TCP, 0xdd2f), 0);
        assert_eq!(change.apply_to(UDP, 0xdd2f), 0xffff);
        assert_eq!(change.apply_to(UDP, 0), 0);
        assert_eq!(change.apply_to(TCP, 0), change.apply(0));
        assert_ne!(change.apply(0), 0);
    }

    // Proves: F7.
    #[test]
    fn rfc1624_section_4_example() {
        assert_eq!(Delta::u16(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    // Proves: F8.
    #[test]
    fn udp_zeros() {
        let change = Delta::u16(0x5555, 0x3285);
        assert_eq!(
            change.apply_udp(0),
            0,
            "a sender without checksum must not be given one"
        );
        assert_eq!(
            change.apply_udp(0xdd2f),
            0xffff,
            "a computed zero would read as no checksum"
        );
        assert_eq!(Delta::u16(7, 7).apply_udp(0xffff), 0xffff);
        assert_eq!(Delta::NONE.apply_udp(0xffff), 0xffff);
        assert_eq!(Delta::NONE.inverse().apply(0x1234), 0x1234);
    }

    proptest! {
        #[test]
        fn sum_matches_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(sum(&bytes) as u16, slow(&bytes));
        }

        #[test]
        fn sum_of_saturated_bytes(length in 0usize..70_000) {
            let bytes = vec![0xff; length];
            prop_assert_eq!(sum(&bytes) as u16, slow(&bytes));
        }

        // Proves: F7.
        #[test]
        fn incremental_equals_full(
            words in proptest::collection::vec(field(), 10),
            position in 0usize..9,
            new in (field(), field()),
        ) {
            // A header: version nibble set, checksum in word 5, everything else arbitrary.
            let mut header = [0u8; 20];
            for (i, word) in words.iter().enumerate() {
                write_u16(&mut header, 2 * i, *word);
            }
            header[0] = 0x45;
            let field = ipv4_header(&header);
            write_u16(&mut header, 10, field);
            prop_assert!(verify(&header));
            let position = if position == 5 || position == 4 || position == 0 { 6 } else { position };
            let old = read_u32(&header, 2 * position);
            let new = u32::from(new.0) << 16 | u32::from(new.1);
            write_u32(&mut header, 2 * position, new);
            let change = Delta::u32(old, new);
            prop_assert_eq!(change.apply(field), ipv4_header(&header));
            prop_assert_eq!(change.inverse().apply(change.apply(field)), field);
            let parts = Delta::u16((old >> 16) as u16, (new >> 16) as u16).and(Delta::u16(old as u16, new as u16));
            prop_assert_eq!(parts.apply(field), ipv4_header(&header));
            prop_assert_eq!(Delta::from_raw(change.raw()), change);
        }

        #[test]
        fn incremental_udp_equals_full_v4_and_v6(
            payload in proptest::collection::vec(any::<u8>(), 0..60),
            addresses in any::<(u128, u128, u128)>(),
            ports in (field(), field(), field()),
        ) {
            let mut segment = vec![0u8; 8];
            segment.extend(payload);
            let length = segment.len() as u16;
            write_u16(&mut segment, 0, ports.0);
            write_u16(&mut segment, 2, ports.1);
            write_u16(&mut segment, 4, length);
            let (a, b, c) = addresses;
            let full_v4 = |a: u128, s: &[u8]| for_udp(transport_v4(a as u32, b as u32, UDP, s));
            let full_v6 = |a: u128, s: &[u8]| for_udp(transport_v6(a, b, UDP, s));
            let (before_v4, before_v6) = (full_v4(a, &segment), full_v6(a, &segment));
            write_u16(&mut segment, 0, ports.2);
            let port = Delta::u16(ports.0, ports.2);
            prop_assert_eq!(Delta::u32(a as u32, c as u32).and(port).apply_udp(before_v4), full_v4(c, &segment));
            prop_assert_eq!(Delta::u128(a, c).and(port).apply_udp(before_v6), full_v6(c, &segment));
            let field = full_v4(c, &segment);
            write_u16(&mut segment, 6, field);
            prop_assert_eq!(transport_v4(c as u32, b as u32, UDP, &segment), 0);
        }

        #[test]
        fn odd_offsets(mut bytes in proptest::collection::vec(1u8.., 8..40), new in any::<u16>(), at in 0usize..6) {
            let before = finish(sum(&bytes));
            let old = read_u16(&bytes, at);
            write_u16(&mut bytes, at, new);
            let change = Delta::u16(old, new);
            let change = if at % 2 == 1 { change.at_odd_offset() } else { change };
            prop_assert_eq!(change.apply(before), finish(sum(&bytes)));
        }
    }
}
