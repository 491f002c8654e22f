//! Sets of ports: ranges as the configuration writes them, the mask of reserved ports, and what both allow.

use super::PortSpace;
use std::fmt;
use std::str::FromStr;

/// An inclusive range of ports, `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port, included.
    pub last: u16,
}

impl PortRange {
    /// All 65,536 numbers.
    pub const ALL: PortRange = PortRange::new(0, u16::MAX);

    /// The ports `first` to `last`, both included.
    pub const fn new(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    /// Number of ports; at least 1.
    #[inline]
    pub fn size(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// True if `port` lies inside.
    #[inline]
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// The part of the range inside `other`, if any.
    #[inline]
    pub fn intersect(self, other: PortRange) -> Option<PortRange> {
        let both = PortRange::new(self.first.max(other.first), self.last.min(other.last));
        (both.first <= both.last).then_some(both)
    }
}

/// Why a list of ports was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    /// The list has no ranges.
    #[error("the port list is empty (\"1024-65535\" is a list)")]
    Empty,
    /// Something that is neither a port nor a range of ports.
    #[error("\"{0}\" is not a port or a range of ports (\"53\" and \"1024-65535\" are)")]
    Syntax(String),
    /// A range whose end lies before its start.
    #[error("the range {0}-{1} is reversed ({1}-{0} would be right)")]
    Reversed(u16, u16),
    /// A port in two of the ranges.
    #[error("port {0} is in the list twice")]
    Overlap(u16),
}

/// A set of ports: sorted, disjoint, inclusive ranges; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRanges {
    ranges: Box<[PortRange]>,
    size: u32,
}

impl PortRanges {
    /// The one range `first` to `last` (exchanged if reversed).
    pub fn single(first: u16, last: u16) -> PortRanges {
        let range = PortRange::new(first.min(last), first.max(last));
        PortRanges {
            size: range.size(),
            ranges: Box::new([range]),
        }
    }

    /// The set of these ranges; touching ones are joined.
    ///
    /// # Errors
    /// An empty list, a reversed range, or a port that two ranges share.
    pub fn new(mut list: Vec<PortRange>) -> Result<PortRanges, RangesError> {
        if let Some(r) = list.iter().find(|r| r.first > r.last) {
            return Err(RangesError::Reversed(r.first, r.last));
        }
        list.sort_unstable();
        let mut joined: Vec<PortRange> = Vec::with_capacity(list.len());
        for range in list {
            match joined.last_mut() {
                Some(last) if range.first <= last.last => {
                    return Err(RangesError::Overlap(range.first));
                }
                Some(last) if range.first == last.last + 1 => last.last = range.last,
                _ => joined.push(range),
            }
        }
        if joined.is_empty() {
            return Err(RangesError::Empty);
        }
        Ok(PortRanges {
            size: joined.iter().map(|r| r.size()).sum(),
            ranges: joined.into_boxed_slice(),
        })
    }

    /// Number of ports, 1–65,536.
    #[inline]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The ranges, ascending.
    #[inline]
    pub fn ranges(&self) -> &[PortRange] {
        &self.ranges
    }

    /// True if the set has `port`.
    #[inline]
    pub fn contains(&self, port: u16) -> bool {
        self.ranges.iter().any(|r| r.contains(port))
    }

    /// The `n`-th port counted from 0. A uniform `n` draws every range in proportion to its size.
    pub fn nth(&self, n: u32) -> Option<u16> {
        Allowed::new(self, PortMask::none(), PortSpace::Tcp).nth(n)
    }

    /// Every port, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().flat_map(|r| r.first..=r.last)
    }
}

impl FromStr for PortRanges {
    type Err = RangesError;

    /// Parses `"1024-29999,32768-65535"`; blanks around numbers are ignored.
    fn from_str(text: &str) -> Result<PortRanges, RangesError> {
        let port = |s: &str| {
            let s = s.trim();
            // `u16::from_str` would take "+5".
            let digits = s.bytes().all(|b| b.is_ascii_digit());
            s.parse::<u16>().ok().filter(|_| digits)
        };
        let mut list = Vec::new();
        for part in text.split(',').filter(|_| !text.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (port(first), port(last)) {
                (Some(first), Some(last)) => list.push(PortRange::new(first, last)),
                _ => return Err(RangesError::Syntax(part.trim().to_owned())),
            }
        }
        PortRanges::new(list)
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if range.first == range.last {
                write!(f, "{comma}{}", range.first)?;
            } else {
                write!(f, "{comma}{}-{}", range.first, range.last)?;
            }
        }
        Ok(())
    }
}

/// Words of 64 bits that cover all ports.
const WORDS: usize = 1024;

/// Ports of one external address that allocation never hands out, per space: the external ports of port
/// forwards and the gateway's own services. Immutable once built; snapshots share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortMask {
    /// Empty, or 1024 words: most masks reserve nothing and need no memory.
    spaces: [Vec<u64>; PortSpace::COUNT],
}

/// The mask that reserves nothing.
static NOTHING: PortMask = PortMask::new();

