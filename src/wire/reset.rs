//! TCP resets that answer a segment as a closed port would (RFC 9293 section 3.10.7.1).

use super::tcp::{ACK, FIN, HEADER, RST, SYN};
use super::{Network, Parsed, TCP, Transport, checksum, ipv4, ipv6, tcp, write_u16, write_u32};

/// Sequence number, acknowledgment number and flags that make the sender of a segment believe a reset.
fn fields(frame: &[u8], offender: &Parsed) -> (u32, u32, u8) {
    let l4 = usize::from(offender.l4);
    let flags = offender.tcp_flags;
    if flags & ACK != 0 {
        return (tcp::acknowledgment(frame, l4), 0, RST);
    }
    // SYN and FIN occupy a sequence number each.
    let payload = usize::from(offender.l4_length()).saturating_sub(tcp::header_length(frame, l4));
    let occupied = payload as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let acknowledged = tcp::sequence(frame, l4).wrapping_add(occupied);
    (0, acknowledged, RST | ACK)
}

/// Whether a segment may be answered by a reset: it is none itself, whole, and undamaged.
fn answerable(frame: &[u8], offender: &Parsed) -> bool {
    let segment = frame.get(usize::from(offender.l4)..offender.end());
    let (Some(segment), Transport::Tcp) = (segment, offender.transport) else {
        return false;
    };
    let l3 = usize::from(offender.l3);
    let sum = match offender.network {
        Network::Ipv4 => {
            checksum::transport_v4(offender.source, offender.destination, TCP, segment)
        }
        _ => checksum::transport_v6(
            ipv6::source(frame, l3),
            ipv6::destination(frame, l3),
            TCP,
            segment,
        ),
    };
    offender.tcp_flags & RST == 0 && !offender.fragment.is_fragment() && sum == 0
}

/// Writes a bare TCP header that resets the offender's connection, without its checksum.
fn write_segment(out: &mut [u8], frame: &[u8], offender: &Parsed) {
    let (sequence, acknowledgment, flags) = fields(frame, offender);
    write_u16(out, 0, offender.destination_port);
    write_u16(out, 2, offender.source_port);
    write_u32(out, 4, sequence);
    write_u32(out, 8, acknowledgment);
    write_u16(out, 12, (HEADER as u16 / 4) << 12 | u16::from(flags));
    write_u32(out, 14, 0);
    write_u16(out, 18, 0);
}

/// Writes an IPv4 packet that resets the connection `offender` belongs to, as if its destination had sent it. Returns its
/// length; 0 when the segment is not to be answered or `out` is too short.
pub fn reset_v4(out: &mut [u8], frame: &[u8], offender: &Parsed) -> usize {
    const TOTAL: usize = ipv4::HEADER + HEADER;
    let Some(packet) = out.get_mut(..TOTAL).filter(|_| answerable(frame, offender)) else {
        return 0;
    };
    let (source, destination) = (offender.destination, offender.source);
    let header = ipv4::Header {
        tos: 0,
        total_length: TOTAL as u16,
        id: 0,
        flags_offset: ipv4::DONT_FRAGMENT,
        ttl: ipv4::DEFAULT_TTL,
        protocol: TCP,
        source,
        destination,
    };
    ipv4::write_header(packet, &header);
    let segment = packet.get_mut(ipv4::HEADER..).unwrap_or(&mut []);
    write_segment(segment, frame, offender);
    let sum = checksum::transport_v4(source, destination, TCP, segment);
    tcp::set_checksum(segment, 0, sum);
    TOTAL
}

