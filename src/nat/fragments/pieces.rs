//! Which bytes of a datagram have been seen, so that no piece brings other bytes for the same place.
//!
//! Hosts differ in which of two overlapping pieces they believe, and whoever judges a datagram by its first one judges another
//! than its receiver does (RFC 1858, RFC 3128). No honest sender makes such pieces; IPv6 forbids them (RFC 5722). An exact
//! duplicate is what a network makes by itself, and harms nothing.

use arrayvec::ArrayVec;

use crate::wire::parse::Parsed;

/// Where a piece belongs: its bytes, and whether they are the last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u16,
    /// Behind the last byte.
    pub end: u16,
    /// Nothing comes behind it.
    pub last: bool,
}

impl Span {
    /// That of a parsed fragment. Its end is at most 65 535: longer ones are refused before.
    pub fn of(packet: &Parsed) -> Span {
        let start = packet.fragment.offset;
        Span {
            start,
            end: start.saturating_add(packet.l4_length()),
            last: !packet.fragment.more,
        }
    }
}

/// What a piece is to those that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It belongs where nothing was yet.
    New,
    /// The same bytes came before.
    Duplicate,
    /// It overlaps another, or lies behind the end.
    Overlap,
    /// The pieces lie too far apart to keep count of.
    Scattered,
}

/// Pieces kept apart at most. Neighbours are joined when it is more: the largest datagram in order never needs two places.
const APART: usize = 24;

/// The pieces of a datagram, in order, as far as they are known.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces {
    spans: ArrayVec<(u16, u16), APART>,
    /// Length of the datagram's payload, once its last piece was seen.
    length: Option<u16>,
}

impl Pieces {
    /// Takes down a piece. When the datagram is complete, everything is forgotten: what comes with its identification then
    /// belongs to another one.
    // Implements: F11.
    pub(super) fn add(&mut self, span: Span) -> Fit {
        let Span { start, end, last } = span;
        let beyond = self.length.is_some_and(|length| end > length);
        let short = last && self.spans.last().is_some_and(|(_, other)| *other > end);
        let contradicts = last && self.length.is_some_and(|length| length != end);
        if beyond || short || contradicts {
            return Fit::Overlap;
        }
        let at = self.spans.partition_point(|(other, _)| *other < start);
        if self.spans.get(at) == Some(&(start, end)) {
            return Fit::Duplicate;
        }
        let before = at.checked_sub(1).and_then(|at| self.spans.get(at));
        let behind = self.spans.get(at);
        if before.is_some_and(|(_, other)| *other > start)
            || behind.is_some_and(|(other, _)| *other < end)
        {
            return Fit::Overlap;
        }
        self.insert(span)
    }

    fn insert(&mut self, Span { start, end, last }: Span) -> Fit {
        if self.spans.is_full() {
            self.join();
        }
        let at = self.spans.partition_point(|(other, _)| *other < start);
        if self.spans.try_insert(at, (start, end)).is_err() {
            return Fit::Scattered;
        }
        if last {
            self.length = Some(end);
        }
        let seen: u32 = self.spans.iter().map(|(a, b)| u32::from(b - a)).sum();
        if self.length.map(u32::from) == Some(seen) {
            *self = Pieces::default();
        }
        Fit::New
    }

