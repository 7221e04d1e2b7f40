//! Whether a VM is here, on its way, or somewhere else.
//!
//! A closed state beside [`crate::policy::Run`] and not one more of its states: a VM may leave suspended or running, and
//! comes back to what it was when a move is cancelled, so each would have to carry the other. While it is on its way no rule
//! looks at it, and its run state stays as it is.
//! It does not know why it leaves beyond the words, nor how.

use crate::cluster::Whereto;
use crate::ids::IncidentId;
use crate::migration::{Destination, Source};
use crate::policy::Outstanding;
use crate::time::{Duration, Instant};

/// Placement is arithmetic on what is known.
pub const PLACE_WITHIN: Duration = Duration::from_secs(2);
/// After a move that came to nothing; twice as long after each further one.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// Somebody is told often enough that no host will have it.
const TRY_AGAIN_MAX: Duration = Duration::from_secs(1800);
/// Whether a VM may go home is asked this often.
pub const ASK_HOME: Duration = Duration::from_secs(10);

/// Why a VM moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub incident: Option<IncidentId>,
    /// The rule that applied, in words, with its numbers.
    pub rule: String,
    /// What becomes of its requests until it stands still.
    pub requests: Outstanding,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Here, as far as is known; also a VM that runs nowhere.
    Here,
    /// A host is looked for.
    Placing {
        reason: Reason,
        whereto: Whereto,
        until: Instant,
    },
    Leaving {
        reason: Reason,
        machine: Box<Source>,
    },
    Arriving(Box<Destination>),
    /// It has left for this host.
    Elsewhere {
        host: String,
    },
}

/// Who sends a VM to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A rule, because of a failure.
    Failure,
    /// `return = true`.
    Return,
    Operator,
}

/// What is kept of a VM's way back: a VM that has fled from more hosts than that goes to the first, or to the last of them.
const FLED_MAX: usize = 16;

/// The hosts that a VM has fled from once it is at `to`. One to which it comes again ends the detour that began there.
#[must_use]
pub fn fled(before: &[String], sender: Sender, (from, to): (&str, &str)) -> Vec<String> {
    let mut hosts = match sender {
        Sender::Failure => before.iter().map(String::as_str).chain([from]).map(str::to_owned).collect(),
        Sender::Return => before.to_vec(),
        Sender::Operator => vec![],
    };
    if let Some(again) = hosts.iter().position(|host| host == to) {
        hosts.truncate(again);
    }
    if hosts.len() > FLED_MAX {
        hosts.remove(1);
    }
    hosts
}

/// A move that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    pub why: String,
    /// Not tried again before.
    pub again: Instant,
    every: Duration,
}

/// What is known of a VM's moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Travel {
    pub place: Place,
    pub tried: Option<Tried>,
    /// When it came here; none if it began here.
    pub arrived: Option<Instant>,
    /// Where it began, if that was elsewhere: `vmpath vm return` takes it back there.
    pub home: Option<String>,
    /// The hosts that it had to leave for a failure since somebody last chose its place, the first one first: `return = true`
    /// takes it back, and what an operator has moved stays.
    pub fled: Vec<String>,
    /// When it is asked next whether it may.
    pub ask_home: Instant,
    /// It stands still by our doing, which its run state does not know yet.
    pub carried: Option<Carried>,
}

/// A VM that came suspended, or that was stopped while its units were another host's: once its hypervisor says that it stands
/// still, it counts as suspended here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The process that stands still, if that is known.
    pub instance: Option<u64>,
    /// Why, in words.
    pub rule: String,
}

impl Travel {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            place: Place::Here,
            tried: None,
            arrived: None,
            home: None,
            fled: vec![],
            ask_home: now,
            carried: None,
        }
    }

    /// No rule looks at it: it is on its way, or gone.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match &self.place {
            Place::Here => false,
            Place::Placing { .. } | Place::Leaving { .. } | Place::Arriving(_) | Place::Elsewhere { .. } => {
                true
            }
        }
    }

    /// It counts for `migrations_max`.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        match &self.place {
            Place::Here | Place::Elsewhere { .. } => false,
            Place::Placing { .. } | Place::Leaving { .. } | Place::Arriving(_) => true,
        }
    }

    /// Why it leaves.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match &self.place {
            Place::Placing { reason, .. } | Place::Leaving { reason, .. } => Some(reason),
            Place::Here | Place::Arriving(_) | Place::Elsewhere { .. } => None,
        }
    }

    /// When time alone moves it next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.place {
            Place::Here => self.tried.as_ref().map(|tried| tried.again),
            Place::Placing { until, .. } => Some(*until),
            Place::Leaving { machine, .. } => machine.deadline(),
            Place::Arriving(machine) => machine.deadline(),
            Place::Elsewhere { .. } => None,
        }
    }

    /// It stays, and is not tried again for a while.
    pub fn has_failed(&mut self, now: Instant, why: String) {
        // One that is long past says nothing of today.
        let recent = self.tried.as_ref().filter(|tried| now.since(tried.again) < TRY_AGAIN_MAX);
        let every = recent.map_or(TRY_AGAIN, |tried| (tried.every * 2).min(TRY_AGAIN_MAX));
        self.place = Place::Here;
        self.tried = Some(Tried { why, again: now + every, every });
    }
}

#[cfg(test)]
mod tests {
    use super::{FLED_MAX, Sender, fled};

    fn check(before: &[&str], sender: Sender, way: (&str, &str), after: &[&str]) {
        let before: Vec<String> = before.iter().map(|host| (*host).to_owned()).collect();
        assert_eq!(fled(&before, sender, way), after, "{before:?} {sender:?} {way:?}");
    }

    #[test]
    fn a_failure_adds_a_host_a_return_ends_a_detour_and_an_operator_ends_it_all() {
        check(&[], Sender::Failure, ("a", "b"), &["a"]);
        check(&["a"], Sender::Failure, ("b", "c"), &["a", "b"]);
        check(&["a", "b"], Sender::Return, ("c", "b"), &["a"]);
        check(&["a", "b"], Sender::Return, ("c", "a"), &[]);
        check(&["a", "b"], Sender::Operator, ("c", "d"), &[]);
        // It has fled to where it had fled from.
        check(&["a", "b"], Sender::Failure, ("c", "b"), &["a"]);
        check(&["a"], Sender::Failure, ("b", "a"), &[]);
    }

    #[test]
    fn what_is_kept_has_a_bound_and_both_ends() {
        let name = |number: usize| format!("kvm{number}");
        let hosts =
            (0..100).fold(vec![], |hosts, at| fled(&hosts, Sender::Failure, (&name(at), &name(at + 1))));
        assert_eq!(hosts.len(), FLED_MAX);
        assert_eq!((&hosts[0], &hosts[FLED_MAX - 1]), (&name(0), &name(99)));
    }
}
