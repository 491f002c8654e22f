//! What a gateway sent, in words: what does not depend on its choice of ports and numbers.

use std::fmt::{self, Display, Formatter};

use natgate::base::PortId;
use natgate::wire::checksum;

use crate::PORTS;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The gateway's address outside, whose ports are its own choice.
const PUBLIC: [u8; 4] = [203, 0, 113, 1];

/// One packet in words, and the bytes that words leave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub text: String,
    pub rest: Vec<u8>,
}

impl Display for Reading {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads what one gateway sends in the course of a capture.
#[derive(Default)]
pub struct Reader {
    /// The gateway's ports, by first appearance.
    ports: Vec<(u8, u16)>,
    /// Pieces that wait for others, by port, addresses, protocol and number.
    pieces: Vec<(PortId, Vec<u8>)>,
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

impl Reader {
    /// The IPv4 packets among these frames; fragments are read when the last one of a datagram is there.
    pub fn read(&mut self, frames: &[(PortId, Vec<u8>)]) -> Vec<Reading> {
        let packets = frames.iter().filter(|(_, frame)| frame[12..14] == [8, 0]);
        packets
            .filter_map(|(port, frame)| {
                let header = 14 + usize::from(frame[14] & 15) * 4;
                assert!(checksum::verify(&frame[14..header]), "a header's sum");
                let length = usize::from(word(frame, 16));
                let packet = frame[14..14 + length].to_vec();
                let whole = self.whole(*port, packet)?;
                Some(self.packet(*port, &whole))
            })
            .collect()
    }

    /// A packet with its pieces put together, once they are all there.
    fn whole(&mut self, port: PortId, packet: Vec<u8>) -> Option<Vec<u8>> {
        const MORE: u16 = 0x2000;
        let offset = |packet: &[u8]| usize::from(word(packet, 6) & 0x1fff) * 8;
        if word(&packet, 6) & MORE == 0 && offset(&packet) == 0 {
            return Some(packet);
        }
        let same = |other: &(PortId, Vec<u8>)| {
            let other = (other.0, &other.1);
            let name = |p: &[u8]| (word(p, 4), p[9], p[12..20].to_vec());
            (other.0, name(other.1)) == (port, name(&packet))
        };
        let (mut own, others): (Vec<_>, Vec<_>) = self.pieces.drain(..).partition(same);
        self.pieces = others;
        if !own.iter().any(|(_, other)| *other == packet) {
            own.push((port, packet.clone()));
        }
        own.sort_by_key(|(_, piece)| offset(piece));
        let mut whole = packet[..20].to_vec();
        let joined = own.iter().all(|(_, piece)| {
            let fits = offset(piece) == whole.len() - 20;
            whole.extend(&piece[20..]);
            fits
        });
        let last = own
            .last()
            .is_some_and(|(_, piece)| word(piece, 6) & MORE == 0);
        if !joined || !last {
            self.pieces.extend(own);
            return None;
        }
        let length = whole.len() as u16;
        whole[2..4].copy_from_slice(&length.to_be_bytes());
        // Its number is the gateway's choice.
        whole[4..8].fill(0);
        Some(whole)
    }

    /// An endpoint; the gateway's own ports by order of appearance, in the bytes as well.
    fn end(&mut self, protocol: u8, address: [u8; 4], bytes: &mut [u8], at: usize) -> String {
        let address_text = std::net::Ipv4Addr::from(address);
        let Some(port) = bytes.get(at..at + 2).map(|_| word(bytes, at)) else {
            return address_text.to_string();
        };
        bytes[at..at + 2].fill(0);
        if address != PUBLIC {
            return format!("{address_text}:{port}");
        }
        let known = self.ports.iter().position(|own| *own == (protocol, port));
        let number = known.unwrap_or_else(|| {
            self.ports.push((protocol, port));
            self.ports.len() - 1
        });
        format!("{address_text}:#{number}")
    }

    fn packet(&mut self, port: PortId, packet: &[u8]) -> Reading {
        let mut words = vec![PORTS[port.index()].to_owned()];
        let ttl = packet[8];
        let (ends, rest) = self.inside(packet, true);
        words.push(ends);
        if ttl != 63 {
            words.push(format!("ttl {ttl}"));
        }
        if packet[1] != 0 {
            words.push(format!("tos {:#04x}", packet[1]));
        }
        if packet.len() > 600 {
            words.push(format!("{} bytes", packet.len()));
        }
        Reading {
            text: words.join(" "),
            rest,
        }
    }

