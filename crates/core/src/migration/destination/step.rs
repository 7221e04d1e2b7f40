//! The transitions of [`Destination`] until the units are its own, as its table says.

use super::{
    ASK_AGAIN, Act, COMMIT_MAX, Destination, Input, LAUNCH_WITHIN, Origin, Outcome, Process, READ_FIRST,
    STORE_WITHIN, Saved, State, WAIT_MAX,
};
use crate::effect::JournalKind;
use crate::migration::source::Move;
use crate::migration::{HandOver, MoveId, Pace};
use crate::mutant::{self, Mutant};
use crate::ownership::{Change, Found, Judged, UnitEpoch, judge};
use crate::time::Instant;

pub(super) type Step = crate::migration::Step<Act>;

pub(super) const RUNS_HERE: &str = "it runs here";
const RESTARTED: &str = "vmpath was restarted in the middle of it";
const GIVEN_UP: &str = "the move is being given up here";

impl Destination {
    /// Begins with the launch of a hypervisor. Whether the VM is welcome has been decided before.
    #[must_use]
    pub fn begin(now: Instant, plan: Move) -> (Self, Step) {
        let reason = format!(
            "it comes from {}: {}; its hypervisor is launched (move {})",
            plan.from, plan.rule, plan.id
        );
        let until = format!("it waits for its memory, or {} s pass", LAUNCH_WITHIN.as_secs());
        let state = State::Launching { until: now + LAUNCH_WITHIN };
        let step = Step::told(vec![Act::Launch], JournalKind::VmArriving, (reason, Some(until)));
        (Self { plan, began: now, origin: Origin::Begun, process: Process::Lives, state }, step)
    }

    /// Goes on after a restart of vmpath, from what the owners say: if they have not changed, the move is given up here.
    #[must_use]
    pub fn restore(now: Instant, saved: Saved) -> (Self, Step) {
        let Saved { plan, began } = saved;
        let state = State::Barring { why: RESTARTED.into(), pace: Pace::first(now, ASK_AGAIN) };
        let read = Act::ReadOwners { units: plan.units().into_iter().map(|unit| unit.unit).collect() };
        let reason = format!("{RESTARTED}: its owners say how far it has come (move {})", plan.id);
        let until = Some("the owners can be read; they are asked for again and again".to_owned());
        let step = Step::told(vec![read], JournalKind::MigrationHeld, (reason, until));
        (Self { plan, began, origin: Origin::Restored, process: Process::Lives, state }, step)
    }

    /// Applies one input. `of`: the move that it belongs to; one that belongs to another is ignored.
    pub fn step(&mut self, now: Instant, of: &MoveId, input: Input) -> Step {
        if *of != self.plan.id {
            return Step::default();
        }
        match input {
            Input::Launched(result) => self.launched(now, result),
            Input::Ended(how) => self.process_ended(now, &how),
            Input::Landed => self.landed(),
            Input::Waiting => self.waiting(),
            Input::HandOver(hand_over) => self.hand_over(now, hand_over),
            Input::Stored(result) => self.stored(now, result),
            Input::Discard(why) => self.discard(now, why),
            Input::Owners(found) => self.owners(now, found),
            Input::Taken => self.taken(now),
            Input::Withdrawn(what) => self.withdrawn(now, what),
            Input::GaveBack(answer) => self.gave_back(&answer),
            Input::Barred(answer) => self.barred(now, &answer),
            Input::Bumped(answer) => self.bumped(now, &answer),
            Input::PrepareAgain => self.prepare_again(),
            Input::Elapsed => self.elapsed(now),
        }
    }

    fn launched(&mut self, now: Instant, result: Result<String, String>) -> Step {
        let State::Launching { .. } = self.state else { return Step::default() };
        match result {
            Ok(uri) => {
                self.state = State::Prepared { uri: uri.clone(), until: now + WAIT_MAX };
                let reason = format!("its hypervisor waits for its memory at {uri}");
                let until = Some(format!("{} hands over, or gives it up", self.plan.from));
                Step::told(vec![Act::AnswerPrepare(Ok(uri))], JournalKind::VmArriving, (reason, until))
            }
            Err(why) => {
                let why = format!("its hypervisor could not be launched: {why}");
                self.process = Process::Gone;
                self.discarded(vec![Act::AnswerPrepare(Err(why.clone()))], why)
            }
        }
    }

    fn prepare_again(&mut self) -> Step {
        match &self.state {
            // The answer comes.
            State::Launching { .. } => Step::default(),
            State::Prepared { uri, .. } | State::Storing { uri, .. } => {
                Step::acts(vec![Act::AnswerPrepare(Ok(uri.clone()))])
            }
            State::Stored { .. }
            | State::Barring { .. }
            | State::Renewing { .. }
            | State::Owned { .. }
            | State::Recalled { .. }
            | State::Taken { .. }
            | State::Withdrawing { .. }
            | State::GivingBack { .. }
            | State::Discarding { .. }
            | State::Ended(_) => {
                let why = format!("the move {} is {} here", self.plan.id, self.state.word());
                Step::acts(vec![Act::AnswerPrepare(Err(why))])
            }
        }
    }

