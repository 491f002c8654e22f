//! Long random histories.

use natgate::base::Random;
use natgate::dataplane::shard::ShardSize;

use crate::common::*;
use crate::history::{About, Case, Step};
use crate::packets::Cut;
use crate::reference::{DEPENDS, UDP};
use crate::{setting, shrink};

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

/// What happens in a case.
pub fn history(case: &Case, steps: u32) -> Vec<Step> {
    let mut dice = Dice(Random::from_seed(case.seed));
    let step = |number| {
        let at = dice.0.below(u32::from(case.workers)) as u8;
        match dice.0.below(100) {
            0..42 => {
                let (from, to, cut) = (dice.inside(), dice.remote(), dice.cut(number));
                Step::Out { at, from, to, cut }
            }
            42..84 => {
                let (from, to, cut) = (dice.remote(), dice.outside(), dice.cut(number));
                Step::In { at, from, to, cut }
            }
            84..90 => {
                let about = About::Sender(dice.inside());
                let to = dice.remote();
                Step::Error { at, about, to }
            }
            90..97 => Step::Wait(u64::from(dice.0.below(90_000))),
            _ => Step::Reload,
        }
    };
    (0..steps).map(step).collect()
}

/// A pool of one address, and its owners.
pub fn case(workers: u8, behaviours: (usize, usize), seed: u64) -> Case {
    Case {
        workers,
        seed,
        behaviours,
        addresses: &[POOL],
        ports: 2000..=2000 + PORTS - 1,
        more: "select = \"preserve\"\n",
        timeouts: ("", UDP),
        size: ShardSize::small(),
        fault: None,
    }
}

/// A history as long as that, of this case.
pub fn run(case: &Case, steps: u32) {
    shrink::check(case, &history(case, steps));
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
                            run(&case(workers, (mapping, filtering), seed), steps);
                        }
                    }
                }
            });
        }
    });
}
