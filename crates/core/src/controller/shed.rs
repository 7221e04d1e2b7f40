//! Shedding: which VMs leave when what remains cannot carry the reservations.
//!
//! Invariant: only VMs outside the keep set leave, and only where a failure or the operator has taken a path away: an
//! overcommitted configuration with all paths up sheds nobody. Unknown capacity sheds nobody. A VM's reservation is
//! split evenly over its disks.
//! It does not know how a VM is suspended.

use super::words::seconds;
use super::{Controller, Reserve};
use crate::cluster::Whereto;
use crate::effect::{JournalKind, Subject};
use crate::ids::{IncidentId, PathId, TargetId, VmId};
use crate::mutant::{self, Mutant};
use crate::path::{Link, PathState, UnitReach};
use crate::plan::Health;
use crate::policy::fit::{Claim, Kept, Room};
use crate::policy::rules::{Migrating, Stopping, stopping};
use crate::policy::{Cause, Floor, Input, Outstanding, Reason, Why};
use crate::spec::{ByteRate, ShedWhen};
use crate::time::{Duration, Instant};
use std::cell::OnceCell;

/// So many kept VMs are named in a reason; a thousand names help nobody.
const KEPT_NAMED_MAX: usize = 5;

/// The numbers name every party, so the words for all who have lost their reservations cost the square of how many they are:
/// more than one event may take. Those that explain are so old at most.
const WORDS_KEEP_FOR: Duration = Duration::from_secs(1);

/// A path that dies loses its links one after the other, each when its own connection is seen dead: so soon the next may follow.
/// Who fits beside whom is not known before, and whoever is shed stays suspended until the repair.
const LINKS_FOLLOW_WITHIN: Duration = Duration::from_secs(1);

/// A target that carries less than it was configured for.
pub(super) struct Short {
    pub(super) target: TargetId,
    /// Down, on probation, disabled, or without the link of some unit.
    missing: Vec<PathId>,
    /// Until then a path that has lost some of its links may be about to lose them all.
    unfolds_until: Option<Instant>,
}

/// Who of the running VMs stays and who leaves.
pub(super) struct Verdict {
    pub(super) short: Vec<Short>,
    /// Those that run and have a reservation, highest priority first.
    parties: Vec<VmId>,
    /// By `VmId`; others stay.
    kept: Vec<Kept>,
    /// What those who stay leave over.
    pub(super) room: Room,
}

/// A VM that does not get what it reserved.
#[derive(Clone, Copy, Debug)]
struct Shortage {
    vm: VmId,
    since: Instant,
    got: ByteRate,
}

/// Why somebody is shed now.
#[derive(Clone, Copy, Debug)]
enum Trigger {
    Reserved,
    Drain(PathId),
    Unmet(Shortage),
}

/// What a round of decisions or a view looks at: one time, and one verdict, worked out when somebody asks for it.
pub(super) struct Outlook {
    pub(super) now: Instant,
    pub(super) verdict: OnceCell<Verdict>,
    /// What is the matter with each path, by `PathId`: told of every VM that uses it, and found by a look at all its links.
    pub(super) troubles: OnceCell<Vec<Option<String>>>,
}

impl Outlook {
    pub(super) fn at(now: Instant) -> Self {
        Self { now, verdict: OnceCell::new(), troubles: OnceCell::new() }
    }
}

impl Verdict {
    pub(super) fn of(&self, vm: VmId) -> Kept {
        self.kept[vm.index()]
    }
}

impl Controller {
    /// Sheds whoever does not fit, and tells whose reservation is lost without a remedy.
    pub(super) fn shed(&mut self) {
        let verdict = self.verdict();
        self.unfolded_at = verdict.short.iter().filter_map(|s| s.unfolds_until).min();
        let reserved: Vec<_> =
            self.order.iter().copied().filter(|vm| self.spec.vm(*vm).reservation.is_some()).collect();
        let unmet: Vec<_> = verdict.parties.iter().copied().filter_map(|vm| self.shortage(vm)).collect();
        let leave: Vec<_> = reserved
            .iter()
            .filter(|vm| verdict.of(**vm) == Kept::Leaves)
            .filter_map(|vm| Some((*vm, self.trigger(*vm, &verdict, &unmet)?)))
            .collect();
        for (vm, trigger) in &leave {
            self.shed_one(*vm, &verdict, *trigger);
        }
        // They come in the same order.
        let mut leaving = leave.iter().map(|(vm, _)| *vm).peekable();
        for vm in reserved {
            if leaving.next_if_eq(&vm).is_none() {
                self.watch_reservation(vm, verdict.of(vm));
            }
        }
    }

