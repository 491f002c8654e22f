//! Ethernet II framing with at most one 802.1Q tag (RFC 894).
//!
//! ```text
//!  0             6             12     14            16     18
//!  | destination | source      | type |
//!  | destination | source      | 8100 | pri, DEI, id | type |
//! ```

use super::{ETHERTYPE_VLAN, MacAddr, read_mac, write_mac, write_u16};
use crate::base::VlanId;

/// Length of an untagged header.
pub const HEADER: usize = 14;
/// Length of a header with one tag.
pub const HEADER_TAGGED: usize = 18;
/// Shortest frame on the wire without its check sequence; shorter ones are padded by the device.
pub const MIN_FRAME: usize = 60;

/// Destination address.
#[inline]
pub fn destination(frame: &[u8]) -> MacAddr {
    read_mac(frame, 0)
}

/// Source address.
#[inline]
pub fn source(frame: &[u8]) -> MacAddr {
    read_mac(frame, 6)
}

/// Sets the destination address.
#[inline]
pub fn set_destination(frame: &mut [u8], mac: MacAddr) {
    write_mac(frame, 0, mac);
}

/// Sets the source address.
#[inline]
pub fn set_source(frame: &mut [u8], mac: MacAddr) {
    write_mac(frame, 6, mac);
}

/// Bytes a header for this VLAN takes.
#[inline]
pub const fn header_length(vlan: Option<VlanId>) -> usize {
    if vlan.is_some() {
        HEADER_TAGGED
    } else {
        HEADER
    }
}

/// Writes a header, with a tag of priority 0 if there is a VLAN; returns its length, 0 if `out` is shorter.
#[inline]
pub fn header(
    out: &mut [u8],
    destination: MacAddr,
    source: MacAddr,
    vlan: Option<VlanId>,
    ethertype: u16,
) -> usize {
    let length = header_length(vlan);
    if out.len() < length {
        return 0;
    }
    set_destination(out, destination);
    set_source(out, source);
    if let Some(vlan) = vlan {
        write_u16(out, 12, ETHERTYPE_VLAN);
        write_u16(out, 14, vlan.0 & 0x0fff);
    }
    write_u16(out, length - 2, ethertype);
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_headers() {
        let (to, from) = (MacAddr([1, 2, 3, 4, 5, 6]), MacAddr([7, 8, 9, 10, 11, 12]));
        let mut out = [0u8; 18];
        assert_eq!(header(&mut out, to, from, None, 0x0800), 14);
        assert_eq!(out[..14], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0]);
        assert_eq!((destination(&out), source(&out)), (to, from));
        assert_eq!(header(&mut out, to, from, Some(VlanId(0x123)), 0x86dd), 18);
        assert_eq!(out[12..], [0x81, 0, 1, 0x23, 0x86, 0xdd]);
        assert_eq!(header(&mut out[..17], to, from, Some(VlanId(1)), 0), 0);
        assert_eq!(header(&mut out[..13], to, from, None, 0), 0);
    }

    #[test]
    fn a_tag_has_no_priority_and_twelve_bits_of_id() {
        let mut out = [0xee; 20];
        assert_eq!(header_length(None), 14);
        assert_eq!(header_length(Some(VlanId(1))), 18);
        let mac = MacAddr::ZERO;
        assert_eq!(header(&mut out, mac, mac, Some(VlanId(0xffff)), 0x0800), 18);
        assert_eq!(out[14..], [0x0f, 0xff, 8, 0, 0xee, 0xee]);
    }
}
