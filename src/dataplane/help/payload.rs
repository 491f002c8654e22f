//! What helpers do to a packet's payload: lengths and checksums follow.

use crate::base::DropReason;
use crate::dataplane::buffer::Buffer;
use crate::dataplane::family::Ip;
use crate::dataplane::help::Helped;
use crate::nat::helpers::edit::{self, Edit, Edits, Text};
use crate::wire::parse::Transport;
use crate::wire::{tcp, udp};

/// Refuses a packet whose checksum is wrong: the receiver would have to trust one made here.
pub(super) fn believable<A: Ip, B: Buffer>(helped: &Helped<'_, A, B>) -> Result<(), DropReason> {
    let (bytes, packet) = (helped.buffer.bytes(), &*helped.packet);
    let l4 = usize::from(packet.l4);
    if packet.transport == Transport::Udp && udp::checksum(bytes, l4) == 0 {
        return Ok(());
    }
    let segment = bytes.get(l4..packet.end()).unwrap_or_default();
    let (source, destination) = A::ends(bytes, packet);
    match A::transport_checksum(source, destination, packet.protocol, segment) {
        0 => Ok(()),
        _ => Err(DropReason::L4Checksum),
    }
}

/// Makes `edits` in the payload that starts at `start` and ends with the packet.
pub(super) fn replace<A: Ip, B: Buffer>(
    helped: &mut Helped<'_, A, B>,
    start: usize,
    edits: &[Edit],
) -> Result<(), DropReason> {
    let end = helped.packet.end();
    if !helped.buffer.set_len(end + edit::room(edits)) {
        return Err(DropReason::MbufExhausted);
    }
    let bytes = helped.buffer.bytes_mut();
    let payload = bytes.get_mut(start..).unwrap_or_default();
    let new_end = start + edit::apply(payload, end.saturating_sub(start), edits);
    let l3 = usize::from(helped.packet.l3);
    let (old, new) = (helped.packet.ip_length, (new_end - l3) as u16);
    A::set_ip_length(bytes, l3, old, new);
    helped.packet.ip_length = new;
    if !helped.buffer.set_len(new_end) {
        return Err(DropReason::Internal);
    }
    write_checksum(helped);
    Ok(())
}

/// Writes the UDP length and the transport checksum of a packet whose payload changed.
fn write_checksum<A: Ip, B: Buffer>(helped: &mut Helped<'_, A, B>) {
    let packet = &*helped.packet;
    let (l4, end) = (usize::from(packet.l4), packet.end());
    let bytes = helped.buffer.bytes_mut();
    let ends = A::ends(bytes, packet);
    let computed = |bytes: &[u8]| {
        let segment = bytes.get(l4..end).unwrap_or_default();
        A::transport_checksum(ends.0, ends.1, packet.protocol, segment)
    };
    if packet.transport == Transport::Tcp {
        tcp::set_checksum(bytes, l4, 0);
        let field = computed(bytes);
        return tcp::set_checksum(bytes, l4, field);
    }
    udp::set_length(bytes, l4, (end - l4) as u16);
    // None stays none (RFC 768).
    if udp::checksum(bytes, l4) != 0 {
        udp::set_checksum(bytes, l4, 0);
        let field = match computed(bytes) {
            0 => 0xffff,
            field => field,
        };
        udp::set_checksum(bytes, l4, field);
    }
}

/// One more change, where there is one to make.
pub(super) fn push(
    edits: &mut Edits,
    range: core::ops::Range<usize>,
    text: Option<Text>,
) -> Result<(), DropReason> {
    let Some(text) = text else {
        return Ok(());
    };
    let edit = Edit { range, text };
    edits.try_push(edit).map_err(|_| DropReason::HelperUnfit)
}
