//! Moving VMs to other hosts: when a VM may, how it begins, and what its move's machine asks for.
//!
//! Invariant: while a VM is on its way no other rule touches it, and each move has an end of its own; a VM that came to
//! nothing is not tried again at once; without `[cluster]` nothing of this happens, and a rule that wants it says so.
//! Rejected: to wait for a host that may have room one day. The rule after it would never have its turn.
//! It does not know which host is best, nor how a step is performed.

use super::Controller;
use super::words::seconds;
use crate::cluster::{Ask, Chosen, Heard, Whereto};
use crate::effect::{JournalKind, Subject};
use crate::event::RunState;
use crate::ids::{UnitId, VmId};
use crate::migration::{
    Destination, DiskEpoch, Move, MoveId, Note, Source, Step, VmCarry, destination, source,
};
use crate::mutant::{self, Mutant};
use crate::ownership::{Ownership, UnitEpoch};
use crate::placement::Accepts;
use crate::policy::rules::{Migrating, NO_OTHER_HOST};
use crate::policy::{
    ASK_HOME, Carried, Cause, Input, Ladder, Monitor, Outstanding, PLACE_WITHIN, Place, Reason, Run, Sender,
    Why, fled,
};
use crate::spec::{Failback, Writers};

/// The store that hosts share, as far as it is heard of.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    store: Store,
    nonce: u64,
    /// Moves begun by this process.
    moves: u64,
    /// By `UnitId`.
    owners: Vec<Ownership>,
}

#[derive(Clone, Debug, Default)]
enum Store {
    #[default]
    Unheard,
    Up,
    Down {
        why: String,
    },
}

impl Cluster {
    pub(super) fn nonce(&self) -> u64 {
        self.nonce
    }
}

impl Controller {
    pub(super) fn take_cluster(&mut self, heard: Heard) {
        match heard {
            Heard::Up { nonce } => {
                self.cluster.nonce = nonce;
                self.cluster.store = Store::Up;
                self.tell_store(&source::Input::StoreHeard);
            }
            Heard::Down { why } => {
                self.tell_store(&source::Input::StoreAway(why.clone()));
                self.cluster.store = Store::Down { why };
            }
            Heard::Owner { unit, ownership } => self.owner_is(unit, ownership),
            Heard::Placed { vm, result } if vm.index() < self.vms.len() => self.placed(vm, result),
            Heard::Invited(plan) => self.invited(*plan),
            Heard::Leaving { vm, move_id, input } if vm.index() < self.vms.len() => {
                if let source::Input::Discarded(answer) = &input {
                    self.discard_answered(&move_id, answer);
                }
                self.tell_leaving(vm, &move_id, input);
            }
            Heard::Arriving { vm, move_id, input } if vm.index() < self.vms.len() => {
                self.tell_arriving(vm, &move_id, input);
            }
            Heard::TakeOver { unit, reason, until } => {
                self.record_until(JournalKind::DiskTakeover, Subject::Unit(unit), None, (reason, until));
            }
            Heard::Misfit { disk, why } => self.misfit(disk, why),
            // Of a VM that has no row any more.
            Heard::Placed { .. } | Heard::Leaving { .. } | Heard::Arriving { .. } => {}
        }
    }

    fn tell_store(&mut self, input: &source::Input) {
        for vm in self.spec.vm_ids() {
            self.hypervisor_leaving(vm, input.clone());
        }
    }

    fn owner_is(&mut self, unit: UnitId, ownership: Ownership) {
        if unit.index() >= self.spec.units.len() {
            return;
        }
        self.cluster.owners.resize(self.spec.units.len(), Ownership::Unknown);
        self.cluster.owners[unit.index()] = ownership;
        for vm in self.spec.vm_ids() {
            let is_elsewhere = matches!(self.vms[vm.index()].travel.place, Place::Elsewhere { .. });
            if is_elsewhere && self.spec.units_of_vm(vm).all(|unit| self.owner(unit).may_dispatch()) {
                self.vms[vm.index()].travel.place = Place::Here;
            }
        }
    }

