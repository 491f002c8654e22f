//! Counters of rules.
//!
//! A packet of a session is counted on the rule that translates it and on the filter rule that let it pass. A session
//! names one account only, so that counting costs a packet the same whether there is a filter or not: an account is a
//! rule, or a *pair* of rules, entered when the first session with this pair is opened. Readers get the sums by rule.

use hashbrown::HashMap;

use crate::base::RuleId;

/// Counts of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCount {
    /// Sessions created; of a filter rule that refuses, flows refused.
    pub hits: u64,
    /// Packets of those sessions, both directions; of a filter rule that refuses, packets refused.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

impl RuleCount {
    fn of(&[hits, packets, bytes]: &[u64; 3]) -> RuleCount {
        RuleCount {
            hits,
            packets,
            bytes,
        }
    }

    /// Adds another worker's counts, or those of another account.
    pub fn add(&mut self, other: &RuleCount) {
        self.hits += other.hits;
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Rules that can be counted at a time. A fixed array, so that a reload never allocates on a worker.
pub const MAX_RULES: usize = 32_768;

/// Pairs there can be. Sessions of further ones are counted on their filter rule by their first packet alone.
const MAX_PAIRS: usize = RuleId::NONE.0 as usize - MAX_RULES;

/// The accounts of one worker.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// Hits, packets and bytes of rules by [`RuleId`], then of pairs. Bare numbers, because the memory for many of those
    /// costs nothing until it is used.
    counts: Vec<[u64; 3]>,
    pairs: Vec<(RuleId, RuleId)>,
    numbers: HashMap<(RuleId, RuleId), RuleId>,
    /// Rules up to here have counted something.
    used: usize,
}

impl Default for Accounts {
    /// No account yet, and room for all.
    fn default() -> Accounts {
        Accounts {
            counts: vec![[0; 3]; MAX_RULES + MAX_PAIRS],
            pairs: Vec::with_capacity(MAX_PAIRS),
            numbers: HashMap::with_capacity(MAX_PAIRS),
            used: 0,
        }
    }
}

impl Accounts {
    /// Counts one packet of an account's session.
    #[inline]
    pub fn packet(&mut self, account: RuleId, bytes: u16) {
        if let Some([_, packets, sum]) = self.counts.get_mut(account.index()) {
            *packets += 1;
            *sum += u64::from(bytes);
        }
    }

    /// Opens a session's account: of the rule that translates it and the filter rule that let it pass, either of which may
    /// be none. Returns the account its packets are counted on.
    pub fn open(&mut self, rule: RuleId, filter: RuleId) -> RuleId {
        let account = match (rule, filter) {
            (rule, RuleId::NONE) => rule,
            (RuleId::NONE, filter) => filter,
            pair => self.pair(pair),
        };
        self.hit(account);
        if account == rule {
            self.hit(filter);
        }
        account
    }

    /// Counts a packet that a filter rule refused.
    pub fn refused(&mut self, filter: RuleId, bytes: u16) {
        self.single(filter, bytes);
    }

    /// Counts a packet that belongs to no session on its rule.
    pub fn single(&mut self, rule: RuleId, bytes: u16) {
        self.hit(rule);
        self.packet(rule, bytes);
    }

    fn hit(&mut self, account: RuleId) {
        if let Some([hits, ..]) = self.counts.get_mut(account.index()) {
            *hits += 1;
        }
        if account.index() < MAX_RULES {
            self.used = self.used.max(account.index() + 1);
        }
    }

    fn pair(&mut self, pair: (RuleId, RuleId)) -> RuleId {
        if let Some(account) = self.numbers.get(&pair) {
            return *account;
        }
        if self.pairs.len() == MAX_PAIRS {
            return pair.0;
        }
        let account = RuleId((MAX_RULES + self.pairs.len()) as u16);
        self.pairs.push(pair);
        self.numbers.insert(pair, account);
        self.used = self.used.max(pair.0.index() + 1).max(pair.1.index() + 1);
        account
    }

    /// The rule that translates an account's sessions, and the filter rule that let them pass if the account is a pair.
    pub fn rules(&self, account: RuleId) -> (RuleId, RuleId) {
        let pair = account.index().checked_sub(MAX_RULES);
        let pair = pair.and_then(|index| self.pairs.get(index));
        pair.copied().unwrap_or((account, RuleId::NONE))
    }

    /// Writes the sums by rule into `sums`, as far as anything was counted; `sums` keeps its memory.
    pub fn sums(&self, sums: &mut Vec<RuleCount>) {
        sums.clear();
        sums.extend(self.counts[..self.used].iter().map(RuleCount::of));
        for ((rule, filter), count) in self.pairs.iter().zip(&self.counts[MAX_RULES..]) {
            for rule in [rule, filter] {
                if let Some(sum) = sums.get_mut(rule.index()) {
                    sum.add(&RuleCount::of(count));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(accounts: &Accounts) -> Vec<RuleCount> {
        let mut sums = Vec::new();
        accounts.sums(&mut sums);
        sums
    }

    fn count(hits: u64, packets: u64, bytes: u64) -> RuleCount {
        RuleCount {
            hits,
            packets,
            bytes,
        }
    }

    #[test]
    fn pairs_count_on_both_their_rules() {
        let mut accounts = Accounts::default();
        let (nat, other, filter) = (RuleId(0), RuleId(1), RuleId(3));
        let both = accounts.open(nat, filter);
        assert_eq!(accounts.open(nat, filter), both, "a pair has one account");
        accounts.packet(both, 100);
        let plain = accounts.open(other, RuleId::NONE);
        accounts.packet(plain, 40);
        let routed = accounts.open(RuleId::NONE, filter);
        accounts.packet(routed, 7);
        accounts.refused(RuleId(4), 60);
        let expected = [
            count(2, 1, 100),
            count(1, 1, 40),
            count(0, 0, 0),
            count(3, 2, 107),
            count(1, 1, 60),
        ];
        assert_eq!(sums(&accounts), expected);
        assert_eq!(accounts.rules(both), (nat, filter));
        assert_eq!(accounts.rules(plain), (other, RuleId::NONE));
    }

    #[test]
    fn sessions_without_any_rule_count_nowhere() {
        let mut accounts = Accounts::default();
        let none = accounts.open(RuleId::NONE, RuleId::NONE);
        accounts.packet(none, 100);
        assert_eq!(none, RuleId::NONE);
        assert_eq!(sums(&accounts), []);
    }

    #[test]
    fn beyond_the_last_pair_the_translation_is_counted() {
        let mut accounts = Accounts::default();
        for i in 0..MAX_PAIRS as u16 {
            assert!(accounts.open(RuleId(i), RuleId(9)).index() >= MAX_RULES);
        }
        let late = accounts.open(RuleId(1), RuleId(2));
        assert_eq!(late, RuleId(1));
        accounts.packet(late, 10);
        assert_eq!(sums(&accounts)[1], count(2, 1, 10));
        assert_eq!(sums(&accounts)[2].hits, 2);
    }
}
