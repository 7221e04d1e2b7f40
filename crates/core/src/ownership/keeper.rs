//! The units of one VM at one host: claimed when somebody uses them, renewed after a restart, released when nobody does.
//!
//! Invariant: a unit is this host's only after its own change was answered as done, or a move's machine has said so; whatever may
//! have happened without an answer makes it uncertain until it was read. While a VM is on its way its move decides, and this waits.
//! One exception: what a process before this one held in this boot, and had not begun to give away, while the store is away.
//! Rejected: to claim each unit alone. Two hosts that start one VM would each get a part of it.
//! It does not know the store, nor what a move is.

use super::{Found, Owner, Ownership, UnitEpoch};
use crate::mutant::{self, Mutant};
use crate::time::{Duration, Instant};

/// Nobody attached and nothing open for so long: the units are given up. A hypervisor that restarts is back sooner.
pub const RELEASE_AFTER: Duration = Duration::from_secs(10);

/// So long the store may take to say who owns what. Then what a former process has left counts: nobody but this host gives its units
/// away, or whoever has fenced it.
pub const TRUST_AFTER: Duration = Duration::from_millis(500);

/// After a change that was refused or not answered.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is asked of the store; one at a time, each answered by [`Reply`]. Units by name, `target/unit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// They have no owner: make them ours.
    Claim(Vec<String>),
    /// Ours as before, under the next epoch: what a process before this one has sent has no effect any more.
    Renew(Vec<UnitEpoch>),
    /// Nobody's from now on.
    Release(Vec<UnitEpoch>),
    Read(Vec<String>),
}

impl Act {
    /// When it is done, this unit is this host's by that.
    fn may_own(&self, name: &str) -> bool {
        match self {
            Self::Claim(units) => units.iter().any(|unit| unit == name),
            Self::Renew(units) => units.iter().any(|unit| unit.unit == name),
            Self::Release(_) | Self::Read(_) => false,
        }
    }
}

/// What the store makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is so, and this is how the units stand.
    Done(Vec<Found>),
    /// It is not so, and these are there.
    There(Vec<Found>),
    /// It was not even tried.
    NotAsked,
    /// It may be so, or become so yet.
    Unknown,
}

/// What is so around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Around {
    pub store: Store,
    pub usage: Usage,
    pub moving: Moving,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Up,
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A front end is attached, or a request is open, or a write may still take effect.
    Used,
    Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moving {
    /// Its move's machine decides about its units.
    Yes,
    No,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Unread,
    Free,
    Theirs(Owner),
    /// In this host's name, and not by this process.
    Stale {
        epoch: u64,
    },
    Ours {
        epoch: u64,
    },
    /// A process before this one held it in this boot, and had not begun to give it away.
    Left {
        epoch: u64,
    },
    /// The same, dispatched for because the store does not answer; renewed as soon as it does.
    Trusted {
        epoch: u64,
    },
    /// It is being given up, and may be gone already: whoever comes to use it waits for the answer.
    Releasing {
        epoch: u64,
    },
    Uncertain,
}

impl Known {
    fn ownership(&self) -> Ownership {
        match self {
            Self::Unread | Self::Left { .. } => Ownership::Unknown,
            Self::Free => Ownership::Free,
            Self::Theirs(owner) => Ownership::Theirs(owner.clone()),
            Self::Ours { epoch } | Self::Trusted { epoch } => Ownership::Ours { epoch: *epoch },
            Self::Stale { .. } | Self::Releasing { .. } | Self::Uncertain => Ownership::Uncertain,
        }
    }
}

#[derive(Clone, Debug)]
struct Unit {
    name: String,
    known: Known,
    /// A change of it was asked for, and its answer says how it stands then.
    awaited: bool,
    /// A commit that gives it away may be out.
    given: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Claim,
    Renew,
    Release,
    Read,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Keeper {
    host: String,
    units: Vec<Unit>,
    asked: Option<Asked>,
    again: Instant,
    idle_since: Option<Instant>,
    moving: Moving,
    trust_at: Instant,
}

impl Keeper {
    #[must_use]
    pub fn new(host: &str, units: impl IntoIterator<Item = String>, now: Instant) -> Self {
        let unit = |name| Unit { name, known: Known::Unread, awaited: false, given: false };
        let units = units.into_iter().map(unit).collect();
        let trust_at = now + TRUST_AFTER;
        Self {
            host: host.into(),
            units,
            asked: None,
            again: now,
            idle_since: None,
            moving: Moving::No,
            trust_at,
        }
    }

