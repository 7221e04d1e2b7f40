//! How a load is commanded and what it says: one word a line in, one JSON object a line out. The same for a stand-in
//! guest and for the tool inside a real one.
//!
//! ```text
//! in    go   pause   rate 60MiB/s | rate max   readback   report   quit
//! out   {"started": …}   {"answer": "go"}   {"error": "…"}   {"sample": {…}}   {"readback": {…}}   {"report": {…}}
//! ```
//! Invariant: each command is answered by one line that names it, or by `error`; `readback` is answered at once, and its
//! result comes later. Rejected: JSON commands, which nobody likes to type into a serial line.

use serde_json::{Value, json};

/// One line of a load's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineCommand {
    Go,
    Pause,
    /// Bytes per second; none for as fast as it goes.
    Rate(Option<u64>),
    ReadBack,
    Report,
    Quit,
}

impl LineCommand {
    /// # Errors
    /// In words, with the known commands.
    pub fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Ok(match words[..] {
            ["go"] => Self::Go,
            ["pause"] => Self::Pause,
            ["rate", "max"] => Self::Rate(None),
            ["rate", rate] => Self::Rate(Some(crate::units::parse_rate(rate)?)),
            ["readback"] => Self::ReadBack,
            ["report"] => Self::Report,
            ["quit"] => Self::Quit,
            _ => {
                let known = "known commands: go, pause, rate BYTES/s, rate max, readback, report, quit";
                return Err(format!("unknown command {line:?}; {known}"));
            }
        })
    }

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Pause => "pause",
            Self::Rate(_) => "rate",
            Self::ReadBack => "readback",
            Self::Report => "report",
            Self::Quit => "quit",
        }
    }

    /// The line that says: taken.
    #[must_use]
    pub fn answer(self) -> Value {
        json!({ "answer": self.word() })
    }
}

/// The sum of several disks' lines: numbers are added, except the longest gap, of which the longest counts.
#[must_use]
pub fn sum_samples(samples: &[Value]) -> Value {
    let mut sum = serde_json::Map::new();
    for sample in samples.iter().filter_map(Value::as_object) {
        for (key, value) in sample {
            let had = sum.get(key).cloned().unwrap_or(Value::Null);
            let combined = match (had.as_f64(), value.as_f64()) {
                (Some(had), Some(more)) if key == "longest_gap_ms" => json!(had.max(more)),
                (Some(_), Some(_)) => json!(had.as_u64().unwrap_or(0) + value.as_u64().unwrap_or(0)),
                _ => value.clone(),
            };
            sum.insert(key.clone(), combined);
        }
    }
    Value::Object(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        assert_eq!(LineCommand::parse(" rate 2MiB/s\r"), Ok(LineCommand::Rate(Some(2 << 20))));
        assert_eq!(LineCommand::parse("rate max"), Ok(LineCommand::Rate(None)));
        assert!(LineCommand::parse("stop").unwrap_err().contains("readback"));
    }

    #[test]
    fn samples_add_up() {
        let one = json!({ "bytes": 5, "longest_gap_ms": 2.5 });
        let two = json!({ "bytes": 7, "longest_gap_ms": 1.0 });
        assert_eq!(sum_samples(&[one, two]), json!({ "bytes": 12, "longest_gap_ms": 2.5 }));
    }
}