    /// The keep set among the running VMs.
    pub(super) fn verdict(&self) -> Verdict {
        let short: Vec<_> =
            (0..self.spec.targets.len()).filter_map(|t| self.short(TargetId::at(t))).collect();
        let capacities = self.spec.paths.iter().map(|p| p.capacity.map_or(0, |rate| rate.0)).collect();
        let mut verdict = Verdict {
            short,
            parties: vec![],
            kept: vec![Kept::Stays; self.vms.len()],
            room: Room::new(capacities),
        };
        if verdict.short.is_empty() {
            return verdict;
        }
        let mut order = self.order.clone();
        if mutant::active(Mutant::ShedHighest) {
            order.reverse();
        }
        for vm in &order {
            if self.spec.vm(*vm).reservation.is_some() && self.runs(*vm) {
                verdict.parties.push(*vm);
                verdict.kept[vm.index()] = verdict.room.admit(&self.claims(*vm, &verdict.short));
            }
        }
        verdict
    }

    /// What it asks of the paths of short targets. A unit to which no trusted path leads asks for nothing: whoever left for that
    /// would make no room for anybody, and `on_no_path` governs as it does when a whole target has none.
    pub(super) fn claims(&self, vm: VmId, short: &[Short]) -> Vec<Claim> {
        let mut claims = self.wishes(vm, |target| short.iter().any(|s| s.target == target));
        claims.retain(|claim| !claim.paths.is_empty());
        claims
    }

    /// Bytes per second of its reservation that no trusted path leads to.
    pub(super) fn uncarried(&self, vm: VmId, short: &[Short]) -> u64 {
        let wishes = self.wishes(vm, |target| short.iter().any(|s| s.target == target));
        wishes.iter().filter(|wish| wish.paths.is_empty()).map(|wish| wish.bytes).sum()
    }

    /// What its reservation asks of the paths of these targets, by unit.
    pub(super) fn wishes(&self, vm: VmId, of: impl Fn(TargetId) -> bool) -> Vec<Claim> {
        let reach = self.network.reach(vm);
        let disks: u32 = reach.units.iter().map(|u| u.disks).sum();
        let reservation = self.spec.vm(vm).reservation.map_or(0, |rate| rate.0);
        let each = reservation / u64::from(disks.max(1));
        let wish = |u: &UnitReach| {
            let carry = u.paths.iter().filter(|p| self.network.carries(**p, u.unit));
            Claim { bytes: each * u64::from(u.disks), paths: carry.map(|p| p.index()).collect() }
        };
        let units = reach.units.iter().filter(|u| of(u.target));
        units.map(wish).collect()
    }

    /// None if the target is whole, still connecting, without any trusted path (`on_no_path` governs), or of unknown
    /// capacity.
    pub(super) fn short(&self, target: TargetId) -> Option<Short> {
        let paths: Vec<_> = self.spec.path_ids().filter(|p| self.spec.path(*p).target == target).collect();
        let connecting = |p: &PathId| matches!(self.network.state(*p), PathState::Connecting { .. });
        let up = |p: &PathId| self.network.state(*p).health() == Health::Up;
        if paths.iter().any(connecting) || !paths.iter().any(up) {
            return None;
        }
        if paths.iter().any(|p| up(p) && self.spec.path(*p).capacity.is_none()) {
            return None;
        }
        let (mut missing, mut lost_at) = (vec![], None);
        for path in paths {
            let last_lost = if up(&path) { self.last_lost(path) } else { None };
            if !up(&path) || last_lost.is_some() {
                missing.push(path);
            }
            lost_at = lost_at.max(last_lost);
        }
        let unfolds_until = lost_at.map(|at| at + LINKS_FOLLOW_WITHIN).filter(|until| *until > self.now);
        (!missing.is_empty()).then_some(Short { target, missing, unfolds_until })
    }

    /// When it lost the latest of the links that it is without.
    fn last_lost(&self, path: PathId) -> Option<Instant> {
        let lost = self.network.links_of(path).filter_map(|(_, link)| match link {
            Link::Down { since, .. } => Some(*since),
            Link::Connecting { .. } | Link::Up { .. } => None,
        });
        lost.max()
    }

    fn shortage(&self, vm: VmId) -> Option<Shortage> {
        let (since, got) = self.vms[vm.index()].floor.unmet()?;
        Some(Shortage { vm, since, got })
    }

    /// Why shedding happens now. In a host with many VMs this is asked for each, so it says no words.
    fn trigger(&self, vm: VmId, verdict: &Verdict, unmet: &[Shortage]) -> Option<Trigger> {
        let mut short = verdict.short.iter().filter(|s| self.meets_target(vm, s.target));
        let by_sums = match self.spec.host.shed_when {
            ShedWhen::Reserved => short.all(|s| s.unfolds_until.is_none()),
            ShedWhen::Unmet => false,
        };
        if by_sums {
            return Some(Trigger::Reserved);
        }
        match self.drains_for(vm, verdict) {
            Some(path) => Some(Trigger::Drain(path)),
            None => unmet.iter().find(|o| self.meets(vm, o.vm, verdict)).copied().map(Trigger::Unmet),
        }
    }

