//! The scheduler as one would write it down without thinking of speed: it scans, and keeps the history of each account.
//!
//! A refund strikes the charge out of the history and replays the rest, which is what "as if it had never been charged" means. It shares no
//! code with the scheduler but the words. It leaves out the bound on a class's lead; tests that use it stay below that.

use super::{ClassId, Cost, Phase};
use crate::spec::Spec;

const NANO: i128 = 1_000_000_000;
const DEBT: i128 = 500_000_000;
const PAGE: u64 = 1 << 28;

#[derive(Clone, Debug)]
enum Entry {
    Add(u64, i128),
    /// Falls, but not below zero.
    Fall(i128),
    AtLeast(i128),
    /// What was before counts no more.
    Reset,
}

#[derive(Clone, Debug, Default)]
struct Account(Vec<Entry>);

impl Account {
    fn level(&self) -> i128 {
        self.0.iter().fold(0, |level, entry| match entry {
            Entry::Add(_, by) => level + by,
            Entry::Fall(by) => (level - by).max(0),
            Entry::AtLeast(floor) => level.max(*floor),
            Entry::Reset => 0,
        })
    }

    fn strike(&mut self, number: u64) {
        self.0.retain(|e| !matches!(e, Entry::Add(n, _) if *n == number));
    }
}

/// A bucket with the time of its last entry.
#[derive(Clone, Debug, Default)]
struct Bucket {
    rate: Option<i128>,
    burst: i128,
    account: Account,
    at: i128,
}

impl Bucket {
    fn fall(&mut self, now: i128) {
        self.account.0.push(Entry::Fall(self.rate.unwrap_or(0) * (now - self.at)));
        self.at = now;
    }

    fn free_at(&self) -> Option<i128> {
        let rate = self.rate?;
        let level = self.account.level();
        Some((self.at + (level + rate - 1) / rate - self.burst).max(0))
    }

    fn set(&mut self, rate: Option<i128>, burst: i128, now: i128) {
        self.fall(now);
        if self.rate.is_none() || rate.is_none() {
            self.account.0.push(Entry::Reset);
        }
        (self.rate, self.burst) = (rate, burst);
    }

