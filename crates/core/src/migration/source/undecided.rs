//! The transitions of [`Source`] from the commit on, and those of a cancel: what is asked again until it is known.

use super::step::Step;
use super::{ASK_AGAIN, Act, Asked, CONTINUE_WITHIN, Held, Outcome, Sent, Source, State, Stopped, Word};
use crate::effect::JournalKind;
use crate::migration::{Answer, MigrationState, MigrationStatus, Pace};
use crate::mutant::{self, Mutant};
use crate::ownership::{Change, Found, Judged, UnitEpoch, judge};
use crate::time::{Duration, Instant};

/// A destination that has just read that it is the owner says so a moment later.
const SENT_AGAIN: Duration = Duration::from_millis(250);
const ALL_SENT: &str = "QEMU has sent all of it: whether it runs there is asked";

impl Source {
    pub(super) fn committed(&mut self, now: Instant, answer: Answer) -> Step {
        let first = matches!(self.state, State::Committing { .. });
        if !first && !matches!(self.state, State::Uncertain { .. }) {
            return Step::default();
        }
        match answer {
            Answer::Done(()) => {
                let instance = self.plan.instance;
                self.continues(now, vec![Act::Continue { instance }])
            }
            Answer::Refused(why) | Answer::Unknown(why) if mutant::active(Mutant::CommitForgotten) => {
                self.cancels(now, why)
            }
            // A store's client may have sent it twice: refused, because the first one took effect.
            Answer::Refused(why) if first => self.ask_owners(now, format!("the commit was refused: {why}")),
            Answer::Unknown(why) if first => self.ask_owners(now, why),
            Answer::Refused(_) | Answer::Unknown(_) => Step::default(),
        }
    }

    /// Nothing is on its way that could take effect.
    pub(super) fn not_committed(&mut self, now: Instant, why: &str) -> Step {
        let State::Committing { .. } = self.state else { return Step::default() };
        self.cancels(now, format!("its units could not be given over: {why}"))
    }

    pub(super) fn owners(&mut self, now: Instant, found: Result<Vec<Found>, String>) -> Step {
        // What could not be read is read again.
        let Ok(found) = found else { return Step::default() };
        let units = self.units();
        let change = Change { id: &self.plan.id, from: &self.plan.from, to: &self.plan.to, units: &units };
        let judged = judge(change, &found);
        match &self.state {
            State::Uncertain { .. } => self.resolve(now, judged),
            State::Continuing { .. } | State::Stranded { .. } => self.after_commit(now, judged),
            State::Probing { .. }
            | State::Claiming { .. }
            | State::Preparing { .. }
            | State::Transferring { .. }
            | State::Settling { .. }
            | State::HandingOver { .. }
            | State::Committing { .. }
            | State::Cancelling { .. }
            | State::Stuck { .. }
            | State::Ended(_) => Step::default(),
        }
    }

    fn resolve(&mut self, now: Instant, judged: Judged) -> Step {
        let State::Uncertain { why, asked, .. } = &mut self.state else { return Step::default() };
        match judged {
            Judged::Moved(_) => {
                let instance = self.plan.instance;
                self.continues(now, vec![Act::Continue { instance }])
            }
            Judged::Kept(units) => self.kept(now, units),
            Judged::Undecided if mutant::active(Mutant::LateCommitIgnored) => {
                let why = why.clone();
                self.keeps(now, self.units(), why)
            }
            Judged::Undecided => {
                *asked = Asked::Bump;
                if let Word::Raising(_) = self.word {
                    self.word = Word::Former;
                }
                Step::acts(vec![Act::Bump { units: self.units() }])
            }
            Judged::Lost(what) => {
                let why = format!("{what}; {why}");
                let mut step = self.cancels(now, why);
                step.acts.insert(0, Act::Disown { units: self.unit_names() });
                step
            }
            Judged::Unreadable(_) => Step::default(),
        }
    }

