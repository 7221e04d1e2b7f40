//! The transitions of [`Destination`] once the units may be its own: to land, or to give them back; and what time does.

use super::step::{RUNS_HERE, Step};
use super::{
    ASK_AGAIN, Act, Destination, LAUNCH_WITHIN, Outcome, Process, STORE_WITHIN, State, WAIT_MAX, Withdrawn,
};
use crate::effect::JournalKind;
use crate::migration::{Answer, Pace};
use crate::ownership::UnitEpoch;
use crate::time::Instant;

impl Destination {
    pub(super) fn process_ended(&mut self, now: Instant, how: &str) -> Step {
        self.process = Process::Gone;
        let why = format!("its hypervisor here has ended: {how}");
        match &self.state {
            State::Launching { .. } => self.discarded(vec![Act::AnswerPrepare(Err(why.clone()))], why),
            State::Prepared { .. } => self.discarded(vec![], why),
            State::Storing { .. } => self.discarded(vec![Act::AnswerHandOver(Err(why.clone()))], why),
            State::Stored { .. } => self.bars(now, vec![], why),
            State::Renewing { units, .. } | State::Owned { units, .. } | State::Recalled { units, .. } => {
                let units = units.clone();
                self.withdraws(now, units, why)
            }
            State::Taken { .. } => self.arrived(vec![], &format!("; {why}")),
            State::Discarding { why, .. } => {
                let why = why.clone();
                self.discarded(vec![Act::AnswerDiscard(Ok(()))], why)
            }
            // Who reads the owners looks at it.
            State::Barring { .. }
            | State::Withdrawing { .. }
            | State::GivingBack { .. }
            | State::Ended(_) => Step::default(),
        }
    }

    pub(super) fn landed(&mut self) -> Step {
        match &self.state {
            State::Owned { .. } | State::Taken { .. } => self.arrived(vec![], ""),
            State::Recalled { .. } if self.process == Process::Lives => {
                self.arrived(vec![Act::AnswerDiscard(Err(RUNS_HERE.into()))], "")
            }
            // Whose it is, is being read: it is not forgotten meanwhile.
            State::Stored { .. } | State::Barring { .. } | State::Renewing { .. } => {
                if self.process == Process::Lives {
                    self.process = Process::Landed;
                }
                Step::default()
            }
            // What was told to end has begun nothing: it is given back all the same.
            State::Recalled { .. }
            | State::Launching { .. }
            | State::Prepared { .. }
            | State::Storing { .. }
            | State::Withdrawing { .. }
            | State::GivingBack { .. }
            | State::Discarding { .. }
            | State::Ended(_) => Step::default(),
        }
    }

    pub(super) fn waiting(&mut self) -> Step {
        let State::Recalled { .. } = self.state else { return Step::default() };
        self.process = Process::Ending;
        Step::acts(vec![Act::End])
    }

    pub(super) fn taken(&mut self, now: Instant) -> Step {
        match &self.state {
            State::Owned { .. } => {
                self.state = State::Taken { pace: Pace::first(now, ASK_AGAIN) };
                Step::default()
            }
            State::Recalled { .. } if self.process == Process::Lives => {
                self.state = State::Taken { pace: Pace::first(now, ASK_AGAIN) };
                Step::acts(vec![Act::AnswerDiscard(Err(RUNS_HERE.into()))])
            }
            State::Recalled { .. } | State::Withdrawing { .. } => self.crashed(),
            State::Launching { .. }
            | State::Prepared { .. }
            | State::Storing { .. }
            | State::Stored { .. }
            | State::Barring { .. }
            | State::Renewing { .. }
            | State::Taken { .. }
            | State::GivingBack { .. }
            | State::Discarding { .. }
            | State::Ended(_) => Step::default(),
        }
    }

    /// It has begun here, and its process is gone: like any other that crashes.
    fn crashed(&mut self) -> Step {
        let refused = Act::AnswerDiscard(Err("it has begun here".into()));
        self.arrived(vec![refused], "; its hypervisor has ended after it had begun here")
    }

    pub(super) fn arrived(&mut self, mut acts: Vec<Act>, more: &str) -> Step {
        acts.push(Act::Keep);
        self.state = State::Ended(Outcome::Arrived);
        let reason = format!("it has come from {}{more}", self.plan.from);
        Step::told(acts, JournalKind::VmArrived, (reason, None))
    }

    pub(super) fn withdraws(&mut self, now: Instant, units: Vec<UnitEpoch>, why: String) -> Step {
        let reason = format!("{why}; it is given back to {} if nothing of it has begun", self.plan.from);
        self.state = State::Withdrawing { units, why, pace: Pace::first(now, ASK_AGAIN) };
        let until = Some("the data plane says what has begun".to_owned());
        Step::told(vec![Act::Withdraw], JournalKind::MigrationHeld, (reason, until))
    }

