//! Numbers that are the same on every machine and in every version: a finding is repeated by its seed.

/// SplitMix64 (Steele, Lea and Flood, 2014): far better than tests need, and nine lines that nobody will change underneath.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `from..=to`, even enough where the range is far below 2⁶⁴.
    pub fn between(&mut self, from: usize, to: usize) -> usize {
        from + (self.next() % (to - from + 1) as u64) as usize
    }

    /// In `-scale..scale`.
    pub fn float(&mut self, scale: f32) -> f32 {
        ((self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
    }

    pub fn floats(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.float(scale)).collect()
    }

    /// Token ids below `vocab_size`.
    pub fn ids(&mut self, count: usize, vocab_size: usize) -> Vec<u32> {
        (0..count).map(|_| self.between(0, vocab_size - 1) as u32).collect()
    }

    /// Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.between(0, last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_within_bounds() {
        let (mut one, mut other) = (Random::new(7), Random::new(7));
        for _ in 0..1000 {
            let (a, b) = (one.between(3, 9), one.float(2.0));
            assert_eq!((a, b), (other.between(3, 9), other.float(2.0)));
            assert!((3..=9).contains(&a) && (-2.0..2.0).contains(&b), "{a} {b}");
        }
        let mut items: Vec<usize> = (0..50).collect();
        one.shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
