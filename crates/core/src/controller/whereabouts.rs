//! Where a VM is, and how far it is on its way, in words.
//!
//! Invariant: of each state of a move it is told what is being done and what ends it; a VM that is not here is never shown as
//! running or stopped here. It decides nothing, and does not know whether another host would say the same.

use super::Controller;
use super::words::seconds;
use crate::cluster::Whereto;
use crate::ids::{DiskId, UnitId, VmId};
use crate::migration::{Destination, Source, VmCarry, destination, source};
use crate::ownership::{Owner, Ownership};
use crate::policy::{Monitor, Place};
use crate::spec::Writers;
use crate::time::{Duration, Instant};
use crate::view::VmState;

/// What is said of a VM that is on its way.
struct Step {
    /// What is being done, and why.
    doing: String,
    /// What ends it.
    until: String,
}

impl Controller {
    /// As an operator names it.
    pub(super) fn vm_state(&self, vm: VmId) -> VmState {
        let state = &self.vms[vm.index()];
        match &state.travel.place {
            Place::Leaving { .. } | Place::Arriving(_) => VmState::Migrating,
            Place::Elsewhere { .. } => VmState::Elsewhere,
            Place::Here | Place::Placing { .. } if self.owned_elsewhere(vm).is_some() => VmState::Elsewhere,
            Place::Here | Place::Placing { .. } => state.guest.state(),
        }
    }

    pub(super) fn since(&self, vm: VmId) -> Instant {
        let state = &self.vms[vm.index()];
        match &state.travel.place {
            Place::Leaving { machine, .. } => machine.began(),
            Place::Arriving(machine) => machine.began(),
            Place::Here | Place::Placing { .. } | Place::Elsewhere { .. } => state.guest.since(),
        }
    }

    /// Where it is, if that is not here; where it goes to or comes from while it is on its way.
    pub(super) fn other_host(&self, vm: VmId) -> Option<String> {
        match &self.vms[vm.index()].travel.place {
            Place::Leaving { machine, .. } => Some(machine.plan().to.clone()),
            Place::Arriving(machine) => Some(machine.plan().from.clone()),
            // It may have gone on from there.
            Place::Elsewhere { host } => {
                Some(self.foreign_owner(vm).map_or_else(|| host.clone(), |owner| owner.host.clone()))
            }
            Place::Here | Place::Placing { .. } => self.owned_elsewhere(vm).map(|owner| owner.host.clone()),
        }
    }

    fn foreign_owner(&self, vm: VmId) -> Option<&Owner> {
        self.spec.cluster.as_ref()?;
        self.spec.units_of_vm(vm).find_map(|unit| match self.owner(unit) {
            Ownership::Theirs(owner) => Some(owner),
            Ownership::Unknown | Ownership::Free | Ownership::Ours { .. } | Ownership::Uncertain => None,
        })
    }

    /// Another host owns a unit of it, and no guest of it is here.
    fn owned_elsewhere(&self, vm: VmId) -> Option<&Owner> {
        let runs = self.is_in_its_hypervisor(vm);
        self.foreign_owner(vm).filter(|_| !runs)
    }

    fn is_in_its_hypervisor(&self, vm: VmId) -> bool {
        use crate::event::RunState;
        match &self.vms[vm.index()].guest.monitor {
            Monitor::Unknown | Monitor::Absent { .. } => false,
            Monitor::Present { state: RunState::Sent | RunState::Other, .. } => false,
            Monitor::Present { state: RunState::Running | RunState::Paused | RunState::IoError, .. } => true,
        }
    }

    /// What is to be said of its hypervisor and of what was done to it here.
    pub(super) fn is_shown_here(&self, vm: VmId) -> bool {
        match &self.vms[vm.index()].travel.place {
            Place::Arriving(_) | Place::Elsewhere { .. } => false,
            Place::Here | Place::Placing { .. } | Place::Leaving { .. } => self.owned_elsewhere(vm).is_none(),
        }
    }

