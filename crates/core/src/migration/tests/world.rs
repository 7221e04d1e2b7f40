//! Two hosts, the store that they share, a hypervisor at each end and the wires between them. Every question may be lost
//! before it took effect or after, or take effect long after the one who asked has given it up or has died.
//!
//! Judged after every step: whoever dispatches is the owner in the store at that moment; once the destination has begun, the
//! source never dispatches again; the commit is sent once; nothing is cancelled while a commit may still take effect.

use super::{plan, unit};
use crate::migration::destination::{self, Withdrawn};
use crate::migration::source::{self, Outcome};
use crate::migration::{
    Answer, Destination, DiskHandOver, MigrationState, MigrationStatus, Move, MoveId, Open, OpenRequest,
    QueueHandOver, Source,
};
use crate::ownership::{Found, Owner, UnitEpoch};
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;

/// A hypervisor's process at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    Runs,
    Sends,
    PreSwitchover,
    Device,
    Completed,
    Failed,
    Cancelled,
    Dead,
}

/// And at the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    NotYet,
    Waits,
    Landed,
    Dead,
}

/// A question that has not been carried out yet, or an answer that has not arrived yet.
#[derive(Clone, Debug)]
pub(super) enum Wire {
    FromSource(u32, source::Act),
    FromDestination(u32, destination::Act),
    ToSource(u32, source::Input),
    ToDestination(u32, destination::Input),
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) source: Option<Source>,
    pub(super) destination: Option<Destination>,
    lives: (u32, u32),
    pub(super) store: BTreeMap<String, Owner>,
    pub(super) wires: Vec<Wire>,
    pub(super) leaving: Leaving,
    pub(super) coming: Coming,
    /// The data plane at the source knows itself for the owner.
    source_owns: bool,
    source_holds: bool,
    destination_owns: bool,
    offered: bool,
    taken: bool,
    commits: u32,
    has_moved: bool,
    stopped: bool,
}

impl World {
    pub(super) fn new() -> Self {
        let plan = plan();
        let owner = |unit: &UnitEpoch| Owner { host: plan.from.clone(), epoch: unit.epoch, move_id: None };
        let store = plan.units().iter().map(|unit| (unit.unit.clone(), owner(unit))).collect();
        let mut world = Self {
            now: Instant::from_millis(1000),
            source: None,
            destination: None,
            lives: (0, 0),
            store,
            wires: vec![],
            leaving: Leaving::Runs,
            coming: Coming::NotYet,
            source_owns: true,
            source_holds: false,
            destination_owns: false,
            offered: false,
            taken: false,
            commits: 0,
            has_moved: false,
            stopped: false,
        };
        let (source, step) = Source::begin(world.now, plan);
        world.source = Some(source);
        world.source_acts(step.acts);
        world
    }

    pub(super) fn source_dispatches(&self) -> bool {
        let machine = self.source.as_ref().is_none_or(Source::may_dispatch);
        self.source_owns && !self.source_holds && machine
    }

    pub(super) fn destination_dispatches(&self) -> bool {
        let machine = self.destination.as_ref().is_none_or(Destination::may_dispatch);
        self.destination_owns && machine
    }

    fn owner(&self) -> &str {
        let mut hosts = self.store.values().map(|owner| owner.host.as_str());
        let first = hosts.next().unwrap();
        assert!(hosts.all(|host| host == first), "the units of one VM have two owners: {:?}", self.store);
        first
    }

    pub(super) fn check(&self) {
        let owner = self.owner();
        if self.source_dispatches() {
            assert_eq!(owner, "kvm1", "the source dispatches and is not the owner");
            assert!(!self.taken, "the source dispatches after the destination has begun");
        }
        if self.destination_dispatches() {
            assert_eq!(owner, "kvm2", "the destination dispatches and is not the owner");
        }
        for (ended, deadline) in [
            self.source.as_ref().map(|s| (s.outcome().is_some(), s.deadline())),
            self.destination.as_ref().map(|d| (d.outcome().is_some(), d.deadline())),
        ]
        .into_iter()
        .flatten()
        {
            assert_eq!(ended, deadline.is_none(), "a state without a bound");
        }
    }

    fn id() -> MoveId {
        plan().id
    }

    pub(super) fn tell_source(&mut self, input: source::Input) {
        let Some(machine) = &mut self.source else { return };
        let step = machine.step(self.now, &Self::id(), input);
        self.source_acts(step.acts);
    }

    pub(super) fn tell_destination(&mut self, input: destination::Input) {
        let Some(machine) = &mut self.destination else { return };
        let step = machine.step(self.now, &Self::id(), input);
        self.destination_acts(step.acts);
    }

