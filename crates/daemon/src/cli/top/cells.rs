//! Numbers as short as a column is, bars, and the few colours.

use ratatui::style::{Color, Modifier, Style};

/// Whether colours may be used. Without, weight and inversion alone tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Colours,
    Plain,
}

impl Paint {
    /// By the environment: NO_COLOR, if it is set and not empty, turns colours off (no-color.org).
    pub(super) fn of_environment() -> Self {
        if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            Self::Plain
        } else {
            Self::Colours
        }
    }

    fn coloured(self, colour: Color) -> Style {
        match self {
            Self::Colours => Style::new().fg(colour),
            Self::Plain => Style::new(),
        }
    }

    pub(super) fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    pub(super) fn warning(self) -> Style {
        self.coloured(Color::Yellow)
    }

    pub(super) fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// What nobody may overlook.
    pub(super) fn alarm(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD | Modifier::REVERSED)
    }

    pub(super) fn quiet(self) -> Style {
        self.coloured(Color::DarkGray)
    }
}

pub(super) fn heading() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

pub(super) fn selected() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

/// Bytes per second as a number of MiB/s, of three or four digits.
pub(super) fn mib(bytes_per_second: u64) -> String {
    let mib = bytes_per_second as f64 / f64::from(1 << 20);
    match mib {
        0.0 => "0".into(),
        ..9.995 => format!("{mib:.2}"),
        ..999.95 => format!("{mib:.1}"),
        _ => format!("{mib:.0}"),
    }
}

pub(super) fn mib_or_dash(bytes_per_second: Option<u64>) -> String {
    bytes_per_second.map_or_else(|| "-".into(), mib)
}

/// Bytes in at most four letters and a binary unit's: `192K`, `2.0M`.
pub(super) fn amount(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "K", "M", "G", "T"];
    let (mut amount, mut unit) = (bytes as f64, 0);
    while amount >= 999.5 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit > 0 && amount < 9.95 {
        format!("{amount:.1}{}", UNITS[unit])
    } else {
        format!("{amount:.0}{}", UNITS[unit])
    }
}

/// Microseconds: `812 us`, `3.4 ms`, `1.2 s`.
pub(super) fn time(micros: u64) -> String {
    match micros {
        0 => "-".into(),
        1..1000 => format!("{micros} us"),
        1000..99_950 => format!("{:.1} ms", micros as f64 / 1e3),
        99_950..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

/// `[||||  9K/2.0M]`: how much of the whole, with `text` at the right end, as the filled part and the rest, so that the
/// fill can be seen behind the text too. `width` includes the brackets; nothing below 3.
pub(super) fn bar(part: u64, whole: u64, text: &str, width: usize) -> (String, String) {
    let inside = width.saturating_sub(2);
    if inside == 0 {
        return (String::new(), String::new());
    }
    let text: String = text.chars().take(inside).collect();
    let empty = inside - text.chars().count();
    // What is over the whole is full; what is there at all is seen.
    let share = if whole == 0 { f64::from(u8::from(part > 0)) } else { part as f64 / whole as f64 };
    let filled = ((share.min(1.0) * inside as f64).round() as usize).max(usize::from(part > 0));
    let marks = "|".repeat(filled.min(empty));
    let letters: Vec<char> = format!("{marks:<empty$}{text}").chars().collect();
    let (full, rest) = letters.split_at(filled);
    (format!("[{}", full.iter().collect::<String>()), format!("{}]", rest.iter().collect::<String>()))
}

/// A name in `width` letters: of a long one the middle goes, because names differ at their ends.
pub(super) fn fit(name: &str, width: usize) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= width {
        return name.into();
    }
    let tail = width.saturating_sub(1) / 2;
    let head = width.saturating_sub(1 + tail);
    let cut = if width > 0 { "~" } else { "" };
    let part = |range: &[char]| range.iter().collect::<String>();
    format!("{}{cut}{}", part(&letters[..head]), part(&letters[letters.len() - tail..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_keep_three_digits() {
        let mib_of = |hundredths: u64| mib(hundredths * (1 << 20) / 100);
        assert_eq!((mib(0), mib(1), mib_of(999)), ("0".into(), "0.00".into(), "9.99".into()));
        assert_eq!(
            (mib_of(1000), mib_of(99_990), mib_of(100_000)),
            ("10.0".into(), "999.9".into(), "1000".into())
        );
    }

    #[test]
    fn amounts_are_four_letters_and_times_are_short() {
        for (bytes, expect) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.0K"),
            (196_608, "192K"),
            (2 << 20, "2.0M"),
            (1023 << 20, "1.0G"),
        ] {
            assert_eq!(amount(bytes), expect);
        }
        for (micros, expect) in
            [(0, "-"), (812, "812 us"), (99_949, "99.9 ms"), (250_000, "250 ms"), (61_000_000, "61.0 s")]
        {
            assert_eq!(time(micros), expect);
        }
    }

    #[test]
    fn a_bar_shows_a_share_beside_its_numbers() {
        let check = |part, whole, text: &str, width, full: &str, rest: &str| {
            assert_eq!(bar(part, whole, text, width), (full.into(), rest.into()));
        };
        check(0, 8, "0/8", 14, "[", "         0/8]");
        check(4, 8, "4/8", 14, "[||||||", "   4/8]");
        check(7, 8, "7/8", 14, "[|||||||||7/", "8]");
        // Little is more than nothing; over the window is full; without a window anything fills it.
        check(1, 8000, "x", 14, "[|", "          x]");
        check(9, 8, "9/8", 14, "[|||||||||9/8", "]");
        check(1, 0, "", 4, "[||", "]");
        check(0, 1, "too long", 5, "[", "too]");
        check(1, 1, "x", 2, "", "");
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(fit("san0/a", 6), "san0/a");
        assert_eq!(fit("storage-array/port-a", 9), "stor~rt-a");
        assert_eq!((fit("abc", 1), fit("abc", 0)), ("~".into(), String::new()));
    }
}
