//! Sizes, rates and times as people write them on a command line: `64KiB`, `100MiB/s`, `2s`.
//!
//! Invariant: a number without a unit is bytes, bytes per second, or milliseconds; nothing is rounded silently.
//! Rejected: decimal prefixes (MB), which invite the 5 % confusion that a bandwidth check would then report.
//! It does not know: what the number is for.

use std::time::Duration;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Bytes: `4096`, `4KiB`, `64 MiB`, `1GiB`.
///
/// # Errors
/// In words, with what is accepted.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let scale = match unit {
        "" | "B" => 1,
        "KiB" | "K" | "k" => KIB,
        "MiB" | "M" => MIB,
        "GiB" | "G" => GIB,
        _ => {
            return Err(format!(
                "unknown unit {unit:?} in {text:?}: write a size as 4096, 64KiB, 100MiB or 1GiB"
            ));
        }
    };
    scaled(number, scale)
        .ok_or_else(|| format!("{text:?} is not a size: write it as 4096, 64KiB, 100MiB or 1GiB"))
}

/// Bytes per second: `100MiB/s`; a plain number too.
///
/// # Errors
/// In words, with what is accepted.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    parse_size(text.trim().strip_suffix("/s").unwrap_or(text))
        .map_err(|why| format!("{why}, with or without /s"))
}

/// A time: `250us`, `20ms`, `3s`; a plain number is milliseconds.
///
/// # Errors
/// In words, with what is accepted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let micros = match unit {
        "us" => 1,
        "" | "ms" => 1_000,
        "s" => 1_000_000,
        _ => return Err(format!("unknown unit {unit:?} in {text:?}: write a time as 250us, 20ms or 3s")),
    };
    scaled(number, micros)
        .map(Duration::from_micros)
        .ok_or_else(|| format!("{text:?} is not a time: write it as 250us, 20ms or 3s"))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

fn scaled(number: &str, scale: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let exact = number.parse::<f64>().ok()? * scale as f64;
    (exact.fract() == 0.0 && exact < 9e15).then_some(exact as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_rates_and_times() {
        assert_eq!(parse_size("64KiB"), Ok(65536));
        assert_eq!(parse_size("1.5 MiB"), Ok(1_572_864));
        assert_eq!(parse_rate("100MiB/s"), Ok(104_857_600));
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("20"), Ok(Duration::from_millis(20)));
    }

    #[test]
    fn nonsense_is_told_what_is_accepted() {
        for text in ["", "MiB", "10 parsecs", "0.3", "99999999999GiB"] {
            assert!(parse_size(text).unwrap_err().contains("64KiB"), "{text}");
        }
        assert!(parse_duration("3h").unwrap_err().contains("20ms"));
    }
}
