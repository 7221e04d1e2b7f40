//! Numbers and times as people read them.

use crate::api::wire;

/// Bytes with one decimal: `192.0 KiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut amount, mut unit) = (bytes as f64, 0);
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

pub(super) fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// A rate, or a dash.
pub(super) fn rate_or_dash(bytes_per_second: Option<u64>) -> String {
    bytes_per_second.map_or_else(|| "-".into(), rate)
}

/// Microseconds as milliseconds.
pub(super) fn millis(micros: u64) -> String {
    format!("{:.1} ms", micros as f64 / 1000.0)
}

pub(super) fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// How long ago, in the two largest units.
pub(super) fn ago(now_unix_us: u64, then_unix_us: u64) -> String {
    let seconds = now_unix_us.saturating_sub(then_unix_us) / 1_000_000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A span of microseconds, in the unit that makes it short: `812 us`, `3.4 ms`, `1.2 s`.
pub(super) fn span_us(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} us"),
        1000..100_000 => format!("{:.1} ms", micros as f64 / 1e3),
        100_000..1_000_000 => format!("{} ms", micros / 1000),
        1_000_000..1_000_000_000 => format!("{:.1} s", micros as f64 / 1e6),
        _ => ago(micros, 0),
    }
}

/// A line indented, and folded between words at `width`; what follows the first is indented twice. Ends in a line feed.
pub(super) fn wrap(line: &str, indent: &str, width: Option<usize>) -> String {
    let (Some(width), true) = (width, line.contains(' ')) else { return format!("{indent}{line}\n") };
    let mut text = String::new();
    let mut column = 0;
    // Spaces that align what stands behind them are kept: a word is all up to the next one's begin.
    for word in line.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if column > 0 && length > 0 && column + length > width {
            text.truncate(text.trim_end().len());
            text.push('\n');
            column = 0;
        }
        if column == 0 {
            let begin = if text.is_empty() { indent.to_owned() } else { indent.repeat(2) };
            column = begin.chars().count();
            text.push_str(&begin);
        }
        text.push_str(word);
        column += word.chars().count();
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

/// Wall clock in UTC: `2026-11-22 18:08:03.123`.
pub(super) fn utc(unix_us: u64) -> String {
    let (days, second) = (unix_us / 86_400_000_000, unix_us / 1_000_000 % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (second, milli) = (second % 60, unix_us / 1000 % 1000);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{milli:03}")
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar. Counts in eras of 400 years that
/// begin on 1 March, so that the leap day is a year's last.
const fn date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    (year, month, day)
}

/// One event on one line.
pub(super) fn event_line(event: &wire::Event) -> String {
    let incident = event.incident.as_ref().map(|incident| format!(" [{incident}]")).unwrap_or_default();
    let until = event.until.as_ref().map(|until| format!("; until {until}")).unwrap_or_default();
    let subject = &event.subject;
    format!(
        "#{} {}{incident} {} {} {}: {}{until}",
        event.seq,
        utc(event.at_unix_us),
        event.kind,
        subject.kind,
        subject.name,
        event.reason
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(196_608), "192.0 KiB");
        assert_eq!(rate(104_857_600), "100.0 MiB/s");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(millis(812), "0.8 ms");
        assert_eq!(plural(1, "path"), "1 path");
        assert_eq!(plural(0, "path"), "0 paths");
    }

    #[test]
    fn spans_are_short_at_every_size() {
        for (micros, expect) in [
            (0, "0 us"),
            (999, "999 us"),
            (1234, "1.2 ms"),
            (123_456, "123 ms"),
            (1_234_567, "1.2 s"),
            (7_322_000_000, "2 h 2 min"),
        ] {
            assert_eq!(span_us(micros), expect);
        }
    }

    #[test]
    fn lines_are_folded_between_words() {
        let line = "what  is said at length";
        assert_eq!(wrap(line, " ", None), " what  is said at length\n");
        assert_eq!(wrap(line, " ", Some(13)), " what  is\n  said at\n  length\n");
        assert_eq!(wrap("unbreakable", " ", Some(3)), " unbreakable\n");
        assert_eq!(wrap("a unbreakable b", "", Some(3)), "a\nunbreakable\nb\n");
    }

    #[test]
    fn times_are_told_in_two_units() {
        let ago_s = |seconds: u64| ago(seconds * 1_000_000 + 5, 5);
        assert_eq!(ago_s(59), "59 s");
        assert_eq!(ago_s(61), "1 min 1 s");
        assert_eq!(ago_s(7322), "2 h 2 min");
        assert_eq!(ago_s(90_000), "1 d 1 h");
        assert_eq!(ago(1, 2), "0 s");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00.000");
        assert_eq!(utc(951_782_400_000_000), "2000-02-29 00:00:00.000");
        assert_eq!(utc(1_767_225_599_999_000), "2025-12-31 23:59:59.999");
        assert_eq!(utc(1_795_371_472_996_041), "2026-11-22 18:17:52.996");
        assert_eq!(utc(4_107_542_400_000_000), "2100-03-01 00:00:00.000");
    }
}