    /// What a process before this one has left, in the same boot of the host: to be told before anything else.
    pub fn inherit(&mut self, left: impl Fn(&str) -> Option<u64>) {
        for unit in self.units.iter_mut().filter(|unit| unit.known == Known::Unread) {
            if let Some(epoch) = left(&unit.name) {
                unit.known = Known::Left { epoch };
            }
        }
    }

    /// What the next process may inherit, with its epoch.
    pub fn holdings(&self) -> impl Iterator<Item = (&str, u64)> {
        self.units.iter().filter(|unit| !unit.given).filter_map(|unit| match &unit.known {
            Known::Ours { epoch } | Known::Left { epoch } | Known::Trusted { epoch } => {
                Some((unit.name.as_str(), *epoch))
            }
            Known::Unread
            | Known::Free
            | Known::Theirs(_)
            | Known::Stale { .. }
            | Known::Releasing { .. }
            | Known::Uncertain => None,
        })
    }

    /// Units that are dispatched for by what was left, until the store answers.
    pub fn trusted(&self) -> impl Iterator<Item = &str> {
        let units = self.units.iter().filter(|unit| matches!(unit.known, Known::Trusted { .. }));
        units.map(|unit| unit.name.as_str())
    }

    /// Of each unit, in the order in which they were given.
    pub fn ownerships(&self) -> impl Iterator<Item = (&str, Ownership)> {
        self.units.iter().map(|unit| (unit.name.as_str(), unit.known.ownership()))
    }

    /// A move's machine has read, or written, that they are ours.
    pub fn own(&mut self, units: &[UnitEpoch]) {
        for UnitEpoch { unit: name, epoch } in units {
            if let Some(unit) = self.units.iter_mut().find(|unit| unit.name == *name) {
                (unit.known, unit.given) = (Known::Ours { epoch: *epoch }, false);
            }
        }
    }

    /// A move's machine is about to ask the store to give them away: from now on the next process may not inherit them.
    pub fn give(&mut self, units: &[UnitEpoch]) {
        for UnitEpoch { unit: name, .. } in units {
            self.units.iter_mut().filter(|unit| unit.name == *name).for_each(|unit| unit.given = true);
        }
    }

    /// A move's machine says that they are not.
    pub fn disown(&mut self, units: &[String]) {
        for name in units {
            // The watch may have told already whose it is.
            let its = self.units.iter_mut().find(|unit| unit.name == *name);
            if let Some(unit) = its.filter(|unit| !matches!(unit.known, Known::Theirs(_))) {
                unit.known = Known::Uncertain;
            }
        }
    }

    /// Another process has this host's name: what is owned in it may be that one's. It is read again, and renewed, once this one may
    /// speak for the host again.
    pub fn usurped(&mut self) {
        self.asked = None;
        for unit in &mut self.units {
            (unit.awaited, unit.known) = match &unit.known {
                Known::Theirs(owner) => (false, Known::Theirs(owner.clone())),
                Known::Unread
                | Known::Free
                | Known::Stale { .. }
                | Known::Ours { .. }
                | Known::Left { .. }
                | Known::Trusted { .. }
                | Known::Releasing { .. }
                | Known::Uncertain => (false, Known::Uncertain),
            };
        }
    }

    fn set(&mut self, name: &str, known: Known) {
        if let Some(unit) = self.units.iter_mut().find(|unit| unit.name == name) {
            unit.known = known;
        }
    }

    /// The store says how a unit stands: a first reading, or a change.
    pub fn found(&mut self, found: &Found) {
        let moving = self.moving == Moving::Yes;
        let Some(unit) = self.units.iter_mut().find(|unit| unit.name == found.unit) else { return };
        unit.known = match (&found.owner, &unit.known) {
            (None, _) => Known::Free,
            (Some(owner), _) if owner.host != self.host => Known::Theirs(owner.clone()),
            (Some(owner), Known::Ours { epoch }) => Known::Ours { epoch: owner.epoch.max(*epoch) },
            (Some(owner), Known::Trusted { epoch }) => Known::Trusted { epoch: owner.epoch.max(*epoch) },
            // It may be from before the release, which has an answer of its own.
            (Some(_), known @ Known::Releasing { .. }) => known.clone(),
            (Some(_), known) if unit.awaited || moving => known.clone(),
            (Some(owner), _) if mutant::active(Mutant::OwnersNotRenewed) => {
                Known::Ours { epoch: owner.epoch }
            }
            (Some(owner), _) => Known::Stale { epoch: owner.epoch },
        };
    }

