//! Durations, rates and sizes as text: a number and a unit that is always written.
//!
//! Invariant: what the `*_text` functions write, the `parse_*` functions read back as the same value. Rejected: bare
//! numbers with a default unit; `limit = 200` has been megabytes to one person and bytes to the next.
//! It does not know which key a value belongs to, nor the range that key allows.

use super::fault::{Problem, did_you_mean, shown};
use super::types::ByteRate;
use crate::time::Duration;
use std::str::FromStr;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// In bytes; the binary ones first and in ascending order, as `text` picks from them.
const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", KIB),
    ("MiB", MIB),
    ("GiB", GIB),
    ("TiB", TIB),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// In bytes per second, in the same order.
const RATES: [(&str, u64); 9] = [
    ("B/s", 1),
    ("KiB/s", KIB),
    ("MiB/s", MIB),
    ("GiB/s", GIB),
    ("TiB/s", TIB),
    ("KB/s", 1_000),
    ("MB/s", 1_000_000),
    ("GB/s", 1_000_000_000),
    ("TB/s", 1_000_000_000_000),
];

/// In milliseconds.
const DURATIONS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Reads `"500ms"`, `"30s"`, `"2m"`, `"1.5h"`.
///
/// # Errors
/// No number, no unit, an unknown unit, or finer than a millisecond.
pub fn parse_duration(text: &str) -> Result<Duration, Problem> {
    let kind = Kind { noun: "a duration", example: "30s", units: &DURATIONS };
    let (millis, exact) = kind.parse(text)?;
    if !exact {
        return Err(Problem::new(format!("{} is finer than a millisecond", shown(text))));
    }
    Ok(Duration::from_millis(millis))
}

/// Reads `"200 MiB/s"`; more than zero.
///
/// # Errors
/// No number, no unit, an unknown unit, a size instead of a rate, bits, or zero.
pub fn parse_rate(text: &str) -> Result<ByteRate, Problem> {
    let kind = Kind { noun: "a rate", example: "200 MiB/s", units: &RATES };
    let (rate, _) = kind.parse(text)?;
    if rate == 0 {
        return Err(Problem::new(format!("{} is zero: a rate is at least 1 B/s", shown(text)))
            .hint("leave the key out if there shall be none"));
    }
    Ok(ByteRate(rate))
}

/// Reads `"4 MiB"`, in bytes.
///
/// # Errors
/// No number, no unit, an unknown unit, or a rate instead of a size.
pub fn parse_size(text: &str) -> Result<u64, Problem> {
    Kind { noun: "a size", example: "4 MiB", units: &SIZES }.parse(text).map(|(bytes, _)| bytes)
}

/// As [`parse_duration`] reads it: `90s`, `1500ms`. What is finer than a millisecond is cut off.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    // People say 60s and 60m, but 2m and 2h.
    let sayable = DURATIONS.iter().filter(|(_, unit)| *unit <= 1_000 || millis / unit >= 2).count();
    text(millis, &DURATIONS[..sayable], "")
}

/// As [`parse_rate`] reads it, exactly: `200 MiB/s`.
#[must_use]
pub fn rate_text(rate: ByteRate) -> String {
    text(rate.0, &RATES[..5], " ")
}

/// As [`parse_size`] reads it, exactly: `4 MiB`.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    text(bytes, &SIZES[..5], " ")
}

impl FromStr for ByteRate {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        parse_rate(text)
    }
}

/// In the largest unit that divides the amount.
fn text(amount: u64, units: &[(&str, u64)], between: &str) -> String {
    let dividing = units.iter().rev().find(|(_, unit)| amount != 0 && amount.is_multiple_of(*unit));
    let (name, unit) = dividing.unwrap_or(&units[0]);
    format!("{}{between}{name}", amount / unit)
}

struct Kind {
    noun: &'static str,
    example: &'static str,
    units: &'static [(&'static str, u64)],
}

