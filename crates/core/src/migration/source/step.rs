//! The transitions of [`Source`] up to the commit, as its table says: one function for each input.

use super::{
    ASK_AGAIN, Act, Asked, CANCEL_AGAIN, CLAIM_WITHIN, COMMIT_WITHIN, CUT_WITHIN, HAND_OVER_AGAIN,
    HAND_OVER_WITHIN, Held, Input, Move, Outcome, PREPARE_WITHIN, PROBE_WITHIN, Reached, Saved, Source,
    State, Stopped, Store, Watch, Word,
};
use crate::effect::JournalKind;
use crate::migration::{
    Answer, DiskHandOver, HandOver, MigrationState, MigrationStatus, MoveId, Pace, VmCarry,
};
use crate::mutant::{self, Mutant};
use crate::time::{Duration, Instant};

pub(super) type Step = crate::migration::Step<Act>;

const CANCELLED: &str = "QEMU has cancelled it";
pub(super) const PROCESS_GONE: &str = "its hypervisor process has ended";

impl Source {
    /// Begins with the question whether the destination qualifies.
    #[must_use]
    pub fn begin(now: Instant, plan: Move) -> (Self, Step) {
        let units = plan.disks.iter().map(|disk| disk.unit.unit.clone()).collect();
        let probe = Act::Probe { to: plan.to.clone(), units };
        let reason =
            format!("{}; {} is asked to read each of its units (move {})", plan.rule, plan.to, plan.id);
        let until = format!("{} answers, or {} s pass", plan.to, PROBE_WITHIN.as_secs());
        let state = State::Probing { until: now + PROBE_WITHIN };
        let step = Step::told(vec![probe], JournalKind::VmMigrating, (reason, Some(until)));
        (Self { plan, began: now, state, stopped: Stopped::No, store: Store::Heard, word: Word::Own }, step)
    }

    /// Goes on after a restart of vmpath: from what the owners say, because the process before may have done more than it
    /// could save.
    #[must_use]
    pub fn restore(now: Instant, saved: Saved) -> (Self, Step) {
        let Saved { plan, began, reached } = saved;
        let state = State::Ended(Outcome::Moved { downtime: None });
        let stopped = match reached {
            Reached::Begun => Stopped::No,
            Reached::Committed => Stopped::Perhaps,
        };
        let mut source = Self { plan, began, state, stopped, store: Store::Heard, word: Word::Former };
        let step = match reached {
            Reached::Begun => source.ask_owners(now, "vmpath was restarted in the middle of it".into()),
            // QEMU may have gone on already: it is asked first.
            Reached::Committed => source.continues(now, vec![]),
        };
        (source, step)
    }

    /// Applies one input. `of`: the move that it belongs to; one that belongs to another is ignored.
    pub fn step(&mut self, now: Instant, of: &MoveId, input: Input) -> Step {
        if *of != self.plan.id {
            return Step::default();
        }
        match input {
            Input::Probed(answer) => self.probed(now, answer),
            Input::Claimed(answer) => self.claimed(now, answer),
            Input::Prepared(answer) => self.prepared(now, answer),
            Input::Hypervisor(status) => self.hypervisor(now, &status),
            Input::MonitorLost(why) => self.monitor_lost(now, &why),
            Input::Replaced => self.replaced(),
            Input::MigrateRefused(why) => self.migrate_refused(&why),
            Input::Settled(Ok(disks)) => self.settled(now, disks),
            Input::Settled(Err(why)) => self.not_settled(now, &why),
            Input::HandedOver(answer) => self.handed_over(now, answer),
            Input::Committed(answer) => self.committed(now, answer),
            Input::NotCommitted(why) => self.not_committed(now, &why),
            Input::Owners(found) => self.owners(now, found),
            Input::Bumped(answer) => self.bumped(now, &answer),
            Input::Discarded(answer) => self.discarded(&answer),
            Input::StoreAway(why) => self.store_away(now, why),
            Input::StoreHeard => self.store_heard(),
            Input::Cancel(why) => self.cancel_asked(now, &why),
            Input::Elapsed => self.elapsed(now),
        }
    }

