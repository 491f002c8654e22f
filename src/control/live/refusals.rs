//! Says in the log that a pool refuses mappings: at once when it begins, then at most every ten seconds, with the number
//! since the last line. Packet code never logs.

use super::{Live, lock, objects};
use crate::base::DropReason;
use crate::control::api::Pool;
use hashbrown::HashMap;

/// Nanoseconds between two lines about a pool.
const QUIET: u64 = 10_000_000_000;

/// What was said about each pool, and when.
#[derive(Debug, Default)]
pub struct Refusals {
    told: HashMap<String, Told>,
}

#[derive(Debug, Default)]
struct Told {
    nanos: u64,
    refused: u64,
}

impl Refusals {
    /// The pools that have something to tell, with the refusals since the last time, in all and by protocol and reason.
    fn news(&mut self, nanos: u64, pools: &[Pool]) -> Vec<(String, u64, String)> {
        let mut news = Vec::new();
        for pool in pools {
            let counts = pool.ports.iter().flat_map(|ports| {
                // A host at its own limit does not show that the pool is short of ports.
                let own_limit = DropReason::QuotaBlocks.name();
                let refused = ports.refused.iter();
                let refused = refused.filter(move |(reason, n)| **n > 0 && *reason != own_limit);
                refused.map(|(reason, n)| (&ports.protocol, reason, *n))
            });
            let refused = counts.clone().map(|(_, _, n)| n).sum();
            let known = self.told.get(&pool.pool);
            let before = known.map_or(0, |told| told.refused);
            let quiet = known.is_some_and(|told| nanos < told.nanos.saturating_add(QUIET));
            if refused <= before || quiet {
                continue;
            }
            let detail: Vec<String> = counts
                .map(|(protocol, reason, n)| format!("{protocol} {reason} {n}"))
                .collect();
            news.push((pool.pool.clone(), refused - before, detail.join(", ")));
            self.told.insert(pool.pool.clone(), Told { nanos, refused });
        }
        news
    }
}

impl Live {
    /// Logs what pools refused; the housekeeping calls it every few seconds.
    pub fn tell_refusals(&self) {
        let pools = objects::pools(&self.published.load());
        let news = lock(&self.refusals).news(self.clock.nanos(), &pools);
        self.log_refusals(&news);
        for (pool, refused, in_all) in news {
            tracing::warn!(
                pool,
                refused,
                in_all,
                "pool refuses new mappings; give it more addresses or ports, or look for who takes them all"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::PoolPorts;

    fn pool(refused: u64) -> Pool {
        Pool {
            pool: "p".to_owned(),
            ports: vec![PoolPorts {
                protocol: "udp".to_owned(),
                refused: [("no_port".to_owned(), refused)].into(),
                ..PoolPorts::default()
            }],
            ..Pool::default()
        }
    }

    #[test]
    fn a_pool_speaks_at_once_and_then_seldom() {
        let mut refusals = Refusals::default();
        let mut at = |seconds: u64, refused| {
            let news = refusals.news(seconds * 1_000_000_000, &[pool(refused)]);
            news.into_iter().map(|(_, n, all)| (n, all)).next()
        };
        assert_eq!(at(0, 0), None);
        assert_eq!(at(1, 2), Some((2, "udp no_port 2".to_owned())));
        assert_eq!(at(3, 2), None, "nothing new");
        assert_eq!(at(5, 9), None, "too soon");
        assert_eq!(at(12, 10), Some((8, "udp no_port 10".to_owned())));
        assert_eq!(at(60, 10), None);
    }

    #[test]
    fn a_host_at_its_limit_is_not_the_pools_matter() {
        let mut pool = pool(3);
        let refused = &mut pool.ports[0].refused;
        refused.insert("quota_blocks".to_owned(), 40);
        let mut refusals = Refusals::default();
        let news = refusals.news(0, std::slice::from_ref(&pool));
        assert_eq!(news, [("p".to_owned(), 3, "udp no_port 3".to_owned())]);
        pool.ports[0].refused.insert("quota_blocks".to_owned(), 50);
        assert_eq!(refusals.news(60_000_000_000, &[pool]), []);
    }
}
