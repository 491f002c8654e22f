//! The order in which flows are visited, and the sizes of their frames.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::base::Random;

/// The order in which established flows send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Every flow once per turn, pseudo-randomly: the hardest for caches.
    #[default]
    Random,
    /// One flow after the other, host by host.
    Sequential,
    /// A few flows send most: rank r with probability proportional to r⁻¹·¹.
    Zipf,
}

/// An endless sequence of flow numbers.
#[derive(Clone, Debug)]
pub enum Order {
    /// See [`Pattern::Random`].
    Random(Shuffle),
    /// See [`Pattern::Sequential`].
    Sequential {
        /// Flows.
        flows: u32,
        /// The next one.
        next: u32,
    },
    /// Drawn in advance, since drawing costs more than translating.
    Drawn {
        /// The draws.
        draws: Vec<u32>,
        /// The next one.
        next: usize,
    },
}

/// Draws of a Zipf sequence before it repeats.
const DRAWS: usize = 1 << 20;

impl Order {
    /// An order over `flows` flows.
    pub fn new(pattern: Pattern, flows: u32, seed: u64) -> Order {
        match pattern {
            Pattern::Random => Order::Random(Shuffle::new(flows)),
            Pattern::Sequential => Order::Sequential { flows, next: 0 },
            Pattern::Zipf => {
                let (zipf, mut random) = (Zipf::new(flows), Random::from_seed(seed));
                // Popular flows must not be neighbours in memory.
                let scatter = Shuffle::new(flows);
                let draws = (0..DRAWS).map(|_| scatter.place(zipf.draw(&mut random)));
                Order::Drawn {
                    draws: draws.collect(),
                    next: 0,
                }
            }
        }
    }

    /// The next flow.
    #[inline]
    pub fn next_flow(&mut self) -> u32 {
        match self {
            Order::Random(shuffle) => shuffle.next_flow(),
            Order::Sequential { flows, next } => {
                let flow = *next;
                *next = if flow + 1 < *flows { flow + 1 } else { 0 };
                flow
            }
            Order::Drawn { draws, next } => {
                *next = (*next + 1) % DRAWS;
                draws.get(*next).copied().unwrap_or_default()
            }
        }
    }
}

/// Draws of [`Ahead`] between a flow's announcement and its turn: a burst, which is longer than memory takes.
const LEAD: usize = 64;

/// An order that tells which flow will have its turn soon, so that what is known of it can be fetched from memory.
#[derive(Clone, Debug)]
pub struct Ahead {
    order: Order,
    line: [u32; LEAD],
    at: usize,
}

impl Ahead {
    /// The same sequence as `order`'s.
    pub fn new(mut order: Order) -> Ahead {
        Ahead {
            line: std::array::from_fn(|_| order.next_flow()),
            order,
            at: 0,
        }
    }

    /// The next flow, and the one that will be next after 63 others.
    #[inline]
    pub fn next_flow(&mut self) -> (u32, u32) {
        let later = self.order.next_flow();
        let flow = std::mem::replace(&mut self.line[self.at % LEAD], later);
        self.at += 1;
        (flow, later)
    }
}

/// Every flow once per turn, pseudo-randomly, without a table.
#[derive(Clone, Copy, Debug)]
pub struct Shuffle {
    flows: u32,
    mask: u32,
    /// By how much high bits are folded into low ones.
    shift: u32,
    next: u32,
}

impl Shuffle {
    /// An order over `flows` flows.
    pub fn new(flows: u32) -> Shuffle {
        let mask = flows.max(2).next_power_of_two() - 1;
        Shuffle {
            flows,
            mask,
            shift: (16 - mask.leading_zeros() / 2).min(15),
            next: 0,
        }
    }