    pub(super) fn owner(&self, unit: UnitId) -> &Ownership {
        self.cluster.owners.get(unit.index()).unwrap_or(&Ownership::Unknown)
    }

    /// No rule looks at this VM: it is on its way to another host, or at one.
    pub(super) fn is_away(&self, vm: VmId) -> bool {
        self.vms[vm.index()].travel.is_away() || self.is_anothers(vm)
    }

    /// One of its units belongs to another host.
    fn is_anothers(&self, vm: VmId) -> bool {
        let theirs = |unit| matches!(self.owner(unit), Ownership::Theirs(_));
        self.spec.cluster.is_some() && self.spec.units_of_vm(vm).any(theirs)
    }

    /// Whether a rule that wants to move it can have that now.
    pub(super) fn migrating(&self, vm: VmId) -> Migrating {
        let Some(cluster) = &self.spec.cluster else { return Migrating::Impossible(NO_OTHER_HOST.into()) };
        let travel = &self.vms[vm.index()].travel;
        if let Some(why) = self.cannot_migrate(vm) {
            return Migrating::Impossible(format!("it cannot migrate: {why}"));
        }
        if let Some(tried) = travel.tried.as_ref().filter(|tried| tried.again > self.now) {
            return Migrating::Impossible(format!("it was not moved: {}", tried.why));
        }
        let moving = self.vms.iter().filter(|vm| vm.travel.is_moving()).count();
        if moving >= usize::from(cluster.migration.max) && !mutant::active(Mutant::MovesUnbounded) {
            return Migrating::Wait(format!("it waits for its turn: {moving} moves are under way"));
        }
        match &self.vms[vm.index()].guest.run {
            Run::Free { .. } | Run::Proving { .. } | Run::Suspended { .. } => Migrating::Possible,
            Run::Held { .. } | Run::Suspending { .. } | Run::Withdrawing { .. } | Run::Resuming { .. } => {
                Migrating::Wait("it waits until its hypervisor has done what it was told".into())
            }
        }
    }

    fn cannot_migrate(&self, vm: VmId) -> Option<String> {
        match &self.cluster.store {
            Store::Up => {}
            Store::Unheard => return Some("etcd was not heard yet".into()),
            Store::Down { why } => return Some(format!("etcd does not answer ({why})")),
        }
        let state = &self.vms[vm.index()];
        match &state.guest.monitor {
            Monitor::Unknown => return Some("nothing was heard of its monitor yet".into()),
            Monitor::Absent { why, .. } => return Some(format!("unmanaged, no monitor ({why})")),
            Monitor::Present { .. } => {}
        }
        let shared = self.spec.disks_of_vm(vm).find(|disk| self.spec.disk(*disk).writers == Writers::Many);
        if let Some(disk) = shared {
            return Some(format!("its disk {} has several writers", self.spec.disk_name(disk)));
        }
        if self.network.unserved_unit(vm).is_some() && !self.spec.is_vhost_user(vm) {
            // Suspended or not: what its guest has open stays in QEMU, which does not let go of a disk that it cannot flush.
            return Some(
                "no path carries its NBD disks, and QEMU flushes those before it lets them go".into(),
            );
        }
        let held =
            |unit: UnitId| Some(format!("{}: {}", self.spec.unit_name(unit), self.owner(unit).hold_words()?));
        self.spec.units_of_vm(vm).find_map(held)
    }

    /// It came here a moment ago, and is moved again only if it has lost all its paths.
    pub(super) fn move_dwell(&self, vm: VmId) -> Option<String> {
        let arrived = self.vms[vm.index()].travel.arrived?;
        let (since, dwell) = (self.now.since(arrived), self.spec.vm(vm).move_dwell);
        (since < dwell && !mutant::active(Mutant::MoveDwellForgotten))
            .then(|| format!("it came here less than {} ago, which is its move_dwell", seconds(dwell)))
    }

    /// A host is looked for; the answer begins the move.
    pub(super) fn wants_move(&mut self, vm: VmId, reason: Reason, whereto: Whereto) {
        self.vms[vm.index()].blocked = None;
        let until = self.now + PLACE_WITHIN;
        let place = Place::Placing { reason, whereto: whereto.clone(), until };
        self.vms[vm.index()].travel.place = place;
        self.out.asks.push(Ask::Place { vm, whereto });
    }

