//! What the host that a VM leaves is asked to do.
//!
//! It does not know why, nor in which order.

use super::etcd::{Asker, Wish};
use super::event::Event;
use super::peers::What;
use super::qemu::Command;
use super::store::{Change, numbered};
use super::world::World;
use vmpath_core::cluster::Heard;
use vmpath_core::ids::VmId;
use vmpath_core::migration::source::{Act, Input};
use vmpath_core::migration::{Answer, MoveId, RoomNeed};
use vmpath_core::ownership::UnitEpoch;
use vmpath_core::placement::Claim;
use vmpath_core::time::Duration;

impl World {
    /// Does it. The other host that it is about, if one is.
    pub(super) fn leave(&mut self, host: usize, vm: usize, (id, act): (&MoveId, Act)) -> Option<usize> {
        let life = self.life(host)?;
        if let Some(process) = self.process(host) {
            process.leaving[vm] = Some(id.clone());
        }
        let of = (vm, id.clone());
        match act {
            Act::Probe { to, units } => {
                let units = units.iter().map(|unit| self.unit_number(unit)).collect();
                return self.call_to(life.host, &to, (of, What::Probe(units)));
            }
            Act::Prepare(plan) => {
                let to = plan.to.clone();
                return self.call_to(life.host, &to, (of, What::Prepare(plan)));
            }
            Act::HandOver(hand_over) => {
                let to = hand_over.to.clone();
                return self.call_to(life.host, &to, (of, What::HandOver(hand_over)));
            }
            Act::Discard { to, why } => return self.call_to(life.host, &to, (of, What::Discard(why))),
            Act::Claim { to, room } => self.claim_room(host, of, (&to, &room)),
            Act::Unclaim => self.store.drop_promise(&id.to_string()),
            Act::Migrate { instance, uri } => {
                let to =
                    uri.rsplit('.').next().and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
                let to = to.unwrap_or(1) - 1;
                self.order_hypervisor(host, of, (instance, Command::Migrate { to }));
            }
            Act::Continue { instance } => {
                self.order_hypervisor(host, of, (instance, Command::MigrateContinue));
            }
            Act::Cancel { instance } => self.order_hypervisor(host, of, (instance, Command::MigrateCancel)),
            Act::Query { instance } => self.order_hypervisor(host, of, (instance, Command::Query)),
            Act::Stop { instance } => self.order_hypervisor(host, of, (instance, Command::Stop)),
            Act::Resume { instance } => self.order_hypervisor(host, of, (instance, Command::Continue)),
            Act::Settle { by } => self.settle(host, vm, by),
            Act::Revoke => self.revoke(host, vm),
            Act::Own { units } => self.own(host, vm, &units),
            Act::Disown { units } => self.disown(host, vm, &units),
            Act::Commit { to, units } => {
                self.give(host, vm, &units);
                let to = self.host_number(&to);
                self.order_by_leaving(
                    host,
                    of,
                    (&units, Wish::Change(Change::Commit { to, id: id.clone() })),
                );
                return Some(to);
            }
            Act::Bump { units } => self.order_by_leaving(host, of, (&units, Wish::Change(Change::Bump))),
            Act::ReadOwners { units } => {
                let units = units.iter().map(|unit| (self.unit_number(unit), None)).collect();
                self.order(life, Asker::Leaving(vm, id.clone()), units, Wish::Read);
            }
        }
        None
    }

    fn call_to(&mut self, host: usize, to: &str, (of, what): ((usize, MoveId), What)) -> Option<usize> {
        let (life, to) = (self.life(host)?, self.host_number(to));
        self.call(life, to, of, what);
        Some(to)
    }

    fn order_by_leaving(
        &mut self,
        host: usize,
        (vm, id): (usize, MoveId),
        (units, wish): (&[UnitEpoch], Wish),
    ) {
        let Some(life) = self.life(host) else { return };
        let units = numbered(units, |unit| self.unit_number(unit));
        self.order(life, Asker::Leaving(vm, id), units, wish);
    }

    fn claim_room(&mut self, host: usize, (vm, id): (usize, MoveId), (to, room): (&str, &[RoomNeed])) {
        let Some(life) = self.life(host) else { return };
        let Some(process) = &self.hosts[host].process else { return };
        if room.is_empty() {
            let input = Input::Claimed(Answer::Done(()));
            let heard = Heard::Leaving { vm: VmId::at(vm), move_id: id, input };
            return self.hear(life, Duration::from_micros(100), heard);
        }
        let name = &self.spec().vms[vm].name;
        let claim = |need: &RoomNeed| Claim {
            vm: name.clone(),
            host: to.to_owned(),
            target: need.target.clone(),
            rate: need.rate,
        };
        let claims = room.iter().map(claim).collect();
        let wish = Wish::Room { id: id.to_string(), seen: process.seen, claims };
        self.order(life, Asker::Leaving(vm, id), vec![], wish);
    }

    /// An order for a process that is not there any more is answered so.
    fn order_hypervisor(
        &mut self,
        host: usize,
        (vm, id): (usize, MoveId),
        (instance, command): (u64, Command),
    ) {
        let Some(life) = self.life(host) else { return };
        if self.qemu_of(host, vm, instance).is_some() {
            return self.send_command(host, vm, (instance, command));
        }
        let heard = Heard::Leaving { vm: VmId::at(vm), move_id: id, input: Input::Replaced };
        let after = self.rng.millis(1..20);
        self.at(after, Event::Hear { life, heard: Box::new(heard) });
    }

    pub(super) fn own(&mut self, host: usize, vm: usize, units: &[UnitEpoch]) {
        if let Some(process) = self.process(host) {
            process.keepers[vm].own(units);
            process.seats[vm].barred = false;
        }
        self.spread_word(host);
    }

    pub(super) fn disown(&mut self, host: usize, vm: usize, units: &[String]) {
        if let Some(process) = self.process(host) {
            process.keepers[vm].disown(units);
        }
        self.spread_word(host);
    }
}
