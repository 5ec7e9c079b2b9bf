//! The draw: ranks of those who came early, fixed by a seed that was committed to, for everybody to recompute. No I/O.
//!
//! A lobby of `size` places has the arrivals 0 to `size - 1`. [`Permutation`] maps each to a rank of its own in
//! the same range. Published before the lobby: [`commitment`], the SHA-256 of the seed. Published after: seed
//! and size. Invariants: a bijection for every size; the same three inputs give the same ranks for ever, so
//! nothing below may change once a draw has been held.
//!
//! The algorithm, in full. Integers are unsigned and, where hashed, big-endian; `/` rounds down.
//!
//! ```text
//! key        = SHA-256(seed, 32 bytes ‖ concert id, the 16 bytes of the UUID ‖ size, 8 bytes)
//! a          = max(32, the least n with n·n ≥ size)
//! b          = max(32, the least n with a·n ≥ size)
//! F(i, v, m) = (HMAC-SHA-256(key, i, 1 byte ‖ v, 8 bytes), its first 8 bytes as an integer) mod m
//!
//! E(x):  left = x / b, right = x mod b
//!        for i = 1, 3, 5, 7, 9:
//!            left  = (left  + F(i,     right, a)) mod a
//!            right = (right + F(i + 1, left,  b)) mod b
//!        return left·b + right
//!
//! rank(arrival):  x = E(arrival); while x ≥ size: x = E(x); return x
//! ```
//!
//! `E` permutes [0, a·b) as a Feistel network whose halves count modulo a and b, and walking its cycles until they are
//! back below `size` makes that a permutation of [0, size): the generalised Feistel and the cycle-walking cipher of
//! J. Black and P. Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002. Rounds that change the halves in
//! turn are the network FE2 of M. Bellare, T. Ristenpart, P. Rogaway and T. Stegers, "Format-Preserving Encryption",
//! SAC 2009 (written there with a swap after each round). Ten rounds are what NIST SP 800-38G takes for FF1.
//! Sides of at least 32 keep small lobbies fair: with ideal round functions the difference of two values of `E` is then
//! within 10^-6 of uniform (total variation); over four by four it is within 3·10^-3 only. From 1,024 places on a·b is
//! barely above `size`, so that walking is rare.

use std::fmt;

use ring::{digest, hmac};

use crate::catalog::ConcertId;

const ROUNDS: u8 = 10;
const SIDE_MIN: u64 = 32;
/// Tables are for speed only. Larger ones would fall out of the processor's cache; then each round is computed.
const TABLE_BYTES_MAX: u64 = 1 << 20;

/// The hex SHA-256 of a seed: published before anybody comes, it fixes the seed without showing it.
#[must_use]
pub fn commitment(seed: &[u8; 32]) -> String {
    hex::encode(digest::digest(&digest::SHA256, seed))
}

/// The ranks of one lobby.
pub struct Permutation {
    size: u64,
    /// The two sides of the domain. Neither is above 2^32, and their product is at most 2^64.
    a: u64,
    b: u64,
    rounds: Rounds,
}

enum Rounds {
    /// F of each round for every argument.
    Tabulated(Vec<Vec<u32>>),
    Computed(hmac::Key),
}

impl Permutation {
    /// The permutation of a lobby of `size` places.
    #[must_use]
    pub fn new(seed: &[u8; 32], concert: ConcertId, size: u64) -> Self {
        Self::with_tables(seed, concert, size, TABLE_BYTES_MAX)
    }

