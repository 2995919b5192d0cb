//! Figures as text: a unit, three digits, and one figure that stands for all rounds.

/// Parts groups of three digits: a thin space at which no line ends.
const THIN: char = '\u{202f}';
/// Stands between a number and its unit.
const NO_BREAK: char = '\u{a0}';
/// Stands where there is no figure.
pub(super) const UNKNOWN: &str = "–";

/// A time: `812 µs`, from a millisecond on `1.24 ms`.
pub(super) fn micros(us: f64) -> String {
    if us.abs().round() >= 1000.0 {
        return with_unit(us / 1000.0, "ms");
    }
    // What was read from a clock is whole; only means and differences of means have more to say.
    if us.fract() == 0.0 { format!("{}{NO_BREAK}µs", whole(us)) } else { with_unit(us, "µs") }
}

/// A time that was measured so often; nothing where it never was.
pub(super) fn micros_of(times: u64, us: f64) -> String {
    if times == 0 { UNKNOWN.to_owned() } else { micros(us) }
}

/// CPU time: always milliseconds, so that columns compare.
pub(super) fn millis(ms: f64) -> String {
    with_unit(ms, "ms")
}

/// Seconds as they were asked for: `20 s`, `2.5 s`.
pub(super) fn seconds(s: f64) -> String {
    format!("{}{NO_BREAK}s", number(s))
}

/// A number as it was asked for: `50`, `2.50`.
pub(super) fn number(value: f64) -> String {
    if value.fract() == 0.0 { whole(value) } else { three_digits(value) }
}

/// Memory: `61.4 KiB`, `1.21 MiB`.
pub(super) fn bytes(bytes: f64) -> String {
    let (mut value, mut unit) = (bytes, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        // 1023.6 would be written as 1024.
        if value.abs().round() < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{}{NO_BREAK}B", whole(value)) } else { with_unit(value, unit) }
}

/// A number of things: `1 800 000`.
pub(super) fn count(number: u64) -> String {
    group(&number.to_string())
}

/// A share of a whole, 0 to 1: `0.012 %`.
pub(super) fn percent(share: f64) -> String {
    let text = three_digits(share * 100.0);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{NO_BREAK}%")
}

/// How often one thing goes into another: `1.43×`. Nothing where there is nothing to divide by.
pub(super) fn ratio(value: f64, of: f64) -> Option<String> {
    let ratio = value / of;
    (of > 0.0 && ratio.is_finite()).then(|| format!("{}×", three_digits(ratio)))
}

/// A word in the number that goes with `number`: `1 round`, `2 rounds`.
pub(super) fn plural(number: usize, word: &str) -> String {
    format!("{}{NO_BREAK}{word}{}", count(number as u64), if number == 1 { "" } else { "s" })
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn listed<S: AsRef<str>>(items: &[S]) -> String {
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push_str(if index + 1 == items.len() { " and " } else { ", " });
        }
        text.push_str(item.as_ref());
    }
    text
}

fn with_unit(value: f64, unit: &str) -> String {
    format!("{}{NO_BREAK}{unit}", three_digits(value))
}

fn whole(value: f64) -> String {
    signed(value, &format!("{:.0}", value.abs()))
}

/// Three significant digits, more only before the point: `0.0123`, `1.20`, `81.5`, `812`, `12 345`.
fn three_digits(value: f64) -> String {
    // The last of these that leaves no more than three digits; a rounded 9.996 has one digit more than it seems.
    let decimals = (0..=4).rev().find(|&decimals| {
        let factor = 10_f64.powi(decimals);
        (value.abs() * factor).round() / factor < 10_f64.powi(3 - decimals)
    });
    let decimals = usize::try_from(decimals.unwrap_or(0)).unwrap_or(0);
    let text = format!("{:.decimals$}", value.abs());
    signed(value, if text.trim_matches(['0', '.']).is_empty() { "0" } else { &text })
}

fn signed(value: f64, digits: &str) -> String {
    if !value.is_finite() {
        return UNKNOWN.to_owned();
    }
    let minus = if value < 0.0 && digits != "0" { "−" } else { "" };
    format!("{minus}{}", group(digits))
}

