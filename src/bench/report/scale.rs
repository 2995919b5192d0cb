//! How values become places along an axis, and which of them are written beside it.

/// The ticks of a percentile axis, as shares.
pub(super) const PERCENTILES: [f64; 6] = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999];

/// What lies where along an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// From zero to `high`, a tick each `step`.
    Linear { high: f64, step: f64 },
    /// Each ten times takes the same room.
    Log { low: f64, high: f64 },
    /// Shares of all: each further nine takes the same room, `nines` of them.
    Percentile { nines: f64 },
}

impl Scale {
    /// From zero to a round number that is not below `max`.
    pub(super) fn from_zero(max: f64) -> Self {
        let max = if max > 0.0 && max.is_finite() { max } else { 1.0 };
        // Four to seven ticks, at steps that are easy to read.
        let decade = 10_f64.powf((max / 4.0).log10().floor());
        let step =
            [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * decade).into_iter().find(|step| max / step <= 5.0);
        let step = step.unwrap_or(decade);
        // A little less than a whole step too many is rounding, not room that is needed.
        Self::Linear { high: (max / step - 1e-9).ceil().max(1.0) * step, step }
    }

    /// From 1, 2 or 5 times a power of ten to another, around all `values`; what is below 1 is drawn as 1.
    pub(super) fn log_around(values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = values
            .into_iter()
            .filter(|value| value.is_finite())
            .map(|value| value.max(1.0))
            .fold((f64::INFINITY, 1.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        let low = round_numbers().take_while(|&tick| tick <= low.min(high)).last().unwrap_or(1.0);
        let high = round_numbers().find(|&tick| tick >= high && tick > low).unwrap_or(10.0 * low);
        Self::Log { low, high }
    }

    /// As far as so many of something have percentiles, at most to 99.99 %.
    pub(super) fn percentiles_of(count: u64) -> Self {
        Self::Percentile { nines: (count as f64).max(10.0).log10().min(4.0) }
    }

    /// Where `value` lies: 0 at the axis' begin, 1 at its end, never beyond.
    pub(super) fn place(self, value: f64) -> f64 {
        let place = match self {
            Self::Linear { high, .. } => value / high,
            Self::Log { low, high } => (value.max(low) / low).log10() / (high / low).log10(),
            Self::Percentile { nines } => -(1.0 - value.min(1.0)).log10() / nines,
        };
        // The maximum is the 100th percentile, for which there is no place but the end.
        if place.is_nan() { 0.0 } else { place.clamp(0.0, 1.0) }
    }

    /// Whether `value` is on the axis, not beyond its end.
    pub(super) fn reaches(self, value: f64) -> bool {
        match self {
            Self::Linear { high, .. } | Self::Log { high, .. } => value <= high,
            // A hair of room for the rounding of logarithms.
            Self::Percentile { nines } => -(1.0 - value).log10() <= nines + 1e-6,
        }
    }

    /// Whether `value` is on the axis, neither before its begin nor beyond its end.
    pub(super) fn spans(self, value: f64) -> bool {
        let low = if let Self::Log { low, .. } = self { low } else { 0.0 };
        value >= low && self.reaches(value)
    }

    /// Values that are written at the axis.
    pub(super) fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { high, step } => {
                (0..=(high / step).round() as u32).map(|tick| f64::from(tick) * step).collect()
            }
            Self::Log { low, high } => {
                let within = round_numbers().skip_while(|&tick| tick < low).take_while(|&tick| tick <= high);
                let ticks: Vec<f64> = within.collect();
                // With room for three decades there is none for the numbers between them.
                if high / low <= 1000.0 {
                    return ticks;
                }
                ticks.into_iter().filter(|tick| tick.log10().fract() == 0.0).collect()
            }
            Self::Percentile { .. } => PERCENTILES.into_iter().filter(|&share| self.reaches(share)).collect(),
        }
    }
}

/// 1, 2, 5, 10, 20, 50 and so on; enough for hours of microseconds.
fn round_numbers() -> impl Iterator<Item = f64> {
    (0..13).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)))
}