    fn answer_source(&mut self, input: source::Input) {
        self.wires.push(Wire::ToSource(self.lives.0, input));
    }

    fn answer_destination(&mut self, input: destination::Input) {
        self.wires.push(Wire::ToDestination(self.lives.1, input));
    }

    /// What stays on the host is done at once and in order; what leaves it goes onto a wire.
    fn source_acts(&mut self, acts: Vec<source::Act>) {
        use source::Act;
        for act in acts {
            match act {
                Act::Migrate { .. } => self.leaving_if(Leaving::Runs, Leaving::Sends),
                Act::Settle { .. } => {
                    self.source_holds = true;
                    let disks = plan().disks.iter().map(|disk| handed(&disk.disk, &disk.unit.unit)).collect();
                    self.answer_source(source::Input::Settled(Ok(disks)));
                }
                Act::Own { .. } => self.source_owns = true,
                Act::Disown { .. } => self.source_owns = false,
                Act::Revoke => self.source_holds = false,
                Act::Continue { .. } => {
                    // It may have been given back meanwhile, by a destination whose process had ended before.
                    assert!(self.has_moved, "continued without a commit");
                    self.leaving_if(Leaving::PreSwitchover, Leaving::Device);
                }
                Act::Cancel { .. } => self.cancel(),
                Act::Query { .. } => self.report(),
                Act::Stop { .. } => self.stopped = true,
                Act::Resume { .. } => self.stopped = false,
                Act::Commit { .. } => {
                    self.commits += 1;
                    assert_eq!(self.commits, 1, "the commit is sent twice");
                    assert!(!self.source_dispatches(), "commits and dispatches");
                    self.wires.push(Wire::FromSource(self.lives.0, act));
                }
                Act::Probe { .. }
                | Act::Claim { .. }
                | Act::Unclaim
                | Act::Prepare(_)
                | Act::HandOver(_)
                | Act::ReadOwners { .. }
                | Act::Bump { .. }
                | Act::Discard { .. } => self.wires.push(Wire::FromSource(self.lives.0, act)),
            }
        }
    }

    fn leaving_if(&mut self, from: Leaving, to: Leaving) {
        if self.leaving == from {
            self.leaving = to;
        }
    }

    pub(super) fn cancel(&mut self) {
        let in_flight = self.wires.iter().any(|wire| match wire {
            Wire::FromSource(_, source::Act::Commit { units, .. }) => self.is_at("kvm1", units),
            Wire::FromSource(..)
            | Wire::FromDestination(..)
            | Wire::ToSource(..)
            | Wire::ToDestination(..) => false,
        });
        assert!(!in_flight, "cancelled while a commit may still take effect");
        assert_eq!(self.owner(), "kvm1", "cancelled after the commit");
        if matches!(self.leaving, Leaving::Sends | Leaving::PreSwitchover | Leaving::Device) {
            self.leaving = Leaving::Cancelled;
            self.break_stream();
        }
    }

    /// What no process does: it goes on as if there had been no move.
    pub(super) fn forget_source(&mut self) {
        self.source = None;
        (self.source_owns, self.source_holds) = (true, false);
    }

    /// The stream has ended before all of it was there: an incoming hypervisor ends by itself.
    fn break_stream(&mut self) {
        if self.coming == Coming::Waits {
            self.coming = Coming::Dead;
            self.answer_destination(destination::Input::Ended("the stream was cut".into()));
        }
    }

    pub(super) fn report(&mut self) {
        let state = match self.leaving {
            Leaving::Runs => MigrationState::None,
            Leaving::Sends => MigrationState::Active,
            Leaving::PreSwitchover => MigrationState::PreSwitchover,
            Leaving::Device => MigrationState::Device,
            Leaving::Completed => MigrationState::Completed,
            Leaving::Failed => MigrationState::Failed("stream".into()),
            Leaving::Cancelled => MigrationState::Cancelled,
            Leaving::Dead => return self.answer_source(source::Input::Replaced),
        };
        let status =
            MigrationStatus { state, ram_total: 1 << 28, ram_remaining: 0, transferred: 0, downtime: None };
        self.answer_source(source::Input::Hypervisor(status));
    }