fn group(digits: &str) -> String {
    let whole = digits.find('.').unwrap_or(digits.len());
    let mut text = String::with_capacity(digits.len() + 4);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && place < whole && (whole - place).is_multiple_of(3) {
            text.push(THIN);
        }
        text.push(digit);
    }
    text
}

/// One figure over all rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) low: f64,
    pub(super) median: f64,
    pub(super) high: f64,
}

/// What lies in the middle of the rounds, and between what. Nothing if there is no figure.
pub(super) fn spread(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    };
    Some(Spread { low, median, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the spaces that a reader sees.
    fn seen(text: &str) -> String {
        text.replace([THIN, NO_BREAK], " ")
    }

    #[test]
    fn a_time_is_in_microseconds_below_a_millisecond_and_has_three_digits() {
        let cases = [
            (0.0, "0 µs"),
            (8.0, "8 µs"),
            (81.5, "81.5 µs"),
            (812.0, "812 µs"),
            (812.4, "812 µs"),
            (999.4, "999 µs"),
            (999.5, "1.00 ms"),
            (1240.0, "1.24 ms"),
            (9996.0, "10.0 ms"),
            (81_500.0, "81.5 ms"),
            (999_600.0, "1 000 ms"),
            (12_345_678.0, "12 346 ms"),
            (-12.0, "−12 µs"),
            (-1240.0, "−1.24 ms"),
            (-0.0, "0 µs"),
        ];
        for (us, text) in cases {
            assert_eq!(seen(&micros(us)), text, "{us}");
        }
    }

    #[test]
    fn what_is_no_number_is_a_dash() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for text in [micros(value), millis(value), bytes(value), percent(value), seconds(value)] {
                assert!(text.starts_with(UNKNOWN), "{text}");
            }
        }
        assert_eq!(micros_of(0, 812.0), UNKNOWN);
        assert_eq!(seen(&micros_of(1, 812.0)), "812 µs");
    }

    #[test]
    fn memory_is_in_powers_of_1024() {
        let cases = [
            (0.0, "0 B"),
            (1023.0, "1 023 B"),
            (1023.7, "1.00 KiB"),
            (62_874.0, "61.4 KiB"),
            (1_268_777.0, "1.21 MiB"),
            (8_335_000_000.0, "7.76 GiB"),
            (-2048.0, "−2.00 KiB"),
        ];
        for (value, text) in cases {
            assert_eq!(seen(&bytes(value)), text, "{value}");
        }
    }

    #[test]
    fn thousands_are_parted_by_a_thin_space() {
        assert_eq!(count(999), "999");
        assert_eq!(count(1000), "1\u{202f}000");
        assert_eq!(count(1_800_000), "1\u{202f}800\u{202f}000");
    }

    #[test]
    fn shares_ratios_and_plurals_read_well() {
        assert_eq!(seen(&percent(0.0)), "0 %");
        assert_eq!(seen(&percent(0.000_12)), "0.012 %");
        assert_eq!(seen(&percent(0.5)), "50 %");
        assert_eq!(seen(&percent(1.0)), "100 %");
        assert_eq!(ratio(1.5, 1.05).as_deref(), Some("1.43×"));
        assert_eq!(ratio(1.5, 0.0), None);
        assert_eq!(ratio(f64::NAN, 1.0), None);
        assert_eq!(seen(&plural(1, "round")), "1 round");
        assert_eq!(seen(&plural(2, "round")), "2 rounds");
        assert_eq!(listed(&["a"]), "a");
        assert_eq!(listed(&["a", "b", "c"]), "a, b and c");
        assert_eq!(seen(&seconds(20.0)), "20 s");
        assert_eq!(seen(&seconds(2.5)), "2.50 s");
    }

    #[test]
    fn the_median_of_rounds_is_the_middle_one_or_lies_between_the_two() {
        assert_eq!(spread([3.0, 1.0, 2.0]), Some(Spread { low: 1.0, median: 2.0, high: 3.0 }));
        assert_eq!(spread([4.0, 1.0]), Some(Spread { low: 1.0, median: 2.5, high: 4.0 }));
        assert_eq!(spread([7.0]), Some(Spread { low: 7.0, median: 7.0, high: 7.0 }));
        assert_eq!(spread([f64::NAN, 7.0]), Some(Spread { low: 7.0, median: 7.0, high: 7.0 }));
        assert_eq!(spread([]), None);
    }
}
