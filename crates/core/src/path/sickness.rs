//! Sick paths: much slower or more error-prone than their siblings, and for long enough that it is no accident.
//!
//! Invariant: a path is judged against siblings only (same target, same access state, up), and one of them is always well:
//! sickness ranks paths and never takes the last. Pings are compared with pings and requests with requests: what a path
//! carries must not speak against it. Rejected: fixed latency limits (an array's own slowness is nobody's fault), and one
//! mean over seconds (a single stall would hold it up for as long); periods vote instead.
//! It does not know windows, links, nor who is sent where.

use crate::event::{PathVitals, Took};
use crate::ids::{PathId, TargetId};
use crate::path::Damping;
use crate::spec::Access;
use crate::time::{Duration, Instant};

/// Each path is judged once in this time, if it was heard in it.
const PERIOD: Duration = Duration::from_millis(500);
/// So many of the last [`VOTES`] periods must speak against a path: three seconds of a busy one.
const VOTES: u32 = 6;
const VOTES_AGAINST: u32 = 5;
/// Votes are no series any more if none came for this long; idle paths are pinged every two seconds.
const VOTES_KEPT: Duration = Duration::from_secs(5);
/// What a sibling took is compared with for this long.
const SIBLING_KEPT: Duration = Duration::from_secs(3);
/// Slow: at least so many times what the siblings' median takes,
const SLOW_FACTOR: u64 = 4;
/// and so much more, which is above what any array's cache, queue or neighbour explains.
const SLOW_MORE: Duration = Duration::from_millis(5);
/// Well again: at most so many times, or within half of [`SLOW_MORE`].
const WELL_FACTOR: u64 = 2;
/// Requests in a period that make a mean; of pings one does, since one is all that comes of an idle path.
const REQUESTS_MIN: u32 = 2;
/// Errors are counted over about this many periods, the older ones for less.
const ERROR_PERIODS: u64 = 20;
/// Error-prone: at least so many requests that failed here and succeeded elsewhere,
const ERRORS_MIN: u64 = 5;
/// one in so many of those answered, and [`SLOW_FACTOR`] times the siblings' share.
const ERRORS_ONE_IN: u64 = 100;
/// The time for which a path must look well before it counts again; doubled by each relapse.
pub const WELL_AFTER: Duration = Duration::from_secs(10);
/// Sums of errors are kept in these parts.
const PART: u64 = 1 << 10;

/// Paths that may stand for each other; none for a path that is not up.
pub(super) type Siblings = Option<(TargetId, Access)>;

/// What is the matter with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ailment {
    /// Net of queueing in its own window.
    Slow { takes: Duration, siblings: Duration },
    /// Requests that failed here and succeeded over another path, of those answered.
    Errors { failed: u64, of: u64 },
}

/// What a judgement changed, for the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SickEdge {
    Sick { ailment: Ailment, required: Duration, relapses: u32 },
    Well { sick_for: Duration, good_for: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Well,
    /// `good_since`: it has looked well from then on; none while it does not.
    Sick {
        since: Instant,
        ailment: Ailment,
        good_since: Option<Instant>,
    },
}

#[derive(Clone, Debug)]
struct Row {
    /// Since the last judgement.
    gathered: PathVitals,
    /// What requests and pings last took on average, and when that was.
    requests: Option<(u64, Instant)>,
    pings: Option<(u64, Instant)>,
    /// In parts.
    failed: u64,
    answered: u64,
    /// A bit for each of the last periods, the latest lowest: it was slow; it was not as a path that is well.
    slow: u8,
    unwell: u8,
    votes: u32,
    last_vote: Instant,
    condition: Condition,
    damping: Damping,
}

#[derive(Clone, Debug)]
pub struct Sickness {
    /// By `PathId`.
    rows: Vec<Row>,
    judged_at: Instant,
}

impl Row {
    fn new() -> Self {
        Self {
            gathered: PathVitals::default(),
            requests: None,
            pings: None,
            failed: 0,
            answered: 0,
            slow: 0,
            unwell: 0,
            votes: 0,
            last_vote: Instant::ZERO,
            condition: Condition::Well,
            damping: Damping::default(),
        }
    }

    fn is_sick(&self) -> bool {
        matches!(self.condition, Condition::Sick { .. })
    }

