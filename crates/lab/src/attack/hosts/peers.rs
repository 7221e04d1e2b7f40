//! The channel between hosts: calls that are lost on the way there or back, and that end as done, refused or unknown.
//!
//! Invariant: a call ends once for whoever made it; refused is only what the other host has said, or what never left. It does not know
//! what is asked for.

use super::event::{Event, Life};
use super::tally::Fault;
use super::world::World;
use vmpath_core::cluster::Heard;
use vmpath_core::event::Event as Told;
use vmpath_core::ids::VmId;
use vmpath_core::migration::{Answer, HandOver, Move, MoveId, destination, source};
use vmpath_core::time::Duration;
use vmpath_core::view::MoveSide;

#[derive(Clone, Debug)]
pub(super) enum What {
    Probe(Vec<usize>),
    Prepare(Box<Move>),
    HandOver(Box<HandOver>),
    Discard(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Probe,
    Prepare,
    HandOver,
    Discard,
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    from: Life,
    to: usize,
    vm: usize,
    id: MoveId,
    what: What,
    /// The process that has it in hand.
    taken_by: Option<Life>,
    /// With what `Prepare` is answered.
    answer: Option<Answer<String>>,
    over: bool,
}

impl What {
    fn kind(&self) -> Kind {
        match self {
            Self::Probe(_) => Kind::Probe,
            Self::Prepare(_) => Kind::Prepare,
            Self::HandOver(_) => Kind::HandOver,
            Self::Discard(_) => Kind::Discard,
        }
    }

    /// How long it is waited for.
    fn within(&self) -> Duration {
        Duration::from_secs(match self {
            Self::Probe(_) => 4,
            Self::Prepare(_) => 30,
            Self::HandOver(_) => 5,
            Self::Discard(_) => 10,
        })
    }
}

impl World {
    pub(super) fn call(&mut self, from: Life, to: usize, (vm, id): (usize, MoveId), what: What) {
        let number = self.calls.len() as u32;
        let within = what.within();
        self.calls.push(Call { from, to, vm, id, what, taken_by: None, answer: None, over: false });
        self.at(within, Event::Call { life: from, call: number });
        if self.net.are_apart(from.host, to) {
            if self.rng.percent(50) {
                self.calls[number as usize].answer = Some(Answer::Refused("there is no way to it".into()));
                let after = self.rng.millis(1..1000);
                self.at(after, Event::CallAnswered(number));
            }
            return;
        }
        if self.rng.below(100) < self.lossy() / 2 {
            return self.fault(Fault::CallLost, to);
        }
        let after = self.way(from.host, to);
        self.at(after, Event::CallArrives(number));
    }

    /// How long something is on its way between two hosts.
    fn way(&mut self, a: usize, b: usize) -> Duration {
        let slow = self.net.is_slow(a) || self.net.is_slow(b);
        if slow { self.rng.millis(20..1200) } else { self.rng.micros(200..8000) }
    }

    pub(super) fn call_arrives(&mut self, number: u32) {
        let Call { from, to, vm, id, what, .. } = self.calls[number as usize].clone();
        if self.net.are_apart(from.host, to) {
            return;
        }
        let Some(life) = self.life(to) else {
            let after = self.way(from.host, to);
            self.calls[number as usize].answer = Some(Answer::Refused("nobody listens there".into()));
            return self.at(after, Event::CallAnswered(number));
        };
        self.calls[number as usize].taken_by = Some(life);
        match what {
            // It reads, for a while.
            What::Probe(_) => {
                let reads = self.rng.millis(1..20) + self.way(from.host, to);
                self.at(reads, Event::CallAnswered(number));
            }
            What::Prepare(plan) => {
                self.tell(to, Told::Cluster(Heard::Invited(plan)));
            }
            What::HandOver(hand_over) => match self.move_there(to, &id) {
                Some(None) => self.tell_arriving(to, vm, (&id, destination::Input::HandOver(hand_over))),
                Some(Some(_)) | None => {
                    self.answer_calls(
                        to,
                        (&id, Kind::HandOver),
                        &Answer::Refused("no such move here".into()),
                    );
                }
            },
            What::Discard(why) => match self.move_there(to, &id) {
                Some(None) => self.tell_arriving(to, vm, (&id, destination::Input::Discard(why))),
                Some(Some(true)) => {
                    self.answer_calls(to, (&id, Kind::Discard), &Answer::Refused("it has come here".into()));
                }
                Some(Some(false)) => {
                    self.answer_calls(to, (&id, Kind::Discard), &Answer::Done(String::new()));
                }
                None => self.discard_unknown(to, vm, &id),
            },
        }
    }