    fn trigger_words(&self, trigger: Trigger) -> String {
        match trigger {
            Trigger::Reserved => "shed_when = \"reserved\"".into(),
            Trigger::Drain(path) => format!("{} is being drained", self.spec.path_name(path)),
            Trigger::Unmet(Shortage { vm, since, got }) => format!(
                "shed_when = \"unmet\": {} gets {got} of its {} for {}",
                self.spec.vm(vm).name,
                rate(self.spec.vm(vm).reservation),
                seconds(self.now.since(since))
            ),
        }
    }

    /// A path that is about to go, of a target that this VM uses: nothing has to be unmet for it.
    fn drains_for(&self, vm: VmId, verdict: &Verdict) -> Option<PathId> {
        let short = verdict.short.iter().filter(|s| self.meets_target(vm, s.target));
        let mut missing = short.flat_map(|s| s.missing.iter().copied());
        missing.find(|path| matches!(self.network.state(*path), PathState::Draining { .. }))
    }

    /// Both have a unit in the same short target.
    fn meets(&self, a: VmId, b: VmId, verdict: &Verdict) -> bool {
        let on = |vm: VmId, t: TargetId| self.network.reach(vm).units.iter().any(|u| u.target == t);
        verdict.short.iter().any(|s| on(a, s.target) && on(b, s.target))
    }

    fn shed_one(&mut self, vm: VmId, verdict: &Verdict, trigger: Trigger) {
        let Some(short) = verdict.short.iter().find(|s| self.meets_target(vm, s.target)) else { return };
        let open = self.incidents.of(short.target);
        let cannot = self.cannot_shed(vm, open);
        let is_fresh = |told: Instant| self.now.since(told) < WORDS_KEEP_FOR;
        let reserve = &self.vms[vm.index()].reserve;
        if cannot.is_some() && matches!(reserve, Reserve::Lost { told, .. } if is_fresh(*told)) {
            return;
        }
        let numbers = self.numbers(vm, verdict, short.target);
        let rule = format!("shedding, {}; {numbers}", self.trigger_words(trigger));
        if let Some(why) = cannot {
            let text = format!("{rule}; {why}, so only its reservation is lost");
            self.lose_reservation(vm, open, text);
            return;
        }
        let missing: Vec<_> = self.missing(vm, verdict);
        let leaves = self.may_leave(vm);
        let what = format!("{} cannot carry its reservations", self.spec.target(short.target).name);
        let incident = self.enter_incident(short.target, None, &what);
        self.vms[vm.index()].reserve = Reserve::Kept;
        // It is measured anew whether that was enough.
        for other in self.spec.vm_ids() {
            if self.meets(vm, other, verdict) {
                self.vms[other.index()].floor = Floor::Met;
            }
        }
        if leaves {
            let reason = Reason { incident: Some(incident), rule, requests: Outstanding::FailOver };
            return self.wants_move(vm, reason, Whereto::Best);
        }
        let cause = Cause { incident: Some(incident), why: Why::Shed { paths: missing }, rule };
        self.tell(vm, Input::Suspend(cause));
    }

    /// It is shed by a move, and not by a suspend.
    fn may_leave(&self, vm: VmId) -> bool {
        let may =
            self.spec.vm(vm).may_migrate && self.spec.cluster.is_some() && self.move_dwell(vm).is_none();
        may && self.network.unserved_unit(vm).is_none() && self.migrating(vm) == Migrating::Possible
    }

    pub(super) fn meets_target(&self, vm: VmId, target: TargetId) -> bool {
        self.network.reach(vm).units.iter().any(|u| u.target == target)
    }

    fn missing(&self, vm: VmId, verdict: &Verdict) -> Vec<PathId> {
        let short = verdict.short.iter().filter(|s| self.meets_target(vm, s.target));
        short.flat_map(|s| s.missing.iter().copied()).collect()
    }

    fn cannot_shed(&self, vm: VmId, open: Option<IncidentId>) -> Option<String> {
        let state = &self.vms[vm.index()];
        let name = &self.spec.vm(vm).name;
        if self.may_leave(vm) && (open.is_none() || state.pardon != open) {
            return None;
        }
        if !self.spec.vm(vm).may_suspend {
            return Some(format!("{name} has may_suspend = false"));
        }
        if open.is_some() && state.pardon == open {
            return Some(format!("{name} was resumed by hand in this incident"));
        }
        if !state.guest.run.undecided() || self.network.unserved_unit(vm).is_some() {
            return Some(format!("{name} is already held"));
        }
        match stopping(&state.guest.monitor, Outstanding::FailOver) {
            Stopping::Possible => None,
            Stopping::Moot => Some(format!("{name} does not run")),
            Stopping::Impossible(why) => Some(why),
        }
    }

