//! ARP for IPv4 over Ethernet (RFC 826).

use super::{MacAddr, read_mac, read_u16, read_u32, write_mac, write_u16, write_u32};

/// Length of an ARP packet for IPv4 over Ethernet.
pub const LENGTH: usize = 28;
/// Operation: who has `target_ip`?
pub const REQUEST: u16 = 1;
/// Operation: `sender_ip` is at `sender_mac`.
pub const REPLY: u16 = 2;

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const PREFIX: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// An ARP packet. A gratuitous one has equal sender and target IP addresses; a probe (RFC 5227) has a
/// sender IP address of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// [`REQUEST`] or [`REPLY`]; others are for the receiver to ignore.
    pub operation: u16,
    /// Who speaks.
    pub sender_mac: MacAddr,
    /// Whose binding is announced.
    pub sender_ip: u32,
    /// In a request usually zero.
    pub target_mac: MacAddr,
    /// Who is asked, or answered.
    pub target_ip: u32,
}

impl Arp {
    /// Reads the packet at `l3`; nothing unless it is whole and about IPv4 over Ethernet.
    pub fn read(frame: &[u8], l3: usize) -> Option<Arp> {
        let packet = frame.get(l3..)?.get(..LENGTH)?;
        packet.starts_with(&PREFIX).then(|| Arp {
            operation: read_u16(packet, 6),
            sender_mac: read_mac(packet, 8),
            sender_ip: read_u32(packet, 14),
            target_mac: read_mac(packet, 18),
            target_ip: read_u32(packet, 24),
        })
    }

    /// Writes the packet; returns its length, 0 if `out` is shorter.
    pub fn write(&self, out: &mut [u8]) -> usize {
        let Some(packet) = out.get_mut(..LENGTH) else {
            return 0;
        };
        for (to, from) in packet.iter_mut().zip(PREFIX) {
            *to = from;
        }
        write_u16(packet, 6, self.operation);
        write_mac(packet, 8, self.sender_mac);
        write_u32(packet, 14, self.sender_ip);
        write_mac(packet, 18, self.target_mac);
        write_u32(packet, 24, self.target_ip);
        LENGTH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_request_round_trips() {
        let arp = Arp {
            operation: REQUEST,
            sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            sender_ip: 0x0a00_0001,
            target_mac: MacAddr::ZERO,
            target_ip: 0x0a00_0002,
        };
        let mut out = [0xaa; 29];
        assert_eq!(arp.write(&mut out), 28);
        let golden = [
            0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
            0xaa,
        ];
        assert_eq!(out, golden);
        assert_eq!(Arp::read(&out, 0), Some(arp));
        assert_eq!(Arp::read(&out, 2), None);
        assert_eq!(Arp::read(&out, 1), None, "not the Ethernet prefix");
        assert_eq!(Arp::read(&out[..27], 0), None);
        assert_eq!(Arp::read(&out, usize::MAX), None);
        assert_eq!(arp.write(&mut out[..27]), 0);
    }
}
