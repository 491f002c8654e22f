//! The first rule of thousands that matches, without asking them one after the other.
//!
//! Every field of a packet is looked up on its own. An axis cuts the values of one field into segments at the borders
//! of all rules' ranges; all values of a segment, and all segments that the same rules speak of, are one class, and a class
//! is the set of these rules as bits. The rules that match are the intersection of the classes of all fields, and its
//! lowest bit is the first of them (the "bit vector" method of packet classification).
//!
//! ```text
//!   source       10.0.0.9  ──segment──▶ class 17 ──▶ rules  .1...1..     ┐
//!   destination  …         ──segment──▶ class  3 ──▶ rules  11..11.1     ├ and ──▶ .....1.. ──▶ rule 5
//!   protocol     tcp       ──segment──▶ class  1 ──▶ rules  ...1111.     ┘
//! ```
//!
//! Most rules do not care about most fields, and most classes hold few rules, so a class stores only its words that are
//! not zero, under a summary with one bit for each word; rules without a condition on the field are kept once for the whole
//! axis. Summaries are intersected first, so that words in which no rule can match are never touched. Range lists that
//! rules share (named sets) are cut once, however many rules use them.

use std::sync::Arc;

use arrayvec::ArrayVec;
use hashbrown::HashMap;

use super::conditions::{Conditions, Crossing};
use crate::flow::key::Address;
use crate::nat::matcher::{RangeSet, Value};

/// Fields a rule can have a condition on.
const FIELDS: usize = 11;

/// Rules as bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bits(Vec<u64>);

impl Bits {
    fn none(count: usize) -> Bits {
        Bits(vec![0; count.div_ceil(64)])
    }

