//! From a dispatch to the target and back.

use super::ledger::{Attempt, BLOCKS_PER_REQUEST_MAX, LinkState, Progress, Rule, answers, require};
use super::storage::Spot;
use super::world::{Event, World};
use crate::plan::{Gate, Health};
use crate::router::{ConnectionKey, Durability, Operation, Request, Sharing, Support};
use crate::spec::{Access, WriteCache};
use crate::time::Duration;
use crate::volume::verdict::TargetError;

/// The burst that the scheduler allows itself, and what rounding may add.
const BURST_NANOS: u128 = 20_000_000 + 1000;

impl World {
    pub(super) fn dispatch(&mut self, connection: ConnectionKey, cookie: u64, request: Request) {
        let link = self.links_by_key[connection.0 as usize];
        self.check_gate(&request);
        self.check_ranking(link, &request);
        self.check_sharing(link);
        self.check_sampled(&request);
        self.check_durability(&request);
        self.check_recorded(&request);
        if !self.ledger.tokens[request.token as usize].dispatched {
            self.charge(&request);
        }
        let token = &self.ledger.tokens[request.token as usize];
        if request.operation == Operation::Flush && token.request.operation != Operation::Flush {
            self.tally.fallback_flushes += 1;
        }
        let progress = Progress::Unsent;
        let values = [0; BLOCKS_PER_REQUEST_MAX];
        let attempt = self.ledger.dispatched(Attempt { request, cookie, link, progress, values }, self.now);
        let path = self.ledger.links[link].path;
        let rate = self.scene.rates[path];
        let wire = &mut self.wires[path];
        let start = wire.busy_until.max(self.now);
        wire.busy_until = start + Duration::from_nanos(u64::from(request.length) * 1_000_000_000 / rate);
        self.schedule_at(start, Event::Send(attempt));
    }

    fn check_gate(&mut self, request: &Request) {
        let token = &self.ledger.tokens[request.token as usize];
        let gate = &self.plan.vms[token.vm].gate;
        let allowed = match gate {
            Gate::Open => true,
            Gate::Hold(_) => false,
            // What was on its way when the gate came: the flush that follows a write.
            Gate::Bounce(_) | Gate::Fail(..) => token.answered || !answers(gate, token.unit),
        };
        require!(self.ledger, allowed, Rule::Gate, || format!("token {} passes the gate", request.token));
    }

    /// By the words of the design: up before marginal, optimized before non-optimized, traffic's own before standbys. A worse
    /// one that is nobody's standby may be taken while the best ones are at work.
    fn check_ranking(&mut self, link: usize, request: &Request) {
        let token = &self.ledger.tokens[request.token as usize];
        let avoid = &self.scene.spec.vms[token.vm].avoid_paths;
        let order = |path: usize| {
            let route = self.plan.paths[path];
            let own = route.health == Health::Up && route.preferred;
            let usable = route.health != Health::Disabled && !avoid.iter().any(|p| p.index() == path);
            usable.then_some((!own, route.access == Access::NonOptimized))
        };
        let mine = order(self.ledger.links[link].path);
        let open = || self.ledger.links.iter().filter(|l| l.unit == token.unit && l.state <= LinkState::Cut);
        let reaches = |path: usize| open().any(|l| l.path == path);
        let best = open().filter_map(|l| order(l.path)).min();
        // One that has failed somewhere is right to try elsewhere; a second half belongs where the first went.
        let free = !self.ledger.is_untroubled(request.token) || token.answered;
        let route = self.plan.paths[self.ledger.links[link].path];
        let second_choice = route.health == Health::Marginal || route.access == Access::NonOptimized;
        let may_spill = route.preferred && second_choice && route.health <= Health::Marginal;
        let busy = |path: usize| self.ledger.links.iter().any(|l| l.path == path && !l.in_flight.is_empty());
        let paths = 0..self.plan.paths.len();
        let best_at_work = paths.into_iter().filter(|path| order(*path) == best && reaches(*path)).all(busy);
        let holds = mine.is_some() && (free || mine == best || (may_spill && best_at_work));
        require!(self.ledger, holds, Rule::Ranking, || {
            format!("token {} takes a path of rank {mine:?}, the best is {best:?}", request.token)
        });
    }

    fn check_sharing(&mut self, link: usize) {
        let unit = self.ledger.links[link].unit;
        if self.scene.traits[unit].sharing == Sharing::ManyConnections {
            return;
        }
        let links = self.ledger.links.iter().enumerate();
        let rival = links
            .map(|(at, l)| (at, l.unit, l.in_flight.len()))
            .find(|l| l.1 == unit && l.0 != link && l.2 > 0);
        require!(self.ledger, rival.is_none(), Rule::OneConnection, || {
            format!("link {link} carries data for unit {unit} while {rival:?} does")
        });
    }

    fn check_sampled(&mut self, request: &Request) {
        let token = &self.ledger.tokens[request.token as usize];
        let Some(sampling) = &self.samplings[token.unit] else { return };
        let extent = request.extent();
        let meets = sampling.ranges.iter().any(|r| r.start < extent.end && extent.start < r.end);
        require!(self.ledger, !(meets && request.operation.changes_data()), Rule::Sampling, || {
            format!("write {} into a sampled range", request.token)
        });
    }