    fn hand_over(&mut self, now: Instant, offered: Box<HandOver>) -> Step {
        if let Err(why) = self.plan.matches(&offered) {
            return Step::acts(vec![Act::AnswerHandOver(Err(why))]);
        }
        match &self.state {
            State::Prepared { uri, .. } => {
                let (uri, until) = (uri.clone(), now + STORE_WITHIN);
                self.state = State::Storing { uri, until, hand_over: offered.clone() };
                Step::acts(vec![Act::Store(offered)])
            }
            State::Storing { .. } => Step::default(),
            State::Stored { hand_over, .. } if *hand_over == offered => {
                Step::acts(vec![Act::AnswerHandOver(Ok(()))])
            }
            State::Stored { .. } => {
                Step::acts(vec![Act::AnswerHandOver(Err("another hand-over of this move is stored".into()))])
            }
            State::Launching { .. }
            | State::Barring { .. }
            | State::Renewing { .. }
            | State::Owned { .. }
            | State::Recalled { .. }
            | State::Taken { .. }
            | State::Withdrawing { .. }
            | State::GivingBack { .. }
            | State::Discarding { .. }
            | State::Ended(_) => {
                let why = format!("the move {} is {} here", self.plan.id, self.state.word());
                Step::acts(vec![Act::AnswerHandOver(Err(why))])
            }
        }
    }

    fn stored(&mut self, now: Instant, result: Result<(), String>) -> Step {
        let State::Storing { uri, hand_over, .. } = &self.state else { return Step::default() };
        if let Err(why) = result {
            self.state = State::Prepared { uri: uri.clone(), until: now + WAIT_MAX };
            return Step::acts(vec![Act::AnswerHandOver(Err(format!("it could not be stored: {why}")))]);
        }
        if mutant::active(Mutant::OwnersUnread) {
            let next = |unit: UnitEpoch| UnitEpoch { epoch: unit.epoch + 1, ..unit };
            let units = self.plan.units().into_iter().map(next).collect();
            return self.owns(now, vec![Act::AnswerHandOver(Ok(()))], units);
        }
        let hand_over = hand_over.clone();
        self.state = State::Stored { hand_over, until: now + COMMIT_MAX, pace: Pace::quick(now, READ_FIRST) };
        let acts = vec![Act::AnswerHandOver(Ok(())), self.read_owners()];
        let reason = format!("what {} hands over is stored", self.plan.from);
        let until = format!("its units are this host's, or {} s pass", COMMIT_MAX.as_secs());
        Step::told(acts, JournalKind::VmArriving, (reason, Some(until)))
    }

    fn owners(&mut self, now: Instant, found: Result<Vec<Found>, String>) -> Step {
        // What could not be read is read again.
        let Ok(found) = found else { return Step::default() };
        let units = self.plan.units();
        let change = Change { id: &self.plan.id, from: &self.plan.from, to: &self.plan.to, units: &units };
        let judged = judge(change, &found);
        match (&self.state, judged) {
            (State::Stored { .. } | State::Barring { .. }, Judged::Moved(units)) => self.is_owner(now, units),
            (State::Renewing { .. }, Judged::Moved(units)) => self.renews(now, units),
            (State::GivingBack { .. }, Judged::Moved(units)) => self.gives_again(units),
            (State::GivingBack { .. }, Judged::Kept(_) | Judged::Lost(_)) => self.given_back(),
            (State::Stored { .. } | State::Barring { .. } | State::Renewing { .. }, Judged::Kept(_)) => {
                self.never_came(now, format!("its units stay with {}", self.plan.from))
            }
            (State::Stored { .. } | State::Barring { .. } | State::Renewing { .. }, Judged::Lost(what)) => {
                self.never_came(now, what)
            }
            (State::Barring { .. }, Judged::Undecided) => Step::acts(vec![self.bar()]),
            (State::Stored { .. } | State::Renewing { .. } | State::GivingBack { .. }, Judged::Undecided)
            | (
                State::Stored { .. }
                | State::Barring { .. }
                | State::Renewing { .. }
                | State::GivingBack { .. },
                Judged::Unreadable(_),
            )
            | (
                State::Launching { .. }
                | State::Prepared { .. }
                | State::Storing { .. }
                | State::Owned { .. }
                | State::Recalled { .. }
                | State::Taken { .. }
                | State::Withdrawing { .. }
                | State::Discarding { .. }
                | State::Ended(_),
                Judged::Moved(_)
                | Judged::Kept(_)
                | Judged::Undecided
                | Judged::Lost(_)
                | Judged::Unreadable(_),
            ) => Step::default(),
        }
    }

    /// The commit has taken effect.
    fn is_owner(&mut self, now: Instant, units: Vec<UnitEpoch>) -> Step {
        match (self.process, self.origin) {
            (Process::Lives | Process::Landed, Origin::Begun) => self.owns(now, vec![], units),
            (Process::Lives | Process::Landed, Origin::Restored) => self.renews(now, units),
            (Process::Ending | Process::Gone, Origin::Begun | Origin::Restored) => {
                let why = "its hypervisor has ended before the VM had landed".to_owned();
                self.withdraws(now, units, why)
            }
        }
    }