    /// No commit has taken effect, and none will.
    fn keeps(&mut self, now: Instant, units: Vec<UnitEpoch>, why: String) -> Step {
        let mut step = self.cancels(now, why);
        step.acts.insert(0, Act::Own { units });
        step
    }

    pub(super) fn bumped(&mut self, now: Instant, answer: &Answer) -> Step {
        let next = |unit: UnitEpoch| UnitEpoch { epoch: unit.epoch + 1, ..unit };
        if let Word::Raising(units) = &self.word {
            let units: Vec<_> = units.iter().cloned().map(next).collect();
            return match answer {
                Answer::Done(()) => self.are_ours(now, units),
                // They are read again in a moment.
                Answer::Refused(_) | Answer::Unknown(_) => Step::default(),
            };
        }
        let State::Uncertain { why, asked: Asked::Bump, .. } = &self.state else { return Step::default() };
        match answer {
            Answer::Done(()) => {
                let why = format!("its units have not gone, and will not: {why}");
                let units = self.units().into_iter().map(next).collect();
                self.keeps(now, units, why)
            }
            // They are read again in a moment.
            Answer::Refused(_) | Answer::Unknown(_) => Step::default(),
        }
    }

    pub(super) fn ask_owners_again(&mut self, now: Instant) -> Step {
        let units = self.unit_names();
        let State::Uncertain { asked, pace, .. } = &mut self.state else { return Step::default() };
        *asked = Asked::Read;
        *pace = pace.next(now);
        Step::acts(vec![Act::ReadOwners { units }])
    }

    /// The units belong to the destination. `acts`: what QEMU is told at once.
    pub(super) fn continues(&mut self, now: Instant, acts: Vec<Act>) -> Step {
        let instance = self.plan.instance;
        let mut all = vec![Act::Disown { units: self.unit_names() }];
        all.extend(acts);
        all.push(Act::Query { instance });
        let pace = Pace::first(now, ASK_AGAIN);
        self.state = State::Continuing { since: now, again: now + ASK_AGAIN, pace, sent: Sent::NotYet };
        let reason = format!("its units belong to {} now; QEMU sends the rest", self.plan.to);
        let until = Some(format!("QEMU has sent it, and {} says that it runs there", self.plan.to));
        Step::told(all, JournalKind::VmMigrating, (reason, until))
    }

    pub(super) fn continuing_at(&mut self, now: Instant, status: &MigrationStatus) -> Step {
        let State::Continuing { again, sent, .. } = &mut self.state else { return Step::default() };
        match &status.state {
            MigrationState::Completed if *sent == Sent::NotYet => self.is_sent(now, status.downtime),
            MigrationState::PreSwitchover if *again <= now => {
                *again = now + ASK_AGAIN;
                Step::acts(vec![Act::Continue { instance: self.plan.instance }])
            }
            MigrationState::PreSwitchover
            | MigrationState::Setup
            | MigrationState::Active
            | MigrationState::Device
            | MigrationState::Completed
            | MigrationState::Cancelling => Step::default(),
            MigrationState::Failed(why) => {
                let why = why.clone();
                self.strands(now, why)
            }
            MigrationState::Cancelled | MigrationState::None => {
                self.strands(now, "it was cancelled".to_owned())
            }
        }
    }

    /// The other end has loaded all of it, by QEMU's own way back. Whether it runs there is its daemon's to say.
    fn is_sent(&mut self, now: Instant, downtime: Option<Duration>) -> Step {
        if mutant::active(Mutant::SentIsLanded) {
            return self.moved(downtime);
        }
        let sent = Sent::All { downtime };
        let pace = Pace::first(now, SENT_AGAIN);
        self.state = State::Continuing { since: now, again: now + ASK_AGAIN, pace, sent };
        Step::acts(vec![self.discard(ALL_SENT)])
    }