    /// "reservations of 120.0 MiB/s do not fit the 100.0 MiB/s that san0/b carries; kept: …".
    fn numbers(&self, vm: VmId, verdict: &Verdict, target: TargetId) -> String {
        let there: Vec<_> =
            verdict.parties.iter().copied().filter(|other| self.meets_target(*other, target)).collect();
        let joins = (!there.contains(&vm)).then_some(vm);
        let asked =
            there.iter().chain(&joins).filter_map(|v| self.spec.vm(*v).reservation).map(|r| r.0).sum();
        let up: Vec<_> = self
            .spec
            .path_ids()
            .filter(|p| self.spec.path(*p).target == target)
            .filter(|p| self.network.state(*p).health() == Health::Up)
            .collect();
        let carried = up.iter().filter_map(|p| self.spec.path(*p).capacity).map(|c| c.0).sum();
        let names: Vec<_> = up.iter().map(|p| self.spec.path_name(*p)).collect();
        let stay: Vec<_> = there.into_iter().filter(|other| verdict.of(*other) == Kept::Stays).collect();
        let mut kept: Vec<_> = stay.iter().take(KEPT_NAMED_MAX).map(|other| self.claimant(*other)).collect();
        match stay.len() {
            0 => kept.push("nobody".into()),
            many if many > KEPT_NAMED_MAX => kept.push(format!("and {} more", many - KEPT_NAMED_MAX)),
            _ => {}
        }
        format!(
            "reservations of {} do not fit the {} that {} {}; kept: {}; no room for {}",
            ByteRate(asked),
            ByteRate(carried),
            names.join(" and "),
            if names.len() == 1 { "carries" } else { "carry" },
            kept.join(", "),
            self.claimant(vm)
        )
    }

    fn claimant(&self, vm: VmId) -> String {
        let spec = self.spec.vm(vm);
        format!("{} (priority {}, {})", spec.name, spec.priority, rate(spec.reservation))
    }

    /// A VM that stays: is what it was promised still kept?
    fn watch_reservation(&mut self, vm: VmId, kept: Kept) {
        let state = &self.vms[vm.index()];
        let (runs, unmet) = (self.runs(vm), state.floor.unmet());
        match (&state.reserve, unmet) {
            (Reserve::Kept, Some((since, got))) if runs => {
                let text = format!(
                    "it gets {got} of its {} for {}, and nobody can be shed for it",
                    rate(self.spec.vm(vm).reservation),
                    seconds(self.now.since(since))
                );
                let incident = self.network.reach(vm).units.iter().find_map(|u| self.incidents.of(u.target));
                self.lose_reservation(vm, incident, text);
            }
            (Reserve::Lost { since, .. }, None) if kept == Kept::Stays => {
                let text = format!("met again after {}", seconds(self.now.since(*since)));
                self.vms[vm.index()].reserve = Reserve::Kept;
                if runs {
                    self.record(JournalKind::ReservationMet, Subject::Vm(vm), None, text);
                }
            }
            (Reserve::Kept | Reserve::Lost { .. }, _) => {}
        }
    }

    fn lose_reservation(&mut self, vm: VmId, incident: Option<IncidentId>, why: String) {
        let state = &mut self.vms[vm.index()];
        match &mut state.reserve {
            Reserve::Kept => {
                state.reserve = Reserve::Lost { since: self.now, told: self.now, why: why.clone() };
                self.record(JournalKind::ReservationLost, Subject::Vm(vm), incident, why);
            }
            Reserve::Lost { told, why: last, .. } => (*told, *last) = (self.now, why),
        }
    }

    /// Where the VM would be shed again if it ran now, or would displace another; none if it fits beside the others.
    pub(super) fn lacks_room(&self, vm: VmId, look: &Outlook) -> Option<TargetId> {
        let verdict = look.verdict.get_or_init(|| self.verdict());
        let short = verdict.short.iter().find(|s| self.meets_target(vm, s.target))?;
        let fits = if verdict.parties.contains(&vm) {
            verdict.of(vm)
        } else {
            verdict.room.would_admit(&self.claims(vm, &verdict.short))
        };
        match fits {
            Kept::Stays => None,
            Kept::Leaves => Some(short.target),
        }
    }

    pub(super) fn room_words(&self, vm: VmId, target: TargetId, look: &Outlook) -> String {
        let verdict = look.verdict.get_or_init(|| self.verdict());
        format!("room for its reservation ({})", self.numbers(vm, verdict, target))
    }
}

fn rate(rate: Option<ByteRate>) -> String {
    rate.map_or_else(|| "no reservation".into(), |r| r.to_string())
}
