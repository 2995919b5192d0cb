//! Durations collected, and the summary of them.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::outcome::Latency;

/// Longer than this is counted as this long.
const LONGEST_US: u64 = 60_000_000;
/// Shares of the distribution that are kept for plots: each step goes half the way that is left.
const TICKS_PER_HALF: u32 = 5;

/// Durations, counted to three significant digits.
#[derive(Debug)]
pub(super) struct Durations(Histogram<u64>);

impl Default for Durations {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are constants that it accepts"))
    }
}

impl Durations {
    pub(super) fn record(&mut self, duration: Duration) {
        self.record_us(duration.as_micros() as u64);
    }

    pub(super) fn record_us(&mut self, us: u64) {
        self.0.saturating_record(us.max(1));
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub(super) fn summary(&self) -> Latency {
        let all = &self.0;
        if all.is_empty() {
            return Latency::default();
        }
        let quantiles = all
            .iter_quantiles(TICKS_PER_HALF)
            .map(|step| (step.quantile_iterated_to(), step.value_iterated_to().min(all.max())))
            .collect();
        Latency {
            count: all.len(),
            mean_us: all.mean(),
            p50_us: all.value_at_quantile(0.5),
            p90_us: all.value_at_quantile(0.9),
            p99_us: all.value_at_quantile(0.99),
            p999_us: all.value_at_quantile(0.999),
            max_us: all.max(),
            quantiles,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_how_the_durations_are_spread() {
        let (mut all, mut more) = (Durations::default(), Durations::default());
        for us in 1..=900 {
            all.record(Duration::from_micros(us));
        }
        (901..=1000).for_each(|us| more.record_us(us));
        all.add(&more);
        let found = all.summary();
        assert_eq!((found.count, found.p50_us, found.p90_us, found.p99_us), (1000, 500, 900, 990));
        assert_eq!((found.p999_us, found.max_us), (999, 1000));
        assert!((found.mean_us - 500.5).abs() < 0.1);
        assert_eq!(found.quantiles.last(), Some(&(1.0, 1000)));
        assert!(found.quantiles.is_sorted(), "{:?}", found.quantiles);
        assert!(found.quantiles.len() > 20);
    }

    #[test]
    fn nothing_is_nothing_and_too_long_is_the_longest() {
        assert_eq!(Durations::default().summary(), Latency::default());
        let mut all = Durations::default();
        all.record(Duration::from_secs(3600));
        all.record(Duration::ZERO);
        let found = all.summary();
        assert_eq!(found.count, 2);
        assert!(found.max_us.abs_diff(LONGEST_US) < LONGEST_US / 500);
    }
}