    /// Where the target has FUA, a write that must be stable asks for it.
    fn check_durability(&mut self, request: &Request) {
        let token = &self.ledger.tokens[request.token as usize];
        let volatile = self.scene.spec.targets[0].write_cache == WriteCache::Volatile;
        let must = request.operation.changes_data() && (volatile || token.must_be_stable());
        let asks = request.durability == Durability::Stable;
        let has_fua = self.scene.traits[token.unit].fua == Support::Yes;
        require!(self.ledger, asks || !(must && has_fua), Rule::Durable, || format!(
            "{request:?} asks for no FUA"
        ));
    }

    /// Over any time, at most the limit, the burst and one request: then the level before a request is within the burst.
    fn charge(&mut self, request: &Request) {
        let vm = self.ledger.tokens[request.token as usize].vm;
        let spec = &self.scene.spec.vms[vm];
        let moves = matches!(request.operation, Operation::Read | Operation::Write);
        let amounts = [if moves { u64::from(request.length) } else { 0 }, 1];
        let limits = [spec.limit.map(|l| l.0), spec.limit_iops];
        let backlog = &mut self.backlogs[vm];
        let past = self.now.since(backlog.at).as_nanos();
        backlog.at = self.now;
        let mut holds = true;
        for ((level, amount), limit) in backlog.levels.iter_mut().zip(amounts).zip(limits) {
            let Some(limit) = limit.map(u128::from) else { continue };
            *level = level.saturating_sub(limit * past);
            holds &= *level <= limit * BURST_NANOS;
            *level += u128::from(amount) * 1_000_000_000;
        }
        require!(self.ledger, holds, Rule::Limit, || format!(
            "vm {vm} goes beyond its limit with {}",
            request.token
        ));
    }

    /// Its turn on the wire: from here on the target may have it.
    pub(super) fn send(&mut self, attempt: usize) {
        let record = &mut self.ledger.attempts[attempt];
        if record.progress != Progress::Unsent || self.ledger.links[record.link].state != LinkState::Open {
            return;
        }
        record.progress = Progress::OnWire;
        let after = self.rng.micros(10..self.scene.latency);
        self.schedule(after, Event::Execute(attempt));
    }

    pub(super) fn execute(&mut self, attempt: usize) {
        let link = &self.ledger.links[self.ledger.attempts[attempt].link];
        if self.ledger.attempts[attempt].progress != Progress::OnWire || link.frozen {
            return;
        }
        let path = link.path;
        let result = match self.wires[path].sick {
            Some(error) if self.rng.percent(60) => Err(error),
            _ => Ok(()),
        };
        match result {
            Ok(()) => self.take_effect(attempt),
            // A failed write may have done a part of its work.
            Err(TargetError::Io) if self.rng.percent(50) => self.take_effect(attempt),
            Err(_) => {}
        }
        self.ledger.attempts[attempt].progress = Progress::Executed(result);
        let after = self.rng.micros(10..self.scene.latency);
        self.schedule(after, Event::Reply(attempt));
    }

    fn take_effect(&mut self, attempt: usize) {
        let record = &self.ledger.attempts[attempt];
        let token = &self.ledger.tokens[record.request.token as usize];
        let (number, unit, link) = (record.request.token, token.unit, record.link);
        let spot = Spot { unit, blocks: token.blocks.clone(), link };
        match record.request.operation {
            Operation::Read => {
                let mut values = [0; BLOCKS_PER_REQUEST_MAX];
                for (value, block) in values.iter_mut().zip(spot.blocks) {
                    *value = self.storage.read(unit, block);
                }
                self.ledger.attempts[attempt].values = values;
            }
            Operation::Write | Operation::Trim | Operation::WriteZeroes(_) => {
                let traits = self.scene.traits[unit];
                let fua = traits.fua == Support::Yes && record.request.durability == Durability::Stable;
                // Without a flush nothing is promised; then the target has no cache worth the name.
                if fua || traits.flush == Support::No {
                    self.storage.write_through(number, &spot);
                } else {
                    self.storage.write_cached(number, &spot);
                }
            }
            Operation::Flush => self.storage.flush(unit, link),
        }
    }

    pub(super) fn reply(&mut self, attempt: usize) -> bool {
        let record = &self.ledger.attempts[attempt];
        let Progress::Executed(result) = record.progress else { return false };
        let (link, cookie) = (record.link, record.cookie);
        // After the cut, few of the replies on their way still come through.
        if self.ledger.links[link].state != LinkState::Open && self.rng.percent(70) {
            return false;
        }
        let key = self.ledger.links[link].key;
        self.ledger.answered(attempt, result);
        self.driver.reply((link, key), cookie, result, self.now);
        true
    }

    /// A ghost: what its connection took to the grave reaches the target's disks after all.
    pub(super) fn haunt(&mut self, attempt: usize) {
        self.tally.ghosts += 1;
        self.take_effect(attempt);
    }
}