    fn placed(&mut self, vm: VmId, result: Result<Chosen, String>) {
        let Place::Placing { reason, whereto, .. } = &self.vms[vm.index()].travel.place else { return };
        let sender = match (whereto, reason.incident) {
            (Whereto::Home(_), _) => Sender::Return,
            (Whereto::Best | Whereto::Named(_), Some(_)) => Sender::Failure,
            (Whereto::Best | Whereto::Named(_), None) => Sender::Operator,
        };
        if self.needs_no_host(vm, whereto, reason) {
            self.vms[vm.index()].travel.place = Place::Here;
            return;
        }
        let mut reason = reason.clone();
        let planned = result.and_then(|Chosen { host, why }| {
            if !why.is_empty() {
                reason.rule = format!("{}; {why}", reason.rule);
            }
            self.plan_move(vm, &reason, sender, host)
        });
        match planned {
            Err(why) => self.not_placed(vm, why),
            Ok(plan) => {
                let (machine, step) = Source::begin(self.now, plan);
                let machine = Box::new(machine);
                self.vms[vm.index()].travel.place = Place::Leaving { reason, machine };
                self.leave(vm, step);
            }
        }
    }

    /// What an operator has asked for is answered in the journal; a rule tells why it goes on without; home is asked again.
    fn not_placed(&mut self, vm: VmId, why: String) {
        let Place::Placing { reason, whereto, .. } = &self.vms[vm.index()].travel.place else { return };
        match (whereto, reason.incident) {
            (Whereto::Home(_), _) => self.vms[vm.index()].travel.place = Place::Here,
            (Whereto::Best | Whereto::Named(_), None) => {
                let text = format!("it stays: {why}; {}", reason.rule);
                self.record(JournalKind::MigrationCancelled, Subject::Vm(vm), None, text);
                self.vms[vm.index()].travel.place = Place::Here;
            }
            (Whereto::Best | Whereto::Named(_), Some(_)) => {
                self.vms[vm.index()].travel.has_failed(self.now, why);
            }
        }
    }

    fn plan_move(&mut self, vm: VmId, reason: &Reason, sender: Sender, to: String) -> Result<Move, String> {
        if let Some(why) = self.cannot_migrate(vm) {
            return Err(why);
        }
        let spec = self.spec.clone();
        let cluster = spec.cluster.as_ref().ok_or(NO_OTHER_HOST)?;
        let guest = &self.vms[vm.index()].guest;
        let instance = guest.monitor.instance().ok_or("its monitor is gone")?;
        let disk = |disk| {
            let its = spec.disk(disk);
            match self.owner(its.unit) {
                Ownership::Ours { epoch } => {
                    let unit = UnitEpoch { unit: spec.unit_name(its.unit), epoch: *epoch };
                    Ok(DiskEpoch { disk: its.name.clone(), unit })
                }
                Ownership::Unknown | Ownership::Free | Ownership::Theirs(_) | Ownership::Uncertain => {
                    Err(format!("{} is not this host's", spec.unit_name(its.unit)))
                }
            }
        };
        let disks = spec.disks_of_vm(vm).map(disk).collect::<Result<Vec<_>, _>>()?;
        let vm_state = self.carried(vm)?;
        self.cluster.moves += 1;
        let (nonce, number) = (self.cluster.nonce, self.cluster.moves);
        Ok(Move {
            id: MoveId { host: spec.host.name.clone(), nonce, number },
            vm: spec.vm(vm).name.clone(),
            fled: fled(&self.vms[vm.index()].travel.fled, sender, (&spec.host.name, &to)),
            from: spec.host.name.clone(),
            to,
            home: self.vms[vm.index()].travel.home.clone().unwrap_or_else(|| spec.host.name.clone()),
            disks,
            instance,
            memory: self.vms[vm.index()].memory,
            room: crate::placement::room_of(&spec, vm),
            settle: cluster.migration.settle,
            incident: reason.incident.map(|id| id.to_string()),
            vm_state,
            rule: reason.rule.clone(),
        })
    }

