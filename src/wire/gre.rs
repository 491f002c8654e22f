//! The enhanced GRE header that carries PPTP's calls (RFC 2637 section 4.1).

use super::{read_u16, write_u16};

/// Length of the header as far as it is always there.
pub const HEADER: usize = 8;

/// PPP in the protocol field.
const PPP: u16 = 0x880b;
/// The flag of the key field.
const KEY: u16 = 0x2000;
/// The flags that must not be set: checksum and routing; and the version, which is 1.
const FIXED: u16 = 0xc007;

/// The call a packet belongs to, as its receiver numbers it; `None` if `segment` is no call's, or its number 0.
#[inline]
pub fn call(segment: &[u8]) -> Option<u16> {
    let flags = read_u16(segment, 0);
    let is_call =
        segment.len() >= HEADER && flags & (KEY | FIXED) == KEY | 1 && read_u16(segment, 2) == PPP;
    let call = read_u16(segment, 6);
    (is_call && call != 0).then_some(call)
}

/// Sets the number of the call. There is no checksum over it.
#[inline]
pub fn set_call(frame: &mut [u8], l4: usize, call: u16) {
    write_u16(frame, l4 + 6, call);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_fields() {
        let mut packet = [0x30, 0x81, 0x88, 0x0b, 0, 4, 0x12, 0x34, 9, 9, 9, 9];
        assert_eq!(call(&packet), Some(0x1234));
        set_call(&mut packet, 0, 0xabcd);
        assert_eq!(call(&packet), Some(0xabcd));
        assert_eq!(packet[8..], [9, 9, 9, 9]);
        assert_eq!(call(&packet[..7]), None, "cut off");
        for (at, other) in [
            (0, 0x10),
            (0, 0xb0),
            (0, 0x70),
            (1, 0x80),
            (1, 0x82),
            (2, 0x08),
            (3, 0x0c),
            (0, 0x00),
            (1, 0x85),
        ] {
            let mut foreign = packet;
            foreign[at] = other;
            assert_eq!(call(&foreign), None, "{at} {other:#x}");
        }
        let mut frame = [&[0xee; 2][..], &packet].concat();
        set_call(&mut frame, 2, 0x0102);
        assert_eq!(frame[8..11], [1, 2, 9]);
        set_call(&mut packet, 0, 0);
        assert_eq!(call(&packet), None);
    }
}
