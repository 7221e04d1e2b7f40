//! Whether the reads and writes of one block fit an atomic register.
//!
//! Every write has a value of its own, so it is decided in `n log n`: the operations of one value form a cluster, whose
//! zone reaches from the earliest end to the latest beginning. The history is linearizable exactly if no two forward zones
//! overlap and no backward zone lies inside a forward one (P. Gibbons and E. Korach, Testing Shared Memories, 1997).
//! It does not know what a value stands for.

/// Positions in one total order of beginnings and ends.
type Interval = (u64, u64);

#[derive(Clone, Debug, Default)]
pub(super) struct History {
    reads: Vec<(u32, Interval)>,
}

/// A write. `end` is the last moment for it: `u64::MAX` where its outcome is unknown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    pub(super) start: u64,
    pub(super) end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    value: u32,
    low: u64,
    high: u64,
}

impl History {
    pub(super) fn read(&mut self, value: u32, interval: Interval) {
        self.reads.push((value, interval));
    }

    /// A write has taken effect for certain, whether it is ever read or not.
    pub(super) fn wrote(&mut self, value: u32) {
        self.reads.push((value, (0, u64::MAX)));
    }

    /// `write` gives the write of a value.
    pub(super) fn judge(mut self, write: impl Fn(u32) -> Cluster) -> Result<(), String> {
        self.reads.sort_unstable();
        let (mut forward, mut backward) = (Vec::new(), Vec::new());
        for cluster in self.reads.chunk_by(|a, b| a.0 == b.0) {
            let value = cluster[0].0;
            let w = write(value);
            let early = cluster.iter().map(|(_, (_, end))| *end).min().unwrap_or(u64::MAX);
            if early < w.start {
                return Err(format!("op {value} is read before it was written"));
            }
            let low = early.min(w.end);
            let high = cluster.iter().map(|(_, (start, _))| *start).max().unwrap_or(0).max(w.start);
            if low < high {
                forward.push(Zone { value, low, high });
            } else {
                backward.push(Zone { value, low: high, high: low });
            }
        }
        forward.sort_unstable_by_key(|zone| zone.low);
        for pair in forward.windows(2) {
            if pair[1].low < pair[0].high {
                return Err(format!(
                    "op {} is seen after op {} that replaced it",
                    pair[0].value, pair[1].value
                ));
            }
        }
        for zone in backward {
            let at = forward.partition_point(|f| f.low < zone.low);
            if let Some(around) = at.checked_sub(1).map(|at| forward[at]).filter(|f| zone.high < f.high) {
                return Err(format!("op {} is seen before and after op {}", around.value, zone.value));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes by value, with their intervals; reads of values.
    fn judge(writes: &[(u64, u64)], reads: &[(u32, Interval)]) -> Result<(), String> {
        let mut history = History::default();
        for (value, interval) in reads {
            history.read(*value, *interval);
        }
        for value in (0..writes.len() as u32).filter(|v| writes[*v as usize].1 < u64::MAX) {
            history.wrote(value);
        }
        let write = |value: u32| {
            let (start, end) = writes[value as usize];
            Cluster { start, end }
        };
        history.judge(write)
    }

    #[test]
    fn a_value_is_read_between_its_write_and_the_next() {
        let writes = [(0, 0), (10, 20), (30, 40)];
        assert_eq!(judge(&writes, &[(0, (1, 5)), (1, (12, 14)), (1, (21, 25)), (2, (41, 42))]), Ok(()));
        assert_eq!(judge(&writes, &[(1, (31, 33)), (2, (34, 36))]), Ok(()), "both were open");
    }

    #[test]
    fn an_old_value_does_not_come_back() {
        let writes = [(0, 0), (10, 20), (30, 40)];
        assert!(judge(&writes, &[(1, (41, 42))]).is_err(), "overwritten");
        assert!(judge(&writes, &[(2, (31, 32)), (1, (33, 34))]).is_err(), "seen as overwritten");
        assert!(judge(&writes, &[(0, (12, 14)), (1, (15, 16)), (0, (17, 18))]).is_err());
        assert!(judge(&writes, &[(1, (1, 5))]).is_err(), "from the future");
    }

    #[test]
    fn a_write_of_unknown_outcome_comes_once_or_never() {
        let writes = [(0, 0), (10, u64::MAX), (30, 40)];
        assert_eq!(judge(&writes, &[(0, (20, 25)), (2, (41, 42))]), Ok(()));
        assert_eq!(judge(&writes, &[(0, (20, 25)), (1, (26, 27)), (2, (41, 42))]), Ok(()));
        assert!(judge(&writes, &[(1, (20, 25)), (2, (41, 42)), (1, (43, 44))]).is_err());
    }
}