    fn carried(&self, vm: VmId) -> Result<VmCarry, String> {
        let guest = &self.vms[vm.index()].guest;
        match (&guest.run, guest.monitor.run_state()) {
            (Run::Suspended { cause, .. }, _) => Ok(VmCarry::Suspended { why: cause.rule.clone() }),
            (_, Some(RunState::Running)) => Ok(VmCarry::Running),
            (_, Some(RunState::Paused)) => Ok(VmCarry::StoppedByOther),
            (_, Some(RunState::IoError | RunState::Sent | RunState::Other) | None) => {
                Err("it does not run".into())
            }
        }
    }

    pub(super) fn tell_leaving(&mut self, vm: VmId, of: &MoveId, input: source::Input) {
        let now = self.now;
        let Place::Leaving { machine, .. } = &mut self.vms[vm.index()].travel.place else { return };
        let step = machine.step(now, of, input);
        self.leave(vm, step);
    }

    /// The same for what the VM's own hypervisor says, which knows of no move.
    pub(super) fn hypervisor_leaving(&mut self, vm: VmId, input: source::Input) {
        let Place::Leaving { machine, .. } = &self.vms[vm.index()].travel.place else { return };
        let id = machine.plan().id.clone();
        self.tell_leaving(vm, &id, input);
    }

    pub(super) fn leave(&mut self, vm: VmId, step: Step<source::Act>) {
        let Place::Leaving { reason, machine } = &self.vms[vm.index()].travel.place else { return };
        let (id, incident, instance) = (machine.plan().id.clone(), reason.incident, machine.plan().instance);
        let over = machine.outcome().cloned().map(|outcome| (machine.clone(), outcome));
        let resumes = step.acts.iter().any(|act| matches!(act, source::Act::Resume { .. }));
        if !machine.has_given() {
            step.acts.iter().for_each(|act| self.is_discarding(vm, &id, act));
        }
        let asks = step.acts.into_iter().map(|act| Ask::Leave { vm, move_id: id.clone(), act });
        self.out.asks.extend(asks);
        self.tell_note(vm, incident, step.note);
        if resumes {
            // The order may be lost with the monitor: who then finds it paused continues it.
            let rule = "it was stopped here while its units were another host's".to_owned();
            let instance = instance.into();
            self.vms[vm.index()].travel.carried = Some(Carried { instance, rule });
        }
        let Some((machine, outcome)) = over else { return };
        self.remember_left(&machine, &outcome);
        match outcome {
            source::Outcome::Stayed { why } => self.vms[vm.index()].travel.has_failed(self.now, why),
            source::Outcome::Moved { .. } => {
                self.has_left(vm, machine.plan().to.clone());
                // Its hypervisor has said before that it has sent all of it.
                if let Some(state) = self.vms[vm.index()].guest.monitor.run_state() {
                    self.may_be_left(vm, state);
                }
            }
        }
    }

    /// What was known of it here is over.
    fn has_left(&mut self, vm: VmId, host: String) {
        let state = &mut self.vms[vm.index()];
        state.guest.run = Run::Free { since: self.now };
        state.ladder = Ladder::Clear;
        (state.pardon, state.blocked, state.hold_spent) = (None, None, None);
        state.travel.place = Place::Elsewhere { host };
        (state.travel.tried, state.travel.arrived, state.travel.home) = (None, None, None);
        (state.travel.carried, state.travel.fled) = (None, vec![]);
    }

    fn tell_note(&mut self, vm: VmId, incident: Option<crate::ids::IncidentId>, note: Option<Note>) {
        if let Some(Note { kind, reason, until }) = note {
            self.record_until(kind, Subject::Vm(vm), incident, (reason, until));
        }
    }

    fn invited(&mut self, plan: Move) {
        let vm = match self.welcome(&plan) {
            Ok(vm) => vm,
            Err(why) => return self.out.asks.push(Ask::Decline { move_id: plan.id, why }),
        };
        if let Place::Arriving(machine) = &self.vms[vm.index()].travel.place
            && machine.plan().id == plan.id
        {
            return self.tell_arriving(vm, &plan.id, destination::Input::PrepareAgain);
        }
        let (machine, step) = Destination::begin(self.now, plan);
        self.vms[vm.index()].travel.place = Place::Arriving(Box::new(machine));
        self.arrive(vm, step);
    }