    pub(super) fn continue_again(&mut self, now: Instant) -> Step {
        let (instance, units) = (self.plan.instance, self.unit_names());
        let State::Continuing { since, pace, sent, .. } = &mut self.state else { return Step::default() };
        *pace = pace.next(now);
        let late = now >= *since + CONTINUE_WITHIN;
        match *sent {
            // Its host is silent, and QEMU's word has to do.
            Sent::All { downtime } if late => self.moved(downtime),
            Sent::All { .. } => {
                pace.at = pace.at.min(*since + CONTINUE_WITHIN);
                Step::acts(vec![self.discard(ALL_SENT), Act::ReadOwners { units }])
            }
            Sent::NotYet if late => {
                let why = format!("QEMU has not sent all of it for {} s", now.since(*since).as_secs());
                Step::acts(vec![Act::Query { instance }, Act::ReadOwners { units }, self.discard(&why)])
            }
            Sent::NotYet => Step::acts(vec![Act::Query { instance }, Act::ReadOwners { units }]),
        }
    }

    /// QEMU lets the guest run here again, whose units belong to the destination.
    fn strands(&mut self, now: Instant, why: String) -> Step {
        let instance = self.plan.instance;
        if mutant::active(Mutant::SourceServesOn) {
            return self.stays(vec![Act::Own { units: self.units() }, Act::Revoke], why);
        }
        let acts =
            vec![Act::Stop { instance }, self.discard(&why), Act::ReadOwners { units: self.unit_names() }];
        let reason = format!(
            "QEMU has failed after its units were given to {}: {why}; it is stopped here until {} says whether it runs there",
            self.plan.to, self.plan.to
        );
        self.state = State::Stranded { why, pace: Pace::first(now, ASK_AGAIN) };
        self.stopped = Stopped::Perhaps;
        let until = Some(format!("{} gives the units back, or says that it runs there", self.plan.to));
        Step::told(acts, JournalKind::MigrationHeld, (reason, until))
    }

    pub(super) fn stranded_again(&mut self, now: Instant) -> Step {
        let units = self.unit_names();
        let State::Stranded { why, pace } = &mut self.state else { return Step::default() };
        *pace = pace.next(now);
        let why = why.clone();
        Step::acts(vec![self.discard(&why), Act::ReadOwners { units }])
    }

    fn after_commit(&mut self, now: Instant, judged: Judged) -> Step {
        match judged {
            // A read from before the commit; or as it should be.
            Judged::Undecided | Judged::Moved(_) | Judged::Unreadable(_) => Step::default(),
            Judged::Kept(units) => self.kept(now, units),
            Judged::Lost(what) => self.gone_on(&what),
        }
    }

    /// No commit of theirs can take effect any more.
    fn kept(&mut self, now: Instant, units: Vec<UnitEpoch>) -> Step {
        match &self.word {
            Word::Own => self.are_ours(now, units),
            Word::Former | Word::Raising(_) => {
                self.word = Word::Raising(units.clone());
                Step::acts(vec![Act::Bump { units }])
            }
        }
    }

    fn are_ours(&mut self, now: Instant, units: Vec<UnitEpoch>) -> Step {
        match &self.state {
            State::Uncertain { why, .. } => {
                let why = format!("its units have not gone: {why}");
                self.keeps(now, units, why)
            }
            State::Continuing { .. } | State::Stranded { .. } => self.given_back(now, units),
            State::Probing { .. }
            | State::Claiming { .. }
            | State::Preparing { .. }
            | State::Transferring { .. }
            | State::Settling { .. }
            | State::HandingOver { .. }
            | State::Committing { .. }
            | State::Cancelling { .. }
            | State::Stuck { .. }
            | State::Ended(_) => Step::default(),
        }
    }

    /// Only a VM that has come to the destination, or is gone, leaves its units: nothing that is said there is for this move.
    fn gone_on(&mut self, what: &str) -> Step {
        let reason = format!(
            "its units have gone on from {}: {what}; what its hypervisor here still has of it is of no use, and is left as it is",
            self.plan.to
        );
        self.state = State::Ended(Outcome::Moved { downtime: None });
        Step::told(vec![Act::Unclaim], JournalKind::VmMigrated, (reason, None))
    }

