//! One packet through both: what comes out of the data plane is what the reference expects.

use etherparse::PacketBuilder;
use natgate::base::{DropReason, PortId};
use natgate::wire::checksum;

use crate::common::*;
use crate::history::Gateway;
use crate::reference::{Endpoint, Expect, Reference};

pub fn endpoint(end: End) -> Endpoint {
    (ip(end.0), end.1)
}

/// Bytes of a datagram: enough for three pieces.
const BODY: [u8; 40] = [7; 40];

/// MAC addresses of the gateway's ports.
const GATEWAY: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 0], [2, 0, 0, 0, 1, 1]];

/// Who sends errors.
pub const ROUTER: &str = "203.0.113.77";

/// A datagram as its sender makes it, for the gateway's port.
pub fn datagram(port: PortId, from: Endpoint, to: Endpoint) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(HOST_MAC, GATEWAY[port.index()]);
    let builder = builder.ipv4(from.0.octets(), to.0.octets(), 64);
    let mut frame = Vec::new();
    builder.udp(from.1, to.1).write(&mut frame, &BODY).unwrap();
    frame
}

/// The same packet one router later: sent by the gateway's port to a host.
pub fn forwarded(port: PortId, mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&HOST_MAC);
    frame[6..12].copy_from_slice(&GATEWAY[port.index()]);
    frame[22] -= 1;
    frame[24..26].fill(0);
    let sum = checksum::ipv4_header(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Why pieces are dropped whose first one was refused.
pub const REST_OF_REFUSED: DropReason = DropReason::FragmentNoFirst;

/// A datagram in three pieces, in this order.
fn pieces(whole: &[u8], id: u16, order: [usize; 3]) -> Vec<Vec<u8>> {
    order
        .iter()
        .map(|&i| {
            let body = &whole[34..];
            let end = body.len().min(16 * (i + 1));
            let mut piece = whole[..34].to_vec();
            piece.extend(&body[16 * i..end]);
            let more = if end < body.len() { 0x2000 } else { 0 };
            let length = (piece.len() - 14) as u16;
            piece[16..18].copy_from_slice(&length.to_be_bytes());
            piece[18..20].copy_from_slice(&id.to_be_bytes());
            piece[20..22].copy_from_slice(&(more | (2 * i as u16)).to_be_bytes());
            piece[24..26].copy_from_slice(&[0, 0]);
            let sum = checksum::ipv4_header(&piece[14..34]);
            piece[24..26].copy_from_slice(&sum.to_be_bytes());
            piece
        })
        .collect()
}

/// What three pieces of one datagram make, whatever their order.
fn whole(mut sent: Vec<(PortId, Vec<u8>)>) -> (PortId, Vec<u8>) {
    let offset = |frame: &[u8]| u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff;
    sent.sort_by_key(|(_, frame)| offset(frame));
    let (port, mut frame) = sent[0].clone();
    for (_, piece) in &sent {
        assert_eq!(piece[26..34], frame[26..34], "the same addresses");
        assert_eq!(piece[18..20], frame[18..20], "the same number");
        assert!(checksum::verify(&piece[14..34]));
    }
    for (_, piece) in &sent[1..] {
        assert_eq!(usize::from(offset(piece)) * 8, frame.len() - 34);
        frame.extend(&piece[34..]);
    }
    let length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[20..22].copy_from_slice(&[0, 0]);
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = checksum::ipv4_header(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    (port, frame)
}

/// How a datagram comes: whole, or cut, with a number and in an order.
pub type Cut = Option<(u16, [usize; 3])>;

/// A datagram as it comes.
pub fn frames(whole: Vec<u8>, cut: Cut) -> Vec<Vec<u8>> {
    match cut {
        Some((id, order)) => pieces(&whole, id, order),
        None => vec![whole],
    }
}

/// Sends a datagram; what comes out is put together again.
fn through(
    gateway: &mut Gateway,
    at: u8,
    port: PortId,
    frame: &[u8],
    cut: Cut,
) -> Vec<(PortId, Vec<u8>)> {
    let Some((id, order)) = cut else {
        return gateway.receive(at, port, frame);
    };
    let pieces = pieces(frame, id, order);
    let mut sent = Vec::new();
    for piece in &pieces {
        sent.extend(gateway.receive(at, port, piece));
    }
    match sent.len() {
        3 => vec![whole(sent)],
        _ => sent,
    }
}

/// Drops so far, by reason.
fn dropped(gateway: &Gateway) -> Vec<u64> {
    let reasons = DropReason::ALL.iter();
    reasons.map(|reason| gateway.rack.drops(*reason)).collect()
}

/// A datagram of an inside host. False if there is no port for it.
pub fn outbound(
    gateway: &mut Gateway,
    model: &mut Reference,
    at: u8,
    (from, to): (End, End),
    cut: Cut,
    context: &dyn Fn() -> String,
) -> bool {
    let expect = model.outbound(endpoint(from), endpoint(to));
    let refused = gateway.rack.drops(DropReason::NoPort);
    let sent = through(gateway, at, LAN, &udp(LAN, from, to, &BODY), cut);
    // The first piece is refused like a whole packet, those that had waited have no first one then.
    if sent.is_empty() && gateway.rack.drops(DropReason::NoPort) > refused {
        let context = context();
        assert_eq!(
            expect,
            Expect::NewMapping,
            "{context}: a living mapping needs no port"
        );
        let may = model.may_refuse(endpoint(from), endpoint(to), gateway.rack.policy.workers);
        assert!(may, "{context}: refused while a port was left for {to:?}");
        return false;
    }
    let [packet] = &sent[..] else {
        panic!(
            "{}: {from:?} → {to:?}: {} packets, drops {}",
            context(),
            sent.len(),
            drops(&gateway.rack)
        );
    };
    let out = seen(packet);
    assert_eq!(
        (out.port, out.destination),
        (WAN, endpoint(to)),
        "{}",
        context()
    );
    assert!(
        model.pool.has(out.source),
        "{}: {:?}",
        context(),
        out.source
    );
    match expect {
        Expect::Translated(outside) => {
            assert_eq!(out.source, outside, "{}: RFC 4787 §4.1", context());
        }
        Expect::NewMapping => {}
        Expect::Refused(_) => unreachable!("outbound packets are always expected to leave"),
    }
    model.sent(endpoint(from), endpoint(to), out.source);
    true
}

/// A datagram of an outside host.
pub fn inbound(
    gateway: &mut Gateway,
    model: &mut Reference,
    at: u8,
    (from, to): (End, End),
    cut: Cut,
    context: &dyn Fn() -> String,
) {
    let expect = model.inbound(endpoint(from), endpoint(to));
    let before = dropped(gateway);
    let sent = through(gateway, at, WAN, &udp(WAN, from, to, &BODY), cut);
    match expect {
        Expect::Translated(inside) => {
            assert_eq!(
                sent.len(),
                1,
                "{}: {from:?} → {to:?} must arrive; drops {}",
                context(),
                drops(&gateway.rack)
            );
            let back = seen(&sent[0]);
            assert_eq!(
                (back.port, back.source, back.destination),
                (LAN, endpoint(from), inside),
                "{}",
                context()
            );
        }
        Expect::Refused(reason) => {
            assert_eq!(
                sent,
                Vec::<(PortId, Vec<u8>)>::new(),
                "{}: {from:?} → {to:?} must not arrive",
                context()
            );
            let mut expected = before;
            expected[reason.index()] += 1;
            if cut.is_some() {
                expected[REST_OF_REFUSED.index()] += 2;
            }
            assert_eq!(dropped(gateway), expected, "{}: {reason}", context());
        }
        Expect::NewMapping => unreachable!("outside packets make no mapping"),
    }
}

/// What a router says of a datagram from one endpoint to another, for the gateway's port.
pub fn report(port: PortId, from: Endpoint, to: Endpoint) -> Vec<u8> {
    let about = datagram(port, from, to);
    icmp_error(port, ROUTER, &from.0.to_string(), (3, 1), &about)
}

/// A router tells what became of a datagram that left by `outside` for `to`: its sender hears of it if the flow lives, and
/// nothing changes in either case.
pub fn error(
    gateway: &mut Gateway,
    model: &mut Reference,
    at: u8,
    (outside, to): (Endpoint, Endpoint),
    context: &dyn Fn() -> String,
) {
    let sent = gateway.receive(at, WAN, &report(WAN, outside, to));
    let Some(inside) = model.sender(outside, to) else {
        assert!(sent.is_empty(), "{}: about nothing", context());
        return;
    };
    assert_eq!(sent.len(), 1, "{}: about a living flow", context());
    let told = seen(&sent[0]);
    assert_eq!(
        (told.port, told.destination.0),
        (LAN, inside.0),
        "{}",
        context()
    );
    let port = u16::from_be_bytes([told.payload[28], told.payload[29]]);
    assert_eq!(port, inside.1, "{}: the quote is its own", context());
}