    fn with_tables(seed: &[u8; 32], concert: ConcertId, size: u64, bytes_max: u64) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(seed);
        hash.update(concert.0.as_bytes());
        hash.update(&size.to_be_bytes());
        let key = hmac::Key::new(hmac::HMAC_SHA256, hash.finish().as_ref());
        let (a, b) = sides(size);
        let bytes = u64::from(ROUNDS / 2) * (a + b) * 4;
        let rounds = if bytes <= bytes_max { Rounds::tabulate(&key, a, b) } else { Rounds::Computed(key) };
        Self { size, a, b, rounds }
    }

    /// How many places the lobby has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The rank of an arrival; none for one that came after the lobby.
    #[must_use]
    pub fn rank_of(&self, arrival: u64) -> Option<u64> {
        self.walk(arrival, |value| self.encipher(value))
    }

    /// The arrival that has this rank; none for a rank behind the lobby.
    #[must_use]
    pub fn arrival_at(&self, rank: u64) -> Option<u64> {
        self.walk(rank, |value| self.decipher(value))
    }

    /// Ends: the cycle through `start` returns there at the latest.
    fn walk(&self, start: u64, step: impl Fn(u64) -> u64) -> Option<u64> {
        if start >= self.size {
            return None;
        }
        let mut value = step(start);
        while value >= self.size {
            value = step(value);
        }
        Some(value)
    }

    fn encipher(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value / self.b, value % self.b);
        for round in (1..=ROUNDS).step_by(2) {
            left = reduce(left + self.rounds.value(round, right, self.a), self.a);
            right = reduce(right + self.rounds.value(round + 1, left, self.b), self.b);
        }
        left * self.b + right
    }

    fn decipher(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value / self.b, value % self.b);
        for round in (1..=ROUNDS).step_by(2).rev() {
            right = reduce(right + self.b - self.rounds.value(round + 1, left, self.b), self.b);
            left = reduce(left + self.a - self.rounds.value(round, right, self.a), self.a);
        }
        left * self.b + right
    }
}

/// Shows no key: a draw may be held before its seed is published.
impl fmt::Debug for Permutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permutation").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Rounds {
    #[expect(clippy::cast_possible_truncation, reason = "a value is below a side, which is at most 2^32")]
    fn tabulate(key: &hmac::Key, a: u64, b: u64) -> Self {
        let table = |round: u8| {
            let (arguments, modulus) = if round % 2 == 1 { (b, a) } else { (a, b) };
            (0..arguments).map(|argument| compute(key, round, argument, modulus) as u32).collect()
        };
        Self::Tabulated((1..=ROUNDS).map(table).collect())
    }

    #[expect(clippy::cast_possible_truncation, reason = "tables are far smaller than any address space")]
    fn value(&self, round: u8, argument: u64, modulus: u64) -> u64 {
        match self {
            Self::Tabulated(tables) => u64::from(tables[usize::from(round) - 1][argument as usize]),
            Self::Computed(key) => compute(key, round, argument, modulus),
        }
    }
}

/// F of the module's header.
fn compute(key: &hmac::Key, round: u8, argument: u64, modulus: u64) -> u64 {
    let mut message = [round; 9];
    message[1..].copy_from_slice(&argument.to_be_bytes());
    let tag = hmac::sign(key, &message);
    let head = tag.as_ref().iter().take(8).fold(0, |head, byte| (head << 8) | u64::from(*byte));
    head % modulus
}

fn sides(size: u64) -> (u64, u64) {
    let root = size.isqrt();
    let a = (root + u64::from(root * root < size)).max(SIDE_MIN);
    (a, size.div_ceil(a).max(SIDE_MIN))
}