    /// The answer to the last act.
    pub fn answered(&mut self, now: Instant, reply: Reply) {
        let Some(asked) = self.asked.take() else { return };
        self.units.iter_mut().for_each(|unit| unit.awaited = false);
        self.released(&reply);
        match reply {
            Reply::Done(found) if matches!(asked, Asked::Claim | Asked::Renew) => self.is_ours(&found),
            Reply::Done(found) => found.iter().for_each(|found| self.found(found)),
            Reply::There(found) => {
                self.again = now + AGAIN_AFTER;
                found.iter().for_each(|found| self.found(found));
            }
            Reply::NotAsked => self.again = now + AGAIN_AFTER,
            Reply::Unknown => {
                self.again = now + AGAIN_AFTER;
                for unit in &mut self.units {
                    match (&unit.known, asked) {
                        (Known::Theirs(_), _) | (_, Asked::Read) => {}
                        // Whatever has become of it is this host's own.
                        (Known::Left { .. } | Known::Trusted { .. }, Asked::Claim | Asked::Renew) => {}
                        // A claim is of those that were free, and nothing else of it can have changed.
                        (Known::Ours { .. }, Asked::Claim) => {}
                        (
                            Known::Unread
                            | Known::Free
                            | Known::Stale { .. }
                            | Known::Ours { .. }
                            | Known::Left { .. }
                            | Known::Trusted { .. }
                            | Known::Releasing { .. }
                            | Known::Uncertain,
                            Asked::Claim | Asked::Renew | Asked::Release,
                        ) => unit.known = Known::Uncertain,
                    }
                }
            }
        }
    }

    /// What was being given up stays this host's only if nobody was asked.
    fn released(&mut self, reply: &Reply) {
        for unit in &mut self.units {
            if let Known::Releasing { epoch } = unit.known {
                unit.known = match reply {
                    Reply::NotAsked => Known::Ours { epoch },
                    Reply::Done(_) | Reply::There(_) | Reply::Unknown => Known::Uncertain,
                };
            }
        }
    }

    /// The change that made it so was this process's own.
    fn is_ours(&mut self, found: &[Found]) {
        for Found { unit, owner } in found {
            match owner {
                Some(owner) if owner.host == self.host => {
                    self.set(unit, Known::Ours { epoch: owner.epoch });
                }
                Some(owner) => self.set(unit, Known::Theirs(owner.clone())),
                None => self.set(unit, Known::Free),
            }
        }
    }

    /// What is to be asked now, as things stand; the answer is awaited then.
    pub fn look(&mut self, now: Instant, around: Around) -> Option<Act> {
        let Around { store, usage, moving } = around;
        if std::mem::replace(&mut self.moving, moving) == Moving::Yes && moving == Moving::No {
            self.forget_others();
        }
        self.idle_since = match usage {
            Usage::Used => None,
            Usage::Idle => Some(self.idle_since.unwrap_or(now)),
        };
        self.trust(now, around);
        if moving == Moving::Yes || store == Store::Down || self.asked.is_some() || now < self.again {
            return None;
        }
        let act = self.next(now)?;
        for unit in &mut self.units {
            unit.awaited = act.may_own(&unit.name);
            if let (Act::Release(_), Known::Ours { epoch }) = (&act, &unit.known)
                && !mutant::active(Mutant::ReleasedInUse)
            {
                unit.known = Known::Releasing { epoch: *epoch };
            }
        }
        self.asked = Some(match &act {
            Act::Claim(_) => Asked::Claim,
            Act::Renew(_) => Asked::Renew,
            Act::Release(_) => Asked::Release,
            Act::Read(_) => Asked::Read,
        });
        Some(act)
    }