    fn destination_acts(&mut self, acts: Vec<destination::Act>) {
        use destination::Act;
        for act in acts {
            match act {
                Act::Launch => {
                    if self.coming == Coming::NotYet {
                        self.coming = Coming::Waits;
                        self.answer_destination(destination::Input::Launched(
                            Ok("tcp:10.0.0.2:49152".into()),
                        ));
                    }
                }
                Act::Store(_) => {
                    self.offered = true;
                    self.answer_destination(destination::Input::Stored(Ok(())));
                }
                Act::Own { units } => {
                    assert!(self.is_at("kvm2", &units), "owns under other epochs than the store's");
                    self.destination_owns = true;
                    self.take();
                }
                Act::Disown { .. } => self.destination_owns = false,
                Act::Withdraw => {
                    let what = if self.taken { Withdrawn::Taken } else { Withdrawn::Untouched };
                    self.offered &= self.taken;
                    self.answer_destination(destination::Input::Withdrawn(what));
                }
                Act::Query => match self.coming {
                    Coming::Landed => self.answer_destination(destination::Input::Landed),
                    Coming::Waits => self.answer_destination(destination::Input::Waiting),
                    Coming::NotYet | Coming::Dead => {
                        self.answer_destination(destination::Input::Ended("it is gone".into()));
                    }
                },
                Act::End => {
                    self.end_coming();
                    self.answer_destination(destination::Input::Ended("it was ended".into()));
                }
                Act::Forget | Act::Keep => self.offered = false,
                Act::AnswerPrepare(_)
                | Act::AnswerHandOver(_)
                | Act::AnswerDiscard(_)
                | Act::ReadOwners { .. }
                | Act::Bar { .. }
                | Act::Bump { .. }
                | Act::GiveBack { .. } => self.wires.push(Wire::FromDestination(self.lives.1, act)),
            }
        }
    }

    pub(super) fn end_coming(&mut self) {
        if self.coming == Coming::Waits
            && matches!(self.leaving, Leaving::Sends | Leaving::PreSwitchover | Leaving::Device)
        {
            self.leaving = Leaving::Failed;
        }
        self.coming = Coming::Dead;
    }

    /// The rings have started, and the units are ours: the hand-over is executed.
    fn take(&mut self) {
        if self.coming == Coming::Landed && self.destination_owns && self.offered && !self.taken {
            self.taken = true;
            self.answer_destination(destination::Input::Taken);
        }
    }

    /// QEMU gets one step further by itself.
    pub(super) fn advance_hypervisors(&mut self) {
        match self.leaving {
            Leaving::Sends if self.coming == Coming::Waits => self.leaving = Leaving::PreSwitchover,
            Leaving::Device if self.coming == Coming::Waits => {
                self.coming = Coming::Landed;
                self.take();
            }
            Leaving::Device if self.coming == Coming::Landed => self.leaving = Leaving::Completed,
            Leaving::Sends | Leaving::PreSwitchover | Leaving::Device => {}
            Leaving::Runs | Leaving::Completed | Leaving::Failed | Leaving::Cancelled | Leaving::Dead => {}
        }
        if self.coming == Coming::Dead
            && matches!(self.leaving, Leaving::Sends | Leaving::PreSwitchover | Leaving::Device)
        {
            self.leaving = Leaving::Failed;
        }
        self.report();
        if self.coming == Coming::Landed {
            self.answer_destination(destination::Input::Landed);
        }
    }

    /// A VM that is stuck waits for the operator: nothing of it is at the destination any more, so it is continued here by hand.
    pub(super) fn operator_helps(&mut self) {
        if self.word() == "stuck" && self.coming == Coming::Dead {
            self.leaving = Leaving::Cancelled;
            self.tell_source(source::Input::Cancel("the operator has continued it".into()));
        }
    }

    pub(super) fn kill_coming(&mut self) {
        if matches!(self.coming, Coming::Waits | Coming::Landed) {
            self.end_coming();
            self.answer_destination(destination::Input::Ended("killed".into()));
        }
    }

    pub(super) fn kill_leaving(&mut self) {
        if self.leaving != Leaving::Dead {
            self.leaving = Leaving::Dead;
            self.break_stream();
            self.answer_source(source::Input::Replaced);
        }
    }

    /// Its process dies and is started again, with what was saved last.
    pub(super) fn crash_source(&mut self) {
        self.lives.0 += 1;
        (self.source_owns, self.source_holds) = (false, true);
        let saved = self.source.as_ref().and_then(Source::save);
        self.source = None;
        match saved {
            Some(saved) => {
                let (source, step) = Source::restore(self.now, saved);
                self.source = Some(source);
                self.source_acts(step.acts);
            }
            None => self.source_holds = false,
        }
    }