/// `value mod modulus` for a sum of two that are below it.
fn reduce(value: u64, modulus: u64) -> u64 {
    if value >= modulus { value - modulus } else { value }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::any;
    use proptest::test_runner::Config;

    use super::*;
    use crate::platform::properties;

    fn concert() -> ConcertId {
        "019abcde-0123-7abc-89ab-0123456789ab".parse().unwrap()
    }

    /// 00, 01, … 1f.
    fn counting_seed() -> [u8; 32] {
        std::array::from_fn(|index| u8::try_from(index).unwrap())
    }

    fn seed_of(number: u32) -> [u8; 32] {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        seed
    }

    fn is_bijection(draw: &Permutation) -> bool {
        let size = usize::try_from(draw.size()).unwrap();
        let mut is_given = vec![false; size];
        let is_inverse = (0..draw.size()).all(|arrival| {
            let rank = draw.rank_of(arrival).unwrap();
            is_given[usize::try_from(rank).unwrap()] = true;
            draw.arrival_at(rank) == Some(arrival)
        });
        is_inverse && is_given.iter().all(|given| *given)
    }

    /// Pearson's statistic against all cells being equally likely.
    fn chi_squared(counts: &[u32]) -> f64 {
        let total: u32 = counts.iter().sum();
        let expected = f64::from(total) / counts.iter().map(|_| 1.0).sum::<f64>();
        counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum()
    }

    /// Counts who comes first, and which two come first, over so many draws of a lobby.
    fn first_of(size: usize, draws: u32) -> (Vec<u32>, Vec<u32>) {
        let (mut singles, mut pairs) = (vec![0; size], vec![0; size * (size - 1)]);
        for number in 0..draws {
            let draw = Permutation::new(&seed_of(number), concert(), size as u64);
            let at = |rank| usize::try_from(draw.arrival_at(rank).unwrap()).unwrap();
            let (first, second) = (at(0), at(1));
            singles[first] += 1;
            pairs[first * (size - 1) + second - usize::from(second > first)] += 1;
        }
        (singles, pairs)
    }

    /// A tenth of the cases: tables for millions of places take a while without optimisation.
    fn fewer() -> Config {
        let usual = properties::config();
        Config { cases: usual.cases.div_ceil(10), ..usual }
    }

    #[test]
    fn the_commitment_is_the_hash_of_the_seed() {
        // From coreutils' sha256sum.
        let expected = "630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1b8581bd710dd";
        assert_eq!(commitment(&counting_seed()), expected);
    }

    /// Computed by `docs/verify_draw.py`. A difference means that draws already held can no longer be verified.
    #[test]
    fn the_ranks_never_change() {
        let known: [(u64, &[u64]); 8] = [
            (1, &[0]),
            (2, &[0, 1]),
            (3, &[0, 2, 1]),
            (64, &[17, 50, 57, 53, 48, 12, 14, 47]),
            (1000, &[329, 455, 926, 727, 748, 323, 732, 939]),
            (100_003, &[29_611, 11_982, 12_054, 89_411, 2534, 8543, 70_374, 58_731]),
            (10_000_000, &[5_310_886, 1_012_965, 9_494_857, 4_294_748, 8_976_195, 4_896_049, 4_057_162, 3_806_843]),
            (1 << 40, &[1_096_277_625_618, 517_164_393_810, 266_833_244_392, 511_044_388_342]),
        ];
        for (size, ranks) in known {
            let draw = Permutation::new(&counting_seed(), concert(), size);
            let found: Vec<u64> = (0..ranks.len() as u64).map(|arrival| draw.rank_of(arrival).unwrap()).collect();
            assert_eq!(found, ranks, "size {size}");
        }
        // What `docs/DRAW.md` says.
        let draw = Permutation::new(&counting_seed(), concert(), 1000);
        assert_eq!([0, 1, 2].map(|rank| draw.arrival_at(rank)), [565, 504, 38].map(Some));
    }

    #[test]
    fn every_small_lobby_is_permuted() {
        for size in 0..=2000 {
            assert!(is_bijection(&Permutation::new(&seed_of(size), concert(), size.into())), "size {size}");
        }
    }

    #[test]
    fn a_large_lobby_is_permuted() {
        assert!(is_bijection(&Permutation::new(&counting_seed(), concert(), 100_003)));
    }

    #[test]
    fn whoever_came_after_the_lobby_has_no_rank() {
        for size in [0, 1, 31, 32, 1024, 1025, 1_000_000, 1 << 40] {
            let draw = Permutation::new(&counting_seed(), concert(), size);
            for beyond in [size, size + 1, u64::MAX] {
                assert_eq!((draw.rank_of(beyond), draw.arrival_at(beyond)), (None, None), "size {size}");
            }
        }
    }

    #[test]
    fn the_largest_lobby_does_not_overflow() {
        let draw = Permutation::new(&counting_seed(), concert(), u64::MAX);
        for arrival in (0..100).chain(u64::MAX - 100..u64::MAX) {
            let rank = draw.rank_of(arrival).unwrap();
            assert_eq!(draw.arrival_at(rank), Some(arrival));
        }
    }

    #[test]
    fn seed_concert_and_size_all_matter() {
        let ranks = |seed: &[u8; 32], concert, size| -> Vec<_> {
            let draw = Permutation::new(seed, concert, size);
            (0..100).map(|arrival| draw.rank_of(arrival)).collect()
        };
        let (seed, other) = (seed_of(1), "019abcde-0123-7abc-89ab-0123456789ac".parse().unwrap());
        let all = [
            ranks(&seed, concert(), 1000),
            ranks(&seed_of(2), concert(), 1000),
            ranks(&seed, other, 1000),
            ranks(&seed, concert(), 1001),
        ];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn nothing_of_the_key_is_shown() {
        let draw = Permutation::new(&counting_seed(), concert(), 7);
        assert_eq!(format!("{draw:?}"), "Permutation { size: 7, .. }");
    }

    // Critical values of chi-squared at p = 0.001. The seeds are fixed, so that the tests pass always or never.

    #[test]
    fn anybody_may_come_first() {
        let (singles, _) = first_of(64, 4096);
        let statistic = chi_squared(&singles);

        assert!(statistic < 103.4, "{statistic} with 63 degrees of freedom");
    }

    #[test]
    fn any_two_may_come_first() {
        // Three is where the lobby is smallest against the domain; 16 has 240 ordered pairs.
        for (size, draws, limit) in [(3, 1200, 20.5), (16, 4800, 312.3)] {
            let (_, pairs) = first_of(size, draws);
            let statistic = chi_squared(&pairs);

            assert!(statistic < limit, "{statistic} with {} degrees of freedom", pairs.len() - 1);
        }
    }

    /// No walking hides the network here: one of two rounds fails by far.
    #[test]
    fn any_two_of_a_lobby_that_fills_the_domain_may_come_first() {
        let (mut low, mut high) = (vec![0; 256], vec![0; 256]);
        for number in 0..2560 {
            let draw = Permutation::new(&seed_of(number), concert(), 1024);
            assert_eq!(draw.a * draw.b, 1024);
            let [first, second] = [0, 1].map(|rank| usize::try_from(draw.arrival_at(rank).unwrap()).unwrap());
            low[first % 16 * 16 + second % 16] += 1;
            high[first / 64 * 16 + second / 64] += 1;
        }
        let statistics = (chi_squared(&low), chi_squared(&high));
        assert!(statistics.0 < 330.5 && statistics.1 < 330.5, "{statistics:?} with 255 degrees of freedom");
    }

    #[test]
    fn the_statistic_is_pearsons() {
        assert!((chi_squared(&[10, 20, 30]) - 10.0).abs() < 1e-9);
    }

    proptest::proptest! {
        #![proptest_config(fewer())]

        #[test]
        fn sampled_ranks_are_distinct_and_lead_back(
            seed in any::<[u8; 32]>(),
            size in 2001_u64..=10_000_000,
            arrivals in proptest::collection::hash_set(any::<u64>(), 500),
        ) {
            let draw = Permutation::new(&seed, concert(), size);
            let arrivals: HashSet<u64> = arrivals.into_iter().map(|arrival| arrival % size).collect();
            let ranks: HashSet<u64> = arrivals.iter().map(|arrival| draw.rank_of(*arrival).unwrap()).collect();
            proptest::prop_assert_eq!(ranks.len(), arrivals.len());
            proptest::prop_assert!(ranks.iter().all(|rank| *rank < size));
            let back: HashSet<u64> = ranks.iter().map(|rank| draw.arrival_at(*rank).unwrap()).collect();
            proptest::prop_assert_eq!(back, arrivals);
        }
    }

    proptest::proptest! {
        #![proptest_config(properties::config())]

        #[test]
        fn tables_change_nothing(seed in any::<[u8; 32]>(), size in 1_u64..100_000, arrival in any::<u64>()) {
            let (arrival, draw) = (arrival % size, Permutation::new(&seed, concert(), size));
            let computed = Permutation::with_tables(&seed, concert(), size, 0);
            proptest::prop_assert!(matches!(computed.rounds, Rounds::Computed(_)));
            proptest::prop_assert!(matches!(draw.rounds, Rounds::Tabulated(_)));
            proptest::prop_assert_eq!(draw.rank_of(arrival), computed.rank_of(arrival));
            proptest::prop_assert_eq!(draw.arrival_at(arrival), computed.arrival_at(arrival));
        }

        #[test]
        fn lobbies_too_large_for_tables_lead_back_too(seed in any::<[u8; 32]>(), size in 1_u64 << 31..1 << 41, arrival in any::<u64>()) {
            let (arrival, draw) = (arrival % size, Permutation::new(&seed, concert(), size));
            proptest::prop_assert!(matches!(draw.rounds, Rounds::Computed(_)));
            let rank = draw.rank_of(arrival).unwrap();
            proptest::prop_assert!(rank < size);
            proptest::prop_assert_eq!(draw.arrival_at(rank), Some(arrival));
        }
    }
}