    fn given_back(&mut self, now: Instant, units: Vec<UnitEpoch>) -> Step {
        let State::Stranded { why, .. } = &self.state else {
            return self.keeps(now, units, format!("{} has given it back", self.plan.to));
        };
        let why = format!("{} has given it back: {why}", self.plan.to);
        self.stays(vec![Act::Own { units }, Act::Unclaim, Act::Revoke], why)
    }

    /// Before the commit a discard is of no consequence. After it the destination may know better than QEMU here, which may be gone.
    pub(super) fn discarded(&mut self, answer: &Answer) -> Step {
        let runs_there = matches!(answer, Answer::Refused(_));
        if runs_there && matches!(self.state, State::Continuing { .. } | State::Stranded { .. }) {
            let sent = if let State::Continuing { sent, .. } = self.state { sent } else { Sent::NotYet };
            self.moved(sent.downtime())
        } else {
            Step::default()
        }
    }

    pub(super) fn moved(&mut self, downtime: Option<Duration>) -> Step {
        let took = match downtime {
            Some(time) => format!("; its guest stood still for {} ms", time.as_millis()),
            None => String::new(),
        };
        self.state = State::Ended(Outcome::Moved { downtime });
        let reason = format!("it is at {} now{took}", self.plan.to);
        Step::told(vec![Act::Unclaim], JournalKind::VmMigrated, (reason, None))
    }

    pub(super) fn cancelling_at(&mut self, now: Instant, state: &MigrationState) -> Step {
        match state {
            MigrationState::None | MigrationState::Failed(_) | MigrationState::Cancelled => {
                self.cancel_done()
            }
            MigrationState::Completed => self.stuck(now),
            MigrationState::Setup
            | MigrationState::Active
            | MigrationState::PreSwitchover
            | MigrationState::Device
            | MigrationState::Cancelling => Step::default(),
        }
    }

    fn cancel_done(&mut self) -> Step {
        match &self.state {
            State::Cancelling { why, held, .. } => {
                let acts = match held {
                    Held::No => vec![],
                    Held::Settled => vec![Act::Revoke],
                };
                let why = why.clone();
                self.stays(acts, why)
            }
            State::Stuck { why, .. } => {
                let why = why.clone();
                self.goes_free(why)
            }
            State::Probing { .. }
            | State::Claiming { .. }
            | State::Preparing { .. }
            | State::Transferring { .. }
            | State::Settling { .. }
            | State::HandingOver { .. }
            | State::Committing { .. }
            | State::Uncertain { .. }
            | State::Continuing { .. }
            | State::Stranded { .. }
            | State::Ended(_) => Step::default(),
        }
    }

    fn stuck(&mut self, now: Instant) -> Step {
        let State::Cancelling { why, .. } = &self.state else { return Step::default() };
        let why = why.clone();
        let reason = format!(
            "QEMU has sent the VM to {} although its units stay here ({why}): somebody else has told it to go on; \
             no host serves its disks",
            self.plan.to
        );
        self.state = State::Stuck { why, pace: Pace::first(now, ASK_AGAIN) };
        let until =
            "its hypervisor at the destination is ended and it is continued here, or its process here ends";
        Step::told(vec![], JournalKind::MigrationHeld, (reason, Some(until.to_owned())))
    }

    pub(super) fn cancel_again(&mut self, now: Instant) -> Step {
        let instance = self.plan.instance;
        match &mut self.state {
            State::Cancelling { pace, .. } => {
                *pace = pace.next(now);
                Step::acts(vec![Act::Cancel { instance }, Act::Query { instance }])
            }
            State::Stuck { pace, .. } => {
                *pace = pace.next(now);
                Step::acts(vec![Act::Query { instance }])
            }
            State::Probing { .. }
            | State::Claiming { .. }
            | State::Preparing { .. }
            | State::Transferring { .. }
            | State::Settling { .. }
            | State::HandingOver { .. }
            | State::Committing { .. }
            | State::Uncertain { .. }
            | State::Continuing { .. }
            | State::Stranded { .. }
            | State::Ended(_) => Step::default(),
        }
    }
}
