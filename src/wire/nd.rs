//! IPv6 neighbour discovery: solicitation and advertisement (RFC 4861 sections 4.3, 4.4, 7.1).
//!
//! ```text
//!  0      1      2          4                 8              24
//!  | type | code | checksum | flags, reserved | target (16)  | options: kind, length / 8, MAC
//! ```
//!
//! Messages are accepted with hop limit 255 only: nobody off the link can forge that.

use super::icmp::{V6_NEIGHBOUR_ADVERTISEMENT, V6_NEIGHBOUR_SOLICITATION};
use super::{
    ICMPV6, MacAddr, Network, Parsed, checksum, icmp, ipv6, read_mac, read_u8, read_u128,
    write_mac, write_u8, write_u128,
};

/// Hop limit of every neighbour discovery message.
pub const HOP_LIMIT: u8 = 255;
/// `ff02::1`: all nodes of the link.
pub const ALL_NODES: u128 = 0xff02_0000_0000_0000_0000_0000_0000_0001;
/// Length of a packet made here: IPv6 header, message, one link-layer option.
pub const PACKET: usize = ipv6::HEADER + MESSAGE + OPTION;

/// Length of a message without options.
const MESSAGE: usize = 24;
/// Length of a link-layer address option.
const OPTION: usize = 8;
/// Option kind: link-layer address of the sender.
const SOURCE_MAC: u8 = 1;
/// Option kind: link-layer address of the target.
const TARGET_MAC: u8 = 2;

/// Flags of an advertisement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The sender is a router.
    pub router: bool,
    /// This answers a solicitation.
    pub solicited: bool,
    /// Replaces an entry the receiver has.
    pub replace: bool,
}

/// A valid neighbour discovery message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who has `target`?
    Solicitation {
        /// The address asked for.
        target: u128,
        /// The asker's link-layer address, if it tells.
        source_mac: Option<MacAddr>,
    },
    /// `target` is at `target_mac`.
    Advertisement {
        /// The address announced.
        target: u128,
        /// Its link-layer address, if told; a unicast answer may leave it out.
        target_mac: Option<MacAddr>,
        /// Flags.
        flags: Flags,
    },
}

/// Whether an address is a multicast group.
#[inline]
pub const fn is_multicast(address: u128) -> bool {
    address >> 120 == 0xff
}

/// The group in which the owner of `address` is asked for it (RFC 4291 section 2.7.1): `ff02::1:ffXX:XXXX`.
#[inline]
pub const fn solicited_node(address: u128) -> u128 {
    0xff02_0000_0000_0000_0000_0001_ff00_0000 | (address & 0x00ff_ffff)
}

