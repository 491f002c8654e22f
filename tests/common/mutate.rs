//! Mutations: blind ones for any bytes, and ones that know where the fields of a frame are.

use natgate::base::Random;

/// Frames are not grown beyond this: more than any MTU, still cheap.
const LONGEST: usize = 4096;

/// A random member; `None` of nothing.
pub fn pick<'a, T>(from: &'a [T], random: &mut Random) -> Option<&'a T> {
    from.get(random.below(from.len() as u32) as usize)
}

/// Changes `bytes` blindly, one to four times; `from` on. `other` is spliced in now and then.
pub fn blindly(bytes: &mut Vec<u8>, from: usize, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let length = bytes.len();
        let below = |n: usize, random: &mut Random| random.below(n as u32) as usize;
        let at = from.min(length) + below(length.saturating_sub(from), random);
        match random.below(8) {
            0 | 1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.next_u64() as u8;
                }
            }
            3 => {
                let value = *pick(&[0, 0xff, 1, 0x7f, 0x80, length as u8], random).unwrap();
                bytes.iter_mut().skip(at).take(1).for_each(|b| *b = value);
            }
            4 => {
                let length = length as u16;
                let value = [0, 0xffff, length, length.wrapping_sub(14), 8, 20, 0x8000];
                put16(bytes, at, *pick(&value, random).unwrap());
            }
            5 => bytes.truncate(at),
            6 => {
                let more = below(64, random) * if random.below(16) == 0 { 40 } else { 1 };
                let fill = random.next_u64() as u8;
                bytes.resize((length + more).min(LONGEST), fill);
            }
            _ => {
                let start = below(other.len(), random);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[start..]);
            }
        }
    }
    bytes.truncate(LONGEST);
}

/// Big-endian write; nothing beyond the end.
pub fn put16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(two) = bytes.get_mut(at..at + 2) {
        two.copy_from_slice(&value.to_be_bytes());
    }
}

/// Big-endian read; 0 beyond the end.
pub fn get16(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
}

/// Addresses the lab of the tests knows in one role or another, and some it must refuse.
const ADDRESSES: [[u8; 4]; 14] = [
    [10, 0, 0, 1],
    [10, 0, 0, 2],
    [10, 0, 0, 3],
    [10, 0, 0, 77],
    [10, 0, 0, 255],
    [203, 0, 113, 1],
    [203, 0, 113, 9],
    [203, 0, 113, 64],
    [203, 0, 113, 66],
    [203, 0, 113, 80],
    [8, 8, 8, 8],
    [127, 0, 0, 1],
    [224, 0, 0, 1],
    [255, 255, 255, 255],
];

/// Ports rules name, and ones they do not.
const PORTS: [u16; 8] = [0, 20, 53, 5000, 9000, 9002, 40000, 65535];

/// Where the IP header begins, for an EtherType of IPv4 or IPv6, tagged or not.
pub fn l3_of(frame: &[u8]) -> Option<(usize, u16)> {
    let (ethertype, l3) = match get16(frame, 12) {
        0x8100 => (get16(frame, 16), 18),
        other => (other, 14),
    };
    (frame.len() >= l3 + 20 && matches!(ethertype, 0x0800 | 0x86dd)).then_some((l3, ethertype))
}

/// Sets one field of an IPv4 packet to a value that means something.
pub fn knowingly(frame: &mut Vec<u8>, random: &mut Random) {
    let Some((l3, 0x0800)) = l3_of(frame) else {
        return;
    };
    let l4 = l3 + usize::from(frame[l3] & 15) * 4;
    match random.below(9) {
        0 => frame[l3 + 12..l3 + 16].copy_from_slice(pick(&ADDRESSES, random).unwrap()),
        1 => frame[l3 + 16..l3 + 20].copy_from_slice(pick(&ADDRESSES, random).unwrap()),
        2 => put16(frame, l4, *pick(&PORTS, random).unwrap()),
        3 => put16(frame, l4 + 2, *pick(&PORTS, random).unwrap()),
        4 => frame[l3 + 9] = *pick(&[1, 6, 17, 2, 33, 47, 50, 58, 132, 136], random).unwrap(),
        5 => frame[l3 + 8] = *pick(&[0, 1, 2, 255], random).unwrap(),
        6 => {
            let offset = *pick(&[0, 1, 2, 3, 185, 0x1fff], random).unwrap();
            let flags = *pick(&[0, 0x2000, 0x4000, 0x8000], random).unwrap();
            put16(frame, l3 + 6, offset | flags);
            put16(frame, l3 + 4, random.below(4) as u16);
        }
        7 => {
            // TCP flags, or an ICMP type, or the middle of whatever else it is.
            let (at, value) = match frame[l3 + 9] {
                6 => (l4 + 13, random.next_u64() as u8 & 0x3f),
                1 => (l4, *pick(&[0, 3, 4, 5, 8, 11, 12, 13, 17], random).unwrap()),
                17 => return put16(frame, l4 + 6, 0),
                _ => (l4 + 4, random.next_u64() as u8),
            };
            frame.iter_mut().skip(at).take(1).for_each(|b| *b = value);
        }
        _ => tagged(frame, random),
    }
}

