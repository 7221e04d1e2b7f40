//! What goes wrong; the list is in [`super`].

use super::ledger::{LinkState, Progress, Rule, require};
use super::storage::BLOCK;
use super::world::{Event, Sampling, Weather, World};
use crate::ids::{UnitId, VmId};
use crate::plan::{Failing, Gate, GateReason, Health, PathRoute, VmRoute};
use crate::router::{CloseMode, Confirmation, Extent, Fence, close_mode};
use crate::spec::Access;
use crate::time::Duration;
use crate::volume::verdict::TargetError;

impl World {
    pub(super) fn trouble(&mut self) -> bool {
        if self.weather == Weather::Calm {
            return false;
        }
        self.again(300..8000, Event::Trouble);
        let paths = self.wires.len();
        let path = self.rng.index(paths);
        match self.rng.below(100) {
            0..65 => {
                let open: Vec<usize> = self.links_open().collect();
                if open.is_empty() {
                    return false;
                }
                let link = self.rng.pick(&open);
                if self.rng.percent(50) {
                    return self.cut(link);
                }
                self.ledger.links[link].frozen = true;
                let after = self.rng.micros(500..8000);
                self.schedule(after, Event::Cut(link));
                false
            }
            65..82 => self.path_down(path, 20_000),
            82..87 => {
                // All paths at once. Each must be told, whatever came of the one before.
                let told: Vec<bool> = (0..paths).map(|p| self.path_down(p, 40_000)).collect();
                told.contains(&true)
            }
            _ => {
                self.fall_sick(path);
                false
            }
        }
    }