    pub(super) fn crash_destination(&mut self) {
        self.lives.1 += 1;
        self.destination_owns = false;
        let saved = self.destination.as_ref().and_then(Destination::save);
        self.destination = None;
        if let Some(saved) = saved {
            let (destination, step) = Destination::restore(self.now, saved);
            self.destination = Some(destination);
            self.destination_acts(step.acts);
            let seen = match self.coming {
                Coming::Landed => Some(destination::Input::Landed),
                Coming::Dead => Some(destination::Input::Ended("it is gone".into())),
                Coming::NotYet | Coming::Waits => None,
            };
            seen.into_iter().for_each(|input| self.answer_destination(input));
        }
    }

    /// Time passes until the next deadline of either end.
    pub(super) fn pass_time(&mut self) {
        let deadlines = [
            self.source.as_ref().and_then(Source::deadline),
            self.destination.as_ref().and_then(Destination::deadline),
        ];
        let Some(at) = deadlines.into_iter().flatten().min() else { return };
        self.now = self.now.max(at);
        self.tell_source(source::Input::Elapsed);
        self.tell_destination(destination::Input::Elapsed);
    }

    /// Whoever asked is told that nothing is known of it.
    pub(super) fn tell_unknown(&mut self, wire: &Wire) {
        let why = || "the connection broke".to_owned();
        match wire {
            Wire::FromSource(life, act) if *life == self.lives.0 => {
                use source::{Act, Input};
                let input = match act {
                    Act::Probe { .. } => Input::Probed(Answer::Unknown(why())),
                    Act::Claim { .. } => Input::Claimed(Answer::Unknown(why())),
                    Act::Prepare(_) => Input::Prepared(Answer::Unknown(why())),
                    Act::HandOver(_) => Input::HandedOver(Answer::Unknown(why())),
                    Act::Commit { .. } => Input::Committed(Answer::Unknown(why())),
                    Act::ReadOwners { .. } => Input::Owners(Err(why())),
                    Act::Bump { .. } => Input::Bumped(Answer::Unknown(why())),
                    Act::Discard { .. } => Input::Discarded(Answer::Unknown(why())),
                    _ => return,
                };
                self.tell_source(input);
            }
            Wire::FromDestination(life, act) if *life == self.lives.1 => {
                use destination::{Act, Input};
                let input = match act {
                    Act::ReadOwners { .. } => Input::Owners(Err(why())),
                    Act::Bar { .. } => Input::Barred(Answer::Unknown(why())),
                    Act::Bump { .. } => Input::Bumped(Answer::Unknown(why())),
                    Act::GiveBack { .. } => Input::GaveBack(Answer::Unknown(why())),
                    _ => return,
                };
                self.tell_destination(input);
            }
            Wire::FromSource(..)
            | Wire::FromDestination(..)
            | Wire::ToSource(..)
            | Wire::ToDestination(..) => {}
        }
    }

    /// Carries out a question, or delivers an answer.
    pub(super) fn carry(&mut self, wire: Wire) {
        match wire {
            Wire::ToSource(life, input) => {
                if life == self.lives.0 {
                    self.tell_source(input);
                }
            }
            Wire::ToDestination(life, input) => {
                if life == self.lives.1 {
                    self.tell_destination(input);
                }
            }
            Wire::FromSource(life, act) => {
                if let Some(input) = self.carry_out(act) {
                    self.wires.push(Wire::ToSource(life, input));
                }
            }
            Wire::FromDestination(life, act) => self.carry_back(life, act),
        }
    }

    fn carry_out(&mut self, act: source::Act) -> Option<source::Input> {
        use source::{Act, Input};
        Some(match act {
            Act::Probe { .. } => Input::Probed(Answer::Done(())),
            Act::Claim { .. } => Input::Claimed(Answer::Done(())),
            Act::Prepare(plan) => {
                self.prepare(*plan);
                return None;
            }
            Act::HandOver(hand_over) => match &self.destination {
                Some(_) => {
                    self.tell_destination(destination::Input::HandOver(hand_over));
                    return None;
                }
                None => Input::HandedOver(Answer::Refused("no such move".into())),
            },
            Act::Discard { why, .. } => match &self.destination {
                Some(_) => {
                    self.tell_destination(destination::Input::Discard(why));
                    return None;
                }
                // What is not known is judged by the owner.
                None if self.owner() == "kvm2" => Input::Discarded(Answer::Refused("it runs here".into())),
                None => Input::Discarded(Answer::Done(())),
            },
            Act::Commit { to, units } => {
                let moved = self.change("kvm1", &units, (&to, Some(Self::id())));
                Input::Committed(moved)
            }
            Act::Bump { units } => Input::Bumped(self.change("kvm1", &units, ("kvm1", None))),
            Act::ReadOwners { .. } => Input::Owners(Ok(self.found())),
            _ => return None,
        })
    }

