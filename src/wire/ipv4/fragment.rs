//! Cutting an IPv4 packet into fragments (RFC 791 section 3.2).
//!
//! [`fragment`] is an iterator over [`Piece`]s: each carries its finished header and names the range of the
//! original packet that is its payload, so that the caller may copy or chain buffers. A packet that is a
//! fragment already is cut further; its offset and MF carry over to the pieces.

use std::ops::Range;

use super::{HEADER, MORE_FRAGMENTS, OFFSET_MASK};
use crate::wire::{read_u8, read_u16, write_u8, write_u16};

/// Smallest MTU an IPv4 link may have (RFC 791): the longest header and 8 bytes.
pub const MIN_MTU: u16 = 68;

/// One fragment to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    header: [u8; 60],
    header_length: u8,
    /// Where its payload lies in the original packet, from the IP header.
    pub payload: Range<usize>,
    /// Where its payload belongs in the datagram, in bytes; a multiple of 8.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

impl Piece {
    /// The finished header: lengths, flags, offset, options and checksum are right.
    pub fn header(&self) -> &[u8] {
        self.header
            .get(..usize::from(self.header_length))
            .unwrap_or(&[])
    }

    /// Length of header and payload.
    #[allow(clippy::len_without_is_empty, reason = "a packet is never empty")]
    pub fn len(&self) -> usize {
        usize::from(self.header_length) + self.payload.len()
    }
}

/// The pieces of a packet, in order.
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    packet: &'a [u8],
    header_length: usize,
    /// Where the next piece's payload starts in the packet.
    next: usize,
    mtu: usize,
    done: bool,
}

/// Cuts the IPv4 packet at the start of `packet` (padding behind it is ignored) into pieces of at most `mtu`
/// bytes; one piece if it fits. Does not look at DF: a caller must not fragment such a packet.
///
/// Nothing if the packet's lengths are inconsistent or `mtu` is below [`MIN_MTU`].
pub fn fragment(packet: &[u8], mtu: u16) -> Option<Fragments<'_>> {
    let header_length = super::header_length(packet, 0);
    let packet = packet.get(..usize::from(super::total_length(packet, 0)))?;
    (header_length >= HEADER && packet.len() >= header_length && mtu >= MIN_MTU).then_some(
        Fragments {
            packet,
            header_length,
            next: header_length,
            mtu: usize::from(mtu),
            done: false,
        },
    )
}

impl Iterator for Fragments<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.done {
            return None;
        }
        let first = self.next == self.header_length;
        let rest = self.packet.len() - self.next;
        let mut header = [0; 60];
        let header_length = if first {
            copy(&mut header, self.packet.get(..self.header_length)?);
            self.header_length
        } else {
            later_header(&mut header, self.packet.get(..self.header_length)?)
        };
        let room = self.mtu - header_length;
        let take = if rest <= room { rest } else { room & !7 };
        let payload = self.next..self.next + take;

        let field = read_u16(self.packet, 6);
        let offset = usize::from(field & OFFSET_MASK) * 8 + (self.next - self.header_length);
        let more = take < rest || field & MORE_FRAGMENTS != 0;
        let flags = field & !(MORE_FRAGMENTS | OFFSET_MASK) | if more { MORE_FRAGMENTS } else { 0 };
        write_u16(&mut header, 2, (header_length + take) as u16);
        write_u16(&mut header, 6, flags | ((offset / 8) as u16 & OFFSET_MASK));
        super::fill_checksum(&mut header, 0);
        self.next += take;
        self.done = take == rest;
        Some(Piece {
            header,
            header_length: header_length as u8,
            payload,
            offset: offset as u16,
            more,
        })
    }
}

/// The header of a later fragment: fixed part, and options whose copy bit is set. Returns its length.
fn later_header(to: &mut [u8; 60], from: &[u8]) -> usize {
    copy(to, from.get(..HEADER).unwrap_or(&[]));
    let mut length = HEADER;
    let mut rest = from.get(HEADER..).unwrap_or(&[]);
    while let Some((&kind, tail)) = rest.split_first() {
        let size = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(read_u8(tail, 0)).max(2),
        };
        let (Some(option), Some(next)) = (rest.get(..size), rest.get(size..)) else {
            break;
        };
        if kind & 0x80 != 0 {
            copy(to.get_mut(length..).unwrap_or(&mut []), option);
            length += size;
        }
        rest = next;
    }
    // What is left of the last word is zero: end of options.
    let length = length.next_multiple_of(4);
    write_u8(to, 0, 0x40 | (length / 4) as u8);
    length
}

