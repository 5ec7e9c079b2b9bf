//! Sets of seats as bitmaps.

use std::ops::Range;
/// Seats that one word tells of, wherever it begins: as a rule it begins inside of a byte.
const WORD_SEATS: u32 = u64::BITS - 7;

/// A bitmap over the seats of a performance: bit i, least significant first, is the seat with index i. What lies beyond
/// its length is never set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits(Vec<u8>);

impl Bits {
    /// Room for `len` seats, none of them set.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(8)])
    }

    /// From a bitmap as Redis keeps it, most significant bit first, of `len` seats: what it lacks is not set, and what
    /// lies beyond is left out.
    #[must_use]
    pub fn from_most_significant_first(bytes: &[u8], len: usize) -> Self {
        let mut bits: Vec<u8> = bytes.iter().map(|byte| byte.reverse_bits()).collect();
        bits.resize(len.div_ceil(8), 0);
        if let Some(last) = bits.last_mut().filter(|_| !len.is_multiple_of(8)) {
            *last &= (1 << (len % 8)) - 1;
        }
        Self(bits)
    }

    /// The bitmap as Redis keeps it: most significant bit first.
    #[must_use]
    pub fn most_significant_first(&self) -> Vec<u8> {
        self.0.iter().map(|byte| byte.reverse_bits()).collect()
    }

    /// Sets the seat's bit.
    pub fn set(&mut self, index: u32) {
        if let Some(byte) = self.0.get_mut(index as usize / 8) {
            *byte |= 1 << (index % 8);
        }
    }

    /// Clears the seat's bit.
    pub fn clear(&mut self, index: u32) {
        if let Some(byte) = self.0.get_mut(index as usize / 8) {
            *byte &= !(1 << (index % 8));
        }
    }

    /// Whether the seat's bit is set.
    #[must_use]
    pub fn has(&self, index: u32) -> bool {
        self.0.get(index as usize / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }

    /// Sets what is set in `other`, as far as there is room.
    pub fn merge(&mut self, other: &Self) {
        for (byte, more) in self.0.iter_mut().zip(&other.0) {
            *byte |= more;
        }
    }

    /// The first seat of `from..end` whose bit is not set, or `end`.
    #[must_use]
    pub fn next_clear(&self, from: u32, end: u32) -> u32 {
        self.next(from, end, u64::trailing_ones)
    }

    /// The first seat of `from..end` whose bit is set, or `end`.
    #[must_use]
    pub fn next_set(&self, from: u32, end: u32) -> u32 {
        self.next(from, end, u64::trailing_zeros)
    }

    /// Looks at many seats at once; `skip` counts those at the low end of a word that are not what is looked for.
    fn next(&self, from: u32, end: u32, skip: fn(u64) -> u32) -> u32 {
        let mut at = from;
        while at < end {
            let skipped = skip(self.word(at));
            if skipped < WORD_SEATS {
                return end.min(at + skipped);
            }
            at += WORD_SEATS;
        }
        end
    }

    /// The bits of [`WORD_SEATS`] seats from `from` on, least significant first. Nothing is set beyond the end.
    fn word(&self, from: u32) -> u64 {
        let rest = self.0.get(from as usize / 8..).unwrap_or_default();
        let word = match rest.first_chunk() {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        word >> (from % 8)
    }

    /// How many bits are set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|byte| byte.count_ones()).sum()
    }

    /// How many bits are set among these seats.
    #[must_use]
    pub fn count_in(&self, seats: Range<u32>) -> u32 {
        let (first, last) = (seats.start as usize / 8, seats.end as usize / 8);
        let byte = |at: usize| self.0.get(at).copied().unwrap_or(0);
        let (head, tail) = (u8::MAX << (seats.start % 8), !(u8::MAX << (seats.end % 8)));
        if seats.is_empty() {
            return 0;
        }
        if first == last {
            return (byte(first) & head & tail).count_ones();
        }
        let between = self.0.get(first + 1..last.min(self.0.len())).unwrap_or_default();
        let between: u32 = between.iter().map(|byte| byte.count_ones()).sum();
        (byte(first) & head).count_ones() + between + (byte(last) & tail).count_ones()
    }

    /// The bitmap itself.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_count_from_the_least_significant() {
        let mut bits = Bits::new(10);
        bits.set(0);
        bits.set(9);
        bits.set(99);
        assert_eq!(bits.bytes(), [0b1, 0b10]);
        assert!(bits.has(9) && !bits.has(8) && !bits.has(99));
        assert_eq!(bits.count(), 2);
        bits.clear(0);
        bits.clear(99);
        assert_eq!(bits.bytes(), [0, 0b10]);
        let mut longer = Bits::new(20);
        longer.set(3);
        longer.set(17);
        bits.merge(&longer);
        assert_eq!(bits.bytes(), [0b1000, 0b10]);
    }
    #[test]
    fn the_next_bit_is_found_across_words() {
        let mut bits = Bits::new(200);
        for index in (3..9).chain(70..190) {
            bits.set(index);
        }
        for from in 0..=200 {
            for end in from..=200 {
                let first = |is_set| (from..end).find(|index| bits.has(*index) == is_set).unwrap_or(end);
                assert_eq!(bits.next_set(from, end), first(true), "{from}..{end}");
                assert_eq!(bits.next_clear(from, end), first(false), "{from}..{end}");
            }
        }
    }

    /// What Redis' SETBIT makes of these seats.
    fn by_setbit(seats: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for seat in seats {
            let at = *seat as usize / 8;
            bytes.resize(bytes.len().max(at + 1), 0);
            bytes[at] |= 0x80 >> (seat % 8);
        }
        bytes
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn both_orders_of_bits_mean_the_same_seats(
            seats in proptest::collection::vec(0..300_u32, 0..80),
            len in 0..300_usize,
        ) {
            let bits = Bits::from_most_significant_first(&by_setbit(&seats), len);
            let is_wanted = |seat: u32| (seat as usize) < len && seats.contains(&seat);
            let mut same = Bits::new(len);
            for seat in (0..300).filter(|seat| is_wanted(*seat)) {
                same.set(seat);
            }
            proptest::prop_assert_eq!(&bits, &same);
            proptest::prop_assert!((0..400).all(|seat| bits.has(seat) == is_wanted(seat)));
            let back = Bits::from_most_significant_first(&bits.most_significant_first(), len);
            proptest::prop_assert_eq!(back, bits);
        }

        #[test]
        fn a_range_counts_its_own_seats(
            seats in proptest::collection::vec(0..300_u32, 0..200),
            (from, to) in (0..310_u32, 0..310_u32),
        ) {
            let mut bits = Bits::new(300);
            seats.iter().for_each(|seat| bits.set(*seat));
            let expected = (from..to).filter(|seat| seats.contains(seat)).count();
            proptest::prop_assert_eq!(bits.count_in(from..to) as usize, expected);
            proptest::prop_assert_eq!(bits.count_in(0..300), bits.count());
        }
    }
}