    /// The store may be away for long, and the guests wait.
    fn trust(&mut self, now: Instant, Around { store, moving, .. }: Around) {
        if moving == Moving::Yes || store == Store::Up || now < self.trust_at {
            return;
        }
        for unit in &mut self.units {
            if let Known::Left { epoch } = unit.known {
                unit.known = Known::Trusted { epoch };
            }
        }
    }

    /// What was heard meanwhile was the move's business.
    fn forget_others(&mut self) {
        for unit in &mut self.units {
            unit.given = false;
            if !matches!(unit.known, Known::Ours { .. } | Known::Trusted { .. }) {
                unit.known = Known::Unread;
            }
        }
    }

    fn next(&self, now: Instant) -> Option<Act> {
        let names = |wanted: fn(&Known) -> bool| {
            let units = self.units.iter().filter(|unit| wanted(&unit.known));
            let names: Vec<String> = units.map(|unit| unit.name.clone()).collect();
            (!names.is_empty()).then_some(names)
        };
        if let Some(units) =
            names(|known| matches!(known, Known::Unread | Known::Left { .. } | Known::Uncertain))
        {
            return Some(Act::Read(units));
        }
        let stale = self.epochs(|known| match known {
            Known::Stale { epoch } | Known::Trusted { epoch } => Some(*epoch),
            Known::Unread
            | Known::Free
            | Known::Theirs(_)
            | Known::Ours { .. }
            | Known::Left { .. }
            | Known::Releasing { .. }
            | Known::Uncertain => None,
        });
        if !stale.is_empty() {
            return Some(Act::Renew(stale));
        }
        if self.idle_since.is_none() {
            let theirs = names(|known| matches!(known, Known::Theirs(_))).is_some();
            let free = names(|known| *known == Known::Free);
            return if theirs { None } else { free.map(Act::Claim) };
        }
        let rested = self.idle_since.is_some_and(|since| now.since(since) >= RELEASE_AFTER);
        let ours = self.epochs(|known| match known {
            Known::Ours { epoch } => Some(*epoch),
            Known::Unread
            | Known::Free
            | Known::Theirs(_)
            | Known::Stale { .. }
            | Known::Left { .. }
            | Known::Trusted { .. }
            | Known::Releasing { .. }
            | Known::Uncertain => None,
        });
        (rested && !ours.is_empty()).then_some(Act::Release(ours))
    }

