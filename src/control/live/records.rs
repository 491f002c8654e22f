//! Records of deterministic mappings in the log: what it takes to say later whose a port was (RFC 7422 section 4).

use super::{Live, lock};
use crate::config::deterministic::record;

/// A record is repeated after this long.
const DAY_NANOS: u64 = 24 * 60 * 60 * 1_000_000_000;

/// The records logged last, and when the whole of them.
#[derive(Clone, Debug, Default)]
pub struct Records {
    logged: Vec<(String, String)>,
    whole_nanos: u64,
}

impl Records {
    /// The records to log now, with their pools: those that are new, and once a day all.
    fn due(&mut self, records: Vec<(String, String)>, nanos: u64) -> Vec<(String, String)> {
        let whole = nanos.saturating_sub(self.whole_nanos) >= DAY_NANOS;
        if whole || self.logged.is_empty() {
            self.whole_nanos = nanos;
        }
        let known = std::mem::replace(&mut self.logged, records);
        let new = |record: &&(String, String)| whole || !known.contains(record);
        self.logged.iter().filter(new).cloned().collect()
    }
}

impl Live {
    /// Logs the deterministic mappings that changed, and all of them daily; the housekeeping calls it every few seconds.
    // Implements: D6, G14.
    pub fn log_mappings(&self) {
        let loaded = lock(&self.running).loaded.clone();
        let records = loaded
            .validated
            .pools
            .iter()
            .filter_map(|pool| Some((pool.label.name.clone(), record(pool)?)));
        let due = lock(&self.records).due(records.collect(), self.clock.nanos());
        self.log_deterministic(&due);
        for (pool, record) in due {
            tracing::info!("deterministic mapping: pool={pool} {record}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Proves: D6, G14.
    #[test]
    fn a_record_is_logged_when_new_and_daily() {
        let list = |names: &[&str]| {
            let record = |name: &&str| ((*name).to_owned(), "record".to_owned());
            names.iter().map(record).collect::<Vec<_>>()
        };
        let mut records = Records::default();
        assert_eq!(records.due(list(&["a", "b"]), 5), list(&["a", "b"]));
        assert!(records.due(list(&["a", "b"]), 6).is_empty());
        assert_eq!(records.due(list(&["a", "c"]), 7), list(&["c"]));
        assert!(records.due(list(&["a"]), 4 + DAY_NANOS).is_empty());
        assert_eq!(records.due(list(&["a"]), 5 + DAY_NANOS), list(&["a"]));
        assert!(records.due(list(&["a"]), 6 + DAY_NANOS).is_empty());
    }
}