    /// Whether a VM of another host may come.
    fn welcome(&self, plan: &Move) -> Result<VmId, String> {
        let Some(cluster) = &self.spec.cluster else { return Err("it belongs to no cluster".into()) };
        let host = &self.spec.host.name;
        if plan.to != *host {
            return Err(format!("this is {host}, and not {}", plan.to));
        }
        let Some(vm) = self.spec.vm_by_name(&plan.vm) else {
            return Err(format!("{host} has no VM {} in its configuration", plan.vm));
        };
        let travel = &self.vms[vm.index()].travel;
        match &travel.place {
            Place::Here | Place::Elsewhere { .. } => {}
            Place::Arriving(machine) if machine.plan().id == plan.id => return Ok(vm),
            Place::Arriving(machine) => {
                return Err(format!("it comes to {host} already (move {})", machine.plan().id));
            }
            Place::Placing { .. } | Place::Leaving { .. } => {
                return Err(format!("it is just leaving {host}"));
            }
        }
        if self.runs(vm) {
            return Err(format!("{} runs on {host} already", plan.vm));
        }
        if self.spec.vm(vm).launch.is_none() {
            return Err(format!("{host} does not know how to launch {}: it has no `launch`", plan.vm));
        }
        let mut here: Vec<_> = self
            .spec
            .disks_of_vm(vm)
            .map(|disk| (self.spec.disk(disk).name.clone(), self.spec.unit_name(self.spec.disk(disk).unit)))
            .collect();
        let mut there: Vec<_> =
            plan.disks.iter().map(|disk| (disk.disk.clone(), disk.unit.unit.clone())).collect();
        here.sort_unstable();
        there.sort_unstable();
        if here != there {
            return Err(format!("{host} knows other disks of {}", plan.vm));
        }
        // Whoever chose this host has seen its last summary, and that may be old.
        match self.accepts(cluster) {
            Accepts::Yes => {}
            Accepts::No(why) => return Err(format!("{host} takes no VM now: {why}")),
        }
        self.has_room(vm).map(|()| vm).map_err(|why| format!("{host} does not take it now: {why}"))
    }

    pub(super) fn tell_arriving(&mut self, vm: VmId, of: &MoveId, input: destination::Input) {
        let now = self.now;
        let Place::Arriving(machine) = &mut self.vms[vm.index()].travel.place else { return };
        let step = machine.step(now, of, input);
        self.arrive(vm, step);
    }

    /// The same for what its hypervisor here says, which knows of no move.
    pub(super) fn hypervisor_arriving(&mut self, vm: VmId, input: destination::Input) {
        let Place::Arriving(machine) = &self.vms[vm.index()].travel.place else { return };
        let id = machine.plan().id.clone();
        self.tell_arriving(vm, &id, input);
    }

    pub(super) fn arrive(&mut self, vm: VmId, step: Step<destination::Act>) {
        let Place::Arriving(machine) = &self.vms[vm.index()].travel.place else { return };
        let id = machine.plan().id.clone();
        let over = machine.outcome().cloned().map(|outcome| (machine.clone(), outcome));
        let asks = step.acts.into_iter().map(|act| Ask::Arrive { vm, move_id: id.clone(), act });
        self.out.asks.extend(asks);
        self.tell_note(vm, None, step.note);
        let Some((machine, outcome)) = over else { return };
        self.remember_come(&machine, &outcome);
        let plan = machine.plan();
        match outcome {
            destination::Outcome::Arrived => {
                let away = plan.home != self.spec.host.name;
                let travel = &mut self.vms[vm.index()].travel;
                (travel.home, travel.fled) = (away.then(|| plan.home.clone()), plan.fled.clone());
                self.has_arrived(vm, plan.vm_state.clone());
            }
            destination::Outcome::Discarded { .. } | destination::Outcome::GivenBack { .. } => {
                self.vms[vm.index()].travel.place = Place::Elsewhere { host: plan.from.clone() };
            }
        }
    }