/// Puts a tag on, or takes it off.
fn tagged(frame: &mut Vec<u8>, random: &mut Random) {
    if get16(frame, 12) == 0x8100 {
        frame.drain(12..16);
    } else {
        let vlan = *pick(&[0u8, 7, 8], random).unwrap();
        frame.splice(12..12, [0x81, 0, 0, vlan]);
    }
}

/// The ones' complement sum, folded: 0xffff over bytes that hold their own correct checksum.
///
/// Written apart from the gateway's own, which it judges.
pub fn ones_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// Makes the IPv4 header checksum at `l3` right, and the total length if `length` says so.
pub fn mend_ipv4(frame: &mut [u8], l3: usize, length: bool) {
    if length {
        put16(frame, l3 + 2, (frame.len() - l3) as u16);
    }
    let header = usize::from(frame[l3] & 15) * 4;
    if let Some(end) = Some(l3 + header).filter(|end| header >= 20 && *end <= frame.len()) {
        put16(frame, l3 + 10, 0);
        let sum = !ones_sum(&[&frame[l3..end]]);
        put16(frame, l3 + 10, sum);
    }
}

/// Where a transport checksum is and what it covers.
pub struct Covered {
    /// Offset of the checksum field.
    pub field: usize,
    /// First and last byte covered, besides the pseudo header.
    pub range: std::ops::Range<usize>,
    /// The pseudo header; empty for ICMP.
    pub pseudo: Vec<u8>,
    /// UDP over IPv4: 0 is no checksum.
    pub optional: bool,
}

impl Covered {
    /// Whether the checksum holds.
    pub fn holds(&self, frame: &[u8]) -> bool {
        (self.optional && get16(frame, self.field) == 0)
            || ones_sum(&[&self.pseudo, &frame[self.range.clone()]]) == 0xffff
    }

    /// Makes it hold.
    fn mend(&self, frame: &mut [u8]) {
        put16(frame, self.field, 0);
        let sum = !ones_sum(&[&self.pseudo, &frame[self.range.clone()]]);
        put16(frame, self.field, if sum == 0 { 0xffff } else { sum });
    }
}

/// What the transport checksum of an unfragmented IPv4 packet covers; `None` for fragments, other protocols and packets
/// whose lengths do not agree.
pub fn covered(frame: &[u8]) -> Option<Covered> {
    let (l3, 0x0800) = l3_of(frame)? else {
        return None;
    };
    let l4 = l3 + usize::from(frame[l3] & 15) * 4;
    let end = l3 + usize::from(get16(frame, l3 + 2));
    if get16(frame, l3 + 6) & 0x3fff != 0 || l4 > end || end > frame.len() {
        return None;
    }
    let protocol = frame[l3 + 9];
    let (field, end) = match protocol {
        1 => (l4 + 2, end),
        6 => (l4 + 16, end),
        17 => (l4 + 6, l4 + usize::from(get16(frame, l4 + 4))),
        _ => return None,
    };
    if field + 2 > end || end > frame.len() {
        return None;
    }
    let length = (end - l4) as u16;
    let pseudo = match protocol {
        1 => Vec::new(),
        _ => [
            &frame[l3 + 12..l3 + 20],
            &[0, protocol],
            &length.to_be_bytes(),
        ]
        .concat(),
    };
    Some(Covered {
        field,
        range: l4..end,
        pseudo,
        optional: protocol == 17,
    })
}

/// Makes every checksum of a frame right: of the header a quote begins with, of the transport, of the IPv4 header.
pub fn mend_all(frame: &mut [u8]) {
    let Some((l3, 0x0800)) = l3_of(frame) else {
        return;
    };
    let l4 = l3 + usize::from(frame[l3] & 15) * 4;
    if frame[l3 + 9] == 1 && frame.len() >= l4 + 28 && matches!(frame[l4], 3 | 4 | 11 | 12) {
        mend_ipv4(frame, l4 + 8, false);
    }
    // "No checksum" is right as it is, and must still be none when it leaves.
    if let Some(covered) = covered(frame)
        && !(covered.optional && get16(frame, covered.field) == 0)
    {
        covered.mend(frame);
    }
    mend_ipv4(frame, l3, false);
}

/// A mutated frame. Most get their IPv4 header checksum back and many their length, or nothing would get past the first
/// check; `sound` ones get every checksum back.
pub fn frame(corpus: &[Vec<u8>], sound: bool, random: &mut Random) -> Vec<u8> {
    let mut frame = pick(corpus, random).cloned().unwrap_or_default();
    for _ in 0..random.below(4) {
        knowingly(&mut frame, random);
    }
    if random.below(3) == 0 {
        let from = if random.below(16) == 0 { 0 } else { 12 };
        let other = pick(corpus, random).cloned().unwrap_or_default();
        blindly(&mut frame, from, &other, random);
    }
    if let Some((l3, 0x0800)) = l3_of(&frame)
        && random.below(16) != 0
    {
        mend_ipv4(&mut frame, l3, random.below(2) == 0);
    }
    if sound || random.below(2) == 0 {
        mend_all(&mut frame);
    }
    frame
}