    /// Why it is where it is.
    pub(super) fn because_place(&self, vm: VmId, now: Instant, because: &mut Vec<String>) {
        match &self.vms[vm.index()].travel.place {
            Place::Here => match self.owned_elsewhere(vm) {
                Some(owner) => because.push(at_words(owner)),
                None => self.because_here(vm, now, because),
            },
            Place::Placing { reason, whereto, .. } => because.push(match whereto {
                Whereto::Best => format!("a host that can have it is looked for: {}", reason.rule),
                Whereto::Named(host) | Whereto::Home(host) => {
                    format!("it is asked whether {host} can have it: {}", reason.rule)
                }
            }),
            Place::Leaving { reason, machine } => {
                because.push(format!("it is being moved to {}: {}", machine.plan().to, reason.rule));
                because.push(leaving(machine, now).doing);
            }
            Place::Arriving(machine) => {
                because.push(format!("it comes from {}: {}", machine.plan().from, machine.plan().rule));
                because.push(arriving(machine, now).doing);
            }
            Place::Elsewhere { host } => because.push(match self.foreign_owner(vm) {
                Some(owner) => at_words(owner),
                None => format!("it has left for {host}"),
            }),
        }
    }

    /// Why it stayed, and which of its units it may not use.
    fn because_here(&self, vm: VmId, now: Instant, because: &mut Vec<String>) {
        for (unit, ownership) in self.not_ours(vm) {
            let why = ownership.hold_words().unwrap_or_default();
            because.push(format!("its requests to {} are held: {why}", self.spec.unit_name(unit)));
        }
        because.extend(self.halt_words(vm, now));
        let state = &self.vms[vm.index()];
        if let Some(tried) = state.travel.tried.as_ref().filter(|tried| tried.again > now) {
            let rest = seconds(tried.again.since(now));
            let is_told = state.blocked.as_ref().is_some_and(|(_, text)| text.contains(&tried.why));
            let why = if is_told { String::new() } else { format!(": {}", tried.why) };
            because.push(format!("its last move came to nothing{why}; no rule tries it again for {rest}"));
        }
    }

    /// The units to which a guest that is here may not write now.
    fn not_ours(&self, vm: VmId) -> Vec<(UnitId, &Ownership)> {
        if self.spec.cluster.is_none() || !self.is_in_its_hypervisor(vm) {
            return vec![];
        }
        let owned = |disk: &DiskId| self.spec.disk(*disk).writers == Writers::One;
        let units = self.spec.disks_of_vm(vm).filter(owned).map(|disk| self.spec.disk(disk).unit);
        let owners = units.map(|unit| (unit, self.owner(unit)));
        owners.filter(|(_, ownership)| !ownership.may_dispatch()).collect()
    }

    /// What ends the state of a VM that is on its way, or whose units are not this host's; none of one that is here and well.
    pub(super) fn place_wait(&self, vm: VmId, now: Instant) -> Option<String> {
        match &self.vms[vm.index()].travel.place {
            Place::Here => self.not_ours(vm).first().map(|(unit, ownership)| match ownership {
                Ownership::Theirs(owner) => format!(
                    "{} to let go of {} (end the guest of it that runs there, or, if that host is dead, \
                     `vmpath disk takeover`)",
                    owner.host,
                    self.spec.unit_name(*unit)
                ),
                Ownership::Unknown | Ownership::Free | Ownership::Ours { .. } | Ownership::Uncertain => {
                    format!("the store to say that {} is this host's", self.spec.unit_name(*unit))
                }
            }),
            Place::Elsewhere { .. } => None,
            Place::Placing { until, .. } => {
                Some(format!("word of the other hosts; {}", at_most(*until, now, "it stays")))
            }
            Place::Leaving { machine, .. } => Some(leaving(machine, now).until),
            Place::Arriving(machine) => Some(arriving(machine, now).until),
        }
    }
}