    fn epochs(&self, of: impl Fn(&Known) -> Option<u64>) -> Vec<UnitEpoch> {
        let unit = |unit: &Unit| Some(UnitEpoch { unit: unit.name.clone(), epoch: of(&unit.known)? });
        self.units.iter().filter_map(unit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USED: Around = Around { store: Store::Up, usage: Usage::Used, moving: Moving::No };
    const IDLE: Around = Around { usage: Usage::Idle, ..USED };
    const MOVING: Around = Around { moving: Moving::Yes, ..USED };

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn keeper() -> Keeper {
        Keeper::new("kvm1", ["t/a".to_owned(), "t/b".to_owned()], at(0))
    }

    fn found(unit: &str, owner: Option<(&str, u64)>) -> Found {
        let owner = owner.map(|(host, epoch)| Owner { host: host.into(), epoch, move_id: None });
        Found { unit: unit.into(), owner }
    }

    fn both(owner: Option<(&str, u64)>) -> Vec<Found> {
        vec![found("t/a", owner), found("t/b", owner)]
    }

    fn names() -> Vec<String> {
        vec!["t/a".into(), "t/b".into()]
    }

    fn epochs(epoch: u64) -> Vec<UnitEpoch> {
        names().into_iter().map(|unit| UnitEpoch { unit, epoch }).collect()
    }

    fn dispatches(keeper: &Keeper) -> bool {
        keeper.ownerships().all(|(_, ownership)| ownership.may_dispatch())
    }

    /// As after its claim.
    fn owner() -> Keeper {
        let mut keeper = keeper();
        assert_eq!(keeper.look(at(0), USED), Some(Act::Read(names())));
        keeper.answered(at(0), Reply::Done(both(None)));
        assert_eq!(keeper.look(at(0), USED), Some(Act::Claim(names())));
        assert_eq!(keeper.look(at(0), USED), None, "one question at a time");
        keeper.answered(at(0), Reply::Done(both(Some(("kvm1", 1)))));
        assert!(dispatches(&keeper));
        keeper
    }

    #[test]
    fn used_units_are_claimed_and_idle_ones_released() {
        let mut keeper = owner();
        assert_eq!(keeper.look(at(1), IDLE), None);
        assert_eq!(keeper.look(at(10), IDLE), None);
        assert_eq!(keeper.look(at(11), IDLE), Some(Act::Release(epochs(1))));
        keeper.answered(at(11), Reply::Done(both(None)));
        assert!(!dispatches(&keeper));
        assert_eq!(keeper.look(at(30), IDLE), None, "nobody needs them");
        assert_eq!(keeper.look(at(30), USED), Some(Act::Claim(names())));
    }

    /// The release may take effect at any moment.
    #[test]
    fn who_comes_back_while_they_are_given_up_waits_for_the_answer() {
        let mut keeper = owner();
        assert_eq!(keeper.look(at(1), IDLE), None);
        assert_eq!(keeper.look(at(11), IDLE), Some(Act::Release(epochs(1))));
        assert_eq!(keeper.look(at(12), USED), None, "one question at a time");
        both(Some(("kvm1", 1))).iter().for_each(|found| keeper.found(found));
        assert!(!dispatches(&keeper));
        let mut not_asked = keeper.clone();
        not_asked.answered(at(12), Reply::NotAsked);
        assert!(dispatches(&not_asked), "nothing of it has left");
        keeper.answered(at(12), Reply::There(both(Some(("kvm1", 2)))));
        assert!(!dispatches(&keeper));
        assert_eq!(keeper.look(at(13), USED), Some(Act::Renew(epochs(2))));
    }

    #[test]
    fn who_does_not_have_its_name_alone_dispatches_nothing_until_it_was_renewed() {
        let mut keeper = owner();
        assert_eq!(keeper.look(at(1), IDLE), None);
        assert_eq!(keeper.look(at(11), IDLE), Some(Act::Release(epochs(1))));
        keeper.usurped();
        keeper.answered(at(11), Reply::NotAsked);
        assert!(!dispatches(&keeper), "an answer to what was asked before says nothing");
        assert_eq!(keeper.look(at(12), Around { store: Store::Down, ..USED }), None);
        assert_eq!(keeper.look(at(20), USED), Some(Act::Read(names())));
        keeper.answered(at(20), Reply::Done(both(Some(("kvm1", 4)))));
        assert_eq!(keeper.look(at(20), USED), Some(Act::Renew(epochs(4))));
        keeper.answered(at(20), Reply::Done(both(Some(("kvm1", 5)))));
        assert!(dispatches(&keeper));
        let mut heir = self::keeper();
        heir.inherit(|_| Some(1));
        heir.usurped();
        assert_eq!(heir.look(at(9), Around { store: Store::Down, ..USED }), None);
        assert!(!dispatches(&heir), "what the process before has left may be another machine's by now");
    }

    #[test]
    fn who_comes_back_in_time_keeps_them() {
        let mut keeper = owner();
        assert_eq!(keeper.look(at(1), IDLE), None);
        assert_eq!(keeper.look(at(10), USED), None);
        assert_eq!(keeper.look(at(12), IDLE), None);
        assert_eq!(keeper.look(at(21), IDLE), None);
        assert!(keeper.look(at(22), IDLE).is_some());
    }

    #[test]
    fn what_a_former_process_owned_is_renewed_before_anything_is_dispatched() {
        let mut keeper = keeper();
        both(Some(("kvm1", 7))).iter().for_each(|found| keeper.found(found));
        assert!(!dispatches(&keeper));
        assert_eq!(keeper.look(at(0), USED), Some(Act::Renew(epochs(7))));
        // The watch is sooner than the answer.
        both(Some(("kvm1", 8))).iter().for_each(|found| keeper.found(found));
        assert!(!dispatches(&keeper));
        keeper.answered(at(0), Reply::Done(both(Some(("kvm1", 8)))));
        assert!(dispatches(&keeper));
    }

    #[test]
    fn an_unanswered_change_stops_everything_until_it_was_read() {
        let mut keeper = owner();
        assert!(keeper.look(at(0), IDLE).is_none());
        assert!(matches!(keeper.look(at(10), IDLE), Some(Act::Release(_))));
        keeper.answered(at(10), Reply::Unknown);
        assert!(!dispatches(&keeper));
        assert_eq!(keeper.look(at(10), USED), None, "not at once");
        assert_eq!(keeper.look(at(11), USED), Some(Act::Read(names())));
        keeper.answered(at(11), Reply::Done(both(Some(("kvm1", 1)))));
        assert!(!dispatches(&keeper), "the release may still come");
        assert_eq!(keeper.look(at(11), USED), Some(Act::Renew(epochs(1))));
    }

    #[test]
    fn anothers_units_are_left_alone_and_lost_ones_are_not_dispatched() {
        let mut keeper = owner();
        keeper.found(&found("t/b", Some(("kvm2", 9))));
        assert!(!dispatches(&keeper));
        assert_eq!(keeper.look(at(0), USED), None);
        // A claim that takes effect late is seen, and made sure of.
        keeper.found(&found("t/b", Some(("kvm1", 10))));
        assert_eq!(
            keeper.look(at(0), USED),
            Some(Act::Renew(vec![UnitEpoch { unit: "t/b".into(), epoch: 10 }]))
        );
    }

    #[test]
    fn an_older_reading_takes_nothing_away_and_a_later_epoch_is_taken_over() {
        let mut keeper = owner();
        keeper.found(&found("t/a", Some(("kvm1", 3))));
        keeper.found(&found("t/a", Some(("kvm1", 2))));
        let known: Vec<_> = keeper.ownerships().map(|(_, ownership)| ownership).collect();
        assert_eq!(known, [Ownership::Ours { epoch: 3 }, Ownership::Ours { epoch: 1 }]);
    }

    #[test]
    fn on_its_way_the_move_decides() {
        let mut keeper = keeper();
        assert_eq!(keeper.look(at(0), MOVING), None);
        both(Some(("kvm1", 5))).iter().for_each(|found| keeper.found(found));
        assert_eq!(keeper.look(at(0), MOVING), None);
        keeper.own(&epochs(5));
        assert!(dispatches(&keeper));
        keeper.disown(&names());
        assert!(!dispatches(&keeper));
        assert_eq!(keeper.look(at(1), USED), Some(Act::Read(names())), "then it is read again");
    }

    #[test]
    fn what_is_given_to_this_host_one_after_the_other_is_all_taken() {
        let mut keeper = keeper();
        both(Some(("kvm2", 3))).iter().for_each(|found| keeper.found(found));
        keeper.found(&found("t/a", Some(("kvm1", 4))));
        let renewed = UnitEpoch { unit: "t/a".into(), epoch: 4 };
        assert_eq!(keeper.look(at(0), USED), Some(Act::Renew(vec![renewed])));
        // It has nothing to do with what was asked.
        keeper.found(&found("t/b", Some(("kvm1", 4))));
        keeper.answered(at(0), Reply::Done(vec![found("t/a", Some(("kvm1", 5)))]));
        let renewed = UnitEpoch { unit: "t/b".into(), epoch: 4 };
        assert_eq!(keeper.look(at(0), USED), Some(Act::Renew(vec![renewed])));
    }

    #[test]
    fn without_the_store_nothing_is_asked_and_nothing_lost() {
        let mut keeper = owner();
        assert_eq!(keeper.look(at(1), Around { store: Store::Down, ..IDLE }), None);
        assert_eq!(keeper.look(at(60), Around { store: Store::Down, ..IDLE }), None);
        assert!(dispatches(&keeper));
    }

    const AWAY: Around = Around { store: Store::Down, ..USED };

    /// As after a restart of vmpath.
    fn heir() -> Keeper {
        let mut keeper = keeper();
        keeper.inherit(|unit| (unit == "t/a" || unit == "t/b").then_some(7));
        keeper
    }

    fn after(milliseconds: u64) -> Instant {
        Instant::from_nanos(milliseconds * 1_000_000)
    }

    /// One that trusts.
    fn trusting() -> Keeper {
        let mut keeper = heir();
        assert_eq!(keeper.look(after(499), AWAY), None);
        assert!(!dispatches(&keeper), "the store may answer yet");
        assert_eq!(keeper.look(after(500), AWAY), None);
        assert!(dispatches(&keeper));
        keeper
    }

    #[test]
    fn what_a_former_process_has_left_is_dispatched_for_while_the_store_is_away_and_renewed_after() {
        let mut keeper = trusting();
        assert_eq!(keeper.look(at(60), USED), Some(Act::Renew(epochs(7))));
        both(Some(("kvm1", 7))).iter().for_each(|found| keeper.found(found));
        keeper.answered(at(60), Reply::Unknown);
        assert!(dispatches(&keeper), "it is this host's, whether it was renewed or not");
        assert_eq!(keeper.look(at(62), USED), Some(Act::Renew(epochs(7))));
        keeper.answered(at(62), Reply::There(both(Some(("kvm1", 8)))));
        assert_eq!(keeper.look(at(64), USED), Some(Act::Renew(epochs(8))));
        keeper.answered(at(64), Reply::Done(both(Some(("kvm1", 9)))));
        assert!(dispatches(&keeper));
        assert_eq!(keeper.trusted().count(), 0);
        assert_eq!(keeper.holdings().collect::<Vec<_>>(), [("t/a", 9), ("t/b", 9)]);
    }

    #[test]
    fn it_is_given_up_at_once_when_the_store_names_another_owner_or_none() {
        for owner in [Some(("kvm2", 8)), None] {
            let mut keeper = trusting();
            keeper.found(&found("t/a", owner));
            assert!(!keeper.ownerships().next().is_some_and(|(_, known)| known.may_dispatch()));
            let mut keeper = trusting();
            assert!(keeper.look(at(60), USED).is_some());
            keeper.answered(at(60), Reply::There(both(owner)));
            assert!(keeper.ownerships().all(|(_, known)| !known.may_dispatch()));
            assert_eq!(keeper.holdings().count(), 0);
        }
    }

    #[test]
    fn with_the_store_there_what_was_left_is_read_and_renewed_first() {
        let mut keeper = heir();
        assert_eq!(keeper.look(at(1), USED), Some(Act::Read(names())));
        assert!(!dispatches(&keeper));
        keeper.answered(at(1), Reply::Done(both(Some(("kvm1", 7)))));
        assert!(!dispatches(&keeper));
        assert_eq!(keeper.look(at(1), USED), Some(Act::Renew(epochs(7))));
    }

    #[test]
    fn the_store_goes_away_while_it_is_asked() {
        let mut keeper = heir();
        assert_eq!(keeper.look(at(1), USED), Some(Act::Read(names())));
        assert_eq!(keeper.look(at(2), AWAY), None);
        assert!(dispatches(&keeper));
        keeper.answered(at(3), Reply::Unknown);
        assert!(dispatches(&keeper));
    }

    /// Its commit may be out, for all that this process knows.
    #[test]
    fn on_its_way_nothing_that_was_left_is_believed() {
        let mut keeper = heir();
        assert_eq!(keeper.look(at(5), Around { moving: Moving::Yes, ..AWAY }), None);
        assert!(!dispatches(&keeper));
        assert_eq!(keeper.look(at(6), AWAY), None);
        assert!(!dispatches(&keeper), "its move is over: the owners are read first");
        assert_eq!(keeper.look(at(7), USED), Some(Act::Read(names())));
    }

    #[test]
    fn nothing_is_left_to_the_next_one_of_what_is_being_given_up() {
        let mut keeper = owner();
        assert_eq!(keeper.holdings().collect::<Vec<_>>(), [("t/a", 1), ("t/b", 1)]);
        assert_eq!(keeper.look(at(0), IDLE), None);
        assert!(matches!(keeper.look(at(10), IDLE), Some(Act::Release(_))));
        assert_eq!(keeper.holdings().count(), 0);
        keeper.answered(at(10), Reply::NotAsked);
        assert_eq!(keeper.holdings().count(), 2);
    }

    #[test]
    fn nothing_is_left_to_the_next_one_of_what_a_commit_may_give_away() {
        let mut keeper = owner();
        assert_eq!(keeper.look(at(1), MOVING), None);
        keeper.give(&epochs(1));
        assert!(dispatches(&keeper), "its move says when that is over");
        assert_eq!(keeper.holdings().count(), 0);
        let mut never_sent = keeper.clone();
        assert_eq!(never_sent.look(at(2), USED), None);
        assert_eq!(never_sent.holdings().count(), 2, "the move is over, and they are here");
        keeper.own(&epochs(2));
        assert_eq!(keeper.holdings().collect::<Vec<_>>(), [("t/a", 2), ("t/b", 2)]);
    }
}
