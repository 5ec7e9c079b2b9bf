//! Sets of seats as bitmaps.

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
}
