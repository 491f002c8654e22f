//! The conditions a rule puts on a new flow. Evaluated once per flow, never per packet, so plain sorted ranges do.

use std::hash::Hash;

use crate::base::InterfaceId;

/// A value that rules have ranges of.
pub trait Value: Copy + Ord + Hash {
    /// The smallest one.
    const FIRST: Self;
    /// The largest one.
    const LAST: Self;

    /// The next one.
    fn next(self) -> Option<Self>;
    /// The one before.
    fn previous(self) -> Option<Self>;
}

/// Implements [`Value`] for unsigned numbers, whose methods no trait has in common.
macro_rules! values {
    ($($number:ty)*) => {
        $(impl Value for $number {
            const FIRST: Self = <$number>::MIN;
            const LAST: Self = <$number>::MAX;

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
        })*
    };
}

values! { u16 u32 u128 }

/// A set of interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum InterfaceSet {
    /// No condition.
    #[default]
    Any,
    /// Exactly these, sorted.
    Only(Vec<InterfaceId>),
}

impl InterfaceSet {
    /// Whether `interface` is in the set.
    pub fn contains(&self, interface: InterfaceId) -> bool {
        match self {
            InterfaceSet::Any => true,
            InterfaceSet::Only(list) => list.binary_search(&interface).is_ok(),
        }
    }

    /// Whether the rule names interfaces at all.
    pub fn is_constrained(&self) -> bool {
        matches!(self, InterfaceSet::Only(_))
    }
}

/// A set of values as sorted, disjoint inclusive ranges. `RangeSet<u32>` holds IPv4 addresses, `RangeSet<u128>` IPv6
/// addresses, `RangeSet<u16>` ports, `RangeSet<u8>` protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet<T> {
    ranges: Vec<(T, T)>,
    any: bool,
}

impl<T> Default for RangeSet<T> {
    fn default() -> Self {
        RangeSet::any()
    }
}

impl<T> RangeSet<T> {
    /// No condition: everything is in the set.
    pub fn any() -> Self {
        RangeSet {
            ranges: Vec::new(),
            any: true,
        }
    }

    /// Whether the rule states a condition.
    pub fn is_constrained(&self) -> bool {
        !self.any
    }

    /// The ranges, sorted and disjoint; empty for "any" as well as for "none".
    pub fn ranges(&self) -> &[(T, T)] {
        &self.ranges
    }
}

impl<T: Copy + Ord> RangeSet<T> {
    /// The union of inclusive ranges given in any order; a range whose end lies below its start is empty.
    pub fn of(ranges: impl IntoIterator<Item = (T, T)>) -> Self {
        let mut sorted: Vec<(T, T)> = ranges.into_iter().filter(|(a, b)| a <= b).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(sorted.len());
        for (low, high) in sorted {
            match merged.last_mut() {
                Some(last) if low <= last.1 => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        RangeSet {
            ranges: merged,
            any: false,
        }
    }

    /// Whether `value` is in the set.
    pub fn contains(&self, value: T) -> bool {
        if self.any {
            return true;
        }
        let after = self.ranges.partition_point(|(low, _)| *low <= value);
        after > 0 && value <= self.ranges[after - 1].1
    }
}

impl<T: Value> RangeSet<T> {
    /// The set without the values of another: one pass over both.
    #[must_use]
    pub fn without(&self, out: &RangeSet<T>) -> RangeSet<T> {
        if out.any {
            return RangeSet::of([]);
        }
        let everything = [(T::FIRST, T::LAST)];
        let from = if self.any {
            &everything
        } else {
            &self.ranges[..]
        };
        let mut left = Vec::with_capacity(from.len());
        let mut first = 0;
        for &(low, high) in from {
            // Ranges that end below this one end below the next, too.
            first += out.ranges[first..].partition_point(|(_, end)| *end < low);
            let mut rest = Some(low);
            for &(a, b) in out.ranges[first..].iter().take_while(|(a, _)| *a <= high) {
                if let (Some(start), Some(before)) = (rest, a.previous()) {
                    left.push((start, before));
                }
                rest = b.next();
            }
            if let Some(start) = rest {
                left.push((start, high));
            }
        }
        // Where a range was cut at its border, the piece is upside down, that is empty.
        RangeSet::of(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn without_takes_out_exactly_the_others(
            from in prop::collection::vec((0u16..40, 0u16..40), 0..6),
            out in prop::collection::vec((0u16..40, 0u16..40), 0..6),
            any: bool,
        ) {
            let from = if any { RangeSet::any() } else { RangeSet::of(from) };
            let out = RangeSet::of(out);
            let left = from.without(&out);
            for value in (0..50).chain([u16::MAX]) {
                prop_assert_eq!(left.contains(value), from.contains(value) && !out.contains(value), "{}", value);
            }
        }
    }

    #[test]
    fn nothing_is_left_without_everything() {
        let all = RangeSet::<u32>::any();
        assert_eq!(all.without(&all).ranges(), []);
        assert_eq!(all.without(&RangeSet::of([(0, u32::MAX)])).ranges(), []);
        assert_eq!(
            all.without(&RangeSet::of([(5, u32::MAX)])).ranges(),
            [(0, 4)]
        );
        let some = RangeSet::of([(5u32, 10), (20, 30)]);
        let touched = some.without(&RangeSet::of([(3, 5), (10, 20), (30, 40)]));
        assert_eq!(touched.ranges(), [(6, 9), (21, 29)]);
    }

    #[test]
    fn ranges_merge_and_answer() {
        let set = RangeSet::of([(10u16, 20), (15, 30), (40, 40), (9, 3)]);
        assert_eq!(set.ranges(), &[(10, 30), (40, 40)]);
        for (port, inside) in [(9, false), (10, true), (30, true), (31, false), (40, true)] {
            assert_eq!(set.contains(port), inside, "{port}");
        }
        assert!(RangeSet::<u16>::any().contains(7));
        assert!(
            !RangeSet::<u16>::of([]).contains(7),
            "an empty list matches nothing"
        );
    }

    #[test]
    fn interface_sets() {
        let set = InterfaceSet::Only(vec![InterfaceId(1), InterfaceId(4)]);
        assert!(set.contains(InterfaceId(4)) && !set.contains(InterfaceId(2)));
        assert!(InterfaceSet::Any.contains(InterfaceId(2)));
    }
}
