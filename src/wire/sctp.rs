//! SCTP (RFC 9260): ports, verification tag, checksum, and the chunks that begin and end an association.
//!
//! ```text
//!   0            2               4                   8          12
//!   | source port | destination port | verification tag | CRC32c | chunks …
//! ```
//!
//! The checksum covers the packet from the ports to the last chunk's padding and no pseudo header: other addresses leave it
//! as it is, other ports do not.

use super::{crc32c, read_u8, read_u16, read_u32, write_u16, write_u32};

/// Bytes of the common header (section 3.1).
pub const HEADER: usize = 12;
/// Offset of the verification tag in it.
const TAG: usize = 4;
/// Offset of the checksum in it.
const CHECKSUM: usize = 8;

/// Chunk types (section 3.2).
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN_COMPLETE: u8 = 14;
/// T bit of ABORT and SHUTDOWN COMPLETE: their sender knows no tag of its peer's and sent back the one it was called by.
const REFLECTED: u8 = 1;
/// Chunks that are looked at: what may stand before an ABORT is fewer.
const LOOKED_AT: usize = 16;

/// What the chunks of a packet do to its association.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    #[default]
    None,
    /// INIT: its sender wants to be called by this tag.
    Init(u32),
    /// INIT ACK, the same.
    InitAck(u32),
    /// ABORT or SHUTDOWN COMPLETE, for the tag its sender calls the receiver by, or, reflected, is called by.
    End {
        /// The T bit.
        reflected: bool,
    },
}

/// What a packet says of its association.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The verification tag; 0 in a packet with INIT.
    pub tag: u32,
    /// What happens.
    pub event: Event,
}

impl Told {
    /// Reads the packet `segment`, which begins with the common header. Chunks that are not there say nothing.
    pub fn read(segment: &[u8]) -> Told {
        Told {
            tag: read_u32(segment, TAG),
            event: event(segment.get(HEADER..).unwrap_or(&[])),
        }
    }
}