    pub(super) fn withdrawn(&mut self, now: Instant, what: Withdrawn) -> Step {
        let State::Withdrawing { units, why, .. } = &self.state else { return Step::default() };
        match what {
            Withdrawn::Taken => self.crashed(),
            Withdrawn::Untouched => {
                let (units, why) = (units.clone(), why.clone());
                let names = units.iter().map(|unit| unit.unit.clone()).collect();
                let give = Act::GiveBack { to: self.plan.from.clone(), units: units.clone() };
                let reason = format!("nothing of it has begun; its units go back to {}", self.plan.from);
                self.state = State::GivingBack { units, why, pace: Pace::first(now, ASK_AGAIN) };
                let until = Some("the owners say so; they are asked for again and again".to_owned());
                let acts = vec![Act::Disown { units: names }, give];
                Step::told(acts, JournalKind::MigrationHeld, (reason, until))
            }
        }
    }

    pub(super) fn gave_back(&mut self, answer: &Answer) -> Step {
        let State::GivingBack { .. } = self.state else { return Step::default() };
        match answer {
            Answer::Done(()) => self.given_back(),
            Answer::Refused(_) | Answer::Unknown(_) => Step::default(),
        }
    }

    pub(super) fn gives_again(&mut self, found: Vec<UnitEpoch>) -> Step {
        let State::GivingBack { units, .. } = &mut self.state else { return Step::default() };
        units.clone_from(&found);
        Step::acts(vec![Act::GiveBack { to: self.plan.from.clone(), units: found }])
    }

    pub(super) fn given_back(&mut self) -> Step {
        let State::GivingBack { why, .. } = &self.state else { return Step::default() };
        let why = why.clone();
        let reason = format!("it is given back to {}: {why}", self.plan.from);
        self.state = State::Ended(Outcome::GivenBack { why });
        let acts = vec![Act::AnswerDiscard(Ok(())), Act::Forget];
        Step::told(acts, JournalKind::ArrivalCancelled, (reason, None))
    }

    pub(super) fn barred(&mut self, now: Instant, answer: &Answer) -> Step {
        let State::Barring { .. } = self.state else { return Step::default() };
        match answer {
            Answer::Done(()) => self.never_came(now, String::new()),
            Answer::Refused(_) => Step::acts(vec![self.read_owners()]),
            Answer::Unknown(_) => Step::default(),
        }
    }

    /// A process before this one may have asked to give them back.
    pub(super) fn renews(&mut self, now: Instant, units: Vec<UnitEpoch>) -> Step {
        let State::Renewing { units: asked, .. } = &self.state else {
            self.state = State::Renewing { units: units.clone(), pace: Pace::first(now, ASK_AGAIN) };
            return Step::acts(vec![Act::Bump { units }]);
        };
        let pairs = || units.iter().zip(asked);
        if pairs().any(|(found, asked)| found.epoch < asked.epoch) {
            return Step::default();
        }
        // An epoch of its own that is later: the answer was lost. To raise it again would make a late answer wrong.
        if pairs().all(|(found, asked)| found.epoch > asked.epoch) {
            return self.owns(now, vec![], units);
        }
        Step::acts(vec![Act::Bump { units }])
    }

    pub(super) fn bumped(&mut self, now: Instant, answer: &Answer) -> Step {
        let State::Renewing { units, .. } = &self.state else { return Step::default() };
        match answer {
            Answer::Done(()) => {
                let next = |unit: &UnitEpoch| UnitEpoch { unit: unit.unit.clone(), epoch: unit.epoch + 1 };
                let units = units.iter().map(next).collect();
                self.owns(now, vec![], units)
            }
            Answer::Refused(_) | Answer::Unknown(_) => Step::default(),
        }
    }

    pub(super) fn elapsed(&mut self, now: Instant) -> Step {
        if self.deadline().is_none_or(|at| at > now) {
            return Step::default();
        }
        let read = self.read_owners();
        match &mut self.state {
            State::Launching { .. } => {
                let why = format!("its hypervisor was not ready within {} s", LAUNCH_WITHIN.as_secs());
                self.ends(now, vec![Act::AnswerPrepare(Err(why.clone()))], why)
            }
            State::Prepared { .. } => {
                let why =
                    format!("{} has handed nothing over for {} min", self.plan.from, WAIT_MAX.as_secs() / 60);
                self.ends(now, vec![], why)
            }
            State::Storing { uri, .. } => {
                self.state = State::Prepared { uri: uri.clone(), until: now + WAIT_MAX };
                let why = format!("it was not stored within {} s", STORE_WITHIN.as_secs());
                Step::acts(vec![Act::AnswerHandOver(Err(why))])
            }
            State::Stored { until, pace, .. } => {
                if *until > now {
                    *pace = pace.next(now);
                    return Step::acts(vec![read]);
                }
                let why = format!("{} has not given its units over", self.plan.from);
                self.bars(now, vec![], why)
            }
            State::Barring { pace, .. } | State::Renewing { pace, .. } | State::GivingBack { pace, .. } => {
                *pace = pace.next(now);
                Step::acts(vec![read])
            }
            State::Owned { pace, .. } | State::Recalled { pace, .. } | State::Taken { pace } => {
                *pace = pace.next(now);
                Step::acts(vec![Act::Query])
            }
            State::Withdrawing { pace, .. } => {
                *pace = pace.next(now);
                Step::acts(vec![Act::Withdraw])
            }
            State::Discarding { pace, .. } => {
                *pace = pace.next(now);
                Step::acts(vec![Act::End])
            }
            State::Ended(_) => Step::default(),
        }
    }
}