    fn probed(&mut self, now: Instant, answer: Answer) -> Step {
        let State::Probing { .. } = self.state else { return Step::default() };
        let answer = if mutant::active(Mutant::ProbeIgnored) { Answer::Done(()) } else { answer };
        match answer {
            Answer::Done(()) => {
                self.state = State::Claiming { until: now + CLAIM_WITHIN };
                let claim = Act::Claim { to: self.plan.to.clone(), room: self.plan.room.clone() };
                let reason = format!("{} reads all of its units; room is claimed there", self.plan.to);
                self.goes_on(vec![claim], reason, "the claim is answered", CLAIM_WITHIN)
            }
            Answer::Refused(why) => self.stays(vec![], format!("{} does not qualify: {why}", self.plan.to)),
            Answer::Unknown(why) => self.stays(vec![], format!("{} was not heard: {why}", self.plan.to)),
        }
    }

    fn claimed(&mut self, now: Instant, answer: Answer) -> Step {
        let State::Claiming { .. } = self.state else { return Step::default() };
        match answer {
            Answer::Done(()) => {
                self.state = State::Preparing { until: now + PREPARE_WITHIN };
                let reason = format!("{} has room; its hypervisor is launched there", self.plan.to);
                let prepare = Act::Prepare(Box::new(self.plan.clone()));
                self.goes_on(vec![prepare], reason, "it waits for the VM's memory", PREPARE_WITHIN)
            }
            Answer::Refused(why) => {
                self.stays(vec![Act::Unclaim], format!("no room could be claimed: {why}"))
            }
            Answer::Unknown(why) => {
                self.stays(vec![Act::Unclaim], format!("it is not known whether room was claimed: {why}"))
            }
        }
    }

    fn prepared(&mut self, now: Instant, answer: Answer<String>) -> Step {
        let State::Preparing { .. } = self.state else { return Step::default() };
        match answer {
            Answer::Done(uri) => {
                self.state = State::Transferring { watch: Watch::new(now) };
                let reason = format!("{} is ready; the VM's memory goes to {uri}", self.plan.to);
                let migrate = Act::Migrate { instance: self.plan.instance, uri };
                let until = "all of it is there, or it gets nowhere for 8 s".to_owned();
                Step::told(vec![migrate], JournalKind::VmMigrating, (reason, Some(until)))
            }
            Answer::Refused(why) => self.leaves_alone(format!("{} refuses it: {why}", self.plan.to)),
            Answer::Unknown(why) => {
                self.leaves_alone(format!("it is not known whether {} is ready: {why}", self.plan.to))
            }
        }
    }

    fn migrate_refused(&mut self, why: &str) -> Step {
        let State::Transferring { .. } = self.state else { return Step::default() };
        self.leaves_alone(format!("its hypervisor refuses to migrate: {why}"))
    }

    fn hypervisor(&mut self, now: Instant, status: &MigrationStatus) -> Step {
        match &mut self.state {
            State::Transferring { watch } => match &status.state {
                MigrationState::None | MigrationState::Setup | MigrationState::Active => {
                    watch.see(now, status);
                    self.judge_transfer(now)
                }
                MigrationState::Cancelling => Step::default(),
                MigrationState::PreSwitchover | MigrationState::Device | MigrationState::Completed => {
                    self.stands_still(now)
                }
                MigrationState::Failed(why) => self.leaves_alone(format!("QEMU has given it up: {why}")),
                MigrationState::Cancelled => self.leaves_alone(CANCELLED.into()),
            },
            State::Settling { .. } | State::HandingOver { .. } => match &status.state {
                MigrationState::Failed(why) => {
                    let why = format!("QEMU has given it up: {why}");
                    self.goes_free(why)
                }
                MigrationState::Cancelled => self.goes_free(CANCELLED.into()),
                // Completed: somebody else has told it to go on. Only the commit can still be refused, and then it is stuck.
                MigrationState::None
                | MigrationState::Setup
                | MigrationState::Active
                | MigrationState::PreSwitchover
                | MigrationState::Device
                | MigrationState::Completed
                | MigrationState::Cancelling => Step::default(),
            },
            State::Continuing { .. } => self.continuing_at(now, status),
            State::Stranded { .. } => match status.state {
                MigrationState::Completed => self.moved(status.downtime),
                MigrationState::None
                | MigrationState::Setup
                | MigrationState::Active
                | MigrationState::PreSwitchover
                | MigrationState::Device
                | MigrationState::Failed(_)
                | MigrationState::Cancelling
                | MigrationState::Cancelled => Step::default(),
            },
            State::Cancelling { .. } | State::Stuck { .. } => self.cancelling_at(now, &status.state),
            // What it says is asked for again when the owners are known.
            State::Probing { .. }
            | State::Claiming { .. }
            | State::Preparing { .. }
            | State::Committing { .. }
            | State::Uncertain { .. }
            | State::Ended(_) => Step::default(),
        }
    }