/// The Ethernet group of an IPv6 multicast address (RFC 2464 section 7): `33:33` and its last four bytes.
#[inline]
pub const fn multicast_mac(group: u128) -> MacAddr {
    let [a, b, c, d] = (group as u32).to_be_bytes();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Reads a neighbour solicitation or advertisement after the checks of RFC 4861 sections 7.1.1 and 7.1.2,
/// checksum included. Nothing for any other packet, and for a message that fails a check.
pub fn read(frame: &[u8], parsed: &Parsed) -> Option<Message> {
    let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
    let message = frame.get(l4..parsed.end())?;
    if parsed.network != Network::Ipv6
        || parsed.protocol != ICMPV6
        || parsed.fragment.is_fragment()
        || parsed.ttl != HOP_LIMIT
        || icmp::code(message, 0) != 0
        || message.len() < MESSAGE
    {
        return None;
    }
    let (source, destination) = (ipv6::source(frame, l3), ipv6::destination(frame, l3));
    if checksum::transport_v6(source, destination, ICMPV6, message) != 0 {
        return None;
    }
    let target = read_u128(message, 8);
    if is_multicast(target) {
        return None;
    }
    let options = message.get(MESSAGE..)?;
    match icmp::kind(message, 0) {
        V6_NEIGHBOUR_SOLICITATION => {
            let source_mac = link_layer(options, SOURCE_MAC)?;
            // Duplicate address detection: asked of the group, and with nothing to answer to.
            let detection = destination == solicited_node(target) && source_mac.is_none();
            (source != 0 || detection).then_some(Message::Solicitation { target, source_mac })
        }
        V6_NEIGHBOUR_ADVERTISEMENT => {
            let target_mac = link_layer(options, TARGET_MAC)?;
            let bits = read_u8(message, 4);
            let flags = Flags {
                router: bits & 0x80 != 0,
                solicited: bits & 0x40 != 0,
                replace: bits & 0x20 != 0,
            };
            (!(flags.solicited && is_multicast(destination))).then_some(Message::Advertisement {
                target,
                target_mac,
                flags,
            })
        }
        _ => None,
    }
}

/// The address of the first link-layer option of this kind. The outer `None` says that the options are
/// malformed, which voids the message.
fn link_layer(mut options: &[u8], kind: u8) -> Option<Option<MacAddr>> {
    let mut found = None;
    while !options.is_empty() {
        let length = usize::from(read_u8(options, 1)) * 8;
        let option = options.get(..length).filter(|o| !o.is_empty())?;
        if read_u8(option, 0) == kind && length == OPTION && found.is_none() {
            found = Some(read_mac(option, 2));
        }
        options = options.get(length..)?;
    }
    Some(found)
}

/// Writes a complete IPv6 packet that asks for `target`: to its solicited-node group, or to `unicast` when a
/// known neighbour is probed. Returns its length ([`PACKET`]), 0 if `out` is shorter. `source` must be an
/// address of the interface, not unspecified.
pub fn solicitation(
    out: &mut [u8],
    source: u128,
    source_mac: MacAddr,
    target: u128,
    unicast: Option<u128>,
) -> usize {
    let destination = unicast.unwrap_or(solicited_node(target));
    let option = (SOURCE_MAC, source_mac);
    let kind = V6_NEIGHBOUR_SOLICITATION;
    write(out, (source, destination), kind, 0, target, option)
}

/// Writes a complete IPv6 packet that announces `target` at `mac`. The answer to a solicitation from the
/// unspecified address goes to [`ALL_NODES`] without `solicited` (RFC 4861 section 7.2.4). Returns its
/// length ([`PACKET`]), 0 if `out` is shorter.
pub fn advertisement(
    out: &mut [u8],
    source: u128,
    destination: u128,
    target: u128,
    mac: MacAddr,
    flags: Flags,
) -> usize {
    let bits =
        u8::from(flags.router) << 7 | u8::from(flags.solicited) << 6 | u8::from(flags.replace) << 5;
    let option = (TARGET_MAC, mac);
    let kind = V6_NEIGHBOUR_ADVERTISEMENT;
    write(out, (source, destination), kind, bits, target, option)
}

/// Writes either message with one option.
fn write(
    out: &mut [u8],
    (source, destination): (u128, u128),
    kind: u8,
    flags: u8,
    target: u128,
    (option, mac): (u8, MacAddr),
) -> usize {
    let Some(packet) = out.get_mut(..PACKET) else {
        return 0;
    };
    let header = ipv6::Header {
        payload_length: (MESSAGE + OPTION) as u16,
        next_header: ICMPV6,
        hop_limit: HOP_LIMIT,
        source,
        destination,
    };
    ipv6::write_header(packet, &header);
    let message = packet.get_mut(ipv6::HEADER..).unwrap_or(&mut []);
    icmp::set_kind(message, 0, kind);
    icmp::set_code(message, 0, 0);
    icmp::set_checksum(message, 0, 0);
    icmp::set_rest(message, 0, u32::from(flags) << 24);
    write_u128(message, 8, target);
    write_u8(message, MESSAGE, option);
    write_u8(message, MESSAGE + 1, (OPTION / 8) as u8);
    write_mac(message, MESSAGE + 2, mac);
    let field = checksum::transport_v6(source, destination, ICMPV6, message);
    icmp::set_checksum(message, 0, field);
    PACKET
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Fragment, Transport, parse};

    const US: u128 = 0xfe80_0000_0000_0000_0000_0000_0000_0001;
    const THEM: u128 = 0x2001_0db8_0000_0000_0000_0000_0012_3456;
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn frame(write: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
        let mut out = vec![0xaa; 14 + PACKET];
        out[12..14].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(write(&mut out[14..]), PACKET);
        out
    }

    fn message(frame: &[u8]) -> Option<Message> {
        read(frame, &parse(frame).unwrap())
    }

    /// Recomputes the checksum, so that only the damage itself can be the cause of refusal.
    fn damaged(good: &[u8], at: usize, value: u8) -> Option<Message> {
        let mut frame = good.to_vec();
        frame[at] = value;
        icmp::set_checksum(&mut frame, 54, 0);
        let (source, destination) = (ipv6::source(&frame, 14), ipv6::destination(&frame, 14));
        let field = checksum::transport_v6(source, destination, ICMPV6, &frame[54..]);
        icmp::set_checksum(&mut frame, 54, field);
        message(&frame)
    }

    #[test]
    fn groups() {
        assert_eq!(
            solicited_node(THEM),
            0xff02_0000_0000_0000_0000_0001_ff12_3456
        );
        assert_eq!(
            multicast_mac(solicited_node(THEM)).to_string(),
            "33:33:ff:12:34:56"
        );
    }

    #[test]
    fn solicitation_round_trips() {
        let good = frame(|out| solicitation(out, US, MAC, THEM, None));
        assert_eq!(parse(&good).unwrap().transport, Transport::IcmpOther);
        assert_eq!(ipv6::destination(&good, 14), solicited_node(THEM));
        let expected = Message::Solicitation {
            target: THEM,
            source_mac: Some(MAC),
        };
        assert_eq!(message(&good), Some(expected));
        let probe = frame(|out| solicitation(out, US, MAC, THEM, Some(THEM)));
        assert_eq!(
            (ipv6::destination(&probe, 14), message(&probe)),
            (THEM, Some(expected))
        );
        assert_eq!(solicitation(&mut [0; PACKET - 1], US, MAC, THEM, None), 0);
    }

    #[test]
    fn forged_or_broken_messages_are_refused() {
        let good = frame(|out| solicitation(out, US, MAC, THEM, None));
        assert!(damaged(&good, 14, 0x60).is_some());
        assert_eq!(damaged(&good, 14 + 7, 254), None, "hop limit");
        assert_eq!(damaged(&good, 54 + 1, 1), None, "code");
        assert_eq!(damaged(&good, 54 + 8, 0xff), None, "multicast target");
        assert_eq!(damaged(&good, 54 + 25, 0), None, "option of length 0");
        assert_eq!(damaged(&good, 54 + 25, 2), None, "option past the end");
        assert_eq!(damaged(&good, 54, 134), None, "another type");
        let other = damaged(&good, 54 + 24, 99);
        assert_eq!(
            other,
            Some(Message::Solicitation {
                target: THEM,
                source_mac: None
            })
        );
        let mut bad = good.clone();
        bad[80] ^= 1;
        assert_eq!(message(&bad), None, "checksum");
        let from_nobody = frame(|out| solicitation(out, 0, MAC, THEM, None));
        assert_eq!(
            message(&from_nobody),
            None,
            "unspecified source with a source option"
        );
        assert!(
            damaged(&from_nobody, 54 + 24, 99).is_some(),
            "duplicate address detection"
        );
    }

    #[test]
    fn advertisement_round_trips() {
        for bits in 0..8u8 {
            let flags = Flags {
                router: bits & 1 != 0,
                solicited: bits & 2 != 0,
                replace: bits & 4 != 0,
            };
            let good = frame(|out| advertisement(out, THEM, US, THEM, MAC, flags));
            let expected = Message::Advertisement {
                target: THEM,
                target_mac: Some(MAC),
                flags,
            };
            assert_eq!(message(&good), Some(expected));
            let all = frame(|out| advertisement(out, THEM, ALL_NODES, THEM, MAC, flags));
            assert_eq!(message(&all).is_some(), !flags.solicited);
        }
    }

    #[test]
    fn a_message_needs_no_options() {
        let good = frame(|out| solicitation(out, US, MAC, THEM, None));
        // The payload ends behind the target, or in it.
        let cut = |length: u16| {
            let mut frame = good[..54 + usize::from(length)].to_vec();
            ipv6::set_payload_length(&mut frame, 14, length);
            damaged(&frame, 54, V6_NEIGHBOUR_SOLICITATION)
        };
        let expected = Message::Solicitation {
            target: THEM,
            source_mac: None,
        };
        assert_eq!(cut(24), Some(expected));
        assert_eq!(cut(23), None);
        assert_eq!(cut(25), None, "half an option");
    }

    #[test]
    fn what_the_header_says_must_fit() {
        let good = frame(|out| solicitation(out, US, MAC, THEM, None));
        let parsed = parse(&good).unwrap();
        assert!(read(&good, &parsed).is_some());
        for other in [
            Parsed {
                network: Network::Ipv4,
                ..parsed
            },
            Parsed {
                protocol: 17,
                ..parsed
            },
            Parsed { ttl: 64, ..parsed },
            Parsed {
                fragment: Fragment {
                    more: true,
                    ..Fragment::default()
                },
                ..parsed
            },
            Parsed {
                ip_length: parsed.ip_length + 1,
                ..parsed
            },
        ] {
            assert_eq!(read(&good, &other), None, "{other:?}");
        }
    }

    #[test]
    fn the_first_option_of_the_right_kind_and_length_counts() {
        let with = |options: &[u8]| {
            let good = frame(|out| solicitation(out, US, MAC, THEM, None));
            let mut frame = [&good[..54 + MESSAGE], options].concat();
            ipv6::set_payload_length(&mut frame, 14, (MESSAGE + options.len()) as u16);
            damaged(&frame, 54, V6_NEIGHBOUR_SOLICITATION)
        };
        let source = |mac: Option<[u8; 6]>| {
            let source_mac = mac.map(MacAddr);
            Some(Message::Solicitation {
                target: THEM,
                source_mac,
            })
        };
        let (one, two) = ([1, 1, 2, 0, 0, 0, 0, 8], [1, 1, 2, 0, 0, 0, 0, 9]);
        let (other, long) = ([2, 1, 2, 0, 0, 0, 0, 7], [1, 2, 3, 3, 3, 3, 3, 3]);
        assert_eq!(with(&one), source(Some([2, 0, 0, 0, 0, 8])));
        let both = [one, two].concat();
        assert_eq!(with(&both), source(Some([2, 0, 0, 0, 0, 8])));
        let behind = [other, two].concat();
        assert_eq!(with(&behind), source(Some([2, 0, 0, 0, 0, 9])));
        let sixteen = [long, [0; 8], two].concat();
        assert_eq!(with(&sixteen), source(Some([2, 0, 0, 0, 0, 9])));
        assert_eq!(with(&[other, other].concat()), source(None));
        assert_eq!(with(&[one, long].concat()), None, "the second is cut off");
        assert_eq!(with(&[one, [9, 0, 0, 0, 0, 0, 0, 0]].concat()), None);
    }

    #[test]
    fn detection_of_duplicates_asks_the_group() {
        let option_of_another_kind = 54 + MESSAGE;
        for (to, accepted) in [(None, true), (Some(THEM), false), (Some(ALL_NODES), false)] {
            let asked = frame(|out| solicitation(out, 0, MAC, THEM, to));
            let found = damaged(&asked, option_of_another_kind, 99);
            assert_eq!(found.is_some(), accepted, "{to:x?}");
        }
    }

    #[test]
    fn multicast_begins_with_eight_ones() {
        for (address, multicast) in [
            (ALL_NODES, true),
            (0xff << 120, true),
            (0xfe << 120, false),
            (0x7f << 120, false),
            (THEM, false),
            (0, false),
        ] {
            assert_eq!(is_multicast(address), multicast, "{address:x}");
        }
    }
}
