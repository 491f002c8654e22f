//! What is known of every flow, and whether a frame that came back agrees with it.

use crate::arch::{HugeVec, OutOfMemory, Pages};
use crate::bench::family::Family;
use crate::bench::phase::Measured;
use crate::bench::traffic::{Population, Purpose, Seen, is_sound};
use crate::flow::key::Tuple;

/// In phases that are not thorough, of every 16th flow the source is compared.
const SAMPLE: u32 = 16;

/// Frames of established flows that are remembered, per direction: more than can be under way.
const RECENT: usize = 1024;

/// The flows of one generator.
pub struct Ledger {
    family: Family,
    population: Population,
    /// External endpoint of each flow, learned from its first frame: address and port in one word; 0 before.
    outside: HugeVec<u64>,
    /// Whether first frames teach it: not while nothing translates them.
    pub learning: bool,
    /// Outwards and inwards.
    order: [Sequence; 2],
}

impl Ledger {
    /// Nothing is known of any of the `flows`.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(family: Family, population: Population, flows: u32) -> Result<Ledger, OutOfMemory> {
        Ok(Ledger {
            family,
            population,
            outside: HugeVec::new(flows as usize, Pages::Transparent)?,
            learning: true,
            order: [Sequence::new(), Sequence::new()],
        })
    }

    /// A frame of the flow will soon be sent and come back: from inside, of every 16th flow the source will be compared.
    #[inline]
    pub fn prefetch(&self, flow: u32, inside: bool) {
        let asked = !inside || flow.is_multiple_of(SAMPLE);
        crate::arch::prefetch_index(&self.outside, if asked { flow as usize } else { 0 });
    }

    /// Whether the external endpoint of a flow is known.
    pub fn knows(&self, flow: u32) -> bool {
        self.outside.get(flow as usize).is_some_and(|&e| e != 0)
    }

    /// What is known of flows that nobody translates: their endpoint is their own.
    pub fn learn_untranslated(&mut self) {
        for flow in 0..self.outside.len() {
            let tuple = self.population.tuple(flow as u32);
            self.outside[flow] = packed((tuple.source, tuple.source_port));
        }
    }

    /// What the remote of a flow sends to its external endpoint.
    #[inline]
    pub fn answer(&self, flow: u32) -> Tuple<u32> {
        let tuple = self.population.tuple(flow);
        let endpoint = self.outside.get(flow as usize).copied().unwrap_or_default();
        Tuple {
            source: tuple.destination,
            destination: (endpoint >> 16) as u32,
            source_port: tuple.destination_port,
            destination_port: endpoint as u16,
        }
    }

    /// Examines a frame of ours that came out of a port, `seen` in it: `thorough` means every source and every checksum.
    #[inline(always)]
    pub fn examine(
        &mut self,
        seen: &Seen,
        frame: &[u8],
        to_inside: bool,
        thorough: bool,
        measured: &mut Measured,
    ) {
        let Seen { flow, purpose, .. } = *seen;
        let Some(endpoint) = self.outside.get_mut(flow as usize) else {
            measured.wrong += 1;
            return;
        };
        let mut right = match to_inside {
            true => self.population.leads_in(seen),
            false => self.population.leads_out(seen),
        };
        right &= seen.is_numbered;
        if !to_inside && seen.has_ports {
            if purpose == Purpose::Opening && self.learning {
                *endpoint = packed(seen.source());
            } else if thorough || flow.is_multiple_of(SAMPLE) {
                right &= *endpoint == packed(seen.source());
            }
        }
        if thorough && purpose != Purpose::Fragment {
            right &= is_sound(self.family, frame);
        }
        measured.wrong += u64::from(!right);
        if purpose == Purpose::Established {
            let order = &mut self.order[usize::from(to_inside)];
            measured.reordered += u64::from(order.is_overtaken(flow, seen.sequence));
        }
    }

    /// Sequence numbers start again.
    pub fn forget_order(&mut self) {
        self.order = [Sequence::new(), Sequence::new()];
    }
}

/// The latest frames of established flows in one direction.
struct Sequence {
    highest: u32,
    /// Flow in the high half, sequence number in the low one.
    recent: Box<[u64; RECENT]>,
    next: usize,
}

impl Sequence {
    fn new() -> Sequence {
        Sequence {
            highest: 0,
            recent: Box::new([0; RECENT]),
            next: 0,
        }
    }

    /// Takes note of a frame, and tells whether a later one of its flow was here before it.
    #[inline(always)]
    fn is_overtaken(&mut self, flow: u32, sequence: u32) -> bool {
        let late = sequence < self.highest;
        let overtaken = late && self.has_later(flow, sequence);
        self.highest = self.highest.max(sequence);
        self.recent[self.next % RECENT] = u64::from(flow) << 32 | u64::from(sequence);
        self.next += 1;
        overtaken
    }

    #[cold]
    fn has_later(&self, flow: u32, sequence: u32) -> bool {
        let later = |entry: &u64| *entry >> 32 == u64::from(flow) && *entry as u32 > sequence;
        self.recent.iter().any(later)
    }
}

/// An endpoint in one word; never 0.
#[inline]
fn packed((address, port): (u32, u16)) -> u64 {
    u64::from(address) << 16 | u64::from(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frames_of_one_flow_can_overtake_each_other() {
        let mut order = Sequence::new();
        for (flow, sequence, overtaken) in [
            (1, 1, false),
            (2, 4, false),
            (1, 3, false),
            (2, 2, true),
            (2, 5, false),
        ] {
            assert_eq!(
                order.is_overtaken(flow, sequence),
                overtaken,
                "{flow} {sequence}"
            );
        }
    }
}
