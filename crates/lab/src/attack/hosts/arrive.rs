//! What the host that a VM comes to is asked to do.
//!
//! It does not know why, nor in which order.

use super::etcd::{Asker, Wish};
use super::event::{Event, Life};
use super::peers::Kind;
use super::plane::{Arrival, File, Stage};
use super::qemu::{Command, Qemu};
use super::store::{Change, numbered};
use super::tally::Fault;
use super::world::World;
use vmpath_core::cluster::Heard;
use vmpath_core::ids::VmId;
use vmpath_core::migration::destination::{Act, Input, Withdrawn};
use vmpath_core::migration::{Answer, HandOver, MoveId};
use vmpath_core::ownership::UnitEpoch;
use vmpath_core::time::Duration;

impl World {
    pub(super) fn arrive(&mut self, host: usize, vm: usize, (id, act): (&MoveId, Act)) {
        let Some(life) = self.life(host) else { return };
        if let Some(process) = self.process(host) {
            process.arriving[vm] = Some(id.clone());
        }
        match act {
            Act::Launch => self.expect(host, vm, id),
            Act::AnswerPrepare(result) => self.answer_calls(host, (id, Kind::Prepare), &worded(result)),
            Act::AnswerHandOver(result) => {
                self.answer_calls(host, (id, Kind::HandOver), &worded(result.map(|()| String::new())));
            }
            Act::AnswerDiscard(result) => {
                self.answer_calls(host, (id, Kind::Discard), &worded(result.map(|()| String::new())));
            }
            Act::Store(hand_over) => {
                let after = self.rng.micros(300..20_000);
                self.at(after, Event::Stored { life, vm, hand_over });
            }
            Act::ReadOwners { units } => {
                let units = units.iter().map(|unit| (self.unit_number(unit), None)).collect();
                self.order(life, Asker::Arriving(vm, id.clone()), units, Wish::Read);
            }
            Act::Own { units } => {
                self.own(host, vm, &units);
                self.release_if_owned(host, vm);
            }
            Act::Disown { units } => self.disown(host, vm, &units),
            Act::Withdraw => {
                let what = self.withdraw(host, vm, id);
                self.hear_arriving(life, vm, id, Input::Withdrawn(what));
            }
            Act::GiveBack { to, units } => {
                self.give(host, vm, &units);
                let to = self.host_number(&to);
                self.order_by_arriving(life, (vm, id), (&units, Change::GiveBack { to }));
            }
            Act::Bar { owner, units } => {
                self.tally.moves_barred += 1;
                let owner = self.host_number(&owner);
                self.order_by_arriving(life, (vm, id), (&units, Change::Bar { owner }));
            }
            Act::Bump { units } => self.order_by_arriving(life, (vm, id), (&units, Change::Bump)),
            Act::Query => match self.launched(host, vm, id) {
                Some(instance) => self.send_command(host, vm, (instance, Command::Query)),
                None => self.hear_arriving(life, vm, id, Input::Ended("it is gone".into())),
            },
            Act::End => match self.launched_to_end(host, vm, id) {
                Some(instance) => {
                    let after = self.rng.millis(1..3000);
                    self.at(after, Event::Ends { host, vm, instance, why: "it was ended" });
                }
                None => self.hear_arriving(life, vm, id, Input::Ended("it is gone".into())),
            },
            Act::Keep => {
                if let Some(qemu) = &mut self.hosts[host].qemus[vm] {
                    qemu.launched_for = None;
                }
            }
            Act::Forget => self.forget_arrival(host, vm, id),
        }
    }

    fn order_by_arriving(
        &mut self,
        life: Life,
        (vm, id): (usize, &MoveId),
        (units, change): (&[UnitEpoch], Change),
    ) {
        let units = numbered(units, |unit| self.unit_number(unit));
        self.order(life, Asker::Arriving(vm, id.clone()), units, Wish::Change(change));
    }

    pub(super) fn hear_arriving(&mut self, life: Life, vm: usize, id: &MoveId, input: Input) {
        let heard = Heard::Arriving { vm: VmId::at(vm), move_id: id.clone(), input };
        let after = self.rng.micros(50..20_000);
        self.hear(life, after, heard);
    }

    /// The process that was launched for it, if it lives.
    fn launched(&self, host: usize, vm: usize, id: &MoveId) -> Option<u64> {
        let qemu = self.qemu(host, vm).filter(|qemu| qemu.launched_for.as_ref() == Some(id))?;
        Some(qemu.instance)
    }

    /// One that is not launched yet will not be.
    fn launched_to_end(&mut self, host: usize, vm: usize, id: &MoveId) -> Option<u64> {
        if let Some(process) = self.process(host)
            && let Some(arrival) = process.seats[vm].arrival.as_mut().filter(|arrival| arrival.id == *id)
        {
            arrival.ended = true;
        }
        self.launched(host, vm, id)
    }