    /// The next flow. A full-period linear congruential generator modulo a power of two (multiplier ≡ 1 mod 4, odd
    /// increment) visits every number below it once; those beyond the population are passed over.
    #[inline]
    pub fn next_flow(&mut self) -> u32 {
        loop {
            self.next = self
                .next
                .wrapping_mul(0x0019_660d)
                .wrapping_add(0x3c6e_f35f)
                & self.mask;
            let flow = self.mix(self.next);
            if flow < self.flows {
                return flow;
            }
        }
    }

    /// The place of number `n` below the number of flows: a permutation of them.
    fn place(&self, n: u32) -> u32 {
        let mut place = n;
        loop {
            place = self.mix(place.wrapping_mul(0x0019_660d).wrapping_add(1) & self.mask);
            if place < self.flows {
                return place;
            }
        }
    }

    /// The low bits of such a sequence alternate; folding the high ones in keeps it a permutation.
    #[inline]
    fn mix(&self, n: u32) -> u32 {
        n ^ (n >> self.shift) & self.mask
    }
}

/// Zipf's distribution over ranks from 0, by rejection-inversion (W. Hörmann, G. Derflinger, 1996).
struct Zipf {
    flows: f64,
    /// The integral of the density below rank 1.5, less the density there, and up to the last rank.
    low: f64,
    high: f64,
}

impl Zipf {
    const EXPONENT: f64 = 1.1;

    fn new(flows: u32) -> Zipf {
        let flows = f64::from(flows.max(1));
        Zipf {
            flows,
            low: Zipf::integral(1.5) - 1.0,
            high: Zipf::integral(flows + 0.5),
        }
    }

    fn integral(x: f64) -> f64 {
        x.powf(1.0 - Zipf::EXPONENT) / (1.0 - Zipf::EXPONENT)
    }

    fn inverse(y: f64) -> f64 {
        (y * (1.0 - Zipf::EXPONENT)).powf(1.0 / (1.0 - Zipf::EXPONENT))
    }

    fn draw(&self, random: &mut Random) -> u32 {
        loop {
            let unit = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            let y = self.high + unit * (self.low - self.high);
            let rank = Zipf::inverse(y).round().clamp(1.0, self.flows);
            if y >= Zipf::integral(rank + 0.5) - rank.powf(-Zipf::EXPONENT) {
                return rank as u32 - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_is_visited_once_a_turn() {
        for pattern in [Pattern::Random, Pattern::Sequential] {
            for flows in [1, 2, 63, 1000, 64_512] {
                let mut order = Order::new(pattern, flows, 1);
                let mut seen = vec![false; flows as usize];
                for _ in 0..flows {
                    let flow = order.next_flow() as usize;
                    assert!(!seen[flow], "flow {flow} of {flows} came twice in one turn");
                    seen[flow] = true;
                }
            }
        }
    }

    #[test]
    fn flows_are_announced_a_burst_before_their_turn() {
        let mut plain = Order::new(Pattern::Random, 1000, 1);
        let mut ahead = Ahead::new(plain.clone());
        let mut announced = Vec::new();
        for turn in 0..3000 {
            let (flow, later) = ahead.next_flow();
            assert_eq!(flow, plain.next_flow(), "turn {turn}");
            announced.push(later);
            if turn >= LEAD {
                assert_eq!(announced[turn - LEAD], flow, "turn {turn}");
            }
        }
    }

    #[test]
    fn zipf_prefers_few_flows_in_the_right_proportion() {
        let flows = 1000;
        let mut counts = vec![0u32; flows as usize];
        let mut order = Order::new(Pattern::Zipf, flows, 1);
        for _ in 0..DRAWS {
            counts[order.next_flow() as usize] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let total: f64 = (1..=flows)
            .map(|r| f64::from(r).powf(-Zipf::EXPONENT))
            .sum();
        for rank in [1u32, 2, 10, 100] {
            let wanted = f64::from(rank).powf(-Zipf::EXPONENT) / total * DRAWS as f64;
            let got = f64::from(counts[rank as usize - 1]);
            assert!(
                (got / wanted - 1.0).abs() < 0.1,
                "rank {rank}: {got}, not {wanted}"
            );
        }
    }
}
