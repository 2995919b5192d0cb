//! Which numbers of calls are measured.

/// A search is over when it knows the answer to this share of it, or to one call.
const RESOLUTION: f64 = 0.05;

/// Looks for the highest number of calls that is good enough: doubles, then halves what is left.
#[derive(Debug, Clone)]
pub(super) struct Search {
    next: u32,
    most: u32,
    good: u32,
    bad: Option<u32>,
}

impl Search {
    /// Begins with `first` calls and never tries more than `most`.
    pub(super) fn new(first: u32, most: u32) -> Self {
        Self { next: first.clamp(1, most), most, good: 0, bad: None }
    }

    /// The number to try next; `None` when the answer is known.
    pub(super) fn next(&self) -> Option<u32> {
        let over = match self.bad {
            Some(bad) => f64::from(bad - self.good) <= (f64::from(self.good) * RESOLUTION).max(1.0),
            None => self.good == self.most,
        };
        (!over).then_some(self.next)
    }

    /// Whether the number that was tried is good enough.
    pub(super) fn tried(&mut self, good_enough: bool) {
        if good_enough {
            self.good = self.next;
        } else {
            self.bad = Some(self.next);
        }
        self.next = match self.bad {
            Some(bad) => self.good.midpoint(bad),
            None => self.next.saturating_mul(2).min(self.most),
        };
    }

    /// The highest number that was good enough; 0 when none was.
    pub(super) const fn best(&self) -> u32 {
        self.good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(first: u32, most: u32, limit: u32) -> (u32, usize) {
        let (mut search, mut tries) = (Search::new(first, most), 0);
        while let Some(calls) = search.next() {
            assert!((1..=most).contains(&calls));
            search.tried(calls <= limit);
            tries += 1;
            assert!(tries < 50, "it must end");
        }
        (search.best(), tries)
    }

    #[test]
    fn the_most_calls_are_found_to_five_percent() {
        for limit in [1, 2, 3, 49, 50, 51, 333, 790, 1_000] {
            let (best, tries) = search(50, 1_000, limit);
            assert!(best <= limit && f64::from(limit - best) <= f64::from(limit) * 0.05, "{best} of {limit}");
            assert!(tries <= 12, "{tries} for {limit}");
        }
    }

    #[test]
    fn a_bridge_that_carries_none_or_all_is_known_too() {
        assert_eq!(search(50, 1_000, 0).0, 0);
        assert_eq!(search(50, 300, 10_000), (300, 4));
        assert_eq!(search(500, 300, 10_000), (300, 1));
    }
}