    fn judge_transfer(&mut self, now: Instant) -> Step {
        let State::Transferring { watch } = &self.state else { return Step::default() };
        match watch.verdict(now) {
            Some(why) => self.cancels(now, format!("the transfer is given up: {why}")),
            None => Step::default(),
        }
    }

    fn stands_still(&mut self, now: Instant) -> Step {
        if let Some(why) = self.no_store() {
            return self.cancels(now, why);
        }
        let within = self.plan.settle + CUT_WITHIN;
        self.state = State::Settling { until: now + within };
        let reason = format!(
            "its memory is there and it stands still: its requests may finish for {} ms, the rest is cut off",
            self.plan.settle.as_millis()
        );
        let settle = Act::Settle { by: self.plan.settle };
        self.goes_on(vec![settle], reason, "nothing of it is in flight", within)
    }

    fn settled(&mut self, now: Instant, disks: Vec<DiskHandOver>) -> Step {
        let State::Settling { .. } = self.state else { return Step::default() };
        let disks = match self.plan.bind(disks) {
            Ok(mut disks) => {
                if mutant::active(Mutant::QuarantineStays) {
                    disks.iter_mut().for_each(|disk| disk.quarantine.clear());
                }
                if mutant::active(Mutant::HandOverSkipped) {
                    disks.iter_mut().flat_map(|disk| &mut disk.queues).for_each(|queue| queue.open.clear());
                }
                disks
            }
            Err(why) => {
                return self.cancels(now, format!("what was handed over by its disks is wrong: {why}"));
            }
        };
        let open: usize = disks.iter().flat_map(|disk| &disk.queues).map(|queue| queue.open.len()).sum();
        let ranges: usize = disks.iter().map(|disk| disk.quarantine.len()).sum();
        let hand_over = Box::new(HandOver {
            move_id: self.plan.id.clone(),
            vm: self.plan.vm.clone(),
            from: self.plan.from.clone(),
            to: self.plan.to.clone(),
            disks,
            incident: self.plan.incident.clone(),
            vm_state: self.plan.vm_state.clone(),
        });
        self.state = State::HandingOver {
            until: now + HAND_OVER_WITHIN,
            again: now + HAND_OVER_AGAIN,
            hand_over: hand_over.clone(),
        };
        let reason = format!(
            "nothing of it is in flight; {open} open requests and {ranges} quarantined ranges are handed to {}",
            self.plan.to
        );
        self.goes_on(vec![Act::HandOver(hand_over)], reason, "they are stored there", HAND_OVER_WITHIN)
    }

    fn not_settled(&mut self, now: Instant, why: &str) -> Step {
        let State::Settling { .. } = self.state else { return Step::default() };
        self.cancels(now, format!("its requests could not be brought to rest: {why}"))
    }

    fn handed_over(&mut self, now: Instant, answer: Answer) -> Step {
        let State::HandingOver { .. } = self.state else { return Step::default() };
        match answer {
            Answer::Done(()) => {
                self.state = State::Committing { until: now + COMMIT_WITHIN };
                let reason = format!("{} has stored the hand-over; its units are given over", self.plan.to);
                let commit = Act::Commit { to: self.plan.to.clone(), units: self.units() };
                self.goes_on(vec![commit], reason, "the change of the owners is answered", COMMIT_WITHIN)
            }
            Answer::Refused(why) => {
                self.cancels(now, format!("{} refuses the hand-over: {why}", self.plan.to))
            }
            // To store it twice is to store it once: it goes again in a moment.
            Answer::Unknown(_) => Step::default(),
        }
    }

