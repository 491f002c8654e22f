//! Maglev hashing: a table that spreads flows evenly and moves few of them when a backend comes or goes.
//!
//! Every backend has a permutation of the table's places that follows from its address and port alone. In turns, each
//! takes the first place of its permutation that is still free, until none is left; one with twice the weight has twice as
//! many turns. A flow's hash names a place, and the place a backend.
//!
//! When one of `n` backends of equal weight goes, its share of 1/n has to move. Of the other places few change hands,
//! because most are still the first free one of their backend's permutation: less than 2 % of them, where the table has
//! at least a hundred places for each backend (the tests hold that; Eisenbud et al., "Maglev", NSDI 2016, §5.3).

use super::hash::mix;

/// A backend as the table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// What tells it from others and is the same on every gateway and after every restart.
    pub identity: u64,
    /// Its share; at least 1.
    pub weight: u32,
}

/// Which of `seats` each of `size` places belongs to, by position in `seats`. `size` is a prime, so that every
/// permutation reaches every place. Empty without seats.
pub fn table(size: u32, seats: &[Seat]) -> Vec<u16> {
    let heaviest = seats.iter().map(|seat| seat.weight).max().unwrap_or(0);
    if heaviest == 0 || size < 2 {
        return Vec::new();
    }
    const FREE: u16 = u16::MAX;
    let size = u64::from(size);
    let mut places = vec![FREE; size as usize];
    let mut turns: Vec<Turn> = (0..)
        .zip(seats)
        .map(|(at, s)| Turn::of(at, s, size))
        .collect();
    // The order of turns follows from the backends, too, not from where they stand in a file.
    turns.sort_unstable_by_key(|turn| turn.identity);
    let mut left = size;
    while left > 0 {
        for turn in &mut turns {
            turn.credit += u64::from(turn.weight);
            if turn.credit < u64::from(heaviest) || left == 0 {
                continue;
            }
            turn.credit -= u64::from(heaviest);
            while places[turn.place as usize] != FREE {
                turn.advance(size);
            }
            places[turn.place as usize] = turn.seat;
            turn.advance(size);
            left -= 1;
        }
    }
    places
}

/// How far a backend is in its permutation.
struct Turn {
    seat: u16,
    identity: u64,
    weight: u32,
    credit: u64,
    place: u64,
    step: u64,
}

impl Turn {
    fn of(seat: u16, of: &Seat, size: u64) -> Turn {
        let hash = mix(of.identity);
        Turn {
            seat,
            identity: of.identity,
            weight: of.weight,
            credit: 0,
            place: hash % size,
            step: mix(hash) % (size - 1) + 1,
        }
    }

    fn advance(&mut self, size: u64) {
        self.place += self.step;
        if self.place >= size {
            self.place -= size;
        }
    }
}

/// Whether a table may have this many places.
pub fn is_prime(n: u32) -> bool {
    let root = f64::from(n).sqrt() as u32;
    n >= 2 && (2..=root).all(|divisor| !n.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;

    fn seats(count: usize, random: &mut Random) -> Vec<Seat> {
        let mut seat = || Seat {
            identity: random.next_u64(),
            weight: 1,
        };
        (0..count).map(|_| seat()).collect()
    }

    /// Places of each seat.
    fn shares(table: &[u16], count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        for seat in table {
            shares[usize::from(*seat)] += 1;
        }
        shares
    }

    #[test]
    fn equal_backends_have_equal_shares() {
        let mut random = Random::from_seed(1);
        for (size, count) in [(101, 1), (1009, 7), (65537, 64), (65537, 655)] {
            let table = table(size, &seats(count, &mut random));
            let shares = shares(&table, count);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{count} in {size}: {least} to {most}");
        }
    }

    #[test]
    fn shares_follow_weights() {
        let mut seats = seats(4, &mut Random::from_seed(2));
        for (seat, weight) in seats.iter_mut().zip([1, 2, 3, 10]) {
            seat.weight = weight;
        }
        let shares = shares(&table(65537, &seats), 4);
        for (share, weight) in shares.iter().zip([1.0, 2.0, 3.0, 10.0]) {
            let due = 65537.0 * weight / 16.0;
            assert!((*share as f64 - due).abs() < 0.01 * due, "{shares:?}");
        }
    }

    #[test]
    fn removing_a_backend_moves_few_places_of_the_others() {
        let mut random = Random::from_seed(3);
        for count in [2, 5, 16, 64, 200, 600] {
            let before = seats(count, &mut random);
            let with = table(65537, &before);
            for _ in 0..4 {
                let gone = random.below(count as u32) as usize;
                let mut after = before.clone();
                after.remove(gone);
                let without = table(65537, &after);
                let others = with.iter().zip(&without);
                let others = others.filter(|(old, _)| usize::from(**old) != gone);
                let moved = others
                    .filter(|(old, new)| before[usize::from(**old)] != after[usize::from(**new)])
                    .count();
                let share = moved as f64 / with.len() as f64;
                assert!(share < 0.02, "{count} backends: {share} of the others move");
            }
        }
    }

    #[test]
    fn the_order_of_backends_does_not_matter() {
        let one = seats(9, &mut Random::from_seed(4));
        let mut other = one.clone();
        other.reverse();
        let (first, second) = (table(1009, &one), table(1009, &other));
        let same = first.iter().zip(&second);
        assert!(
            same.into_iter()
                .all(|(a, b)| one[usize::from(*a)] == other[usize::from(*b)])
        );
    }

    #[test]
    fn nobody_gets_a_table_for_nobody() {
        assert!(table(1009, &[]).is_empty());
    }

    #[test]
    fn primes() {
        let primes: Vec<u32> = (0..30).filter(|n| is_prime(*n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65537) && is_prime(1009) && !is_prime(65536) && !is_prime(5_000_000));
    }

    /// Gateways side by side, and the next release, have the same table.
    #[test]
    fn the_table_stays_what_it_is() {
        let seats = |of: [(u64, u32); 3]| of.map(|(identity, weight)| Seat { identity, weight });
        assert_eq!(
            table(13, &seats([(30, 1), (10, 2), (20, 1)])),
            [2, 1, 1, 1, 1, 0, 1, 2, 1, 1, 0, 0, 2]
        );
        assert_eq!(
            table(13, &seats([(30, 1), (10, 3), (20, 2)])),
            [2, 1, 1, 1, 1, 0, 2, 2, 1, 1, 0, 1, 2]
        );
        let lengths = [0, 1, 2, 3].map(|size| table(size, &seats([(1, 1), (2, 1), (3, 1)])).len());
        assert_eq!(lengths, [0, 0, 2, 3]);
    }
}