/// The IPv6 counterpart of [`reset_v4`].
pub fn reset_v6(out: &mut [u8], frame: &[u8], offender: &Parsed) -> usize {
    const TOTAL: usize = ipv6::HEADER + HEADER;
    let Some(packet) = out.get_mut(..TOTAL).filter(|_| answerable(frame, offender)) else {
        return 0;
    };
    let l3 = usize::from(offender.l3);
    let (source, destination) = (ipv6::destination(frame, l3), ipv6::source(frame, l3));
    let header = ipv6::Header {
        payload_length: HEADER as u16,
        next_header: TCP,
        hop_limit: ipv6::DEFAULT_HOP_LIMIT,
        source,
        destination,
    };
    ipv6::write_header(packet, &header);
    let segment = packet.get_mut(ipv6::HEADER..).unwrap_or(&mut []);
    write_segment(segment, frame, offender);
    let sum = checksum::transport_v6(source, destination, TCP, segment);
    tcp::set_checksum(segment, 0, sum);
    TOTAL
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};

    use super::*;
    use crate::wire::{Fragment, parse};

    fn framed(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&[2; 12][..], &ethertype.to_be_bytes(), packet].concat()
    }

    /// The reset of a segment, read by an independent library.
    fn answer(frame: &[u8]) -> Option<TcpHeader> {
        let offender = parse(frame).unwrap();
        let mut out = [0xaa; 80];
        let (ethertype, length) = match offender.network {
            Network::Ipv4 => (0x0800, reset_v4(&mut out, frame, &offender)),
            _ => (0x86dd, reset_v6(&mut out, frame, &offender)),
        };
        let reply = framed(ethertype, out.get(..length).filter(|_| length > 0)?);
        let packet = SlicedPacket::from_ethernet(&reply).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
            panic!("no TCP: {reply:02x?}");
        };
        let header = tcp.to_header();
        let expected = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                assert_eq!(
                    (ip.header().source(), ip.header().destination()),
                    ([9; 4], [7; 4])
                );
                assert_eq!(
                    ip.header().header_checksum(),
                    ip.header().to_header().calc_header_checksum()
                );
                header.calc_checksum_ipv4_raw(ip.header().source(), ip.header().destination(), &[])
            }
            Some(NetSlice::Ipv6(ip)) => {
                assert_eq!(
                    (ip.header().source(), ip.header().destination()),
                    ([9; 16], [7; 16])
                );
                header.calc_checksum_ipv6_raw(ip.header().source(), ip.header().destination(), &[])
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(header.checksum, expected.unwrap());
        assert_eq!((header.source_port, header.destination_port), (80, 4000));
        Some(header)
    }

    fn segment(v6: bool, flags: &str, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 {
            ethernet.ipv6([7; 16], [9; 16], 5)
        } else {
            ethernet.ipv4([7; 4], [9; 4], 5)
        };
        let mut tcp = ip.tcp(4000, 80, 1000, 512);
        for flag in flags.chars() {
            tcp = match flag {
                'S' => tcp.syn(),
                'F' => tcp.fin(),
                'R' => tcp.rst(),
                _ => tcp.ack(77),
            };
        }
        let mut frame = Vec::new();
        tcp.write(&mut frame, payload).unwrap();
        frame
    }

    #[test]
    fn what_was_sent_is_acknowledged() {
        for v6 in [false, true] {
            let syn = answer(&segment(v6, "S", b"")).unwrap();
            assert!(syn.rst && syn.ack && !syn.syn);
            assert_eq!((syn.sequence_number, syn.acknowledgment_number), (0, 1001));
            let fin = answer(&segment(v6, "F", b"four")).unwrap();
            assert_eq!((fin.sequence_number, fin.acknowledgment_number), (0, 1005));
            let last = answer(&segment(v6, "FA", b"four")).unwrap();
            assert!(last.rst && !last.ack && !last.fin);
            assert_eq!((last.sequence_number, last.window_size), (77, 0));
            let opening = answer(&segment(v6, "S", b"cookie")).unwrap();
            assert_eq!(opening.acknowledgment_number, 1007);
            let data = answer(&segment(v6, "A", b"data")).unwrap();
            assert!(data.rst && !data.ack);
            assert_eq!((data.sequence_number, data.acknowledgment_number), (77, 0));
        }
    }

    #[test]
    fn resets_and_damaged_segments_stay_unanswered() {
        for v6 in [false, true] {
            assert_eq!(answer(&segment(v6, "R", b"")), None);
            assert_eq!(answer(&segment(v6, "RA", b"")), None);
            let mut damaged = segment(v6, "S", b"payload");
            *damaged.last_mut().unwrap() ^= 1;
            assert_eq!(answer(&damaged), None);
        }
        let offender = parse(&segment(false, "S", b"")).unwrap();
        assert_eq!(
            reset_v4(&mut [0; 39], &segment(false, "S", b""), &offender),
            0,
            "no room"
        );
    }

    #[test]
    fn only_whole_segments_of_tcp_are_answered_where_there_is_room() {
        for v6 in [false, true] {
            let frame = segment(v6, "S", b"payload");
            let offender = parse(&frame).unwrap();
            let write = |offender: &Parsed, room: usize| {
                let mut out = vec![0xaa; room];
                match v6 {
                    false => reset_v4(&mut out, &frame, offender),
                    true => reset_v6(&mut out, &frame, offender),
                }
            };
            let total = if v6 { 60 } else { 40 };
            assert_eq!(write(&offender, total), total);
            assert_eq!(write(&offender, total - 1), 0);
            let fragment = Fragment {
                more: true,
                ..offender.fragment
            };
            for other in [
                Parsed {
                    transport: Transport::Udp,
                    ..offender
                },
                Parsed {
                    fragment,
                    ..offender
                },
                Parsed {
                    ip_length: offender.ip_length + 1,
                    ..offender
                },
                Parsed {
                    ip_length: offender.ip_length - 1,
                    ..offender
                },
            ] {
                assert_eq!(write(&other, total), 0, "{other:?}");
            }
        }
    }
}