/// `1`, `20 µs`, `5 ms`: a tick of an axis in microseconds.
pub(super) fn micros_tick(us: f64) -> String {
    if us < 1000.0 { format!("{us} µs") } else { format!("{} ms", us / 1000.0) }
}

/// `99.9` for 0.999.
pub(super) fn percentile_tick(share: f64) -> String {
    // Through a decimal with as many digits as any of them has, so that 0.9999 * 100 is not 99.99000000000001.
    let text = format!("{:.2}", share * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A number without digits that only come from rounding.
pub(super) fn plain_tick(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn a_linear_axis_begins_at_zero_and_ends_at_a_round_number() {
        let cases = [
            (300.0, 300.0, vec!["0", "100", "200", "300"]),
            (4.6, 5.0, vec!["0", "1", "2", "3", "4", "5"]),
            (0.3, 0.3, vec!["0", "0.1", "0.2", "0.3"]),
            (1.51, 2.0, vec!["0", "0.5", "1", "1.5", "2"]),
            (1024.0, 1250.0, vec!["0", "250", "500", "750", "1000", "1250"]),
        ];
        for (max, end, ticks) in cases {
            let scale = Scale::from_zero(max);
            assert!(close(scale.place(end), 1.0) && close(scale.place(end / 2.0), 0.5), "{max}: {scale:?}");
            assert_eq!(scale.ticks().into_iter().map(plain_tick).collect::<Vec<_>>(), ticks, "{max}");
        }
    }

    #[test]
    fn a_logarithmic_axis_goes_around_its_values_in_steps_of_1_2_5() {
        let scale = Scale::log_around([130.0, 4700.0]);
        assert_eq!(scale, Scale::Log { low: 100.0, high: 5000.0 });
        let ticks: Vec<String> = scale.ticks().into_iter().map(micros_tick).collect();
        assert_eq!(ticks, ["100 µs", "200 µs", "500 µs", "1 ms", "2 ms", "5 ms"]);
        assert!(close(scale.place(100.0), 0.0) && close(scale.place(5000.0), 1.0));
        assert!(close(scale.place(500_000.0_f64.sqrt()), 0.5));

        let wide = Scale::log_around([130.0, 2_000_000.0]);
        let ticks: Vec<String> = wide.ticks().into_iter().map(micros_tick).collect();
        assert_eq!(ticks, ["100 µs", "1 ms", "10 ms", "100 ms", "1000 ms"]);
    }

    #[test]
    fn a_percentile_axis_gives_each_nine_the_same_room_and_ends_where_there_is_nothing_to_count() {
        let scale = Scale::percentiles_of(1_000_000);
        let ticks: Vec<String> = scale.ticks().into_iter().map(percentile_tick).collect();
        assert_eq!(ticks, ["0", "50", "90", "99", "99.9", "99.99"]);
        for (share, place) in [(0.0, 0.0), (0.9, 0.25), (0.99, 0.5), (0.999, 0.75), (0.9999, 1.0), (1.0, 1.0)]
        {
            assert!(close(scale.place(share), place), "{share}");
        }

        let few = Scale::percentiles_of(300);
        let ticks: Vec<String> = few.ticks().into_iter().map(percentile_tick).collect();
        assert_eq!(ticks, ["0", "50", "90", "99"]);
        assert_eq!(Scale::percentiles_of(1000).ticks().len(), 5);
    }

    #[test]
    fn nothing_one_value_and_no_numbers_still_make_an_axis() {
        let scales = [
            Scale::from_zero(0.0),
            Scale::from_zero(f64::NAN),
            Scale::log_around([]),
            Scale::log_around([0.0]),
            Scale::log_around([200.0]),
            Scale::log_around([f64::NAN, f64::INFINITY]),
            Scale::percentiles_of(0),
        ];
        for scale in scales {
            assert!(scale.ticks().len() >= 2, "{scale:?}");
            for value in [0.0, 0.5, 1.0, 200.0, -3.0, f64::NAN, f64::INFINITY] {
                assert!((0.0..=1.0).contains(&scale.place(value)), "{scale:?} {value}");
            }
        }
    }
}