impl Kind {
    /// The amount in the base unit, rounded down, and whether nothing was lost by that.
    fn parse(&self, text: &str) -> Result<(u64, bool), Problem> {
        let trimmed = text.trim();
        let digits_end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = (&trimmed[..digits_end], trimmed[digits_end..].trim_start());
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
            return Err(self.problem(text, &format!("is not {}", self.noun)));
        }
        let unit = self.unit(text, unit)?;
        scaled(whole, fraction, unit).ok_or_else(|| self.problem(text, "is too large or has too many digits"))
    }

    fn unit(&self, text: &str, unit: &str) -> Result<u64, Problem> {
        if let Some((_, factor)) = self.units.iter().find(|(name, _)| *name == unit) {
            return Ok(*factor);
        }
        if unit.is_empty() {
            return Err(self.problem(text, "has no unit"));
        }
        let is_rate = |name: &str| RATES.iter().any(|(rate, _)| *rate == name);
        if is_rate(&format!("{unit}/s")) {
            return Err(self.problem(text, &format!("is a size, not {}", self.noun)));
        }
        if is_rate(unit) {
            return Err(self.problem(text, &format!("is a rate, not {}", self.noun)));
        }
        if ["bit/s", "bps", "b/s", "kb/s", "Mb/s", "Gb/s", "Mbit/s", "Gbit/s", "Mbps", "Gbps"].contains(&unit)
        {
            return Err(self.problem(text, "looks like bits: vmpath counts bytes"));
        }
        let near = did_you_mean(unit, self.units.iter().map(|(name, _)| *name));
        let known = self.units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        Err(Problem::new(format!("{}: {} is not a unit of {}", shown(text), shown(unit), self.noun))
            .hint(near.unwrap_or_else(|| format!("the units are {known}"))))
    }

    fn problem(&self, text: &str, what: &str) -> Problem {
        Problem::new(format!("{} {what}", shown(text)))
            .hint(format!("{} is written like {:?}", self.noun, self.example))
    }
}

/// `whole.fraction` times `unit`. Nothing if it leaves `u64` or has more digits than anybody means.
fn scaled(whole: &str, fraction: &str, unit: u64) -> Option<(u64, bool)> {
    const FRACTION_DIGITS_MAX: usize = 9;
    if fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let whole = u128::from(whole.parse::<u64>().ok()?);
    let parts = (whole * divisor + u128::from(fraction.parse::<u64>().ok()?)) * u128::from(unit);
    Some((u64::try_from(parts / divisor).ok()?, parts.is_multiple_of(divisor)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_read_with_their_units() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("500 ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_rate("200 MiB/s"), Ok(ByteRate(200 * MIB)));
        assert_eq!(parse_rate("1.5GB/s"), Ok(ByteRate(1_500_000_000)));
        assert_eq!(parse_size("4 MiB"), Ok(4 * MIB));
    }

    #[test]
    fn what_is_wrong_with_a_quantity_is_said() {
        let rates = [
            ("200", "has no unit"),
            ("200 MiB", "is a size, not a rate"),
            ("200 Mb/s", "looks like bits"),
            ("200 mib/s", "is not a unit of a rate (did you mean \"MiB/s\"?)"),
            ("200 parsec", "the units are B/s, KiB/s"),
            ("MiB/s", "is not a rate"),
            ("", "is not a rate"),
            ("-1 MiB/s", "is not a rate"),
            ("1.2.3 MiB/s", "is not a rate"),
            (". MiB/s", "is not a rate"),
            ("0 MiB/s", "is zero"),
            ("0.4 B/s", "is zero"),
            ("99999999999999999999 B/s", "is too large"),
            ("99999999999 TiB/s", "is too large"),
            ("1.0000000001 B/s", "too many digits"),
        ];
        for (text, expected) in rates {
            let said = parse_rate(text).unwrap_err().to_string();
            assert!(said.contains(expected), "{text}: {said}");
        }
        assert!(parse_duration("0.0001s").unwrap_err().message.contains("finer"));
        assert!(parse_duration("5 sec").unwrap_err().to_string().contains("the units are ms, s, m, h"));
        assert!(parse_size("4 MiB/s").unwrap_err().message.contains("is a rate, not a size"));
    }

    #[test]
    fn texts_are_short_and_exact() {
        assert_eq!(rate_text(ByteRate(200 * MIB)), "200 MiB/s");
        assert_eq!(rate_text(ByteRate(1025)), "1025 B/s");
        assert_eq!(size_text(4 * MIB), "4 MiB");
        assert_eq!(size_text(0), "0 B");
        assert_eq!(duration_text(Duration::from_secs(90)), "90s");
        assert_eq!(duration_text(Duration::ZERO), "0ms");
    }

    proptest! {
        #[test]
        fn durations_round_trip(millis in 0..=u64::MAX / 1_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
        }

        #[test]
        fn rates_and_sizes_round_trip(amount in 1..=u64::MAX, shift in 0_u32..64) {
            let amount = (amount >> shift).max(1) << shift.min(20).min((amount >> shift).max(1).leading_zeros());
            prop_assert_eq!(parse_rate(&rate_text(ByteRate(amount))), Ok(ByteRate(amount)));
            prop_assert_eq!(parse_size(&size_text(amount)), Ok(amount));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = (parse_duration(&text), parse_rate(&text), parse_size(&text));
        }
    }
}
