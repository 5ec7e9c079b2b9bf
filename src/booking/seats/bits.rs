//! Sets of seats as bitmaps.

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
    }
}
