//! Whole UDP datagrams, from the IP header on (RFC 768): what the gateway itself says.

use super::{UDP, checksum, ipv4, ipv6, udp};

/// Writes an IPv4 packet with one datagram from and to an address and a port. With an identification it may be fragmented
/// on its way, without one it must not be (RFC 6864 section 4). Returns its length; 0 if `out` is too short or the payload too
/// long for IP.
pub fn write_v4(
    out: &mut [u8],
    (source, source_port): (u32, u16),
    (destination, destination_port): (u32, u16),
    id: Option<u16>,
    payload: &[u8],
) -> usize {
    let total = ipv4::HEADER + udp::HEADER + payload.len();
    let (Some(packet), Ok(total_length)) = (out.get_mut(..total), u16::try_from(total)) else {
        return 0;
    };
    let header = ipv4::Header {
        tos: 0,
        total_length,
        id: id.unwrap_or(0),
        flags_offset: if id.is_some() { 0 } else { ipv4::DONT_FRAGMENT },
        ttl: ipv4::DEFAULT_TTL,
        protocol: UDP,
        source,
        destination,
    };
    let (head, segment) = packet.split_at_mut(ipv4::HEADER);
    ipv4::write_header(head, &header);
    write_segment(segment, source_port, destination_port, payload);
    let sum = checksum::transport_v4(source, destination, UDP, segment);
    udp::set_checksum(segment, 0, checksum::for_udp(sum));
    total
}

/// The IPv6 counterpart of [`write_v4`]; routers never fragment it (RFC 8200 section 5).
pub fn write_v6(
    out: &mut [u8],
    (source, source_port): (u128, u16),
    (destination, destination_port): (u128, u16),
    payload: &[u8],
) -> usize {
    let length = udp::HEADER + payload.len();
    let total = ipv6::HEADER + length;
    let (Some(packet), Ok(payload_length)) = (out.get_mut(..total), u16::try_from(length)) else {
        return 0;
    };
    let header = ipv6::Header {
        payload_length,
        next_header: UDP,
        hop_limit: ipv6::DEFAULT_HOP_LIMIT,
        source,
        destination,
    };
    let (head, segment) = packet.split_at_mut(ipv6::HEADER);
    ipv6::write_header(head, &header);
    write_segment(segment, source_port, destination_port, payload);
    let sum = checksum::transport_v6(source, destination, UDP, segment);
    udp::set_checksum(segment, 0, checksum::for_udp(sum));
    total
}

/// Header and payload; the checksum is 0.
fn write_segment(segment: &mut [u8], source_port: u16, destination_port: u16, payload: &[u8]) {
    udp::set_source_port(segment, 0, source_port);
    udp::set_destination_port(segment, 0, destination_port);
    udp::set_length(segment, 0, segment.len() as u16);
    udp::set_checksum(segment, 0, 0);
    if let Some(room) = segment.get_mut(udp::HEADER..) {
        room.copy_from_slice(payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    /// What an independent reader makes of a packet: payload, and whether the datagram's checksum is right.
    fn read(packet: &[u8]) -> (Vec<u8>, bool, u16, u16) {
        let sliced = SlicedPacket::from_ip(packet).unwrap();
        let Some(TransportSlice::Udp(udp)) = &sliced.transport else {
            panic!("no datagram");
        };
        let header = udp.to_header();
        let sum = match sliced.net.as_ref().unwrap() {
            NetSlice::Ipv4(v4) => {
                let header_sum = v4.header().to_header().calc_header_checksum();
                assert_eq!(v4.header().header_checksum(), header_sum);
                header.calc_checksum_ipv4(&v4.header().to_header(), udp.payload())
            }
            NetSlice::Ipv6(v6) => {
                header.calc_checksum_ipv6(&v6.header().to_header(), udp.payload())
            }
            NetSlice::Arp(_) => panic!("no datagram"),
        };
        let right = sum.unwrap() == header.checksum;
        let payload = udp.payload().to_vec();
        (payload, right, header.source_port, header.destination_port)
    }

    #[test]
    fn an_independent_reader_agrees() {
        for payload in [&b""[..], b"a", b"seven b", &[0xff; 1400]] {
            let mut out = vec![0xee; 1500];
            let (from, to) = ((0x0a00_0001, 61000), (0xcb00_7109, 514));
            for id in [None, Some(7)] {
                let length = write_v4(&mut out, from, to, id, payload);
                let seen = read(&out[..length]);
                assert_eq!(seen, (payload.to_vec(), true, 61000, 514));
                assert_eq!(ipv4::id(&out, 0), id.unwrap_or(0));
                let fixed = ipv4::flags_offset(&out, 0) == ipv4::DONT_FRAGMENT;
                assert_eq!(fixed, id.is_none());
            }
            let length = write_v6(&mut out, (1 << 100, 61000), (9, 514), payload);
            let seen = read(&out[..length]);
            assert_eq!(seen, (payload.to_vec(), true, 61000, 514));
        }
    }

    #[test]
    fn nothing_is_written_where_it_does_not_fit() {
        let mut out = [0xee; 40];
        assert_eq!(write_v4(&mut out, (1, 1), (2, 2), None, &[0; 13]), 0);
        assert_eq!(write_v6(&mut out, (1, 1), (2, 2), &[]), 0);
        assert_eq!(out, [0xee; 40]);
        let mut large = vec![0; 70_000];
        assert_eq!(write_v4(&mut large, (1, 1), (2, 2), None, &[0; 65_508]), 0);
        assert_eq!(write_v6(&mut large, (1, 1), (2, 2), &[0; 65_528]), 0);
    }
}
