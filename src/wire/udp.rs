//! UDP header fields (RFC 768): source port, destination port, length, checksum.

use super::checksum::Delta;
use super::{read_u16, write_u16};

/// Length of the header.
pub const HEADER: usize = 8;
/// Offset of the checksum field in the header.
pub const CHECKSUM: usize = 6;

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

/// Length of header and payload.
#[inline]
pub fn length(frame: &[u8], l4: usize) -> u16 {
    read_u16(frame, l4 + 4)
}

/// Checksum; 0 is none.
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

/// Sets the length.
#[inline]
pub fn set_length(frame: &mut [u8], l4: usize, value: u16) {
    write_u16(frame, l4 + 4, value);
}

/// Sets the checksum.
#[inline]
pub fn set_checksum(frame: &mut [u8], l4: usize, value: u16) {
    write_u16(frame, l4 + CHECKSUM, value);
}

/// Brings the checksum up to date with a change of addresses or ports; "no checksum" stays.
#[inline]
pub fn apply_checksum(frame: &mut [u8], l4: usize, change: Delta) {
    let field = change.apply_udp(checksum(frame, l4));
    set_checksum(frame, l4, field);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_fields_and_zero_checksum() {
        let mut frame = [0xee, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(
            (source_port(&frame, 1), destination_port(&frame, 1)),
            (0x0102, 0x0304)
        );
        assert_eq!((length(&frame, 1), checksum(&frame, 1)), (0x0506, 0x0708));
        set_source_port(&mut frame, 1, 0x1112);
        set_destination_port(&mut frame, 1, 0x1314);
        set_length(&mut frame, 1, 0x1516);
        set_checksum(&mut frame, 1, 0);
        apply_checksum(&mut frame, 1, Delta::u16(1, 2));
        assert_eq!(frame, [0xee, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0, 0]);
        set_checksum(&mut frame, 1, 0xdd2f);
        apply_checksum(&mut frame, 1, Delta::u16(0x5555, 0x3285));
        assert_eq!(checksum(&frame, 1), 0xffff);
    }
}
