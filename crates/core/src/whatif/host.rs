//! A controller, and a world that does what it says: virtual time, hypervisors that obey, VMs that use what they reserved.
//!
//! Invariant: time goes on only to where something is to happen, and not for ever: steps and time are bounded.
//! It does not know what any of it means to a VM.

use super::moves::{Others, obeyed};
use crate::cluster::{Ask, Heard};
use crate::controller::Controller;
use crate::effect::{CommandError, Effect, JournalEntry};
use crate::event::{
    Command, Event, Fault, HypervisorReport, LinkChange, LinkReport, LoadReport, RunState, StopsOnError,
    VmLoad,
};
use crate::ids::{PathId, UnitId, VmId, WorkerId};
use crate::policy::fit::Kept;
use crate::spec::Spec;
use crate::time::{Duration, Instant};
use crate::view::{CapacityStanding, CapacityView, HostView};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A hypervisor, and a worker that was told something, take about this long.
const OBEYS_AFTER: Duration = Duration::from_millis(5);
/// Looked ahead at most: longer than a ladder of which every rung lasts as long as one may.
const HORIZON: Duration = Duration::from_secs(100 * 24 * 3600);
/// Moments at which something happens. Rungs of VMs with one rule end together, so that hosts of a thousand VMs need tens.
const STEPS_MAX: u32 = 2000;
/// Looks at reservations. Each can only make VMs leave; a few are needed where targets share VMs.
const LOADS_MAX: u32 = 8;
/// After the start of a healthy host.
const WARM_UP: Duration = Duration::from_secs(60);

pub(super) struct Host {
    spec: Arc<Spec>,
    controller: Controller,
    now: Instant,
    /// What will be reported, by when.
    coming: BTreeMap<Instant, Vec<Event>>,
    /// The next look at reservations.
    load_at: Option<Instant>,
    loads: u32,
    /// What the journal would hold.
    pub(super) told: Vec<JournalEntry>,
    answer: Option<Result<String, CommandError>>,
    /// None: no other host is asked.
    others: Option<Others>,
}

impl Host {
    pub(super) fn new(spec: Arc<Spec>, controller: Controller, now: Instant) -> Self {
        Self {
            spec,
            controller,
            now,
            coming: BTreeMap::new(),
            load_at: None,
            loads: 0,
            told: vec![],
            answer: None,
            others: None,
        }
    }

    pub(super) fn among(self, others: Option<Others>) -> Self {
        Self { others, ..self }
    }

    pub(super) fn healthy(spec: &Arc<Spec>) -> (Controller, Instant) {
        let (controller, _) = Controller::new(spec.clone(), Instant::ZERO);
        let mut host = Self::new(spec.clone(), controller, Instant::ZERO);
        let paths: Vec<_> = spec.path_ids().collect();
        let links = host.links(&paths, &LinkChange::Up);
        let monitors = spec.vm_ids().filter(|vm| spec.vm(*vm).qmp.is_some()).map(|vm| Event::Hypervisor {
            vm,
            report: HypervisorReport::Connected {
                instance: 1,
                state: RunState::Running,
                stops_on_error: StopsOnError::Yes,
            },
        });
        host.step(links.into_iter().chain(monitors).collect());
        host.now += WARM_UP;
        let busy = VmLoad { requests_completed: 1, ..VmLoad::default() };
        let vms = vec![busy; spec.vms.len()];
        host.step(vec![Event::Load(LoadReport { vms, ..LoadReport::default() })]);
        (host.controller, host.now)
    }

    /// Every link of these paths is lost, now.
    pub(super) fn lose(&mut self, paths: &[PathId]) {
        let fault = Fault::Before("supposed to be lost".into());
        let events = self.links(paths, &LinkChange::Down { fault, requests_outstanding: 0 });
        self.load_at = Some(self.now + self.spec.host.shed_after);
        self.step(events);
    }

    fn links(&self, paths: &[PathId], change: &LinkChange) -> Vec<Event> {
        let report = |path: PathId, unit: UnitId| LinkReport {
            worker: WorkerId(0),
            path,
            unit,
            at: self.now,
            change: change.clone(),
        };
        let mut events = vec![];
        for path in paths {
            let target = self.spec.path(*path).target;
            let units = self.spec.unit_ids().filter(|u| self.spec.unit(*u).target == target);
            events.extend(units.map(|unit| Event::Link(report(*path, unit))));
        }
        events
    }