    fn monitor_lost(&mut self, now: Instant, why: &str) -> Step {
        match &self.state {
            State::Probing { .. } | State::Claiming { .. } | State::Preparing { .. } => {
                self.leaves_alone(format!("its monitor is gone: {why}"))
            }
            State::Transferring { .. } | State::Settling { .. } | State::HandingOver { .. } => {
                self.cancels(now, format!("its monitor is gone in the middle of it: {why}"))
            }
            State::Committing { .. }
            | State::Uncertain { .. }
            | State::Continuing { .. }
            | State::Stranded { .. }
            | State::Cancelling { .. }
            | State::Stuck { .. }
            | State::Ended(_) => Step::default(),
        }
    }

    fn replaced(&mut self) -> Step {
        match &self.state {
            State::Probing { .. }
            | State::Claiming { .. }
            | State::Preparing { .. }
            | State::Transferring { .. } => self.leaves_alone(PROCESS_GONE.into()),
            State::Settling { .. }
            | State::HandingOver { .. }
            | State::Cancelling { .. }
            | State::Stuck { .. } => self.goes_free(PROCESS_GONE.into()),
            State::Continuing { .. } | State::Stranded { .. } => self.moved(None),
            // Whoever is told next to do something with it says so again.
            State::Committing { .. } | State::Uncertain { .. } | State::Ended(_) => Step::default(),
        }
    }

    fn cancel_asked(&mut self, now: Instant, why: &str) -> Step {
        match &self.state {
            State::Probing { .. } | State::Claiming { .. } | State::Preparing { .. } => {
                self.leaves_alone(why.to_owned())
            }
            State::Transferring { .. } | State::Settling { .. } | State::HandingOver { .. } => {
                self.cancels(now, why.to_owned())
            }
            // Whoever says so has looked after the destination.
            State::Stuck { .. } => self.goes_free(why.to_owned()),
            State::Committing { .. }
            | State::Uncertain { .. }
            | State::Continuing { .. }
            | State::Stranded { .. }
            | State::Cancelling { .. }
            | State::Ended(_) => Step::default(),
        }
    }

    fn elapsed(&mut self, now: Instant) -> Step {
        if self.deadline().is_none_or(|at| at > now) {
            return Step::default();
        }
        if let Some(why) = self.no_store().filter(|_| self.store_deadline().is_some_and(|at| at <= now)) {
            return self.cancel_asked(now, &why);
        }
        match &mut self.state {
            State::Probing { .. } => self.stays(vec![], self.late("read its units", PROBE_WITHIN)),
            State::Claiming { .. } => {
                self.stays(vec![Act::Unclaim], "no answer to the claim of room".to_owned())
            }
            State::Preparing { .. } => self.leaves_alone(self.late("made ready", PREPARE_WITHIN)),
            State::Transferring { .. } => self.judge_transfer(now),
            State::Settling { .. } => {
                let within = self.plan.settle + CUT_WITHIN;
                let why = format!("its requests were not brought to rest in {:.1} s", within.as_secs_f64());
                self.cancels(now, why)
            }
            State::HandingOver { until, again, hand_over } => {
                if *until > now {
                    *again = now + HAND_OVER_AGAIN;
                    return Step::acts(vec![Act::HandOver(hand_over.clone())]);
                }
                let why = self.late("stored the hand-over", HAND_OVER_WITHIN);
                self.cancels(now, why)
            }
            State::Committing { .. } => {
                let why = format!("the commit was not answered in {} s", COMMIT_WITHIN.as_secs());
                self.ask_owners(now, why)
            }
            State::Uncertain { .. } => self.ask_owners_again(now),
            State::Continuing { .. } => self.continue_again(now),
            State::Stranded { .. } => self.stranded_again(now),
            State::Cancelling { .. } | State::Stuck { .. } => self.cancel_again(now),
            State::Ended(_) => Step::default(),
        }
    }

    fn late(&self, what: &str, within: Duration) -> String {
        format!("{} has not {what} within {} s", self.plan.to, within.as_secs())
    }