    fn expect(&mut self, host: usize, vm: usize, id: &MoveId) {
        let Some(life) = self.life(host) else { return };
        let busy = self.qemu(host, vm).is_some_and(Qemu::runs);
        if busy {
            return self.hear_arriving(life, vm, id, Input::Launched(Err("it is in use here".into())));
        }
        if let Some(process) = self.process(host) {
            process.seats[vm].arrival =
                Some(Arrival { id: id.clone(), stage: Stage::Expected, ended: false });
        }
        let slow = self.rng.percent(10);
        let after = if slow { self.rng.millis(2000..20_000) } else { self.rng.millis(100..1500) };
        self.at(after, Event::Launch { life, vm, id: id.clone() });
    }

    pub(super) fn launch(&mut self, host: usize, vm: usize, id: &MoveId) {
        let Some(life) = self.life(host) else { return };
        let Some(process) = self.process(host) else { return };
        let arrival = process.seats[vm].arrival.as_ref();
        if arrival.is_none_or(|arrival| arrival.id != *id || arrival.ended) {
            return;
        }
        let fails = !self.is_calm() && self.rng.percent(4);
        if fails {
            self.fault(Fault::LaunchFails, host);
        }
        if fails || self.qemu(host, vm).is_some() {
            return self.hear_arriving(life, vm, id, Input::Launched(Err("the command has failed".into())));
        }
        let instance = self.next_instance();
        let disks = self.disks_of(vm).len();
        self.hosts[host].qemus[vm] = Some(Qemu::incoming(instance, disks, Some(id.clone())));
        self.announce(host, vm);
        let after = self.rng.micros(100..9000);
        self.at(after, Event::Attach { life, vm });
        let uri = format!("tcp:10.0.0.{}:49152", host + 1);
        self.hear_arriving(life, vm, id, Input::Launched(Ok(uri)));
    }

    /// It is in a file on tmpfs, or not.
    pub(super) fn stored(&mut self, host: usize, vm: usize, hand_over: HandOver) {
        let Some(life) = self.life(host) else { return };
        let id = hand_over.move_id.clone();
        let Some(process) = self.hosts[host].process.as_mut() else { return };
        let arrival = process.seats[vm].arrival.as_mut().filter(|arrival| arrival.id == id);
        let Some(arrival) = arrival.filter(|arrival| arrival.stage != Stage::Withdrawn) else {
            return self.hear_arriving(life, vm, &id, Input::Stored(Err("it is not expected".into())));
        };
        if self.weather == super::world::Weather::Chaos && self.rng.percent(3) {
            self.fault(Fault::StoreFails, host);
            return self.hear_arriving(life, vm, &id, Input::Stored(Err("no space left".into())));
        }
        arrival.stage = Stage::Stored;
        let file = File { hand_over, since: self.now, released: false };
        self.hosts[host].files[vm] = Some(file);
        self.hear_arriving(life, vm, &id, Input::Stored(Ok(())));
    }

    /// Nothing more of it begins; whether something has.
    fn withdraw(&mut self, host: usize, vm: usize, id: &MoveId) -> Withdrawn {
        let Some(process) = self.hosts[host].process.as_mut() else { return Withdrawn::Taken };
        match process.seats[vm].arrival.as_mut().filter(|arrival| arrival.id == *id) {
            // All of its rings have begun, and its file is gone.
            None => Withdrawn::Taken,
            Some(arrival) => {
                arrival.stage = Stage::Withdrawn;
                Withdrawn::Untouched
            }
        }
    }

    fn forget_arrival(&mut self, host: usize, vm: usize, id: &MoveId) {
        if let Some(process) = self.process(host)
            && process.seats[vm].arrival.as_ref().is_some_and(|arrival| arrival.id == *id)
        {
            process.seats[vm].arrival = None;
        }
        if self.hosts[host].files[vm].as_ref().is_some_and(|file| file.hand_over.move_id == *id) {
            self.hosts[host].files[vm] = None;
        }
    }

    /// A process that was launched for a move that goes on after a restart, and is gone.
    pub(super) fn missing_process(&mut self, life: Life, vm: usize) {
        let Some(process) = &self.hosts[life.host].process else { return };
        let Some(id) = process.arriving[vm].clone() else { return };
        if self.launched(life.host, vm, &id).is_none() {
            let after = self.rng.millis(1..100);
            let input = Input::Ended("it ended while vmpath was away".into());
            self.hear(life, after, Heard::Arriving { vm: VmId::at(vm), move_id: id, input });
        }
    }

    pub(super) fn attach_later(&mut self, host: usize, vm: usize) {
        if let Some(life) = self.life(host) {
            let after = self.rng.millis(1..300);
            self.at(after, Event::Attach { life, vm });
            self.at(after + Duration::from_millis(1), Event::Announce { life, vm });
        }
    }
}

fn worded(result: Result<String, String>) -> Answer<String> {
    match result {
        Ok(done) => Answer::Done(done),
        Err(why) => Answer::Refused(why),
    }
}