    /// Takes what was gathered as this period's.
    fn close_period(&mut self, now: Instant) {
        let PathVitals { requests, pings, failed, answered } = std::mem::take(&mut self.gathered);
        if requests.count >= REQUESTS_MIN {
            self.requests = mean(requests).map(|took| (took, now));
        }
        if pings.count > 0 {
            self.pings = mean(pings).map(|took| (took, now));
        }
        let aged = |sum: u64, new: u64| sum - sum / ERROR_PERIODS + new * PART;
        self.failed = aged(self.failed, u64::from(failed));
        self.answered = aged(self.answered, u64::from(answered));
        if now.since(self.last_vote) >= VOTES_KEPT {
            (self.slow, self.unwell, self.votes) = (0, 0, 0);
        }
    }

    fn vote(&mut self, now: Instant, own: u64, siblings: u64) {
        let more = u64::try_from(SLOW_MORE.as_nanos()).unwrap_or(u64::MAX);
        let over = own.saturating_sub(siblings);
        let slow = own >= siblings.saturating_mul(SLOW_FACTOR) && over > more;
        let unwell = own > siblings.saturating_mul(WELL_FACTOR) && over > more / 2;
        let mask = (1_u8 << VOTES) - 1;
        self.slow = (self.slow << 1 | u8::from(slow)) & mask;
        self.unwell = (self.unwell << 1 | u8::from(unwell)) & mask;
        self.votes = (self.votes + 1).min(VOTES);
        self.last_vote = now;
    }

    fn is_error_prone(&self, siblings: (u64, u64)) -> bool {
        let of = |failed: u64, answered: u64| u128::from(failed) * u128::from(answered);
        self.failed >= ERRORS_MIN * PART
            && self.failed * ERRORS_ONE_IN >= self.answered
            // failed / answered >= factor * their failed / their answered
            && of(self.failed, siblings.1.max(1)) >= of(siblings.0 * SLOW_FACTOR, self.answered)
    }
}