    /// What a packet is, and the bytes of its payload as far as they are the same for any choice of ports. Of a quote,
    /// nothing can be said of sums.
    fn inside(&mut self, packet: &[u8], outer: bool) -> (String, Vec<u8>) {
        let header = usize::from(packet[0] & 15) * 4;
        let protocol = packet[9];
        let address = |at: usize| -> [u8; 4] { packet[at..at + 4].try_into().unwrap() };
        let (source, destination) = (address(12), address(16));
        let mut payload = packet[header..].to_vec();
        let options = packet[20..header].to_vec();
        let sum = match outer {
            true => sum(protocol, [source, destination], &mut payload),
            false => blank(protocol, &mut payload),
        };
        let text = match protocol {
            UDP | TCP => {
                let name = if protocol == UDP { "UDP" } else { "TCP" };
                let from = self.end(protocol, source, &mut payload, 0);
                let to = self.end(protocol, destination, &mut payload, 2);
                let flags = match payload.get(13) {
                    Some(flags) if protocol == TCP => named(*flags),
                    _ => String::new(),
                };
                format!("{name}{flags} {from} > {to}{sum}")
            }
            ICMP if payload.len() >= 8 => {
                let (kind, code) = (payload[0], payload[1]);
                let plain = |address: [u8; 4]| std::net::Ipv4Addr::from(address);
                let (from, to) = (plain(source), plain(destination));
                match kind {
                    0 | 8 => {
                        // Whose id it is depends on the direction.
                        let whose = if kind == 8 { source } else { destination };
                        let id = self.end(protocol, whose, &mut payload, 4);
                        let what = if kind == 8 { "ping" } else { "pong" };
                        format!("{what} {from} > {to} ({id}){sum}")
                    }
                    _ if payload.len() >= 28 && payload[8] >> 4 == 4 => {
                        let quote = payload.split_off(8);
                        let (about, rest) = self.inside(&quote, false);
                        payload.extend(rest);
                        format!("ICMP {kind}/{code} {from} > {to} about [{about}]{sum}")
                    }
                    _ => format!("ICMP {kind}/{code} {from} > {to}{sum}"),
                }
            }
            other => {
                let plain = |address: [u8; 4]| std::net::Ipv4Addr::from(address);
                format!(
                    "protocol {other} {} > {}",
                    plain(source),
                    plain(destination)
                )
            }
        };
        (text, [options, payload].concat())
    }
}

/// Where a protocol's checksum stands.
fn place(protocol: u8, payload: &[u8]) -> Option<usize> {
    let at = match protocol {
        UDP => 6,
        TCP => 16,
        ICMP => 2,
        _ => return None,
    };
    (payload.len() >= at + 2).then_some(at)
}

/// Takes a checksum out; says what is special about it.
fn sum(protocol: u8, ends: [[u8; 4]; 2], payload: &mut [u8]) -> &'static str {
    let Some(at) = place(protocol, payload) else {
        return "";
    };
    let mut bytes = payload.to_vec();
    if protocol != ICMP {
        bytes.splice(0..0, (payload.len() as u16).to_be_bytes());
        bytes.splice(0..0, [0, protocol]);
        bytes.splice(0..0, ends.concat());
    }
    let none = protocol == UDP && word(payload, at) == 0;
    payload[at..at + 2].fill(0);
    match checksum::verify(&bytes) {
        _ if none => " without sum",
        true => "",
        false => " sum wrong",
    }
}

/// Takes the checksum of a quote out.
fn blank(protocol: u8, payload: &mut [u8]) -> &'static str {
    if let Some(at) = place(protocol, payload) {
        payload[at..at + 2].fill(0);
    }
    ""
}

/// TCP's flags by letter.
fn named(flags: u8) -> String {
    let letters = "FSRPAU".chars().enumerate();
    let set: String = letters
        .filter(|(bit, _)| flags >> bit & 1 == 1)
        .map(|(_, letter)| letter)
        .collect();
    format!(" {}", if set.is_empty() { "-" } else { &set })
}
