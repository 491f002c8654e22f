//! Prefix translation that leaves checksums right (RFC 6296, NPTv6).
//!
//! One prefix replaces the other, and a word behind it takes up the difference that makes to a one's complement sum, so that
//! no transport checksum changes, of whatever protocol and wherever it is. The mapping is one to one both ways.

/// How a rule between two IPv6 prefixes keeps sums as they are.
// Implements: NP1, NP2, NP5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neutral {
    /// What a word becomes larger by on the way out.
    outward: u16,
    /// The subnet word takes it up, as prefixes of up to 48 bits leave room for (section 3.4); a word of the interface
    /// identifier else (section 3.5).
    in_subnet: bool,
}

/// Longest prefix that leaves the interface identifier alone.
pub const LONGEST: u8 = 64;

impl Neutral {
    /// Between two prefixes of `length` bits, at most [`LONGEST`].
    pub fn new(internal: u128, external: u128, length: u8) -> Neutral {
        Neutral {
            outward: add(sum(internal), !sum(external)),
            in_subnet: length <= 48,
        }
    }

    /// An address that got its external prefix, with the difference taken up. None where no word can: all of them are
    /// 0xffff, which no address may use behind such a translator (section 3.4), or the identifier would change and is zero.
    pub fn out(self, address: u128) -> Option<u128> {
        self.adjust(address, self.outward)
    }

    /// The way back.
    pub fn back(self, address: u128) -> Option<u128> {
        self.adjust(address, !self.outward)
    }

    // Implements: NP2, NP3.
    fn adjust(self, address: u128, by: u16) -> Option<u128> {
        // The identifier of zeros is every router's (section 3.5): no host has it, and adjusting would make it one's.
        if !self.in_subnet && address as u64 == 0 {
            return None;
        }
        let mut words = if self.in_subnet { 3..4 } else { 4..8 };
        let (shift, word) = words.find_map(|at| {
            let shift = 112 - 16 * at;
            let word = (address >> shift) as u16;
            (word != u16::MAX).then_some((shift, word))
        })?;
        let new = match add(word, by) {
            u16::MAX => 0,
            new => new,
        };
        Some(address & !(u128::from(u16::MAX) << shift) | u128::from(new) << shift)
    }
}

/// The one's complement sum of an address's words.
fn sum(address: u128) -> u16 {
    (0..8).fold(0, |total, at| add(total, (address >> (16 * at)) as u16))
}

/// One's complement addition.
fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> u128 {
        text.parse::<Ipv6Addr>().unwrap().into()
    }

    /// The example of RFC 6296 section 3.
    // Proves: NP1.
    #[test]
    fn the_example_of_the_rfc() {
        let (inside, outside) = (address("fd01:203:405::"), address("2001:db8:1::"));
        let neutral = Neutral::new(inside, outside, 48);
        let moved = address("2001:db8:1:1::1234");
        assert_eq!(neutral.out(moved), Some(address("2001:db8:1:d550::1234")));
        let back = address("fd01:203:405:d550::1234");
        assert_eq!(neutral.back(back), Some(address("fd01:203:405:1::1234")));
        assert_eq!(neutral.out(address("2001:db8:1:ffff::1")), None);
    }

    /// Prefixes beyond 48 bits change the first word of the identifier that is not 0xffff, and never one of zeros.
    // Proves: NP2, NP3.
    #[test]
    fn longer_prefixes_change_the_identifier() {
        let (inside, outside) = (address("fd01:203:405:1::"), address("2001:db8:1:2::"));
        let neutral = Neutral::new(inside, outside, 64);
        let out = neutral.out(address("2001:db8:1:2:0:1::9")).unwrap();
        assert_eq!(out & 0xffff_ffff_ffff, 0x0001_0000_0009);
        assert_ne!(out >> 48 & 0xffff, 0, "the first word");
        let next = neutral.out(address("2001:db8:1:2:ffff:1::9")).unwrap();
        assert_eq!(next as u64 >> 48, 0xffff);
        assert_ne!(next as u64 >> 32 & 0xffff, 1, "the second word");
        assert_eq!(neutral.out(outside), None);
        assert_eq!(neutral.back(inside), None);
    }

    proptest! {
        // Proves: NP1.
        #[test]
        fn sums_stay_and_the_way_back_leads_home(inside: u128, outside: u128, host: u128, length in 1u8..=64) {
            let hosts = u128::MAX >> length;
            let (inside, outside) = (inside & !hosts, outside & !hosts);
            let neutral = Neutral::new(inside, outside, length);
            let from = inside | host & hosts;
            let zero = |sum: u16| if sum == u16::MAX { 0 } else { sum };
            if let Some(to) = neutral.out(outside | from & hosts) {
                prop_assert_eq!(zero(sum(to)), zero(sum(from)));
                prop_assert_eq!(to & !hosts, outside);
                prop_assert_eq!(neutral.back(inside | to & hosts), Some(from));
            }
        }
    }
}
