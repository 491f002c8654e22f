//! Long random histories.

use natgate::base::Random;
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;

use crate::common::*;
use crate::packets::{Cut, endpoint, error, inbound, outbound};
use crate::reference::{DEPENDS, GRAIN, Pool, Reference, UDP, UDP_UNREPLIED};
use crate::setting;

/// Ports of the pool.
const PORTS: u16 = 32;

const POOL: &str = "203.0.113.20";

/// Narrow ranges, so that everything collides.
struct Dice(Random);

impl Dice {
    fn host(&mut self) -> &'static str {
        ["10.0.0.2", "10.0.0.3", "10.0.0.4"][self.0.below(3) as usize]
    }

    fn remote(&mut self) -> End {
        (
            ["203.0.113.9", "203.0.113.10"][self.0.below(2) as usize],
            5000 + self.0.below(2) as u16,
        )
    }

    fn inside(&mut self) -> End {
        (self.host(), 2000 + self.0.below(6) as u16)
    }

    fn outside(&mut self) -> End {
        (POOL, 2000 + self.0.below(u32::from(PORTS)) as u16)
    }

    /// One in eight comes in pieces, in some order.
    fn cut(&mut self, step: u32) -> Cut {
        const ORDERS: [[usize; 3]; 6] = [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ];
        let order = ORDERS[self.0.below(6) as usize];
        (self.0.below(8) == 0).then_some((step as u16, order))
    }
}

fn run(workers: u8, behaviours: (usize, usize), seed: u64, steps: u32) {
    let (m, f) = (DEPENDS[behaviours.0], DEPENDS[behaviours.1]);
    let rules = format!(
        "[[pool]]\nname = \"p\"\naddresses = [\"{POOL}\"]\nports = \"2000-2031\"\nhold = \"0s\"\nmapping = \"{m}\"\nfiltering = \"{f}\"\nselect = \"preserve\"\n\
         [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n"
    );
    let mut rack = Rack::new(lab_policy(workers, &rules), ShardSize::small(), seed).unwrap();
    let pool = Pool {
        addresses: vec![ip(POOL)],
        ports: 2000..=2000 + PORTS - 1,
    };
    let mut model = Reference::new(rack.now.millis, behaviours, pool);
    let mut dice = Dice(Random::from_seed(seed));
    for step in 0..steps {
        while model.near_deadline() {
            rack.advance(GRAIN);
            rack.maintain();
            model.now += GRAIN;
        }
        let at = dice.0.below(u32::from(workers)) as u8;
        let context =
            || format!("seed {seed}, workers {workers}, mapping {m}, filtering {f}, step {step}");
        match dice.0.below(100) {
            0..42 => {
                let (flow, cut) = ((dice.inside(), dice.remote()), dice.cut(step));
                outbound(&mut rack, &mut model, at, flow, cut, &context);
            }
            42..84 => {
                let (flow, cut) = ((dice.remote(), dice.outside()), dice.cut(step));
                inbound(&mut rack, &mut model, at, flow, cut, &context);
            }
            84..90 => {
                let (from, to) = (dice.inside(), dice.remote());
                let wanted = (endpoint(from), endpoint(to));
                // What the flow's packets left by, or a port nobody has.
                let flow = model.flows.get(&wanted);
                let mapping = flow.and_then(|flow| model.mappings.get(&flow.mapping));
                let port = mapping.map_or(1999, |mapping| mapping.outside.1);
                let about = ((POOL, port), to);
                error(&mut rack, &mut model, at, about, &context);
            }
            90..97 => {
                let millis = u64::from(dice.0.below(90_000));
                rack.advance(millis);
                model.now += millis;
                // A mapping ends with the sweep that takes its last session, a turn after the timeout at most.
                rack.maintain();
            }
            _ => reload(&mut rack, &lab_text(workers, &rules, "")),
        }
        balanced(&rack);
    }
    rack.advance(UDP + UDP_UNREPLIED);
    rack.maintain();
    assert_eq!(
        rack.sessions(),
        0,
        "after the last timeout nothing is left (seed {seed})"
    );
    for shard in &rack.shards {
        assert!(shard.nat.mappings.is_empty(), "seed {seed}");
        assert!(shard.nat.allocator.shared().is_empty(), "seed {seed}");
        assert_eq!(shard.held(), 0, "seed {seed}");
    }
}

/// A million steps in all, unless told otherwise.
// Proves: U1, U3, U6, U8a, U11, U14, G13, P3.
#[test]
fn random_histories_agree_with_the_reference() {
    const RUNS: u32 = 3 * 9 * 2;
    let steps = setting("NATGATE_MODEL_STEPS", 1_080_000) / RUNS;
    std::thread::scope(|scope| {
        for workers in [1, 2, 4] {
            scope.spawn(move || {
                for mapping in 0..DEPENDS.len() {
                    for filtering in 0..DEPENDS.len() {
                        for seed in 0..2 {
                            run(workers, (mapping, filtering), seed, steps);
                        }
                    }
                }
            });
        }
    });
}