    fn links_open(&self) -> impl Iterator<Item = usize> + '_ {
        let links = self.ledger.links.iter().enumerate();
        links.filter(|(_, l)| l.state == LinkState::Open).map(|(at, _)| at)
    }

    fn path_down(&mut self, path: usize, micros: u64) -> bool {
        if !self.wires[path].up {
            return false;
        }
        self.wires[path].up = false;
        let after = self.rng.micros(1000..micros);
        self.schedule(after, Event::PathUp(path));
        let on_it: Vec<usize> = self.links_open().filter(|l| self.ledger.links[*l].path == path).collect();
        let told: Vec<bool> = on_it.into_iter().map(|link| self.cut(link)).collect();
        told.contains(&true)
    }

    /// The connection is lost: nothing more is sent. The worker notices now or only when it is dead.
    pub(super) fn cut(&mut self, link: usize) -> bool {
        if self.ledger.links[link].state != LinkState::Open {
            return false;
        }
        let told = self.rng.percent(70);
        self.ledger.links[link].frozen |= self.rng.percent(40);
        let after = self.rng.micros(0..3000);
        self.schedule(after, Event::Dead(link));
        self.ledger.links[link].state = if told { LinkState::Told } else { LinkState::Cut };
        if told {
            let (unsent, sent) = self.unsent_on(link);
            let unsent = self.driver.unsent(unsent, &sent);
            self.driver.closing(link, self.ledger.links[link].key, &unsent, self.now);
        }
        told
    }

    /// Cookies of what was not given to the socket, and of the rest.
    fn unsent_on(&self, link: usize) -> (Vec<u64>, Vec<u64>) {
        let attempts = self.ledger.links[link].in_flight.iter().map(|a| &self.ledger.attempts[*a]);
        let (unsent, sent): (Vec<_>, Vec<_>) = attempts.partition(|a| a.progress == Progress::Unsent);
        (unsent.iter().map(|a| a.cookie).collect(), sent.iter().map(|a| a.cookie).collect())
    }

    /// The socket is closed and reaped. What the target has received may be executed until the quiesce bound.
    pub(super) fn bury(&mut self, link: usize) {
        if self.ledger.links[link].state == LinkState::Dead {
            return; // with its process
        }
        let (mut unsent, sent) = self.unsent_on(link);
        // A worker that does not know how far a send has come calls it sent.
        unsent.retain(|_| self.rng.percent(80));
        let (reach, is_confirmed) = self.reach();
        let fence = self.now + reach;
        let (path, unit, key) = {
            let l = &self.ledger.links[link];
            (l.path, l.unit, l.key)
        };
        let carried = std::mem::take(&mut self.ledger.links[link].in_flight);
        self.losses[unit][path] |= !carried.is_empty();
        for attempt in carried {
            let progress = self.ledger.attempts[attempt].progress;
            let named_unsent = unsent.contains(&self.ledger.attempts[attempt].cookie);
            let is_write = self.ledger.attempts[attempt].request.operation.changes_data();
            self.ledger.lost(attempt, (!named_unsent).then_some(fence));
            self.tally.lost_writes += u64::from(is_write && !named_unsent);
            let lingers = progress == Progress::Unsent && close_mode() == CloseMode::Linger;
            if (progress == Progress::OnWire || lingers) && is_write && self.rng.percent(75) {
                let after = self.haunting(reach);
                self.schedule(after, Event::Ghost(attempt));
            }
        }
        self.ledger.links[link].state = LinkState::Dead;
        self.storage.link_dead(unit, link, || self.rng.percent(50));
        let unsent = self.driver.unsent(unsent, &sent);
        let by = Confirmation::SessionReinstatement;
        let at_latest = Some(self.scene.quiesce);
        let kind = if is_confirmed { Fence::Confirmed { by, at_latest } } else { Fence::QuiesceBound };
        let left = self.driver.dead((link, key), &unsent, kind, self.now);
        if is_confirmed {
            self.await_confirmation(link, left, reach);
        }
        let after = self.rng.micros(100..8000);
        self.schedule(after, Event::Connect { path, unit });
    }

    /// When a ghost takes effect: at any time before the bound, and often at the last moment.
    pub(super) fn haunting(&mut self, bound: Duration) -> Duration {
        let bound = u64::try_from(bound.as_nanos()).expect("under a second");
        let last = bound - 1;
        Duration::from_nanos(if self.rng.percent(30) { last } else { self.rng.below(bound) })
    }

    fn fall_sick(&mut self, path: usize) {
        use TargetError::{Busy, Invalid, Io, NoSpace, NotPermitted, ShuttingDown};
        self.wires[path].sick =
            Some(self.rng.pick(&[Io, Io, Io, Busy, Busy, NoSpace, Invalid, NotPermitted, ShuttingDown]));
        let after = self.rng.micros(500..10_000);
        self.schedule(after, Event::Well(path));
    }

    pub(super) fn new_plan(&mut self) -> bool {
        if self.weather == Weather::Calm {
            return false;
        }
        self.again(1000..40_000, Event::NewPlan);
        let mut plan = self.scene.plan(self.plan.generation + 1);
        for route in &mut plan.paths {
            *route = PathRoute {
                health: self.rng.pick(&[
                    Health::Up,
                    Health::Up,
                    Health::Up,
                    Health::Marginal,
                    Health::Down,
                    Health::Disabled,
                ]),
                access: self.rng.pick(&[Access::Optimized, Access::Optimized, Access::NonOptimized]),
                preferred: self.rng.percent(80),
            };
        }
        let reason = || GateReason { incident: None, text: "simulated".into() };
        for (at, vm) in plan.vms.iter_mut().enumerate() {
            let mut failing = Failing::default();
            for unit in plan.spec.units_of_vm(VmId::at(at)) {
                match self.rng.below(3) {
                    0 => failing.cut_off.push(unit),
                    1 => failing.refused.push(unit),
                    _ => {}
                }
            }
            let gate = match self.rng.below(20) {
                0 | 1 => Gate::Hold(reason()),
                2 => Gate::Bounce(reason()),
                3 => Gate::Fail(reason(), failing),
                _ => Gate::Open,
            };
            *vm = VmRoute { gate };
        }
        self.plan = plan.clone();
        self.driver.plan(plan);
        true
    }

    /// A client leaves: what it waited for is abandoned.
    pub(super) fn abandon(&mut self) -> bool {
        if self.weather == Weather::Calm || self.ledger.open.is_empty() {
            self.again(500..10_000, Event::Abandon);
            return false;
        }
        self.again(500..10_000, Event::Abandon);
        let token = self.rng.pick(&self.ledger.open);
        let record = &self.ledger.tokens[token as usize];
        if record.abandoned {
            return false;
        }
        self.tally.abandoned_in_flight += u64::from(record.attempt.is_some());
        let key = record.key;
        self.ledger.abandoned(token);
        self.driver.abandon(key, token);
        true
    }

    /// Two paths of a unit are to be compared: once writes to the ranges have ceased, what they hold stays.
    pub(super) fn sample(&mut self, unit: usize) -> bool {
        self.again(10_000..100_000, Event::Sample(unit));
        if self.weather == Weather::Calm || self.samplings[unit].is_some() {
            return false;
        }
        let range = |from: u64| from * BLOCK..(from + 3) * BLOCK;
        let wanted = [range(self.rng.below(8)), range(12 + self.rng.below(8))];
        let ranges = self.driver.begin_sampling(UnitId::at(unit), &wanted);
        self.samplings[unit] = Some(Sampling { ranges, seen: None });
        self.again(500..10_000, Event::SampleEnds(unit));
        true
    }

    pub(super) fn end_sample(&mut self, unit: usize) -> bool {
        let Some(sampling) = self.samplings[unit].take() else { return false };
        let id = UnitId::at(unit);
        if self.driver.router.sampling_is_spoilt(id) {
            self.driver.router.end_sampling(id, self.now);
            return true;
        }
        let now = self.contents(unit, &sampling.ranges);
        match sampling.seen {
            None if self.weather == Weather::Chaos => {
                let seen = self.driver.router.sampling_is_quiet(id).then_some(now);
                self.samplings[unit] = Some(Sampling { seen, ..sampling });
                self.again(500..10_000, Event::SampleEnds(unit));
                false
            }
            seen => {
                let same = seen.is_none_or(|seen| seen == now) || self.cache_may_vanish();
                require!(self.ledger, same, Rule::Sampling, || format!(
                    "unit {unit} changed while it was compared"
                ));
                self.tally.samplings += 1;
                self.driver.router.end_sampling(id, self.now);
                true
            }
        }
    }

    /// Content that only the cache of a dead connection held changes without a write.
    fn cache_may_vanish(&self) -> bool {
        self.scene.spec.targets[0].write_cache == crate::spec::WriteCache::Volatile
    }

    fn contents(&self, unit: usize, ranges: &[Extent]) -> Vec<u32> {
        let blocks = ranges.iter().flat_map(|r| r.start / BLOCK..r.end / BLOCK);
        blocks.map(|block| self.storage.read(unit, block as usize)).collect()
    }

    /// Everything is repaired: the paths, the gates, the comparisons.
    pub(super) fn calm_down(&mut self) {
        let generation = self.plan.generation + 1;
        self.plan = self.scene.plan(generation);
        self.driver.plan(self.plan.clone());
        for path in 0..self.wires.len() {
            self.wires[path].sick = None;
            let after = self.rng.micros(0..20_000);
            self.schedule(after, Event::PathUp(path));
        }
        for unit in 0..self.samplings.len() {
            self.end_sample(unit);
        }
    }
}