fn at_words(owner: &Owner) -> String {
    format!("it is at {}: its disks are owned there (epoch {})", owner.host, owner.epoch)
}

fn at_most(until: Instant, now: Instant, then: &str) -> String {
    format!("for another {} at most, then {then}", seconds(until.since(now)))
}

fn again(what: &str, at: Instant, now: Instant) -> String {
    let pause = at.since(now);
    if pause == Duration::ZERO { what.into() } else { format!("{what}; asked again in {}", seconds(pause)) }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// At the source.
fn leaving(machine: &Source, now: Instant) -> Step {
    use source::State;
    let to = &machine.plan().to;
    let step = |doing: String, until: String| Step { doing, until };
    match machine.state() {
        State::Probing { until } => step(
            format!("{to} is asked to read each of its units"),
            format!("the answer of {to}; {}", at_most(*until, now, "it stays")),
        ),
        State::Claiming { until } => step(
            format!("{to} reads all of its units; room is claimed there"),
            format!("the store's answer; {}", at_most(*until, now, "it stays")),
        ),
        State::Preparing { until } => step(
            format!("its hypervisor is being launched at {to}"),
            format!("that one to wait for it; {}", at_most(*until, now, "it stays")),
        ),
        State::Transferring { watch } => step(
            transfer_words(machine),
            format!(
                "its memory to be at {to}; given up if it gets nowhere for another {}",
                seconds(watch.deadline().since(now))
            ),
        ),
        State::Settling { until } => step(
            "it stands still: what live paths can finish is finished, the rest is cut off".into(),
            format!("its requests to come to rest; {}", at_most(*until, now, "the move is cancelled")),
        ),
        State::HandingOver { until, .. } => step(
            format!("it stands still: {to} is told what of its requests is open"),
            format!("{to} to store that; {}", at_most(*until, now, "the move is cancelled")),
        ),
        State::Committing { until } => step(
            format!("it stands still: its units are being given to {to}"),
            format!("the store's answer; {}", at_most(*until, now, "their owner is read")),
        ),
        State::Uncertain { .. }
        | State::Continuing { .. }
        | State::Stranded { .. }
        | State::Cancelling { .. }
        | State::Stuck { .. }
        | State::Ended(_) => leaving_late(machine, now),
    }
}

fn transfer_words(machine: &Source) -> String {
    let runs = match &machine.plan().vm_state {
        VmCarry::Running => "; it runs here meanwhile",
        VmCarry::Suspended { .. } | VmCarry::StoppedByOther => "",
    };
    match machine.transfer() {
        Some((sent, left)) => {
            format!("its memory is being sent: {} sent, {} left{runs}", mib(sent), mib(left))
        }
        None => format!("its memory is about to be sent{runs}"),
    }
}

/// From the commit on, and when it is cancelled.
fn leaving_late(machine: &Source, now: Instant) -> Step {
    use source::State;
    let to = &machine.plan().to;
    let step = |doing: String, until: String| Step { doing, until };
    match machine.state() {
        State::Uncertain { why, pace, .. } => step(
            format!(
                "it is not known whether its units have gone to {to}: {why}; both ends hold its requests"
            ),
            again("the store to say who owns its units", pace.at, now),
        ),
        State::Continuing { pace, sent: source::Sent::NotYet, .. } => step(
            format!("its units belong to {to} now; QEMU sends the rest"),
            again("QEMU to say that all of it is there", pace.at, now),
        ),
        State::Continuing { pace, sent: source::Sent::All { .. }, .. } => step(
            format!("its units belong to {to} now; QEMU has sent all of it"),
            again(&format!("{to} to say that it runs there"), pace.at, now),
        ),
        State::Stranded { why, pace } => step(
            format!(
                "QEMU has failed after its units were given to {to}: {why}; it is stopped here until {to} says \
                 whether it runs there"
            ),
            again(&format!("{to} to give its units back, or to say that it runs there"), pace.at, now),
        ),
        State::Cancelling { why, pace, .. } => step(
            format!("the move is cancelled: {why}"),
            again("QEMU to say that it is cancelled", pace.at, now),
        ),
        State::Stuck { why, .. } => step(
            format!(
                "QEMU has sent it to {to} although its units stay here ({why}): somebody else has told it to go on; \
                 no host serves its disks"
            ),
            format!(
                "you: end its hypervisor at {to}, continue it here by hand, then `vmpath vm migrate {} --cancel`; or end \
                 its process here",
                machine.plan().vm
            ),
        ),
        State::Probing { .. }
        | State::Claiming { .. }
        | State::Preparing { .. }
        | State::Transferring { .. }
        | State::Settling { .. }
        | State::HandingOver { .. }
        | State::Committing { .. }
        | State::Ended(_) => step("its move is over".into(), "nothing".into()),
    }
}

/// At the destination.
fn arriving(machine: &Destination, now: Instant) -> Step {
    use destination::State;
    let from = &machine.plan().from;
    let step = |doing: String, until: String| Step { doing, until };
    match machine.state() {
        State::Launching { until } => step(
            "its hypervisor is being launched here".into(),
            format!("that one to wait for it; {}", at_most(*until, now, "it does not come")),
        ),
        State::Prepared { uri, until } => step(
            format!("its hypervisor waits for its memory at {uri}"),
            format!("{from} to hand it over, or to give it up; {}", at_most(*until, now, "it does not come")),
        ),
        State::Storing { until, .. } => step(
            format!("what {from} hands over is being stored"),
            format!("that to be in its file; {}", at_most(*until, now, "it is handed over again")),
        ),
        State::Stored { until, .. } => step(
            format!("what {from} hands over is stored"),
            format!("its units to be this host's; {}", at_most(*until, now, "this end gives it up")),
        ),
        State::Owned { pace, .. } => step(
            "its units are this host's; its rings begin with what was handed over".into(),
            again("its hypervisor here to have all of it", pace.at, now),
        ),
        State::Taken { pace } => step(
            "its requests are served here".into(),
            again("its hypervisor here to have all of it", pace.at, now),
        ),
        State::Barring { .. }
        | State::Renewing { .. }
        | State::Recalled { .. }
        | State::Withdrawing { .. }
        | State::GivingBack { .. }
        | State::Discarding { .. }
        | State::Ended(_) => arriving_late(machine, now),
    }
}

/// When one of the two ends cannot go on.
fn arriving_late(machine: &Destination, now: Instant) -> Step {
    use destination::State;
    let from = &machine.plan().from;
    let step = |doing: String, until: String| Step { doing, until };
    match machine.state() {
        State::Barring { why, pace } => step(
            format!("this end gives it up, unless its units have come meanwhile: {why}"),
            again("the store to say who owns its units", pace.at, now),
        ),
        State::Renewing { pace, .. } => step(
            "vmpath was restarted: its units are this host's, and become so under a new epoch".into(),
            again("the store's answer", pace.at, now),
        ),
        State::Recalled { why, pace, .. } => step(
            format!("{from} cannot go on ({why}); if it has not landed here it is given back"),
            again("its hypervisor here to say whether it has landed", pace.at, now),
        ),
        State::Withdrawing { why, pace, .. } => step(
            format!("it is given back to {from} if nothing of it has begun: {why}"),
            again("the data plane to say what has begun", pace.at, now),
        ),
        State::GivingBack { why, pace, .. } => step(
            format!("its units are given back to {from}: {why}"),
            again("the store's answer", pace.at, now),
        ),
        State::Discarding { why, pace } => step(
            format!("it does not come: {why}; its hypervisor here is ended"),
            again("that process to end", pace.at, now),
        ),
        State::Launching { .. }
        | State::Prepared { .. }
        | State::Storing { .. }
        | State::Stored { .. }
        | State::Owned { .. }
        | State::Taken { .. }
        | State::Ended(_) => step("its move is over".into(), "nothing".into()),
    }
}