fn mean(took: Took) -> Option<u64> {
    let nanos = took.total.as_nanos().checked_div(u128::from(took.count))?;
    Some(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The lower one of two in the middle: of three paths two may be sick.
fn median(mut all: Vec<u64>) -> Option<u64> {
    all.sort_unstable();
    all.get(all.len().checked_sub(1)? / 2).copied()
}

impl Sickness {
    /// All paths are well.
    #[must_use]
    pub fn new(paths: usize) -> Self {
        Self { rows: vec![Row::new(); paths], judged_at: Instant::ZERO }
    }

    /// Now there are so many paths, and `stays` says which of them are those of before.
    pub fn configure(&mut self, paths: usize, stays: impl Fn(PathId) -> bool) {
        self.rows.resize(paths, Row::new());
        for (index, row) in self.rows.iter_mut().enumerate() {
            if !stays(PathId::at(index)) {
                *row = Row::new();
            }
        }
    }

    /// The operator vouches for it.
    pub fn forget(&mut self, path: PathId) {
        self.rows[path.index()] = Row::new();
    }

    /// What a worker measured.
    pub fn take(&mut self, path: PathId, vitals: &PathVitals) {
        if let Some(row) = self.rows.get_mut(path.index()) {
            row.gathered.add(vitals);
        }
    }

    /// What ails a path that is sick, and since when.
    #[must_use]
    pub fn ailment(&self, path: PathId) -> Option<(Ailment, Instant)> {
        match self.rows[path.index()].condition {
            Condition::Well => None,
            Condition::Sick { since, ailment, .. } => Some((ailment, since)),
        }
    }

    /// For how long it must look well before it counts as that.
    #[must_use]
    pub fn required(&self, path: PathId) -> Duration {
        self.rows[path.index()].damping.required(WELL_AFTER)
    }

    /// Judges all paths, once in a [`PERIOD`]. `siblings` by `PathId`.
    pub fn judge(&mut self, now: Instant, siblings: &[Siblings]) -> Vec<(PathId, SickEdge)> {
        if now.since(self.judged_at) < PERIOD {
            return vec![];
        }
        self.judged_at = now;
        let mut heard = Vec::with_capacity(self.rows.len());
        for row in &mut self.rows {
            row.close_period(now);
            heard.push(
                row.requests.is_some_and(|(_, at)| at == now) || row.pings.is_some_and(|(_, at)| at == now),
            );
        }
        let mut edges = vec![];
        for at in 0..self.rows.len().min(siblings.len()) {
            let Some(group) = siblings[at] else {
                let row = &mut self.rows[at];
                (row.slow, row.unwell, row.votes) = (0, 0, 0);
                if let Condition::Sick { good_since, .. } = &mut row.condition {
                    *good_since = None;
                }
                continue;
            };
            let others: Vec<usize> =
                (0..siblings.len()).filter(|other| *other != at && siblings[*other] == Some(group)).collect();
            if heard[at]
                && let Some((own, theirs)) = self.compare(at, &others, now)
            {
                self.rows[at].vote(now, own, theirs);
            }
            edges.extend(self.judge_one(at, &others, now).map(|edge| (PathId::at(at), edge)));
        }
        edges
    }

    /// What it took in this period, and the median of its siblings.
    fn compare(&self, at: usize, others: &[usize], now: Instant) -> Option<(u64, u64)> {
        let row = &self.rows[at];
        let of = |kind: fn(&Row) -> Option<(u64, Instant)>| {
            let all = others.iter().filter_map(|other| kind(&self.rows[*other]));
            median(all.filter(|(_, at)| now.since(*at) <= SIBLING_KEPT).map(|(took, _)| took).collect())
        };
        let fresh = |kind: Option<(u64, Instant)>| kind.filter(|(_, at)| *at == now).map(|(took, _)| took);
        let (requests, pings) = (fresh(row.requests), fresh(row.pings));
        let alike = requests.zip(of(|row| row.requests)).or_else(|| pings.zip(of(|row| row.pings)));
        if !row.is_sick() {
            return alike;
        }
        // It gets no requests while others have room, and they get no pings while they have requests.
        alike.or_else(|| requests.or(pings).zip(of(|row| row.requests).or_else(|| of(|row| row.pings))))
    }

    fn judge_one(&mut self, at: usize, others: &[usize], now: Instant) -> Option<SickEdge> {
        let theirs = others.iter().map(|other| &self.rows[*other]);
        let errors = theirs.fold((0, 0), |(f, a), row| (f + row.failed, a + row.answered));
        let one_is_well = others.iter().any(|other| !self.rows[*other].is_sick());
        let error_prone = self.rows[at].is_error_prone(errors);
        let slow = self.rows[at].votes >= VOTES && self.rows[at].slow.count_ones() >= VOTES_AGAINST;
        match self.rows[at].condition {
            Condition::Well if one_is_well && (slow || error_prone) => {
                let ailment = if error_prone {
                    let row = &self.rows[at];
                    Ailment::Errors { failed: row.failed / PART, of: row.answered / PART }
                } else {
                    let (takes, siblings) = self.compare(at, others, now)?;
                    let of = Duration::from_nanos;
                    Ailment::Slow { takes: of(takes), siblings: of(siblings) }
                };
                Some(self.rows[at].fall_sick(ailment, now))
            }
            Condition::Well => None,
            Condition::Sick { .. } => self.rows[at].look_well(now),
        }
    }
}

impl Row {
    fn fall_sick(&mut self, ailment: Ailment, now: Instant) -> SickEdge {
        self.damping.went_down(now, WELL_AFTER);
        self.condition = Condition::Sick { since: now, ailment, good_since: None };
        let required = self.damping.required(WELL_AFTER);
        SickEdge::Sick { ailment, required, relapses: self.damping.parts().0 }
    }

    fn look_well(&mut self, now: Instant) -> Option<SickEdge> {
        let required = self.damping.required(WELL_AFTER);
        let Condition::Sick { since, ailment, good_since } = &mut self.condition else { return None };
        // Now and then one is slow on any path. Of one that fails requests nothing is heard because it gets none: only a new
        // trial can tell, and that is what damping is for.
        let steady = self.unwell.count_ones() <= 1
            && match ailment {
                Ailment::Slow { .. } => self.votes > 0,
                Ailment::Errors { .. } => true,
            };
        if !steady {
            *good_since = None;
            return None;
        }
        let good_since = *good_since.get_or_insert(now);
        if now.since(good_since) < required {
            return None;
        }
        let sick_for = now.since(*since);
        self.damping.came_up(now);
        self.condition = Condition::Well;
        // What was counted before its absence is no news.
        (self.failed, self.answered) = (0, 0);
        Some(SickEdge::Well { sick_for, good_for: now.since(good_since) })
    }
}

#[cfg(test)]
mod tests;