    pub(super) fn owns(&mut self, now: Instant, mut acts: Vec<Act>, units: Vec<UnitEpoch>) -> Step {
        acts.push(Act::Own { units: units.clone() });
        if self.process == Process::Landed {
            acts.push(Act::AnswerDiscard(Err(RUNS_HERE.into())));
            return self.arrived(acts, "");
        }
        self.state = State::Owned { units, pace: Pace::first(now, ASK_AGAIN) };
        let reason = "its units are this host's; what was open goes on when its rings start".to_owned();
        let until = Some(format!("it has landed; if {} cannot go on it is given back", self.plan.from));
        Step::told(acts, JournalKind::VmArriving, (reason, until))
    }

    /// It is certain that no commit has taken effect, and that none will.
    pub(super) fn never_came(&mut self, now: Instant, what: String) -> Step {
        let why = if let State::Barring { why, .. } = &self.state { why.clone() } else { what };
        match self.process {
            Process::Lives | Process::Landed | Process::Ending => self.ends(now, vec![], why),
            Process::Gone => self.discarded(vec![Act::AnswerDiscard(Ok(()))], why),
        }
    }

    pub(super) fn bars(&mut self, now: Instant, mut acts: Vec<Act>, why: String) -> Step {
        acts.push(self.bar());
        let reason = format!("{why}; {GIVEN_UP}, unless its units have come meanwhile");
        self.state = State::Barring { why, pace: Pace::first(now, ASK_AGAIN) };
        let until = Some("the owners say so; they are asked for again and again".to_owned());
        Step::told(acts, JournalKind::MigrationHeld, (reason, until))
    }

    fn bar(&self) -> Act {
        Act::Bar { owner: self.plan.from.clone(), units: self.plan.units() }
    }

    pub(super) fn read_owners(&self) -> Act {
        Act::ReadOwners { units: self.plan.units().into_iter().map(|unit| unit.unit).collect() }
    }

    fn discard(&mut self, now: Instant, why: String) -> Step {
        match &self.state {
            State::Launching { .. } => self.ends(now, vec![Act::AnswerPrepare(Err(why.clone()))], why),
            State::Prepared { .. } | State::Storing { .. } => self.ends(now, vec![], why),
            // It may be the only one that has the VM: the owners are asked first.
            State::Stored { .. } => self.bars(now, vec![], why),
            State::Owned { units, .. } => {
                let units = units.clone();
                self.state = State::Recalled { units, why, pace: Pace::first(now, ASK_AGAIN) };
                Step::acts(vec![Act::Query])
            }
            State::Taken { .. } | State::Ended(Outcome::Arrived) => {
                Step::acts(vec![Act::AnswerDiscard(Err(RUNS_HERE.into()))])
            }
            State::Ended(Outcome::Discarded { .. } | Outcome::GivenBack { .. }) => {
                Step::acts(vec![Act::AnswerDiscard(Ok(()))])
            }
            // The answer comes when it is known.
            State::Barring { .. }
            | State::Renewing { .. }
            | State::Recalled { .. }
            | State::Withdrawing { .. }
            | State::GivingBack { .. }
            | State::Discarding { .. } => Step::default(),
        }
    }

    /// Ends what was launched, and then it is over.
    pub(super) fn ends(&mut self, now: Instant, mut acts: Vec<Act>, why: String) -> Step {
        acts.push(Act::End);
        self.process = Process::Ending;
        let reason = format!("it does not come: {why}; its hypervisor here is ended");
        self.state = State::Discarding { why, pace: Pace::first(now, ASK_AGAIN) };
        let until = Some("the process has ended; it is killed again and again".to_owned());
        Step::told(acts, JournalKind::ArrivalCancelled, (reason, until))
    }

    pub(super) fn discarded(&mut self, mut acts: Vec<Act>, why: String) -> Step {
        acts.push(Act::Forget);
        let reason = format!("it does not come from {}: {why}", self.plan.from);
        self.state = State::Ended(Outcome::Discarded { why });
        Step::told(acts, JournalKind::ArrivalCancelled, (reason, None))
    }
}

impl Move {
    /// Whether a hand-over is of this move and of these disks, under these epochs.
    fn matches(&self, hand_over: &HandOver) -> Result<(), String> {
        let HandOver { move_id, vm, from, to, disks, .. } = hand_over;
        if *move_id != self.id || (vm, from, to) != (&self.vm, &self.from, &self.to) {
            return Err(format!(
                "it is of {vm} from {from} to {to} (move {move_id}), and {} from {} to {} (move {}) is expected",
                self.vm, self.from, self.to, self.id
            ));
        }
        let mut expected: Vec<_> =
            self.disks.iter().map(|disk| (&disk.disk, &disk.unit.unit, disk.unit.epoch)).collect();
        let mut has: Vec<_> = disks.iter().map(|disk| (&disk.disk, &disk.unit, disk.epoch)).collect();
        expected.sort_unstable();
        has.sort_unstable();
        if expected == has {
            Ok(())
        } else {
            Err("its disks or their epochs are not those of the move".into())
        }
    }
}