    fn add(&mut self, number: u64, amount: u64, now: i128) {
        if self.rate.is_some() {
            self.fall(now);
            self.account.0.push(Entry::Add(number, i128::from(amount) * NANO));
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Competitor {
    page: u64,
    weight: Account,
    bytes: Bucket,
    requests: Bucket,
    reserved: Bucket,
    held: bool,
}

impl Competitor {
    fn weight(&self) -> i128 {
        self.weight.level()
    }

    fn due(&self) -> i128 {
        self.reserved.free_at().unwrap_or(i128::MAX)
    }

    fn allowed_at(&self) -> i128 {
        self.bytes.free_at().unwrap_or(0).max(self.requests.free_at().unwrap_or(0))
    }

    fn set(&mut self, numbers: (u32, [Option<u64>; 3], i128), now: i128) {
        let (shares, [reservation, limit, iops], burst) = numbers;
        self.page = PAGE / u64::from(shares);
        self.bytes.set(limit.map(i128::from), burst, now);
        self.requests.set(iops.map(i128::from), burst, now);
        let (old, new) = (self.reserved.rate, reservation.map(i128::from));
        self.reserved.set(new, DEBT, now);
        match (old, new) {
            (Some(old), Some(new)) => {
                self.reserved.account.0.push(Entry::Add(0, new * DEBT));
                self.reserved.account.0.push(Entry::Fall(old * DEBT));
            }
            (None, Some(new)) => self.reserved.account.0.push(Entry::AtLeast(new * DEBT)),
            (_, None) => {}
        }
    }

    fn arrive(&mut self, now: i128) {
        if let Some(rate) = self.reserved.rate {
            self.reserved.fall(now);
            self.reserved.account.0.push(Entry::AtLeast(rate * (DEBT - 2_000_000)));
        }
        self.held = self.allowed_at() > now;
    }

    fn charge(&mut self, number: u64, cost: Cost, phase: Phase, now: i128) {
        self.weight.0.push(Entry::Add(number, i128::from(cost.device_bytes() / 4096 * self.page)));
        self.bytes.add(number, cost.bytes, now);
        self.requests.add(number, 1, now);
        let ahead = self.reserved.rate.is_some() && self.due() > now + 500_000_000;
        if phase == Phase::Reservation && !ahead {
            self.reserved.add(number, cost.bytes, now);
        }
    }

    fn refund(&mut self, number: u64) {
        for account in [
            &mut self.weight,
            &mut self.bytes.account,
            &mut self.requests.account,
            &mut self.reserved.account,
        ] {
            account.strike(number);
        }
    }

    fn at_least(&mut self, weight: i128) {
        self.weight.0.push(Entry::AtLeast(weight));
    }

    fn released(&mut self, least: Option<i128>) {
        self.held = false;
        if let Some(least) = least {
            self.at_least(least - i128::from(64 * self.page));
        }
    }
}

/// Virtual time: each turn, with the least weight then.
type Turns = Vec<(u64, Option<i128>)>;

fn time(turns: &Turns) -> i128 {
    turns.iter().filter_map(|(_, least)| *least).max().unwrap_or(0)
}

pub(super) struct Model {
    pub(super) spec: Spec,
    vms: Vec<Competitor>,
    groups: Vec<Competitor>,
    /// (VM, class), in the order in which they came.
    waits: Vec<(usize, usize)>,
    clocks: [Turns; 2],
    inner: Vec<Turns>,
    /// When each of them last took note of a turn.
    moved: [i128; 2],
    inner_moved: Vec<i128>,
    now: i128,
    charges: u64,
}

/// Classes 0 and 1 are of one target, class 2 of another.
pub(super) fn target(class: usize) -> usize {
    class / 2
}

impl Model {
    pub(super) fn new(spec: Spec) -> Self {
        let vms = vec![Competitor::default(); spec.vms.len()];
        let groups = vec![Competitor::default(); spec.groups.len()];
        let inner = vec![Turns::new(); spec.groups.len()];
        let mut model = Self {
            spec: spec.clone(),
            vms,
            groups,
            waits: vec![],
            clocks: [vec![], vec![]],
            moved: [0; 2],
            inner_moved: vec![0; spec.groups.len()],
            inner,
            now: 0,
            charges: 0,
        };
        model.configure(spec, 0);
        model
    }

    /// Numbers may change; the VMs, the groups and who is in which stay.
    pub(super) fn configure(&mut self, spec: Spec, now: u64) {
        self.now = self.now.max(now.into());
        let now = self.now;
        for (vm, s) in self.vms.iter_mut().zip(&spec.vms) {
            let rates = [s.reservation.map(|r| r.0), s.limit.map(|l| l.0), s.limit_iops];
            vm.set((s.shares, rates, s.limit_burst.as_nanos() as i128), now);
            vm.held |= vm.allowed_at() > now;
        }
        for (group, s) in self.groups.iter_mut().zip(&spec.groups) {
            let rates = [s.reservation.map(|r| r.0), s.limit.map(|l| l.0), s.limit_iops];
            group.set((s.shares, rates, s.limit_burst.as_nanos() as i128), now);
            group.held |= group.allowed_at() > now;
        }
        self.spec = spec;
    }

    fn group_of(&self, vm: usize) -> Option<usize> {
        self.spec.vms[vm].group.map(crate::ids::GroupId::index)
    }

    fn members(&self, group: usize) -> Vec<usize> {
        (0..self.vms.len()).filter(|vm| self.group_of(*vm) == Some(group)).collect()
    }

    fn waits_in(&self, vm: usize, class: usize) -> bool {
        self.waits.contains(&(vm, class))
    }

    fn is_idle(&self, vm: usize) -> bool {
        !self.waits.iter().any(|(v, _)| *v == vm)
    }

    fn eligible(&self, vm: usize, class: usize) -> bool {
        let group_held = self.group_of(vm).is_some_and(|g| self.groups[g].held);
        self.waits_in(vm, class) && !self.vms[vm].held && !group_held
    }

    fn outer_weight(&self, vm: usize) -> i128 {
        self.group_of(vm).map_or(self.vms[vm].weight(), |g| self.groups[g].weight())
    }

    fn least(&self, class: usize) -> Option<i128> {
        (0..self.vms.len()).filter(|vm| self.eligible(*vm, class)).map(|vm| self.outer_weight(vm)).min()
    }

    /// Of the members that are held by nothing of their own.
    fn least_inside(&self, group: usize, class: usize) -> Option<i128> {
        let members = self.members(group).into_iter();
        members
            .filter(|vm| self.waits_in(*vm, class) && !self.vms[*vm].held)
            .map(|vm| self.vms[vm].weight())
            .min()
    }

    pub(super) fn join(&mut self, vm: usize, class: usize, now: u64) {
        if self.waits_in(vm, class) {
            return;
        }
        self.now = self.now.max(now.into());
        if self.is_idle(vm) {
            self.vms[vm].arrive(self.now);
        }
        let outer = time(&self.clocks[target(class)]);
        let Some(group) = self.group_of(vm) else {
            let moves = self.waits.iter().any(|(who, other)| *who == vm && target(*other) == target(class));
            if !moves {
                self.vms[vm].at_least(outer);
            }
            return self.waits.push((vm, class));
        };
        let members = self.members(group);
        if members.iter().all(|vm| self.is_idle(*vm)) {
            self.groups[group].arrive(self.now);
        }
        if !members.iter().any(|vm| self.waits_in(*vm, class)) {
            self.groups[group].at_least(outer);
        }
        let inner = time(&self.inner[group]);
        self.vms[vm].at_least(inner);
        self.waits.push((vm, class));
    }

    pub(super) fn leave(&mut self, vm: usize, class: usize) {
        self.waits.retain(|wait| *wait != (vm, class));
    }

    /// When the first of an allocation may go on that may not now.
    fn timer(&self, who: usize) -> Option<i128> {
        let Some(group) = who.checked_sub(self.vms.len()) else {
            let lone = self.group_of(who).is_none() && !self.is_idle(who) && self.vms[who].held;
            return lone.then(|| self.vms[who].allowed_at());
        };
        let waiting: Vec<usize> = self.members(group).into_iter().filter(|vm| !self.is_idle(*vm)).collect();
        let own = |vm: &usize| if self.vms[*vm].held { self.vms[*vm].allowed_at() } else { 0 };
        if self.groups[group].held {
            waiting.iter().map(|vm| own(vm).max(self.groups[group].allowed_at())).min()
        } else {
            waiting.iter().filter(|vm| self.vms[**vm].held).map(own).min()
        }
    }

    fn timers(&self) -> Option<(i128, usize)> {
        let all = self.vms.len() + self.groups.len();
        (0..all).filter_map(|who| Some((self.timer(who)?, who))).min()
    }

    pub(super) fn wake(&self) -> Option<u64> {
        self.timers().map(|(at, _)| at as u64)
    }

    pub(super) fn advance(&mut self, now: u64) {
        self.now = self.now.max(now.into());
        while let Some((_, who)) = self.timers().filter(|(at, _)| *at <= self.now) {
            let classes: Vec<usize> = (0..3).collect();
            let Some(group) = who.checked_sub(self.vms.len()) else {
                let here = classes.iter().filter(|c| self.waits_in(who, **c));
                let last = here.map(|c| time(&self.clocks[target(*c)])).max();
                self.vms[who].released(last);
                continue;
            };
            if self.groups[group].held {
                let members = self.members(group);
                let here = classes.iter().filter(|c| members.iter().any(|vm| self.waits_in(*vm, **c)));
                let last = here.map(|c| time(&self.clocks[target(*c)])).max();
                self.groups[group].released(last);
            }
            let held = |model: &Self, vm: &usize| {
                let it = &model.vms[*vm];
                (!model.is_idle(*vm) && it.held && it.allowed_at() <= model.now).then(|| it.allowed_at())
            };
            // In the order of their times, and then of their places: by priority, and by id.
            let place = |model: &Self, vm: usize| (std::cmp::Reverse(model.spec.vms[vm].priority), vm);
            while let Some((_, _, vm)) = self
                .members(group)
                .into_iter()
                .filter_map(|vm| Some((held(self, &vm)?, place(self, vm), vm)))
                .min()
            {
                let here = classes.iter().filter(|c| self.waits_in(vm, **c));
                let last = here.map(|_| time(&self.inner[group])).max();
                self.vms[vm].released(last);
            }
        }
    }

    pub(super) fn pick(&self, class: usize, now: u64) -> Option<(usize, Phase)> {
        let priority = |vm: usize| self.spec.vms[vm].priority;
        let all: Vec<usize> = (0..self.vms.len()).filter(|vm| self.eligible(*vm, class)).collect();
        // Who stands first among equals: the higher priority, VMs alone before groups, the lower number.
        let order = |vm: usize| {
            let group = self.group_of(vm);
            (std::cmp::Reverse(priority(vm)), group.is_some(), group.unwrap_or(vm))
        };
        let due = |vm: usize| {
            let group = self.group_of(vm).map_or(i128::MAX, |g| self.groups[g].due());
            self.vms[vm].due().min(group)
        };
        let now = i128::from(now);
        let seat_due = |vm: usize| all.iter().filter(|o| order(**o) == order(vm)).map(|o| due(*o)).min();
        let first = all
            .iter()
            .filter(|vm| seat_due(**vm) <= Some(now))
            .min_by_key(|vm| (std::cmp::Reverse(priority(**vm)), seat_due(**vm), order(**vm)));
        if let Some(first) = first {
            let seat = all.iter().copied().filter(|vm| order(*vm) == order(*first));
            let own = seat.clone().filter(|vm| self.vms[*vm].due() <= now);
            let vm = match own.min_by_key(|vm| (self.vms[*vm].due(), *vm)) {
                Some(vm) => Some(vm),
                None => seat.min_by_key(|vm| (self.vms[*vm].weight(), *vm)),
            };
            return vm.map(|vm| (vm, Phase::Reservation));
        }
        let first = all.iter().copied().min_by_key(|vm| (self.outer_weight(*vm), order(*vm)))?;
        let vm = match self.group_of(first) {
            None => first,
            Some(group) => all
                .iter()
                .copied()
                .filter(|vm| self.group_of(*vm) == Some(group))
                .min_by_key(|vm| (self.vms[*vm].weight(), std::cmp::Reverse(priority(*vm)), *vm))?,
        };
        Some((vm, Phase::Weight))
    }

    pub(super) fn charge(&mut self, vm: usize, class: ClassId, phase: Phase, cost: Cost, now: u64) -> u64 {
        self.now = self.now.max(now.into());
        let (now, class) = (self.now, class.0 as usize);
        self.charges += 1;
        let number = self.charges;
        let counts = |moved: i128| phase == Phase::Weight || now >= moved + 1_000_000_000;
        let of_target = (0..3).filter(|c| target(*c) == target(class)).filter_map(|c| self.least(c)).min();
        let least = of_target.filter(|_| counts(self.moved[target(class)]));
        if least.is_some() {
            self.moved[target(class)] = now;
        }
        self.clocks[target(class)].push((number, least));
        if let Some(group) = self.group_of(vm) {
            let least = self.least_inside(group, class).filter(|_| counts(self.inner_moved[group]));
            if least.is_some() {
                self.inner_moved[group] = now;
            }
            self.inner[group].push((number, least));
            self.groups[group].charge(number, cost, phase, now);
        }
        self.vms[vm].charge(number, cost, phase, now);
        self.hold(vm);
        number
    }

    fn hold(&mut self, vm: usize) {
        self.vms[vm].held = self.vms[vm].allowed_at() > self.now;
        if let Some(group) = self.group_of(vm) {
            self.groups[group].held = self.groups[group].allowed_at() > self.now;
        }
    }

    /// Weight, when due, when allowed: of each VM, then of each group.
    pub(super) fn tags(&self) -> Vec<(u64, u64, u64)> {
        let one = |c: &Competitor| {
            let due = u64::try_from(c.due()).unwrap_or(u64::MAX);
            (c.weight() as u64, due, c.allowed_at() as u64)
        };
        self.vms.iter().chain(&self.groups).map(one).collect()
    }

    pub(super) fn refund(&mut self, vm: usize, number: u64) {
        self.vms[vm].refund(number);
        let group = self.group_of(vm);
        if let Some(group) = group {
            self.groups[group].refund(number);
        }
        for turns in self.clocks.iter_mut().chain(group.map(|g| &mut self.inner[g])) {
            if turns.last().is_some_and(|(last, _)| *last == number) {
                turns.pop();
            }
        }
        self.hold(vm);
    }
}
