//! Alarms: a pool that is nearly used up says so before it refuses anybody, once, and says once that it has room again.
//!
//! The alarm is raised at `alarm_high` percent of the pool's ports (of the fullest protocol) or blocks, and ends below
//! `alarm_low`, so that a pool in between does not chatter (RFC 7659 names the thresholds natNotifThreshold).

use hashbrown::HashMap;

use super::{Live, lock};
use crate::config::validated::{Alarm, Validated};
use crate::nat::ports::{Pool, PortSpace};

/// Which pools have an alarm, and how often each had one.
#[derive(Debug, Default)]
pub struct Alarms {
    pools: HashMap<String, State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    raised: bool,
    times: u64,
}

/// An alarm that begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Edge {
    pool: String,
    percent: u32,
    raised: bool,
}

impl Alarms {
    /// Looks at pools by name, with the share in use in percent and their thresholds.
    fn look(&mut self, pools: &[(String, u32, Alarm)]) -> Vec<Edge> {
        self.pools
            .retain(|name, _| pools.iter().any(|(pool, ..)| pool == name));
        let mut edges = Vec::new();
        for (pool, percent, alarm) in pools {
            let state = self.pools.entry(pool.clone()).or_default();
            let raised = match state.raised {
                false => *percent >= alarm.high.into() && alarm.high > 0,
                true => *percent >= alarm.low.into() && alarm.high > 0,
            };
            if raised != state.raised {
                state.raised = raised;
                state.times += u64::from(raised);
                edges.push(Edge {
                    pool: pool.clone(),
                    percent: *percent,
                    raised,
                });
            }
        }
        edges
    }

    /// Whether the pool has an alarm, and how many it had.
    pub fn of(&self, pool: &str) -> (bool, u64) {
        let state = self.pools.get(pool).copied().unwrap_or_default();
        (state.raised, state.times)
    }
}

/// How much of a pool is in use or at rest, in percent: of its blocks, or of the ports of the fullest protocol.
fn percent(pool: &Pool) -> u32 {
    let policy = pool.policy();
    let usable = || pool.externals().iter().filter(|e| !e.draining);
    let share = |used: u64, all: u64| (used * 100).checked_div(all).unwrap_or(0).min(100) as u32;
    if policy.block.is_some() {
        let blocks = usable().map(|e| e.external.block_usage());
        let (used, all) = blocks.fold((0, 0), |(used, all), usage| {
            let of_one = u64::from(usage.used);
            (used + of_one, all + of_one + u64::from(usage.free))
        });
        return share(used, all);
    }
    let spaces = PortSpace::ALL.iter().map(|&space| {
        let used = usable().map(|e| e.external.usage(space));
        let used = used.map(|usage| u64::from(usage.in_use + usage.held)).sum();
        let ports = usable().map(|e| {
            let reserved = e.reserved.count(space);
            u64::from(policy.ports.size().saturating_sub(reserved))
        });
        share(used, ports.sum())
    });
    spaces.max().unwrap_or(0)
}

/// The thresholds of a pool; those of masquerading interfaces have the default.
fn thresholds(config: &Validated, name: &str) -> Alarm {
    let mut configured = config.pools.iter();
    let found = configured.find(|pool| pool.label.name == name);
    found.map_or(Alarm::DEFAULT, |pool| pool.alarm)
}

impl Live {
    /// Raises and ends the pools' alarms; the housekeeping calls it every few seconds.
    // Implements: G11c, D8.
    pub fn watch_pools(&self) {
        let policy = self.published.load();
        let loaded = lock(&self.running).loaded.clone();
        let mut pools: Vec<(String, u32, Alarm)> = Vec::new();
        for pool in policy.nat.pools.iter() {
            let name = &pool.policy().name;
            let percent = percent(pool);
            // An interface that masquerades with several addresses is one pool here.
            match pools.iter_mut().find(|(known, ..)| known == name) {
                Some((_, most, _)) => *most = percent.max(*most),
                None => {
                    let alarm = thresholds(&loaded.validated, name);
                    pools.push((name.clone(), percent, alarm));
                }
            }
        }
        for edge in lock(&self.alarms).look(&pools) {
            let (pool, percent) = (edge.pool, edge.percent);
            if edge.raised {
                tracing::warn!(
                    pool,
                    percent,
                    "pool is nearly used up; give it more addresses or ports before it refuses new flows"
                );
            } else {
                tracing::info!(pool, percent, "pool has room again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Proves: G11c, D8.
    #[test]
    fn an_alarm_is_told_at_both_edges_once() {
        let mut alarms = Alarms::default();
        let mut at = |percent| {
            let alarm = Alarm { high: 80, low: 70 };
            let edges = alarms.look(&[("p".to_owned(), percent, alarm)]);
            edges.first().map(|edge| edge.raised)
        };
        let told = [0, 79, 80, 95, 75, 70, 69, 75, 79, 100].map(&mut at);
        let expected = [
            None,
            None,
            Some(true),
            None,
            None,
            None,
            Some(false),
            None,
            None,
            Some(true),
        ];
        assert_eq!(told, expected);
        assert_eq!(alarms.of("p"), (true, 2));
        assert_eq!(alarms.of("q"), (false, 0));
        let off = Alarm { high: 0, low: 0 };
        let ended = alarms.look(&[("p".to_owned(), 100, off)]);
        assert!(!ended[0].raised, "switched off");
        assert!(alarms.look(&[]).is_empty());
        assert_eq!(alarms.of("p"), (false, 0), "the pool is gone");
    }

    #[test]
    fn a_pool_is_as_full_as_what_runs_out_first() {
        let text = "schema = 1\n\
             port = [{ name = \"a\", device = \"null:\" }, { name = \"b\", device = \"null:\" }]\n\
             interface = [{ name = \"wan\", port = \"b\", address = [\"203.0.113.1/24\"] }]\n\
             [[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20-203.0.113.21\"]\nports = \"2000-2009\"\n\
             [[pool]]\nname = \"q\"\naddresses = [\"203.0.113.30\"]\nblock = { size = 8064 }\n\
             [[source-nat]]\nout = \"wan\"\nvia = \"pool:p\"\n[[source-nat]]\nout = \"wan\"\nvia = \"pool:q\"\n";
        let policy = crate::config::compile::compile_text("test", text).unwrap();
        let of = |name: &str| {
            let mut pools = policy.nat.pools.iter();
            pools.find(|p| p.policy().name == name).unwrap()
        };
        let single = of("p").externals()[0].external.single().unwrap();
        for port in 2000..2008 {
            assert!(single.claim(PortSpace::Udp, port, crate::base::WorkerId(0)));
        }
        assert!(single.claim(PortSpace::Tcp, 2000, crate::base::WorkerId(0)));
        assert_eq!(percent(of("p")), 40, "8 of 20 UDP ports");
        assert_eq!(percent(of("q")), 0);
    }
}