    /// Of a move that this process knows nothing of, the owners tell.
    fn discard_unknown(&mut self, host: usize, vm: usize, id: &MoveId) {
        let units = self.disks_of(vm);
        let Some(process) = &self.hosts[host].process else { return };
        let has_it = units.iter().all(|unit| process.told_owners[*unit].may_dispatch());
        let answer = if has_it { Answer::Refused("it is here".into()) } else { Answer::Done(String::new()) };
        self.answer_calls(host, (id, Kind::Discard), &answer);
    }

    /// A move at its destination: none if it is not known, else whether it has arrived, if it is over.
    fn move_there(&self, host: usize, id: &MoveId) -> Option<Option<bool>> {
        let process = self.hosts[host].process.as_ref()?;
        let moves = process.controller.view(self.now).moves;
        let found = moves.into_iter().find(|view| view.id == *id && view.side == MoveSide::Destination)?;
        Some(found.end.map(|end| end.why.is_none()))
    }

    fn tell_arriving(&mut self, host: usize, vm: usize, (id, input): (&MoveId, destination::Input)) {
        let heard = Heard::Arriving { vm: VmId::at(vm), move_id: id.clone(), input };
        self.tell(host, Told::Cluster(heard));
    }

    /// Those of this kind that wait for an answer about the move.
    pub(super) fn answer_calls(&mut self, host: usize, (id, kind): (&MoveId, Kind), answer: &Answer<String>) {
        let life = self.life(host);
        for number in 0..self.calls.len() {
            let call = &mut self.calls[number];
            let waits = call.answer.is_none() && call.taken_by.is_some() && call.taken_by == life;
            if !waits || call.id != *id || call.what.kind() != kind {
                continue;
            }
            call.answer = Some(answer.clone());
            let from = call.from.host;
            if self.rng.below(100) < self.lossy() / 2 {
                self.fault(Fault::CallReplyLost, host);
                continue;
            }
            let after = self.way(from, host);
            self.at(after, Event::CallAnswered(number as u32));
        }
    }

    pub(super) fn call_answered(&mut self, number: u32) {
        let Call { from, to, what, taken_by, .. } = self.calls[number as usize].clone();
        if taken_by.is_some() && self.net.are_apart(from.host, to) {
            return;
        }
        if let (What::Probe(units), None) = (&what, &self.calls[number as usize].answer) {
            if self.life(to) != taken_by {
                return;
            }
            let unread = units.iter().find(|unit| !self.net.reads(to, **unit, self.spec()));
            let answer = match unread {
                None => Answer::Done(String::new()),
                Some(unit) => Answer::Refused(format!("it cannot read {}", self.unit_name(*unit))),
            };
            self.tally.probes_refused += u64::from(unread.is_some());
            self.calls[number as usize].answer = Some(answer);
        }
        let Some(answer) = self.calls[number as usize].answer.clone() else { return };
        self.call_is_over(from, number, answer);
    }

    /// Nobody has answered in time.
    pub(super) fn call_ends(&mut self, host: usize, number: u32) {
        if let Some(life) = self.life(host) {
            self.call_is_over(life, number, Answer::Unknown("no answer".into()));
        }
    }

    fn call_is_over(&mut self, from: Life, number: u32, answer: Answer<String>) {
        if self.life(from.host) != Some(from) || self.calls[number as usize].over {
            return;
        }
        self.calls[number as usize].over = true;
        let Call { vm, id, what, .. } = self.calls[number as usize].clone();
        let plain = match &answer {
            Answer::Done(_) => Answer::Done(()),
            Answer::Refused(why) => Answer::Refused(why.clone()),
            Answer::Unknown(why) => Answer::Unknown(why.clone()),
        };
        let input = match what.kind() {
            Kind::Probe => {
                if plain == Answer::Done(()) && !self.net.is_slow(from.host) {
                    self.rules.probed(&id, self.now);
                }
                source::Input::Probed(plain)
            }
            Kind::Prepare => source::Input::Prepared(answer),
            Kind::HandOver => source::Input::HandedOver(plain),
            // That nobody could be asked is no word of whether it has landed there.
            Kind::Discard if !self.was_taken(number) => {
                source::Input::Discarded(Answer::Unknown("nobody could be asked".into()))
            }
            Kind::Discard => source::Input::Discarded(plain),
        };
        self.tell(from.host, Told::Cluster(Heard::Leaving { vm: VmId::at(vm), move_id: id, input }));
    }

    fn was_taken(&self, number: u32) -> bool {
        self.calls[number as usize].taken_by.is_some()
    }

    /// The process that had them in hand is dead: who has asked finds out, sooner or later.
    pub(super) fn calls_die(&mut self, host: usize) {
        let life = self.life(host);
        for number in 0..self.calls.len() {
            let call = &mut self.calls[number];
            if call.taken_by.is_some() && call.taken_by == life && call.answer.is_none() && !call.over {
                call.answer = Some(Answer::Unknown("its process has ended".into()));
                if self.rng.percent(70) {
                    let after = self.rng.millis(1..50);
                    self.at(after, Event::CallAnswered(number as u32));
                }
            }
        }
    }
}