    /// What an operator is answered who asks this of a path. Workers let go of a path that is taken out.
    ///
    /// # Errors
    /// Why it is refused, in words.
    pub(super) fn command(&mut self, command: Command, path: PathId) -> Result<(), String> {
        self.load_at = Some(self.now + self.spec.host.shed_after);
        self.step(vec![Event::Command { ticket: 1, command }]);
        match self.answer.take() {
            Some(Err(CommandError::Conflict(why) | CommandError::Unsupported(why))) => Err(why),
            Some(Ok(_)) | None => {
                let gone = LinkChange::Down { fault: Fault::Disabled, requests_outstanding: 0 };
                let events = self.links(&[path], &gone);
                self.coming.entry(self.now + OBEYS_AFTER).or_default().extend(events);
                Ok(())
            }
        }
    }

    pub(super) fn capacity(&self) -> Vec<CapacityView> {
        self.controller.capacity(self.now)
    }

    pub(super) fn view(&self) -> HostView {
        self.controller.view(self.now)
    }

    /// Lets time pass until nothing is to happen any more. Whether a bound came first.
    pub(super) fn settle(&mut self) -> bool {
        let until = self.now + HORIZON;
        for _ in 0..STEPS_MAX {
            let wakes = [self.controller.next_decision(), self.coming.keys().next().copied(), self.load_at];
            let Some(due) = wakes.into_iter().flatten().min() else { return false };
            if due > until {
                return true;
            }
            self.now = self.now.max(due);
            let mut events = vec![];
            while let Some(entry) = self.coming.first_entry().filter(|entry| *entry.key() <= self.now) {
                events.extend(entry.remove());
            }
            if self.load_at.is_some_and(|at| at <= self.now) {
                self.load_at = None;
                self.look_at_reservations(&mut events);
            } else {
                events.push(Event::Tick);
                self.step(events);
            }
        }
        true
    }

    /// Every VM that runs uses what it has reserved, as far as the others leave it that. Again while that makes somebody leave.
    fn look_at_reservations(&mut self, events: &mut Vec<Event>) {
        let short = |view: &CapacityView| match view.standing {
            CapacityStanding::Short => true,
            CapacityStanding::Whole
            | CapacityStanding::CutOff
            | CapacityStanding::Connecting
            | CapacityStanding::Unknown => false,
        };
        let interval = self.spec.host.shed_after.max(OBEYS_AFTER);
        let mut vms = vec![VmLoad::default(); self.spec.vms.len()];
        for party in self.capacity().iter().filter(|view| short(view)).flat_map(|view| &view.parties) {
            let got = u128::from(party.gets) * interval.as_nanos() / 1_000_000_000;
            vms[party.vm.index()] = VmLoad {
                bytes_completed: u64::try_from(got).unwrap_or(u64::MAX),
                requests_completed: 1,
                backlogged: match party.kept {
                    Kept::Stays => 0.0,
                    Kept::Leaves => 1.0,
                },
                open: 0,
            };
        }
        events.push(Event::Load(LoadReport { interval, vms, ..LoadReport::default() }));
        let told = self.told.len();
        self.step(std::mem::take(events));
        self.loads += 1;
        if self.told.len() > told && self.loads < LOADS_MAX {
            self.load_at = Some(self.now + interval);
        }
    }

    fn step(&mut self, events: Vec<Event>) {
        for effect in self.controller.handle_all(self.now, events) {
            match effect {
                Effect::Stop { vm, .. } => self.obey(vm, RunState::Paused),
                Effect::Continue { vm, .. } => self.obey(vm, RunState::Running),
                Effect::Record(entry) => self.told.push(entry),
                Effect::Answer { result, .. } => self.answer = Some(result),
                Effect::Cluster(Ask::Place { vm, whereto }) => {
                    let result = match &mut self.others {
                        Some(others) => others.placed(&self.spec, vm, &whereto),
                        None => Err("nothing is known of other hosts here".to_owned()),
                    };
                    let event = Event::Cluster(Heard::Placed { vm, result });
                    self.coming.entry(self.now).or_default().push(event);
                }
                Effect::Cluster(Ask::Leave { vm, move_id, act }) => {
                    let event = obeyed(vm, move_id, act, self.controller.leaving_plan(vm));
                    self.coming.entry(self.now + OBEYS_AFTER).or_default().extend(event);
                }
                Effect::Publish(_)
                | Effect::Monitor { .. }
                | Effect::Cluster(Ask::Arrive { .. } | Ask::EndLeft { .. } | Ask::Decline { .. }) => {}
            }
        }
    }

    fn obey(&mut self, vm: VmId, state: RunState) {
        let event = Event::Hypervisor { vm, report: HypervisorReport::State(state) };
        self.coming.entry(self.now + OBEYS_AFTER).or_default().push(event);
    }
}