impl PortMask {
    /// A mask that reserves nothing yet.
    pub const fn new() -> PortMask {
        PortMask {
            spaces: [const { Vec::new() }; PortSpace::COUNT],
        }
    }

    /// The shared mask that reserves nothing.
    pub fn none() -> &'static PortMask {
        &NOTHING
    }

    /// Adds the ports of `range` to the mask of `space`.
    pub fn reserve(&mut self, space: PortSpace, range: PortRange) {
        let words = &mut self.spaces[space.index()];
        words.resize(WORDS, 0);
        for port in range.first..=range.last {
            words[usize::from(port) / 64] |= 1 << (port % 64);
        }
    }

    /// True if `port` of `space` is reserved.
    #[inline]
    pub fn contains(&self, space: PortSpace, port: u16) -> bool {
        self.word(space, usize::from(port) / 64) >> (port % 64) & 1 == 1
    }

    /// Number of reserved ports of `space`.
    pub fn count(&self, space: PortSpace) -> u32 {
        self.spaces[space.index()]
            .iter()
            .map(|w| w.count_ones())
            .sum()
    }

    /// Ports `64 * word` to `64 * word + 63`, bit set = reserved.
    #[inline]
    pub(super) fn word(&self, space: PortSpace, word: usize) -> u64 {
        self.spaces[space.index()].get(word).copied().unwrap_or(0)
    }

    /// Ports `port` to `port + 63`, bit set = reserved.
    #[inline]
    fn bits_at(&self, space: PortSpace, port: u16) -> u64 {
        let (word, shift) = (usize::from(port) / 64, u32::from(port % 64));
        let low = self.word(space, word) >> shift;
        let high = self.word(space, word + 1).checked_shl(64 - shift);
        low | high.unwrap_or(0)
    }
}

/// Every second bit, the lowest one first.
const EVEN: u64 = 0x5555_5555_5555_5555;

/// The ports one allocation may use: some ranges, clipped to a class, without the reserved ports, perhaps of one parity.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    ranges: &'a [PortRange],
    clip: PortRange,
    reserved: &'a PortMask,
    space: PortSpace,
    /// Bit `n` set: ports that are `n` modulo 64 may be handed out.
    residues: u64,
}