/// INIT, INIT ACK and SHUTDOWN COMPLETE stand alone in a packet (section 6.10); an ABORT may come behind control chunks,
/// never behind DATA.
fn event(mut chunks: &[u8]) -> Event {
    const LEAST: usize = 4;
    for _ in 0..LOOKED_AT {
        if chunks.len() < LEAST {
            break;
        }
        let (kind, flags) = (read_u8(chunks, 0), read_u8(chunks, 1));
        let length = usize::from(read_u16(chunks, 2));
        match kind {
            INIT if chunks.len() >= 8 => return Event::Init(read_u32(chunks, 4)),
            INIT_ACK if chunks.len() >= 8 => return Event::InitAck(read_u32(chunks, 4)),
            ABORT | SHUTDOWN_COMPLETE => {
                return Event::End {
                    reflected: flags & REFLECTED != 0,
                };
            }
            DATA => break,
            _ if length < LEAST => break,
            _ => {}
        }
        chunks = chunks.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Event::None
}

/// The checksum `segment` should carry, whatever its field says; nothing if it is shorter than the common header.
pub fn checksum(segment: &[u8]) -> Option<u32> {
    let (header, chunks) = segment.split_at_checked(HEADER)?;
    let header = header.get(..CHECKSUM)?;
    Some(crc32c::joined([header, &[0; HEADER - CHECKSUM], chunks]))
}

/// Writes the checksum field of the packet at `l4`. It is sent with its lowest byte first (appendix A).
pub fn set_checksum(frame: &mut [u8], l4: usize, checksum: u32) {
    write_u32(frame, l4 + CHECKSUM, checksum.swap_bytes());
}

/// The checksum field of the packet at `l4`.
pub fn carried_checksum(frame: &[u8], l4: usize) -> u32 {
    read_u32(frame, l4 + CHECKSUM).swap_bytes()
}

/// Changes the ports of the packet at `l4`; the checksum, if it is there, follows by what that makes of it, so that a
/// wrong one stays wrong. `length` is that of the whole packet from `l4`, whatever part of it the frame has; without it the
/// checksum cannot be told.
pub fn set_ports(frame: &mut [u8], l4: usize, length: Option<u16>, source: u16, destination: u16) {
    let before = read_u32(frame, l4);
    write_u16(frame, l4, source);
    write_u16(frame, l4 + 2, destination);
    let difference = before ^ read_u32(frame, l4);
    if let Some(length) = length.filter(|length| usize::from(*length) >= HEADER) {
        let changed = carried_checksum(frame, l4) ^ crc32c::change(difference, length - 4);
        set_checksum(frame, l4, changed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet with these chunks, its checksum right.
    fn packet(tag: u32, chunks: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        write_u16(&mut bytes, 0, 5000);
        write_u16(&mut bytes, 2, 80);
        write_u32(&mut bytes, TAG, tag);
        bytes.extend(chunks);
        let sum = checksum(&bytes).unwrap();
        set_checksum(&mut bytes, 0, sum);
        bytes
    }

    #[test]
    fn chunks_tell_what_happens() {
        let told = |chunks: &[u8]| Told::read(&packet(7, chunks)).event;
        assert_eq!(told(&[1, 0, 0, 20, 0, 0, 1, 2]), Event::Init(0x102));
        assert_eq!(
            told(&[2, 0, 0, 20, 1, 0, 0, 2]),
            Event::InitAck(0x0100_0002)
        );
        assert_eq!(told(&[6, 0, 0, 4]), Event::End { reflected: false });
        assert_eq!(told(&[14, 1, 0, 4]), Event::End { reflected: true });
        assert_eq!(told(&[10, 0, 0, 4]), Event::None, "COOKIE ECHO");
        assert_eq!(told(&[1, 0, 0, 20, 0, 0, 0]), Event::None, "cut short");
        assert_eq!(told(&[2, 0, 0, 20, 0, 0, 0]), Event::None, "cut short");
        // An ABORT behind an ERROR of five bytes, which are padded to eight; none behind DATA.
        let behind = |first: u8| told(&[first, 0, 0, 5, 9, 0, 0, 0, 6, 0, 0, 4]);
        assert_eq!(behind(9), Event::End { reflected: false });
        assert_eq!(behind(0), Event::None);
        for broken in [&[9, 0, 0, 0, 6, 0, 0, 4][..], &[9, 0, 255, 255], &[6], &[]] {
            assert_eq!(told(broken), Event::None, "{broken:?}");
        }
        assert_eq!(Told::read(&packet(7, &[])).tag, 7);
        assert_eq!(Told::read(&[]), Told::default());
    }

    #[test]
    fn a_checksum_as_it_goes_over_the_wire() {
        // The lowest byte of the CRC comes first.
        let bytes = packet(0, &[]);
        let mut zeroed = bytes.clone();
        zeroed[CHECKSUM..].fill(0);
        let crc = crc32c::full(&zeroed);
        assert_eq!(bytes[CHECKSUM..], crc.to_le_bytes());
        assert_eq!(carried_checksum(&bytes, 0), crc);
        assert_eq!(checksum(&bytes[..11]), None);
    }

    #[test]
    fn ports_alone_where_the_checksum_is_not_there_or_cannot_be_told() {
        let whole = packet(1, &[3, 0, 0, 4]);
        let mut quote = whole[..8].to_vec();
        set_ports(&mut quote, 0, Some(16), 1, 2);
        assert_eq!(quote, [0, 1, 0, 2, 0, 0, 0, 1]);
        let mut piece = whole.clone();
        set_ports(&mut piece, 0, None, 1, 2);
        assert_eq!(piece[4..], whole[4..]);
        set_ports(&mut piece, 0, Some(3), 3, 4);
        assert_eq!(piece[4..], whole[4..], "a length that cannot be");
    }

    proptest! {
        #[test]
        fn other_ports_keep_the_checksum_right_and_wrong_ones_wrong(
            chunks in proptest::collection::vec(any::<u8>(), 0..2000),
            tag in any::<u32>(),
            ports in any::<(u16, u16)>(),
            damage in any::<u32>(),
        ) {
            let mut bytes = packet(tag, &chunks);
            let right = carried_checksum(&bytes, 0);
            set_checksum(&mut bytes, 0, right ^ damage);
            let length = Some(bytes.len() as u16);
            set_ports(&mut bytes, 0, length, ports.0, ports.1);
            prop_assert_eq!((read_u16(&bytes, 0), read_u16(&bytes, 2)), ports);
            prop_assert_eq!(carried_checksum(&bytes, 0) ^ damage, checksum(&bytes).unwrap());
            // A part of it, as an ICMP error quotes it, comes out as the whole does.
            let mut quote = packet(tag, &chunks)[..HEADER].to_vec();
            set_ports(&mut quote, 0, length, ports.0, ports.1);
            prop_assert_eq!(carried_checksum(&quote, 0) ^ damage, carried_checksum(&bytes, 0));
        }

        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let told = Told::read(&bytes);
            prop_assert_eq!(told.tag, read_u32(&bytes, 4));
        }
    }

    #[test]
    fn an_abort_counts_behind_whole_control_chunks() {
        let told = |chunks: &[u8]| Told::read(&packet(7, chunks)).event;
        let abort = [6, 0, 0, 4];
        let behind = |chunks: &[u8]| told(&[chunks, &abort].concat());
        let end = Event::End { reflected: false };
        assert_eq!(behind(&[9, 0, 0, 4]), end, "the shortest chunk");
        assert_eq!(behind(&[9, 0, 0, 8, 1, 2, 3, 4]), end);
        for length in 0..4 {
            assert_eq!(behind(&[9, 0, 0, length]), Event::None, "{length}");
        }
        assert_eq!(told(&[6, 0, 0]), Event::None);
        assert_eq!(told(&[6, 0xfe, 0, 4]), end, "another flag");
        assert_eq!(told(&[6, 0xff, 0, 4]), Event::End { reflected: true });
        // Fifteen may come before it, and nobody looks further.
        assert_eq!(behind(&[9, 0, 0, 4].repeat(15)), end);
        assert_eq!(behind(&[9, 0, 0, 4].repeat(16)), Event::None);
    }

    #[test]
    fn fields_of_a_packet_that_begins_anywhere() {
        let whole = packet(1, &[3, 0, 0, 4]);
        let mut frame = [&[0xee; 3][..], &whole].concat();
        assert_eq!(carried_checksum(&frame, 3), carried_checksum(&whole, 0));
        set_ports(&mut frame, 3, Some(16), 0x0102, 0x0304);
        assert_eq!(frame[..7], [0xee, 0xee, 0xee, 1, 2, 3, 4]);
        assert_eq!(checksum(&frame[3..]), Some(carried_checksum(&frame, 3)));
        // The common header alone is a packet; a shorter length cannot be.
        let mut bare = packet(1, &[]);
        set_ports(&mut bare, 0, Some(12), 1, 2);
        assert_eq!(checksum(&bare), Some(carried_checksum(&bare, 0)));
        let before = bare.clone();
        set_ports(&mut bare, 0, Some(11), 3, 4);
        assert_eq!(bare[4..], before[4..]);
    }
}
