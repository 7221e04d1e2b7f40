//! What libFuzzer says of its progress.

use std::path::PathBuf;

/// Edges are those of the code under test that were ever taken; 0 where nothing was said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) executions: u64,
    pub(super) per_second: u64,
    /// With the committed corpus, and at the end.
    pub(super) edges_first: u64,
    pub(super) edges_last: u64,
    /// Of the corpus at the end.
    pub(super) inputs: u64,
}

impl Progress {
    /// ```text
    /// #14     INITED cov: 420 ft: 570 corp: 11/21Kb exec/s: 0 rss: 27Mb
    /// #769821 DONE   cov: 656 ft: 1758 corp: 437/678Kb lim: 6000 exec/s: 29608 rss: 29Mb
    /// stat::number_of_executed_units: 769821
    /// ```
    pub(super) fn read(output: &str) -> Self {
        let mut progress = Self::default();
        for line in output.lines() {
            if let Some(edges) = after(line, "cov: ") {
                if progress.edges_first == 0 || line.contains("INITED") {
                    progress.edges_first = edges;
                }
                progress.edges_last = edges;
                progress.inputs = after(line, "corp: ").unwrap_or(progress.inputs);
            }
            if let Some(count) = after(line, "stat::number_of_executed_units: ") {
                progress.executions = count;
            }
            if let Some(rate) = after(line, "stat::average_exec_per_sec: ") {
                progress.per_second = rate;
            }
        }
        progress
    }
}

/// The number that follows a word.
fn after(line: &str, word: &str) -> Option<u64> {
    let rest = line.split_once(word)?.1.trim_start();
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().ok()
}

/// The file to which it wrote an input that broke a rule.
pub(super) fn reproducer(output: &str) -> Option<PathBuf> {
    let line = output.lines().find_map(|line| line.split_once("Test unit written to "))?;
    Some(PathBuf::from(line.1.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_the_first_line_to_the_last() {
        let output = "#2\tINITED cov: 42 ft: 57 corp: 11/21Kb exec/s: 0 rss: 27Mb\n\
                      #9\tNEW    cov: 50 ft: 60 corp: 12/22Kb lim: 99 exec/s: 0 rss: 27Mb L: 5/9 MS: 1 CrossOver-\n\
                      #99\tDONE   cov: 65 ft: 175 corp: 43/67Kb lim: 99 exec/s: 50 rss: 29Mb\n\
                      stat::number_of_executed_units: 99\nstat::average_exec_per_sec:     50\n";
        let seen = Progress { executions: 99, per_second: 50, edges_first: 42, edges_last: 65, inputs: 43 };
        assert_eq!(Progress::read(output), seen);
        assert_eq!(reproducer(output), None);
    }

    #[test]
    fn a_finding_is_a_file() {
        let output = "== ERROR: libFuzzer: deadly signal\n\
                      artifact_prefix='/t/f/'; Test unit written to /t/f/crash-1234\nBase64: AA==\n";
        assert_eq!(reproducer(output), Some(PathBuf::from("/t/f/crash-1234")));
    }
}
