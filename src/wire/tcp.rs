//! TCP header fields (RFC 9293 section 3.1) and the maximum segment size option.
//!
//! ```text
//!  0                 2                 4
//!  | source port     | destination port | sequence                          |
//!  | acknowledgment                     | offset | flags | window           |
//!  | checksum         | urgent          | options ...
//! ```

use super::checksum::Delta;
use super::{read_u8, read_u16, read_u32, write_u16};

/// Length of a header without options.
pub const HEADER: usize = 20;
/// Offset of the checksum field in the header.
pub const CHECKSUM: usize = 16;
/// Flag FIN: the sender is done.
pub const FIN: u8 = 0x01;
/// Flag SYN: open.
pub const SYN: u8 = 0x02;
/// Flag RST: abort.
pub const RST: u8 = 0x04;
/// Flag PSH.
pub const PSH: u8 = 0x08;
/// Flag ACK: the acknowledgment number counts.
pub const ACK: u8 = 0x10;
/// Flag URG.
pub const URG: u8 = 0x20;

/// FIN, SYN, RST, PSH, ACK, URG: one of them is set in every segment.
const ANY_FLAG: u8 = 0x3f;

/// Whether a segment of a conforming host can carry these flags together (RFC 9293 section 3.1): some flag, and SYN
/// neither with FIN nor with RST.
#[inline]
pub const fn possible_flags(flags: u8) -> bool {
    flags & ANY_FLAG != 0 && (flags & SYN == 0 || flags & (FIN | RST) == 0)
}

/// Source port.
#[inline]
pub fn source_port(frame: &[u8], l4: usize) -> u16 {
    read_u16(frame, l4)
}

/// Destination port.
#[inline]
pub fn destination_port(frame: &[u8], l4: usize) -> u16 {
    read_u16(frame, l4 + 2)
}

/// Sequence number.
#[inline]
pub fn sequence(frame: &[u8], l4: usize) -> u32 {
    read_u32(frame, l4 + 4)
}

/// Acknowledgment number.
#[inline]
pub fn acknowledgment(frame: &[u8], l4: usize) -> u32 {
    read_u32(frame, l4 + 8)
}

/// Header length in bytes, options included: 0 to 60, as the segment claims.
#[inline]
pub fn header_length(frame: &[u8], l4: usize) -> usize {
    usize::from(read_u8(frame, l4 + 12) >> 4) * 4
}

/// Flags.
#[inline]
pub fn flags(frame: &[u8], l4: usize) -> u8 {
    read_u8(frame, l4 + 13)
}

/// Window, unscaled.
#[inline]
pub fn window(frame: &[u8], l4: usize) -> u16 {
    read_u16(frame, l4 + 14)
}

/// Checksum.
#[inline]
pub fn checksum(frame: &[u8], l4: usize) -> u16 {
    read_u16(frame, l4 + CHECKSUM)
}

/// Sets the source port.
#[inline]
pub fn set_source_port(frame: &mut [u8], l4: usize, value: u16) {
    write_u16(frame, l4, value);
}

/// Sets the destination port.
#[inline]
pub fn set_destination_port(frame: &mut [u8], l4: usize, value: u16) {
    write_u16(frame, l4 + 2, value);
}

/// Sets the checksum.
#[inline]
pub fn set_checksum(frame: &mut [u8], l4: usize, value: u16) {
    write_u16(frame, l4 + CHECKSUM, value);
}

/// Brings the checksum up to date with a change of addresses, ports or options.
#[inline]
pub fn apply_checksum(frame: &mut [u8], l4: usize, change: Delta) {
    let field = change.apply(checksum(frame, l4));
    set_checksum(frame, l4, field);
}

/// Offset in the frame of the value of the MSS option (RFC 9293 section 3.7.1), if the header has one.
fn mss_offset(frame: &[u8], l4: usize) -> Option<usize> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const MSS: u8 = 2;
    let end = frame.len().min(l4 + header_length(frame, l4));
    let mut at = l4 + HEADER;
    loop {
        match frame.get(at..end)? {
            [] | [END, ..] => return None,
            [NOP, ..] => at += 1,
            [MSS, 4, _, _, ..] => return Some(at + 2),
            [MSS, ..] | [_] | [_, 0, ..] => return None,
            [_, length, ..] => at += usize::from(*length),
        }
    }
}

/// The maximum segment size the header announces; meaningful in SYN segments only.
pub fn mss(frame: &[u8], l4: usize) -> Option<u16> {
    mss_offset(frame, l4).map(|at| read_u16(frame, at))
}