/// Copies as much of `from` as fits.
fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// Writes a piece of `packet` to `out`: header and payload. Returns its length, 0 if `out` is shorter or
/// `packet` is not the one the piece was cut from.
pub fn write_fragment(out: &mut [u8], packet: &[u8], piece: &Piece) -> usize {
    let header = piece.header();
    let Some(payload) = packet.get(piece.payload.clone()) else {
        return 0;
    };
    let Some((to_header, rest)) = out.split_at_mut_checked(header.len()) else {
        return 0;
    };
    let Some(to_payload) = rest.get_mut(..payload.len()) else {
        return 0;
    };
    to_header.copy_from_slice(header);
    to_payload.copy_from_slice(payload);
    piece.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::checksum;
    use crate::wire::ipv4::{fill_checksum, flags_offset};

    fn packet(field: u16, options: &[u8], payload: usize) -> Vec<u8> {
        let header = 20 + options.len();
        let mut out = vec![0x40 | (header / 4) as u8, 0];
        out.extend(((header + payload) as u16).to_be_bytes());
        out.extend([0x12, 0x34]);
        out.extend(field.to_be_bytes());
        out.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        out.extend(options);
        out.extend((0..payload).map(|i| i as u8));
        fill_checksum(&mut out, 0);
        out
    }

    #[test]
    fn options_follow_their_copy_bit() {
        // Record route (7) is not copied, stream id (136) is.
        let packet = packet(0, &[7, 3, 4, 136, 4, 0xab, 0xcd, 0], 200);
        let pieces: Vec<_> = fragment(&packet, 100).unwrap().collect();
        assert_eq!(pieces[0].header()[20..], [7, 3, 4, 136, 4, 0xab, 0xcd, 0]);
        assert_eq!(pieces[1].header()[20..], [136, 4, 0xab, 0xcd]);
        assert_eq!(pieces[1].header()[0], 0x46);
        assert_eq!(
            (pieces[0].payload.clone(), pieces[1].payload.clone()),
            (28..100, 100..172)
        );
        assert_eq!((pieces[1].offset, pieces[1].more), (72, true));
    }

    #[test]
    fn a_fragment_is_cut_further() {
        let packet = packet(MORE_FRAGMENTS | 10, &[], 160);
        let pieces: Vec<_> = fragment(&packet, 100).unwrap().collect();
        let shape: Vec<_> = pieces
            .iter()
            .map(|p| (p.offset, p.payload.len(), p.more))
            .collect();
        assert_eq!(
            shape,
            [(80, 80, true), (160, 80, true)],
            "the original was not the last"
        );
    }

    #[test]
    fn limits() {
        let short = packet(0, &[], 0);
        assert_eq!(fragment(&short, 68).unwrap().count(), 1);
        assert!(fragment(&short, 67).is_none());
        assert!(fragment(&short[..19], 1500).is_none());
        assert!(fragment(&[], 1500).is_none());
        let whole = packet(0x4000, &[], 80);
        let pieces: Vec<_> = fragment(&whole, 100).unwrap().collect();
        assert_eq!((pieces.len(), pieces[0].header()), (1, &whole[..20]));
        assert_eq!(write_fragment(&mut [0; 99], &whole, &pieces[0]), 0);
        assert_eq!(write_fragment(&mut [0; 10], &whole, &pieces[0]), 0);
        assert_eq!(write_fragment(&mut [0; 100], &whole[..99], &pieces[0]), 0);
    }

    proptest! {
        #[test]
        fn pieces_reassemble(
            payload in 0usize..4000, mtu in MIN_MTU..2000, field in prop_oneof![Just(0u16), Just(0x2005), Just(7)],
            options in prop_oneof![
                Just(vec![]), Just(vec![7, 7, 4, 0, 0, 0, 0, 0]), Just(vec![136, 4, 0, 1]), Just([1; 40].to_vec())
            ],
            padding in 0usize..20,
        ) {
            let mut packet = packet(field, &options, payload);
            let end = packet.len();
            packet.extend(vec![0xee; padding]);
            let start = usize::from(field & OFFSET_MASK) * 8;
            let (mut joined, mut last_more) = (Vec::<u8>::new(), true);
            for piece in fragment(&packet, mtu).unwrap() {
                let mut out = [0u8; 2000];
                let length = write_fragment(&mut out, &packet, &piece);
                prop_assert_eq!(length, piece.len());
                prop_assert!(length <= usize::from(mtu));
                prop_assert!(checksum::verify(piece.header()));
                let parsed = etherparse::Ipv4HeaderSlice::from_slice(&out[..length]).unwrap();
                prop_assert_eq!(usize::from(parsed.total_len()), length);
                prop_assert_eq!(usize::from(parsed.fragments_offset().value()) * 8, start + joined.len());
                prop_assert_eq!(parsed.identification(), 0x1234);
                prop_assert_eq!(flags_offset(&out, 0) & MORE_FRAGMENTS != 0, piece.more);
                last_more = piece.more;
                joined.extend(&out[piece.header().len()..length]);
            }
            prop_assert_eq!(&joined[..], &packet[end - payload..end]);
            prop_assert_eq!(last_more, field & MORE_FRAGMENTS != 0);
        }

        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..400), mtu in 60u16..200) {
            if let Some(pieces) = fragment(&bytes, mtu) {
                for piece in pieces {
                    let length = write_fragment(&mut [0; 400], &bytes, &piece);
                    prop_assert_eq!(length, piece.len());
                    prop_assert!(length <= usize::from(mtu));
                }
            }
        }
    }

    #[test]
    fn lengths_that_contradict_each_other() {
        let with = |at: usize, value: u8| {
            let mut packet = packet(0, &[], 80);
            packet[at] = value;
            fragment(&packet, 1500).is_some()
        };
        assert!(with(0, 0x45));
        assert!(!with(0, 0x44), "a header of 16 bytes");
        assert!(with(3, 20) && !with(3, 19), "no room for the header");
        assert!(with(3, 100) && !with(3, 101), "longer than the packet");
    }

    #[test]
    fn every_option_with_a_copy_bit_is_in_later_headers() {
        for (options, copied) in [
            (&[1, 1, 1, 136, 4, 5, 6, 0][..], &[136, 4, 5, 6][..]),
            (&[136, 4, 5, 6, 137, 3, 7, 0], &[136, 4, 5, 6, 137, 3, 7, 0]),
            (&[0x81, 3, 9, 7, 3, 4, 1, 1], &[0x81, 3, 9, 0]),
            (&[136, 2, 7, 2], &[136, 2, 0, 0]),
            (&[7, 4, 136, 2], &[]),
            // Nothing counts behind the end.
            (&[0, 2, 136, 2, 1, 1, 1, 1], &[]),
            // What its length takes beyond the header is left out, with all that follows.
            (&[136, 9, 1, 1, 136, 2, 1, 1], &[]),
            (&[1, 1, 1, 136], &[]),
            (&[136, 0, 137, 2], &[136, 0, 137, 2]),
        ] {
            let packet = packet(0, options, 100);
            let pieces: Vec<_> = fragment(&packet, 84).unwrap().collect();
            assert_eq!(pieces[0].header()[20..], *options);
            assert_eq!(pieces[1].header()[20..], *copied, "{options:?}");
            let words = 5 + copied.len() / 4;
            assert_eq!(pieces[1].header()[0], 0x40 | words as u8);
            assert!(pieces.iter().all(|piece| checksum::verify(piece.header())));
        }
    }

    #[test]
    fn pieces_fill_the_mtu_as_far_as_eight_bytes_go() {
        for (payload, mtu, lengths) in [
            (80, 100, &[100][..]),
            (81, 100, &[100, 21]),
            (80, 99, &[92, 28]),
            (160, 100, &[100, 100]),
            (167, 107, &[100, 107]),
            (168, 107, &[100, 100, 28]),
            (168, 108, &[108, 100]),
        ] {
            let packet = packet(0, &[], payload);
            let pieces: Vec<_> = fragment(&packet, mtu).unwrap().collect();
            let found: Vec<_> = pieces.iter().map(Piece::len).collect();
            assert_eq!(found, lengths, "{payload} {mtu}");
            let last = pieces.last().unwrap();
            assert_eq!(usize::from(last.offset) + last.payload.len(), payload);
            let more = |piece: &Piece| piece.more;
            assert_eq!(pieces.iter().filter(|p| more(p)).count(), pieces.len() - 1);
        }
    }
}
