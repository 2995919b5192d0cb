//! Random numbers that stay the same for the same seed, on every machine and in every version.

/// A small generator (`SplitMix64`). Not for secrets.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence that belongs to `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator of its own for part `number` of whatever `seed` stands for.
    #[must_use]
    pub fn for_part(seed: u64, number: u64) -> Self {
        let mut random = Self(seed ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        random.next_u64();
        random
    }

    /// The next 64 random bits.
    // SplitMix64 by Sebastiano Vigna, public domain: increment and the two multipliers are its constants.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number from `low` to `high`, both included; `low` when the range is empty.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        if high <= low { low } else { low + self.next_u64() % (high - low + 1) }
    }

    /// One of `items`; `None` when there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.between(0, items.len() as u64 - 1) as usize) }
    }

    /// Lower-case hexadecimal digits.
    pub fn hex(&mut self, digits: usize) -> String {
        (0..digits).map(|_| char::from(b"0123456789abcdef"[self.between(0, 15) as usize])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        // First outputs of the published reference implementation for seed 1234567.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
        let (mut a, mut b) = (Random::for_part(7, 1), Random::for_part(7, 2));
        assert_ne!(a.hex(32), b.hex(32));
    }

    #[test]
    fn a_range_includes_both_ends_and_nothing_else() {
        let mut random = Random::new(3);
        let seen: std::collections::BTreeSet<u64> = (0..200).map(|_| random.between(5, 8)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [5, 6, 7, 8]);
        assert_eq!(random.between(9, 2), 9);
        assert_eq!(random.pick::<u8>(&[]), None);
    }
}