/// Lowers an announced maximum segment size to `max`, checksum included; never raises or adds one. Returns
/// whether it changed. The caller makes sure the segment is a SYN, and cuts `frame` at the end of the IP packet
/// if it is a first fragment: its options may go on in the next, and padding is not to be taken for them.
pub fn clamp_mss(frame: &mut [u8], l4: usize, max: u16) -> bool {
    let Some(at) = mss_offset(frame, l4) else {
        return false;
    };
    let old = read_u16(frame, at);
    if old <= max {
        return false;
    }
    write_u16(frame, at, max);
    let change = Delta::u16(old, max);
    // Options need not be aligned; a value at an odd offset sits across two words of the checksum.
    let change = if (at - l4).is_multiple_of(2) {
        change
    } else {
        change.at_odd_offset()
    };
    apply_checksum(frame, l4, change);
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::checksum::transport_v4;

    fn segment(options: &[u8]) -> Vec<u8> {
        let mut out = vec![
            0, 7, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, SYN, 0x10, 0x20, 0, 0, 0, 0,
        ];
        out[12] = (((20 + options.len()) / 4) << 4) as u8;
        out.extend(options);
        let field = transport_v4(1, 2, 6, &out);
        set_checksum(&mut out, 0, field);
        out
    }

    #[test]
    fn golden_fields() {
        let mut s = segment(&[1; 4]);
        assert_eq!((source_port(&s, 0), destination_port(&s, 0)), (7, 8));
        assert_eq!(
            (sequence(&s, 0), acknowledgment(&s, 0)),
            (0x0102_0304, 0x0506_0708)
        );
        assert_eq!(
            (header_length(&s, 0), flags(&s, 0), window(&s, 0)),
            (24, SYN, 0x1020)
        );
        let change = Delta::u16(7, 0x1234).and(Delta::u16(8, 0xffff));
        set_source_port(&mut s, 0, 0x1234);
        set_destination_port(&mut s, 0, 0xffff);
        apply_checksum(&mut s, 0, change);
        assert_eq!(transport_v4(1, 2, 6, &s), 0);
    }

    #[test]
    fn mss_is_found_and_lowered_at_any_alignment() {
        for options in [
            &[2, 4, 5, 0xb4][..],
            &[1, 2, 4, 5, 0xb4, 0, 0, 0],
            &[1, 1, 4, 2, 2, 4, 5, 0xb4],
            &[3, 3, 7, 2, 4, 5, 0xb4, 1],
        ] {
            let mut s = segment(options);
            assert_eq!(mss(&s, 0), Some(1460));
            assert!(!clamp_mss(&mut s, 0, 1460));
            assert!(clamp_mss(&mut s, 0, 1391));
            assert_eq!(mss(&s, 0), Some(1391));
            assert_eq!(transport_v4(1, 2, 6, &s), 0, "{options:?}");
        }
    }

    #[test]
    fn broken_options_are_left_alone() {
        for options in [
            &[][..],
            &[0, 2, 4, 5],
            &[2, 3, 5, 0xb4],
            &[8, 0, 2, 4],
            &[1, 1, 2, 4],
            &[8, 200, 2, 4],
        ] {
            let mut s = segment(options);
            s.extend([5, 0xb4, 5, 0xb4]); // payload that must not be taken for an option
            let before = s.clone();
            assert!(!clamp_mss(&mut s, 0, 500), "{options:?}");
            assert_eq!(s, before);
        }
    }

    proptest! {
        #[test]
        fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..90), l4 in 0usize..100) {
            clamp_mss(&mut bytes, l4, 500);
            prop_assert!(mss(&bytes, l4).is_none_or(|m| m <= 500));
        }
    }

    #[test]
    fn fields_of_a_header_that_begins_anywhere() {
        let mut frame = [&[0xee; 3][..], &segment(&[1; 4])].concat();
        assert_eq!(
            (source_port(&frame, 3), destination_port(&frame, 3)),
            (7, 8)
        );
        assert_eq!(
            (sequence(&frame, 3), acknowledgment(&frame, 3)),
            (0x0102_0304, 0x0506_0708)
        );
        assert_eq!(
            (
                header_length(&frame, 3),
                flags(&frame, 3),
                window(&frame, 3)
            ),
            (24, SYN, 0x1020)
        );
        set_source_port(&mut frame, 3, 0x1112);
        set_destination_port(&mut frame, 3, 0x1314);
        set_checksum(&mut frame, 3, 0x1516);
        assert_eq!(frame[3..7], [0x11, 0x12, 0x13, 0x14]);
        assert_eq!(
            (&frame[19..21], checksum(&frame, 3)),
            (&[0x15, 0x16][..], 0x1516)
        );
    }

    #[test]
    fn flags_that_go_together() {
        for flags in 0..=255u8 {
            let has = |flag: u8| flags & flag == flag;
            let some = [FIN, SYN, RST, PSH, ACK, URG].into_iter().any(has);
            let contradiction = has(SYN) && (has(FIN) || has(RST));
            assert_eq!(possible_flags(flags), some && !contradiction, "{flags:#x}");
        }
    }

    #[test]
    fn the_option_counts_as_far_as_the_header_reaches() {
        for (options, found) in [
            (&[2, 4, 5, 0xb4][..], Some(1460)),
            (&[1, 1, 1, 1, 2, 4, 5, 0xb4], Some(1460)),
            (
                &[4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 5, 0xb4],
                Some(1460),
            ),
            // The first of two.
            (&[2, 4, 5, 0xb4, 2, 4, 1, 1], Some(1460)),
            // Behind the end, or in another option.
            (&[0, 1, 1, 1, 2, 4, 5, 0xb4], None),
            (&[8, 8, 1, 1, 2, 4, 5, 0xb4], None),
            // Longer or shorter than it can be; cut off by the end of the header.
            (&[2, 5, 5, 0xb4, 1, 0, 0, 0], None),
            (&[2, 3, 5, 2, 4, 5, 0xb4, 0], None),
            (&[1, 2, 4, 5], None),
            (&[1, 1, 1, 2], None),
            (&[1, 1, 1, 8], None),
            // An option that takes no bytes, or more than there are.
            (&[9, 0, 2, 4, 5, 0xb4, 0, 0], None),
            (&[9, 9, 2, 4, 5, 0xb4, 0, 0], None),
        ] {
            let mut frame = [&[0xee; 4][..], &segment(options)].concat();
            frame.extend([0xb4, 2, 4, 5, 0xb4]); // payload
            assert_eq!(mss(&frame, 4), found, "{options:?}");
        }
    }

    #[test]
    fn a_frame_that_ends_in_the_option_has_none() {
        let whole = segment(&[1, 1, 1, 1, 2, 4, 5, 0xb4]);
        assert_eq!(mss(&whole, 0), Some(1460));
        assert!((0..whole.len()).all(|length| mss(&whole[..length], 0).is_none()));
    }
}
