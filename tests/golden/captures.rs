//! Captures for the comparison with the kernel, beside the rows.

use natgate::base::PortId;
use natgate::wire::checksum;

use crate::common::row::Input;
use crate::common::*;
use crate::rows_icmp::{error, finish};

const CLIENT: End = ("10.0.0.2", 40000);
const SERVER: End = ("203.0.113.9", 80);
const PUBLIC: End = ("203.0.113.1", 40000);

/// A segment with numbers of its own; `length` bytes of payload.
fn segment(
    port: PortId,
    (from, to): (End, End),
    flags: u8,
    numbers: (u32, u32),
    length: usize,
) -> (PortId, Vec<u8>) {
    let mut frame = tcp(port, from, to, "");
    frame.extend(vec![0x2e; length]);
    frame[38..42].copy_from_slice(&numbers.0.to_be_bytes());
    frame[42..46].copy_from_slice(&numbers.1.to_be_bytes());
    frame[47] = flags;
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    sums(&mut frame);
    (port, frame)
}

/// Makes the sums of a frame right: the header's, options or not, and that of TCP or UDP.
fn sums(frame: &mut [u8]) {
    finish(&mut frame[14..]);
    let header = 14 + usize::from(frame[14] & 15) * 4;
    let at = header + if frame[23] == 6 { 16 } else { 6 };
    if !matches!(frame[23], 6 | 17) || frame.len() < at + 2 {
        return;
    }
    frame[at..at + 2].fill(0);
    let mut bytes = frame[26..34].to_vec();
    bytes.extend([0, frame[23]]);
    bytes.extend(((frame.len() - header) as u16).to_be_bytes());
    bytes.extend(&frame[header..]);
    let sum = checksum::finish(checksum::sum(&bytes));
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

const F: u8 = 1;
const S: u8 = 2;
const R: u8 = 4;
const A: u8 = 16;

/// Opened, used and closed, then asked for once more.
pub fn connection() -> Input {
    let (out, back) = ((CLIENT, SERVER), (SERVER, PUBLIC));
    in_order(vec![
        segment(LAN, out, S, (100, 0), 0),
        segment(WAN, back, S | A, (500, 101), 0),
        segment(LAN, out, A, (101, 501), 0),
        segment(LAN, out, A, (101, 501), 40),
        segment(WAN, back, A, (501, 141), 200),
        segment(LAN, out, F | A, (141, 701), 0),
        segment(WAN, back, F | A, (701, 142), 0),
        segment(LAN, out, A, (142, 702), 0),
        // The last acknowledgement was lost.
        segment(WAN, back, F | A, (701, 142), 0),
        segment(LAN, out, S, (9_000, 0), 0),
        segment(WAN, back, S | A, (7_000, 9_001), 0),
    ])
}

/// Resets: one that guesses, one that is right, and what comes after.
pub fn reset() -> Input {
    let (out, back) = ((CLIENT, SERVER), (SERVER, PUBLIC));
    in_order(vec![
        segment(LAN, out, S, (100, 0), 0),
        segment(WAN, back, S | A, (500, 101), 0),
        segment(LAN, out, A, (101, 501), 0),
        segment(WAN, back, R, (900_000, 0), 0),
        segment(WAN, back, A, (501, 101), 10),
        segment(WAN, back, R, (511, 0), 0),
        segment(WAN, back, A, (511, 101), 10),
        segment(LAN, out, A, (101, 521), 10),
    ])
}

/// Too large for the link outside, with and without leave to cut; then for a link beyond.
pub fn path_mtu() -> Input {
    let large = |dont: bool| {
        let mut frame = udp(LAN, ("10.0.0.2", 4500), SERVER, &[0x6d; 1372]);
        frame[20] = if dont { 0x40 } else { 0 };
        sums(&mut frame);
        (LAN, frame)
    };
    let sent = udp(WAN, ("203.0.113.1", 4500), SERVER, &[0x6d; 1200]);
    let mtu = [0, 0, 0x03, 0xe8];
    let told = error(
        WAN,
        "203.0.113.77",
        "203.0.113.1",
        (3, 4),
        mtu,
        &sent[14..42],
    );
    in_order(vec![
        large(true),
        large(false),
        (LAN, udp(LAN, ("10.0.0.2", 4500), SERVER, &[0x6d; 1200])),
        (WAN, told),
    ])
}

/// Segments that no connection sends.
pub fn odd_segments() -> Input {
    let to = |port: u16| ((CLIENT.0, port), SERVER);
    let from = |port: u16| (SERVER, (PUBLIC.0, port));
    in_order(vec![
        segment(LAN, to(1001), A, (1, 1), 10),
        segment(WAN, from(1001), A, (1, 11), 10),
        segment(LAN, to(1002), S | F, (1, 0), 0),
        segment(LAN, to(1003), 0, (1, 0), 0),
        segment(LAN, to(1004), F | 8 | 32, (1, 0), 0),
        segment(LAN, to(1005), R, (1, 0), 0),
        segment(LAN, to(1006), F | A, (1, 1), 0),
        segment(LAN, to(1007), S | A, (1, 1), 0),
        segment(WAN, from(1008), S, (1, 0), 0),
        segment(WAN, from(1009), R, (1, 0), 0),
        segment(LAN, to(1010), S | R, (1, 0), 0),
    ])
}

/// Packets with something unusual in their headers.
pub fn odd_packets() -> Input {
    let with = |mut frame: Vec<u8>, change: &dyn Fn(&mut Vec<u8>)| {
        change(&mut frame);
        sums(&mut frame);
        (PortId(u16::from(frame[5])), frame)
    };
    let good = || udp(LAN, CLIENT, SERVER, b"good");
    let options = |bytes: [u8; 4]| {
        with(good(), &|f| {
            f[14] = 0x46;
            f.splice(34..34, bytes);
            let total = (f.len() - 14) as u16;
            f[16..18].copy_from_slice(&total.to_be_bytes());
        })
    };
    let protocol = |number: u8| with(good(), &|f| f[23] = number);
    in_order(vec![
        // No operations; a record of the route that is full; a router alert; a source route.
        options([1, 1, 1, 0]),
        options([7, 3, 4, 0]),
        options([148, 4, 0, 0]),
        options([131, 3, 4, 0]),
        protocol(47),
        protocol(50),
        protocol(253),
        with(good(), &|f| f[15] = 0xb8),
        with(good(), &|f| f[22] = 0),
        with(good(), &|f| f[34..36].fill(0)),
        with(good(), &|f| f[36..38].fill(0)),
        // An end in the middle of its header.
        with(good(), &|f| {
            f.truncate(38);
            f[16..18].copy_from_slice(&24u16.to_be_bytes());
        }),
        // A sum that is wrong.
        {
            let mut frame = good();
            frame[40] ^= 1;
            (LAN, frame)
        },
        (
            LAN,
            udp(LAN, CLIENT, ("203.0.113.255", 137), b"to all there"),
        ),
        (LAN, udp(LAN, CLIENT, ("10.0.0.255", 137), b"to all here")),
        (
            LAN,
            udp(LAN, ("192.168.9.9", 5), SERVER, b"a stranger inside"),
        ),
        (
            LAN,
            udp(LAN, ("0.0.0.0", 68), ("255.255.255.255", 67), b"dhcp"),
        ),
        (
            WAN,
            udp(
                WAN,
                ("203.0.113.9", 5),
                ("10.0.0.2", 9),
                b"to the inside by its own address",
            ),
        ),
        (
            WAN,
            udp(
                WAN,
                ("10.0.0.7", 5),
                ("203.0.113.1", 9),
                b"an inside source outside",
            ),
        ),
        (
            WAN,
            udp(
                WAN,
                ("203.0.113.1", 9),
                ("203.0.113.1", 9),
                b"to itself from itself",
            ),
        ),
    ])
}

/// Pieces that do not fit.
pub fn odd_fragments() -> Input {
    let piece = |id: u16, offset: u16, more: bool, bytes: &[u8]| {
        let mut frame = udp(LAN, CLIENT, SERVER, &[0x70; 56])[..34].to_vec();
        frame.extend(bytes);
        let total = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        let field = (offset / 8) | if more { 0x2000 } else { 0 };
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        finish(&mut frame[14..]);
        (LAN, frame)
    };
    let whole = udp(LAN, CLIENT, SERVER, &[0x70; 56]);
    let body = &whole[34..];
    let segment = tcp(LAN, CLIENT, SERVER, "S");
    let small = &segment[34..];
    in_order(vec![
        // A duplicate.
        piece(1, 0, true, &body[..32]),
        piece(1, 0, true, &body[..32]),
        piece(1, 32, false, &body[32..]),
        // An overlap.
        piece(2, 0, true, &body[..32]),
        piece(2, 24, false, &body[24..]),
        // The smallest first one of a datagram, and the rest.
        piece(3, 0, true, &body[..8]),
        piece(3, 8, false, &body[8..]),
        // A first one of a segment that hides its flags.
        tcp_piece(piece(4, 0, true, &small[..8])),
        tcp_piece(piece(4, 8, false, &small[8..])),
        // A last one whose first never comes.
        piece(5, 32, false, &body[32..]),
    ])
}

fn tcp_piece((port, mut frame): (PortId, Vec<u8>)) -> (PortId, Vec<u8>) {
    frame[23] = 6;
    finish(&mut frame[14..]);
    (port, frame)
}

/// One after another.
fn in_order(frames: Vec<(PortId, Vec<u8>)>) -> Input {
    let numbered = (0..).zip(frames);
    numbered
        .map(|(millis, (port, frame))| (millis, port, frame))
        .collect()
}