    fn set(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    fn clear(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    fn add(&mut self, other: &Bits) {
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let bits = |(at, &word): (usize, &u64)| {
            (0..64)
                .filter(move |bit| word >> bit & 1 != 0)
                .map(move |bit| 64 * at + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }

    /// One bit for each word that is not zero.
    fn summary(&self) -> Bits {
        let mut summary = Bits::none(self.0.len());
        for (at, _) in self.0.iter().enumerate().filter(|(_, word)| **word != 0) {
            summary.set(at);
        }
        summary
    }
}

/// One field: which rules speak of which of its values.
#[derive(Debug)]
struct Axis<K> {
    /// First value of each segment, ascending; the first segment starts at the smallest value.
    starts: Vec<K>,
    /// Class of each segment.
    segments: Vec<u32>,
    /// Rules without a condition on this field.
    any: Bits,
    any_summary: Bits,
    /// Words of a summary.
    width: usize,
    /// The summaries of all classes, one after the other. Class 0 has no rule.
    summaries: Vec<u64>,
    /// Where the words of each class begin.
    offsets: Vec<u32>,
    /// The words that are not zero, class by class.
    words: Vec<u64>,
}

/// The class of one packet in one field.
struct View<'a> {
    any: &'a Bits,
    any_summary: &'a Bits,
    summary: &'a [u64],
    words: &'a [u64],
}

impl View<'_> {
    /// Which words of summary word `at` can hold a rule.
    #[inline]
    fn summary(&self, at: usize) -> u64 {
        self.summary[at] | self.any_summary.0[at]
    }

    /// Word `bit` under summary word `at`; `rank` words of the class lie under summary words before it.
    #[inline]
    fn word(&self, at: usize, bit: u32, rank: usize) -> u64 {
        let any = self.any.0[64 * at + bit as usize];
        if self.summary[at] >> bit & 1 == 0 {
            return any;
        }
        let below = self.summary[at] & ((1 << bit) - 1);
        any | self.words[rank + below.count_ones() as usize]
    }
}

impl<K: Value> Axis<K> {
    /// The axis of a field on which rule `i` has the condition `conditions[i]`; `None` when no rule has one.
    fn new(conditions: &[Arc<RangeSet<K>>]) -> Option<Axis<K>> {
        let (sets, any) = group(conditions);
        if sets.is_empty() {
            return None;
        }
        let any_summary = any.summary();
        let mut axis = Axis {
            starts: vec![K::FIRST],
            segments: vec![0],
            width: any_summary.0.len(),
            any,
            any_summary,
            summaries: Vec::new(),
            offsets: Vec::new(),
            words: Vec::new(),
        };
        axis.add_class(&Bits::none(conditions.len()));
        axis.cut(&sets, conditions.len());
        Some(axis)
    }

    /// Cuts the values at the borders of all sets. Classes are told apart by the sum of a number drawn for each of their
    /// sets: 128 bits, so that two combinations never meet by chance.
    fn cut(&mut self, sets: &[Group<K>], rules: usize) {
        let mut borders: Vec<(K, bool, u32)> = Vec::new();
        for (index, group) in (0..).zip(sets) {
            for &(low, high) in group.set.ranges() {
                borders.push((low, true, index));
                if let Some(after) = high.next() {
                    borders.push((after, false, index));
                }
            }
        }
        // Ends before beginnings, so that a set whose ranges touch stays on.
        borders.sort_unstable();
        let mut classes: HashMap<u128, u32> = HashMap::new();
        classes.insert(0, 0);
        let mut active = Bits::none(sets.len());
        let mut sum = 0u128;
        for run in borders.chunk_by(|a, b| a.0 == b.0) {
            for &(_, begins, index) in run {
                if begins {
                    active.set(index as usize);
                    sum = sum.wrapping_add(mark(index));
                } else {
                    active.clear(index as usize);
                    sum = sum.wrapping_sub(mark(index));
                }
            }
            let class = *classes.entry(sum).or_insert_with(|| {
                let mut bits = Bits::none(rules);
                active.iter().for_each(|set| bits.add(&sets[set].rules));
                self.add_class(&bits)
            });
            self.begin_segment(run[0].0, class);
        }
    }

    fn begin_segment(&mut self, start: K, class: u32) {
        if start == K::FIRST {
            self.segments[0] = class;
        } else if self.segments.last() != Some(&class) {
            self.starts.push(start);
            self.segments.push(class);
        }
    }

    fn add_class(&mut self, bits: &Bits) -> u32 {
        let class = self.offsets.len() as u32;
        self.offsets.push(self.words.len() as u32);
        self.summaries.extend(bits.summary().0);
        self.words.extend(bits.0.iter().filter(|word| **word != 0));
        class
    }

    /// The class of a value; of none where the packet has no such field.
    #[inline]
    fn view(&self, value: Option<K>) -> View<'_> {
        let class = value.map_or(0, |value| {
            // The first segment starts at the smallest value.
            let after = self.starts.partition_point(|start| *start <= value);
            self.segments[after - 1] as usize
        });
        let summary = class * self.width;
        View {
            any: &self.any,
            any_summary: &self.any_summary,
            summary: &self.summaries[summary..summary + self.width],
            words: &self.words[self.offsets[class] as usize..],
        }
    }
}

/// A set and the rules that have it as their condition.
struct Group<K> {
    set: Arc<RangeSet<K>>,
    rules: Bits,
}

/// The distinct sets among the conditions, and the rules without a condition.
fn group<K: Value>(conditions: &[Arc<RangeSet<K>>]) -> (Vec<Group<K>>, Bits) {
    let mut any = Bits::none(conditions.len());
    let mut sets: Vec<Group<K>> = Vec::new();
    let mut by_address: HashMap<*const RangeSet<K>, usize> = HashMap::new();
    let mut by_content: HashMap<&[(K, K)], usize> = HashMap::new();
    for (rule, set) in conditions.iter().enumerate() {
        if !set.is_constrained() {
            any.set(rule);
            continue;
        }
        // Rules that share a list share its address, so that a long one is compared but once.
        let at = *by_address.entry(Arc::as_ptr(set)).or_insert_with(|| {
            *by_content.entry(set.ranges()).or_insert_with(|| {
                sets.push(Group {
                    set: set.clone(),
                    rules: Bits::none(conditions.len()),
                });
                sets.len() - 1
            })
        });
        sets[at].rules.set(rule);
    }
    (sets, any)
}

/// The number of a set in the sums that tell classes apart (two rounds of a 64-bit mixer).
fn mark(index: u32) -> u128 {
    let half = |seed: u64| {
        let mut x = u64::from(index).wrapping_add(1).wrapping_mul(seed);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        u128::from(x ^ x >> 31)
    };
    half(0x9e37_79b9_7f4a_7c15) << 64 | half(0xd6e8_feb8_6659_fd93)
}

/// Rules of one address family, made ready to be asked.
#[derive(Debug, Default)]
pub struct Classifier<A> {
    rules: usize,
    ingress: Option<Axis<u16>>,
    egress: Option<Axis<u16>>,
    source: Option<Axis<A>>,
    destination: Option<Axis<A>>,
    original: Option<Axis<A>>,
    protocol: Option<Axis<u16>>,
    source_port: Option<Axis<u16>>,
    destination_port: Option<Axis<u16>>,
    original_port: Option<Axis<u16>>,
    icmp: Option<Axis<u16>>,
    states: Option<Axis<u16>>,
}

impl<A: Address + Value> Classifier<A> {
    /// Makes rules ready. Their order is their priority.
    pub fn new(rules: &[Conditions<A>]) -> Classifier<A> {
        fn axis<A, K: Value>(
            rules: &[Conditions<A>],
            field: impl Fn(&Conditions<A>) -> &Arc<RangeSet<K>>,
        ) -> Option<Axis<K>> {
            let conditions: Vec<Arc<RangeSet<K>>> =
                rules.iter().map(|r| field(r).clone()).collect();
            Axis::new(&conditions)
        }
        Classifier {
            rules: rules.len(),
            ingress: axis(rules, |r| &r.ingress),
            egress: axis(rules, |r| &r.egress),
            source: axis(rules, |r| &r.source),
            destination: axis(rules, |r| &r.destination),
            original: axis(rules, |r| &r.original),
            protocol: axis(rules, |r| &r.protocol),
            source_port: axis(rules, |r| &r.source_port),
            destination_port: axis(rules, |r| &r.destination_port),
            original_port: axis(rules, |r| &r.original_port),
            icmp: axis(rules, |r| &r.icmp),
            states: axis(rules, |r| &r.states),
        }
    }