    fn has_arrived(&mut self, vm: VmId, carried: VmCarry) {
        let now = self.now;
        let travel = &mut self.vms[vm.index()].travel;
        travel.place = Place::Here;
        travel.tried = None;
        (travel.arrived, travel.ask_home) = (Some(now), now);
        match carried {
            VmCarry::Suspended { why } => {
                let rule = format!("it was suspended at the host that it came from: {why}");
                let instance = self.vms[vm.index()].guest.monitor.instance();
                self.vms[vm.index()].travel.carried = Some(Carried { instance, rule });
                self.adopt_carried(vm);
            }
            VmCarry::Running | VmCarry::StoppedByOther => self.vms[vm.index()].travel.carried = None,
        }
    }

    /// That it has come may be known before how it stands.
    pub(super) fn adopt_carried(&mut self, vm: VmId) {
        let state = &mut self.vms[vm.index()];
        match state.guest.monitor.run_state() {
            Some(RunState::Paused | RunState::IoError) => {
                if let Some(Carried { rule, .. }) = state.travel.carried.take() {
                    self.tell(vm, Input::Adopt(Cause { incident: None, why: Why::Restart, rule }));
                }
            }
            Some(RunState::Running) => state.travel.carried = None,
            Some(RunState::Sent | RunState::Other) | None => {}
        }
    }

    /// What time does to a VM that is on its way.
    pub(super) fn travel_timer(&mut self, vm: VmId) {
        let due = self.vms[vm.index()].travel.deadline().is_some_and(|at| at <= self.now);
        if !due {
            return;
        }
        match &self.vms[vm.index()].travel.place {
            Place::Here | Place::Elsewhere { .. } => {}
            Place::Placing { .. } => self.not_placed(vm, "no host was found in time".into()),
            Place::Leaving { .. } => self.hypervisor_leaving(vm, source::Input::Elapsed),
            Place::Arriving(_) => self.hypervisor_arriving(vm, destination::Input::Elapsed),
        }
    }

    /// Where `return = true` takes it, and the rule in words; none if nothing has driven it away, or an operator has moved it since.
    /// With `followover` each host takes back what it has sent away itself, one after the other.
    pub(super) fn returns_to(&self, vm: VmId) -> Option<(String, String)> {
        let hosts = &self.vms[vm.index()].travel.fled;
        let follows = |unit| {
            let target = self.spec.target(self.spec.unit(unit).target);
            (target.failback == Failback::Followover).then_some(&target.name)
        };
        let (host, why) = match self.spec.units_of_vm(vm).find_map(follows) {
            Some(target) => {
                let host = hosts.last()?;
                (
                    host,
                    format!(
                        "{host}, which has moved it, has its paths back ({target} has failback = followover)"
                    ),
                )
            }
            None => {
                let host = hosts.first()?;
                (host, format!("{host} has its paths back"))
            }
        };
        self.spec.vm(vm).returns.then(|| (host.clone(), format!("return = true, and {why}")))
    }

    /// It is asked again and again whether the host that it had to leave will have it back.
    pub(super) fn ask_home(&mut self, vm: VmId) {
        if self.vms[vm.index()].travel.ask_home > self.now || self.move_dwell(vm).is_some() {
            return;
        }
        let Some((host, rule)) = self.returns_to(vm) else { return };
        self.vms[vm.index()].travel.ask_home = self.now + ASK_HOME;
        if self.migrating(vm) != Migrating::Possible {
            return;
        }
        let reason = Reason { incident: None, rule, requests: Outstanding::FailOver };
        self.wants_move(vm, reason, Whereto::Home(host));
    }

    /// When it is asked next.
    pub(super) fn home_deadline(&self, vm: VmId) -> Option<crate::time::Instant> {
        let travel = &self.vms[vm.index()].travel;
        self.returns_to(vm)?;
        let waits = matches!(travel.place, Place::Here);
        waits.then(|| travel.ask_home.max(travel.arrived.unwrap_or(self.now) + self.spec.vm(vm).move_dwell))
    }
}
