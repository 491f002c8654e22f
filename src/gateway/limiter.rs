//! Rate limits on what the gateway sends by itself (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f).
//!
//! A message needs a token from two buckets: a global one that bounds the whole load, and its target's, so that one
//! target cannot use up everybody's share. Target buckets are a fixed array indexed by a keyed hash; targets that share
//! a bucket share its rate, and an outsider without the key cannot choose whom to share with. An IPv6 target is its
//! /64, since one host can answer for all addresses of it.

use super::{mapped, mix};
use crate::base::time::Now;
use std::net::IpAddr;

/// Errors a second in total.
pub const GLOBAL_RATE: u32 = 1000;
/// Errors in total that may go out at once.
pub const GLOBAL_BURST: u32 = 200;
/// Errors a second to one target.
pub const TARGET_RATE: u32 = 20;
/// Errors to one target that may go out at once: two traceroutes of 16 probes in flight that both end here.
pub const TARGET_BURST: u32 = 40;
/// Target buckets.
const TARGETS: usize = 1024;

/// A bucket of tokens that fills at a steady rate.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    /// Thousandths of tokens at `filled`.
    level: u64,
    /// Milliseconds since the epoch.
    filled: u64,
    rate: u32,
    burst: u32,
}

impl TokenBucket {
    /// A full bucket: `rate` tokens a second, at most `burst` at a time. A rate of 0 never refills.
    pub fn new(rate: u32, burst: u32) -> TokenBucket {
        TokenBucket {
            level: u64::from(burst) * 1000,
            filled: 0,
            rate,
            burst,
        }
    }

    /// Whether there is a token; it stays in the bucket.
    pub fn ready(&mut self, now: Now) -> bool {
        let passed = now.millis.saturating_sub(self.filled);
        // Tokens a second are thousandths of tokens a millisecond.
        let gained = passed.saturating_mul(self.rate.into());
        let full = u64::from(self.burst) * 1000;
        self.level = self.level.saturating_add(gained).min(full);
        self.filled = self.filled.max(now.millis);
        self.level >= 1000
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Now) -> bool {
        let ready = self.ready(now);
        if ready {
            self.level -= 1000;
        }
        ready
    }
}

/// Limits messages in total and per target. A worker has its own.
// Implements: I10f.
#[derive(Clone, Debug)]
pub struct IcmpLimiter {
    global: TokenBucket,
    targets: Box<[TokenBucket]>,
    secret: u64,
}

impl IcmpLimiter {
    /// A limiter with the default rates; `secret` is random.
    pub fn new(secret: u64) -> IcmpLimiter {
        Self::with_rates(
            TokenBucket::new(GLOBAL_RATE, GLOBAL_BURST),
            TokenBucket::new(TARGET_RATE, TARGET_BURST),
            secret,
        )
    }

    /// A limiter of one `global` bucket and a copy of `target` for each target.
    pub fn with_rates(global: TokenBucket, target: TokenBucket, secret: u64) -> IcmpLimiter {
        IcmpLimiter {
            global,
            targets: vec![target; TARGETS].into_boxed_slice(),
            secret,
        }
    }

    /// Whether a message to `target` may go out now; if so, it counts. A target over its limit costs the others nothing.
    pub fn allow(&mut self, target: IpAddr, now: Now) -> bool {
        let key = match target {
            IpAddr::V6(v6) if !super::interface::is_link_local(v6.into()) => {
                u128::from(v6) >> 64 << 64
            }
            other => mapped(other),
        };
        let bucket = &mut self.targets[mix(key, self.secret) as usize % TARGETS];
        bucket.ready(now) && self.global.take(now) && bucket.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = TokenBucket::new(10, 3);
        let taken =
            |bucket: &mut TokenBucket, at| (0..9).filter(|_| bucket.take(Now::at(at))).count();
        assert_eq!(taken(&mut bucket, 0), 3);
        assert_eq!(taken(&mut bucket, 99), 0);
        assert_eq!(taken(&mut bucket, 100), 1);
        assert_eq!(
            taken(&mut bucket, 50),
            0,
            "time that runs back gives nothing"
        );
        assert_eq!(taken(&mut bucket, u64::MAX), 3, "never more than the burst");
    }

    #[test]
    fn one_target_cannot_eat_the_rest() {
        let mut limiter = IcmpLimiter::new(7);
        let flood = (0..10_000)
            .filter(|_| limiter.allow(v4(1), Now::at(0)))
            .count();
        assert_eq!(flood, TARGET_BURST as usize);
        assert!(limiter.allow(v4(2), Now::at(0)));
    }

    #[test]
    fn all_targets_together_are_bounded() {
        let mut limiter = IcmpLimiter::new(7);
        let sent = (0..10_000)
            .filter(|&n| limiter.allow(v4(n), Now::at(0)))
            .count();
        assert_eq!(sent, GLOBAL_BURST as usize);
    }

    #[test]
    fn what_the_global_limit_refuses_costs_the_target_nothing() {
        let (global, target) = (TokenBucket::new(1, 1), TokenBucket::new(0, 2));
        let mut limiter = IcmpLimiter::with_rates(global, target, 7);
        let mut allow = |millis| limiter.allow(v4(1), Now::at(millis));
        assert_eq!([allow(0), allow(0), allow(0)], [true, false, false]);
        assert_eq!(
            [allow(1000), allow(2000)],
            [true, false],
            "two tokens, both sent"
        );
    }

    #[test]
    fn an_ipv6_target_is_its_64() {
        let mut limiter = IcmpLimiter::new(7);
        let address = |n: u128| IpAddr::V6((0x2001_0db8 << 96 | n).into());
        let sent = (0..1000)
            .filter(|&n| limiter.allow(address(n), Now::at(0)))
            .count();
        assert_eq!(sent, TARGET_BURST as usize);
        assert!(limiter.allow(address(1 << 64), Now::at(0)));
    }

    #[test]
    fn traceroute_and_tracepath_see_every_answer() {
        let mut limiter = IcmpLimiter::new(7);
        // 3 probes at once for each of 30 hops, had they all to be answered here, at 5 hops a second.
        for hop in 0..30 {
            let now = Now::at(hop * 200);
            assert!((0..3).all(|_| limiter.allow(v4(9), now)), "hop {hop}");
        }
        // Five mtr at once, one probe a second each.
        for second in 0..60 {
            assert!((0..5).all(|_| limiter.allow(v4(10), Now::at(second * 1000))));
        }
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate(
            rate in 0u32..5000, burst in 0u32..500, steps in prop::collection::vec(0u64..50, 1..500),
        ) {
            let mut bucket = TokenBucket::new(rate, burst);
            let (mut now, mut sent) = (0, 0u64);
            for step in steps {
                now += step;
                while bucket.take(Now::at(now)) { sent += 1; }
                prop_assert!(sent <= u64::from(burst) + now * u64::from(rate) / 1000);
            }
        }
    }
}