    /// The first rule that matches.
    pub fn first_match(&self, packet: &Crossing<A>) -> Option<usize> {
        let views = self.views(packet);
        if views.is_empty() {
            // No rule has a condition.
            return (self.rules > 0).then_some(0);
        }
        let mut ranks = [0usize; FIELDS];
        for at in 0..self.rules.div_ceil(64).div_ceil(64) {
            let mut candidates = views.iter().fold(u64::MAX, |all, v| all & v.summary(at));
            while candidates != 0 {
                let bit = candidates.trailing_zeros();
                candidates &= candidates - 1;
                let mut word = u64::MAX;
                for (view, rank) in views.iter().zip(&ranks) {
                    word &= view.word(at, bit, *rank);
                }
                if word != 0 {
                    return Some(64 * (64 * at + bit as usize) + word.trailing_zeros() as usize);
                }
            }
            for (rank, view) in ranks.iter_mut().zip(&views) {
                *rank += view.summary[at].count_ones() as usize;
            }
        }
        None
    }

    /// The packet's class on every axis there is.
    #[inline]
    fn views(&self, packet: &Crossing<A>) -> ArrayVec<View<'_>, FIELDS> {
        let ports = packet.has_ports;
        let tuple = &packet.tuple;
        let small = [
            (&self.ingress, Some(packet.ingress.0)),
            (&self.egress, Some(packet.egress.0)),
            (&self.protocol, Some(u16::from(packet.protocol))),
            (&self.source_port, ports.then_some(tuple.source_port)),
            (
                &self.destination_port,
                ports.then_some(tuple.destination_port),
            ),
            (&self.original_port, ports.then_some(packet.original.1)),
            (&self.icmp, packet.icmp.map(|icmp| icmp.number())),
            (&self.states, Some(packet.states.bits())),
        ];
        let wide = [
            (&self.source, tuple.source),
            (&self.destination, tuple.destination),
            (&self.original, packet.original.0),
        ];
        let small = small
            .into_iter()
            .filter_map(|(axis, value)| Some(axis.as_ref()?.view(value)));
        let wide = wide
            .into_iter()
            .filter_map(|(axis, value)| Some(axis.as_ref()?.view(Some(value))));
        small.chain(wide).collect()
    }
}