impl<'a> Allowed<'a> {
    /// The ports of `ranges` that `reserved` does not reserve in `space`.
    pub fn new(ranges: &'a PortRanges, reserved: &'a PortMask, space: PortSpace) -> Allowed<'a> {
        Allowed {
            ranges: ranges.ranges(),
            clip: PortRange::ALL,
            reserved,
            space,
            residues: u64::MAX,
        }
    }

    /// All 65,536 ports that `reserved` does not reserve in `space`.
    pub fn all(reserved: &'a PortMask, space: PortSpace) -> Allowed<'a> {
        Allowed {
            ranges: &[PortRange::ALL],
            clip: PortRange::ALL,
            reserved,
            space,
            residues: u64::MAX,
        }
    }

    /// Those of the ports that are even or odd as `port` is (RFC 4787 REQ-4).
    // Implements: U4, P8.
    pub fn with_parity_of(self, port: u16) -> Allowed<'a> {
        Allowed {
            residues: EVEN << (port % 2),
            ..self
        }
    }

    /// The same ports as far as they lie in `clip`; may be none.
    pub fn clip(self, clip: PortRange) -> Allowed<'a> {
        Allowed { clip, ..self }
    }

    /// The part of the clip from `port` on; a range nothing intersects if there is none.
    #[inline]
    pub(super) fn clip_above(&self, port: u16) -> PortRange {
        PortRange::new(self.clip.first.max(port), self.clip.last)
    }

    /// The part of the clip before `port`.
    #[inline]
    pub(super) fn clip_below(&self, port: u16) -> Option<PortRange> {
        Some(PortRange::new(
            self.clip.first,
            self.clip.last.min(port.checked_sub(1)?),
        ))
    }

    /// True if every one of the 65,536 ports may be handed out.
    #[inline]
    pub fn is_everything(&self) -> bool {
        self.ranges == [PortRange::ALL]
            && self.clip == PortRange::ALL
            && self.residues == u64::MAX
            && self.reserved.spaces[self.space.index()].is_empty()
    }

    /// The space the ports are of.
    #[inline]
    pub fn space(&self) -> PortSpace {
        self.space
    }

    /// The clipped ranges, ascending. Reserved ports and those of the wrong parity are still among them.
    #[inline]
    pub fn ranges(&self) -> impl Iterator<Item = PortRange> + Clone + 'a {
        let clip = self.clip;
        self.ranges.iter().filter_map(move |r| r.intersect(clip))
    }

    /// Number of ports in the ranges, reserved ones included.
    #[inline]
    pub fn size(&self) -> u32 {
        self.ranges().map(PortRange::size).sum()
    }

    /// The `n`-th port of the ranges, counted from 0, reserved ones included.
    #[inline]
    pub fn nth(&self, mut n: u32) -> Option<u16> {
        for range in self.ranges() {
            if n < range.size() {
                return Some(range.first + n as u16);
            }
            n -= range.size();
        }
        None
    }

    /// True if `port` may be handed out.
    #[inline]
    pub fn contains(&self, port: u16) -> bool {
        self.clip.contains(port)
            && self.ranges.iter().any(|r| r.contains(port))
            && !self.reserved.contains(self.space, port)
            && self.residues >> (port % 64) & 1 == 1
    }

    /// Ports `64 * word` to `64 * word + 63`, bit set = not reserved, and of the right parity.
    #[inline]
    pub(super) fn unreserved_word(&self, word: usize) -> u64 {
        !self.reserved.word(self.space, word) & self.residues
    }

    /// Ports `port` to `port + 63`, bit set = may be handed out.
    #[inline]
    pub(super) fn bits_at(&self, port: u16) -> u64 {
        if port <= u16::MAX - 63 && self.is_everything() {
            return u64::MAX;
        }
        let window = PortRange::new(port, port.saturating_add(63));
        let mut bits = 0;
        for range in self.ranges() {
            if let Some(part) = range.intersect(window) {
                let ones = u64::MAX >> (64 - part.size());
                bits |= ones << (part.first - port);
            }
        }
        let residues = self.residues.rotate_right(u32::from(port % 64));
        bits & !self.reserved.bits_at(self.space, port) & residues
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_parse_and_print() {
        let ranges: PortRanges = "32768-65535, 1024-29999".parse().unwrap();
        assert_eq!(ranges.to_string(), "1024-29999,32768-65535");
        assert_eq!(ranges.size(), 28976 + 32768);
        assert_eq!(ranges.nth(28976), Some(32768));
        assert_eq!(ranges.nth(28976 + 32768), None);
        assert!(ranges.contains(29999) && !ranges.contains(30000));
        assert_eq!("7,8-9".parse::<PortRanges>().unwrap().to_string(), "7-9");
        assert_eq!("0-65535".parse::<PortRanges>().unwrap().size(), 65536);
    }

    #[test]
    fn bad_lists_say_what_is_wrong() {
        let parse = |s: &str| s.parse::<PortRanges>().unwrap_err();
        assert_eq!(parse(" "), RangesError::Empty);
        assert_eq!(parse("9-7"), RangesError::Reversed(9, 7));
        assert_eq!(parse("1-9,9"), RangesError::Overlap(9));
        assert_eq!(parse("1,"), RangesError::Syntax(String::new()));
        for bad in ["65536", "a", "1-2-3", "-", "+5"] {
            assert_eq!(parse(bad), RangesError::Syntax(bad.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn windows_agree_with_single_ports(
            ports in proptest::collection::vec((0u16..400, 0u16..90), 1..6),
            reserved in proptest::collection::vec(0u16..500, 0..40),
            clip in (0u16..300, 0u16..300),
            at in 0u16..500,
            parity in proptest::option::of(0u16..2),
        ) {
            let mut list: Vec<PortRange> = Vec::new();
            for (first, len) in ports {
                let range = PortRange::new(first, first + len);
                if list.iter().all(|r| r.intersect(range).is_none()) {
                    list.push(range);
                }
            }
            let mut mask = PortMask::new();
            for port in reserved {
                mask.reserve(PortSpace::Udp, PortRange::new(port, port));
            }
            let ranges = PortRanges::new(list).unwrap();
            let clip = PortRange::new(clip.0, clip.0 + clip.1);
            let mut allowed = Allowed::new(&ranges, &mask, PortSpace::Udp).clip(clip);
            if let Some(parity) = parity {
                allowed = allowed.with_parity_of(parity);
            }
            let bits = allowed.bits_at(at);
            for i in 0..64 {
                let expected = ranges.contains(at + i)
                    && clip.contains(at + i)
                    && !mask.contains(PortSpace::Udp, at + i)
                    && parity.is_none_or(|parity| (at + i) % 2 == parity);
                prop_assert_eq!(bits >> i & 1 == 1, expected);
                prop_assert_eq!(allowed.contains(at + i), expected);
            }
            let all: Vec<u16> = ranges.iter().filter(|&p| clip.contains(p)).collect();
            prop_assert_eq!(all.len() as u32, allowed.size());
            for (n, &port) in all.iter().enumerate() {
                prop_assert_eq!(allowed.nth(n as u32), Some(port));
            }
        }
    }

    #[test]
    fn reserved_ports_are_counted_once_and_in_their_space() {
        let mut mask = PortMask::new();
        for range in [PortRange::new(60, 70), PortRange::new(65, 69)] {
            mask.reserve(PortSpace::Udp, range);
        }
        assert_eq!(mask.count(PortSpace::Udp), 11);
        assert_eq!(mask.count(PortSpace::Tcp), 0);
    }

    #[test]
    fn the_last_window_ends_at_the_last_port() {
        let allowed = Allowed::all(PortMask::none(), PortSpace::Tcp);
        assert_eq!(allowed.bits_at(65535), 1);
        assert_eq!(allowed.bits_at(65472), u64::MAX);
    }
}