    /// Whether nothing is known: no piece came, or all of them did.
    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Joins pieces that touch.
    fn join(&mut self) {
        let mut joined = ArrayVec::<(u16, u16), APART>::new();
        for &(start, end) in &self.spans {
            match joined.last_mut() {
                Some((_, before)) if *before == start => *before = end,
                _ => joined.push((start, end)),
            }
        }
        self.spans = joined;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(start: u16, end: u16, last: bool) -> Span {
        Span { start, end, last }
    }

    #[test]
    fn pieces_fit_repeat_or_overlap() {
        let mut pieces = Pieces::default();
        for (start, end) in [(1000, 2000), (0, 1000), (3000, 4000)] {
            assert_eq!(pieces.add(span(start, end, false)), Fit::New);
            assert_eq!(pieces.add(span(start, end, false)), Fit::Duplicate);
        }
        for (start, end) in [(0, 8), (992, 1008), (1992, 2008), (2992, 3008), (0, 4000)] {
            assert_eq!(pieces.add(span(start, end, false)), Fit::Overlap);
        }
        assert_eq!(
            pieces.add(span(2000, 2100, true)),
            Fit::Overlap,
            "too short"
        );
        assert_eq!(pieces.add(span(4000, 4100, true)), Fit::New);
        assert_eq!(pieces.add(span(4100, 4200, false)), Fit::Overlap, "beyond");
        assert_eq!(pieces.add(span(2000, 2500, true)), Fit::Overlap, "two ends");
        assert_eq!(pieces.add(span(2000, 3000, false)), Fit::New);
        assert!(pieces.is_empty(), "complete: another datagram may come");
    }

    proptest! {
        #[test]
        fn a_datagram_in_any_order_with_duplicates_is_complete(
            order in Just((0..20u16).collect::<Vec<_>>()).prop_shuffle(),
            repeated in 0..20usize,
        ) {
            let mut pieces = Pieces::default();
            for (n, &i) in order.iter().enumerate() {
                prop_assert_eq!(pieces.add(span(i * 8, i * 8 + 8, i == 19)), Fit::New);
                if n < 19 {
                    let i = order[repeated.min(n)];
                    prop_assert_eq!(pieces.add(span(i * 8, i * 8 + 8, i == 19)), Fit::Duplicate);
                }
            }
            prop_assert!(pieces.is_empty());
        }

        /// Against a map of bytes: nothing that overlaps is taken, whatever came before.
        #[test]
        fn agrees_with_a_map_of_bytes(given in prop::collection::vec((0..64u16, 1..9u16), 1..60)) {
            let mut pieces = Pieces::default();
            let mut taken = [false; 80];
            for (start, length) in given {
                let bytes = usize::from(start)..usize::from(start + length);
                let free = taken[bytes.clone()].iter().all(|byte| !byte);
                let fit = pieces.add(span(start, start + length, false));
                prop_assert_eq!(free, matches!(fit, Fit::New | Fit::Scattered));
                if fit == Fit::New {
                    taken[bytes].fill(true);
                }
            }
        }
    }

    #[test]
    fn the_largest_datagram_in_order_fits_and_holes_have_an_end() {
        let mut pieces = Pieces::default();
        for i in 0..1000 {
            assert_eq!(pieces.add(span(i * 56, i * 56 + 56, i == 999)), Fit::New);
        }
        assert!(pieces.is_empty());
        let mut scattered = (0..1000).map(|i| pieces.add(span(i * 16, i * 16 + 8, false)));
        assert_eq!(scattered.position(|fit| fit == Fit::Scattered), Some(APART));
    }

    #[test]
    fn where_a_piece_ends_is_read_off_its_packet() {
        let packet = |offset: u16, length: u16, more| Parsed {
            l3: 14,
            l4: 34,
            ip_length: 20 + length,
            fragment: crate::wire::parse::Fragment {
                offset,
                more,
                ..Default::default()
            },
            ..Parsed::default()
        };
        assert_eq!(Span::of(&packet(800, 64, true)), span(800, 864, false));
        assert_eq!(Span::of(&packet(800, 64, false)), span(800, 864, true));
        assert_eq!(
            Span::of(&packet(65528, 64, false)),
            span(65528, 65535, true)
        );
    }

    #[test]
    fn a_last_piece_ends_the_datagram_where_every_other_does() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.add(span(64, 128, true)), Fit::New);
        assert_eq!(pieces.add(span(128, 192, false)), Fit::Overlap, "beyond");
        assert_eq!(pieces.add(span(0, 32, true)), Fit::Overlap, "another end");
        assert_eq!(pieces.add(span(64, 128, true)), Fit::Duplicate);
        assert_eq!(pieces.add(span(0, 64, false)), Fit::New);
        assert!(pieces.is_empty());
        assert_eq!(pieces.add(span(64, 128, false)), Fit::New);
        assert_eq!(pieces.add(span(0, 128, true)), Fit::Overlap);
        assert_eq!(pieces.add(span(0, 64, true)), Fit::Overlap, "not the last");
    }
}