    fn prepare(&mut self, plan: Move) {
        match &self.destination {
            Some(_) => self.tell_destination(destination::Input::PrepareAgain),
            None => {
                let (destination, step) = Destination::begin(self.now, plan);
                self.destination = Some(destination);
                self.destination_acts(step.acts);
            }
        }
    }

    fn carry_back(&mut self, life: u32, act: destination::Act) {
        use destination::{Act, Input};
        let answer = |result: Result<(), String>| match result {
            Ok(()) => Answer::Done(()),
            Err(why) => Answer::Refused(why),
        };
        let input = match act {
            Act::AnswerPrepare(Ok(uri)) => {
                return self.answer_source(source::Input::Prepared(Answer::Done(uri)));
            }
            Act::AnswerPrepare(Err(why)) => {
                return self.answer_source(source::Input::Prepared(Answer::Refused(why)));
            }
            Act::AnswerHandOver(result) => {
                return self.answer_source(source::Input::HandedOver(answer(result)));
            }
            Act::AnswerDiscard(result) => {
                return self.answer_source(source::Input::Discarded(answer(result)));
            }
            Act::ReadOwners { .. } => Input::Owners(Ok(self.found())),
            Act::Bar { owner, units } => Input::Barred(self.change(&owner, &units, (&owner, None))),
            Act::Bump { units } => Input::Bumped(self.change("kvm2", &units, ("kvm2", Some(Self::id())))),
            Act::GiveBack { to, units } => Input::GaveBack(self.change("kvm2", &units, (&to, None))),
            _ => return,
        };
        self.wires.push(Wire::ToDestination(life, input));
    }

    fn is_at(&self, host: &str, units: &[UnitEpoch]) -> bool {
        units.iter().all(|UnitEpoch { unit, epoch }| {
            self.store.get(unit).is_some_and(|owner| owner.host == host && owner.epoch == *epoch)
        })
    }

    /// One transaction.
    fn change(&mut self, from: &str, units: &[UnitEpoch], (to, by): (&str, Option<MoveId>)) -> Answer {
        if !self.is_at(from, units) {
            return Answer::Refused("the owners are others".into());
        }
        self.has_moved |= to == "kvm2";
        for UnitEpoch { unit, epoch } in units {
            let owner = Owner { host: to.to_owned(), epoch: epoch + 1, move_id: by.clone() };
            self.store.insert(unit.clone(), owner);
        }
        Answer::Done(())
    }

    fn found(&self) -> Vec<Found> {
        let found =
            |(unit, owner): (&String, &Owner)| Found { unit: unit.clone(), owner: Some(owner.clone()) };
        self.store.iter().map(found).collect()
    }

    /// When everything works again: where the VM is, its disks are served.
    pub(super) fn check_end(&self) {
        let source = self.source.as_ref().and_then(Source::outcome);
        if let Some(machine) = &self.source {
            assert!(source.is_some(), "the source has not ended: {:?}", machine.state());
        }
        if let Some(machine) = &self.destination {
            assert!(machine.outcome().is_some(), "the destination has not ended: {:?}", machine.state());
        }
        let runs_here = matches!(self.leaving, Leaving::Runs | Leaving::Cancelled | Leaving::Failed);
        if self.coming == Coming::Landed {
            assert_eq!(self.owner(), "kvm2", "it runs at the destination, whose units it has not");
            assert!(!runs_here || self.stopped, "it runs twice");
        } else if let (true, Some(Outcome::Stayed { .. })) = (runs_here, source) {
            assert_eq!(self.owner(), "kvm1");
            assert!(self.source_dispatches() && !self.stopped, "it runs, and is not served");
        }
    }

    /// The state of the source, for a test that wants to get somewhere.
    pub(super) fn word(&self) -> &'static str {
        self.source.as_ref().map_or("gone", |source| source.state().word())
    }

    pub(super) fn is_taken(&self) -> bool {
        self.taken
    }
}

fn handed(disk: &str, name: &str) -> DiskHandOver {
    let open =
        vec![OpenRequest { head: 4, state: Open::Unknown }, OpenRequest { head: 9, state: Open::Unsent }];
    DiskHandOver {
        disk: disk.into(),
        unit: unit(name, 0).unit,
        epoch: 0,
        queues: vec![QueueHandOver { queue: 0, base: 17, open }],
        quarantine: vec![crate::migration::QuarantineHandOver {
            offset: 4096,
            length: 8192,
            remaining: Duration::from_secs(4),
        }],
    }
}