    /// A step on the way, with its bound.
    fn goes_on(&self, acts: Vec<Act>, reason: String, end: &str, within: Duration) -> Step {
        let until = format!("{end}, or {:.0} s pass", within.as_secs_f64());
        Step::told(acts, JournalKind::VmMigrating, (reason, Some(until)))
    }

    /// QEMU was asked for nothing, or has given up by itself before it stood still.
    fn leaves_alone(&mut self, why: String) -> Step {
        let acts = match &self.state {
            State::Probing { .. } => vec![],
            State::Claiming { .. } => vec![Act::Unclaim],
            State::Preparing { .. }
            | State::Transferring { .. }
            | State::Settling { .. }
            | State::HandingOver { .. }
            | State::Committing { .. }
            | State::Uncertain { .. }
            | State::Continuing { .. }
            | State::Stranded { .. }
            | State::Cancelling { .. }
            | State::Stuck { .. }
            | State::Ended(_) => vec![self.discard(&why), Act::Unclaim],
        };
        self.stays(acts, why)
    }

    /// The VM's requests were held, and go on here.
    pub(super) fn goes_free(&mut self, why: String) -> Step {
        let acts = vec![self.discard(&why), Act::Unclaim, Act::Revoke];
        self.stays(acts, why)
    }

    pub(super) fn stays(&mut self, mut acts: Vec<Act>, why: String) -> Step {
        if self.stopped == Stopped::Perhaps && self.plan.vm_state == VmCarry::Running {
            acts.push(Act::Resume { instance: self.plan.instance });
        }
        let reason = format!("it stays, and is not moved to {}: {why}", self.plan.to);
        self.state = State::Ended(Outcome::Stayed { why });
        Step::told(acts, JournalKind::MigrationCancelled, (reason, None))
    }

    /// Before the commit, or when it is certain that there was none.
    pub(super) fn cancels(&mut self, now: Instant, why: String) -> Step {
        let held = if matches!(self.state, State::Transferring { .. }) { Held::No } else { Held::Settled };
        let instance = self.plan.instance;
        let acts = vec![Act::Cancel { instance }, Act::Query { instance }, self.discard(&why), Act::Unclaim];
        let reason = format!("the move to {} is cancelled: {why}", self.plan.to);
        self.state = State::Cancelling { why, held, pace: Pace::first(now, CANCEL_AGAIN) };
        let until = Some("QEMU says that it is cancelled; it is asked again and again".to_owned());
        Step::told(acts, JournalKind::MigrationCancelled, (reason, until))
    }

    pub(super) fn discard(&self, why: &str) -> Act {
        Act::Discard { to: self.plan.to.clone(), why: why.to_owned() }
    }

    pub(super) fn ask_owners(&mut self, now: Instant, why: String) -> Step {
        let reason = format!(
            "it is not known whether its units have gone to {}: {why}; both ends hold its requests",
            self.plan.to
        );
        let asked = Asked::Read;
        self.state = State::Uncertain { why, asked, pace: Pace::first(now, ASK_AGAIN) };
        let until = Some("the owners can be read; they are asked for again and again".to_owned());
        let acts = vec![Act::ReadOwners { units: self.unit_names() }];
        Step::told(acts, JournalKind::MigrationHeld, (reason, until))
    }
}

impl Move {
    /// Puts the epochs to what the data plane hands over, which must be all of the VM's disks and nothing else.
    fn bind(&self, disks: Vec<DiskHandOver>) -> Result<Vec<DiskHandOver>, String> {
        let mut left: Vec<_> = self.disks.iter().collect();
        let mut bound = vec![];
        for disk in disks {
            let planned = |d: &&super::DiskEpoch| d.disk == disk.disk && d.unit.unit == disk.unit;
            let Some(at) = left.iter().position(planned) else {
                return Err(format!("disk {} on {} is not part of the move", disk.disk, disk.unit));
            };
            let epoch = left.swap_remove(at).unit.epoch;
            bound.push(DiskHandOver { epoch, ..disk });
        }
        match left.first() {
            Some(missing) => Err(format!("disk {} is missing", missing.disk)),
            None => Ok(bound),
        }
    }
}
