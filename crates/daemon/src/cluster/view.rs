//! What this host knows of the others and of its units' owners, from lists and from watched events.
//!
//! Invariant: an owner never goes back to an older revision. Hosts and rooms are as they were told last; watches of different keys
//! are not in step, so no one revision says how far all of it is known.
//! What cannot be read is passed over and counted, and a unit's owner then stays unknown.
//! It does not know whether anybody may be moved there.

use super::call::{Entry, Reading};
use super::keys::{Key, Keys};
use super::past::{Past, Present, Revisions};
use super::record::{Record, read_room};
use super::slice::{self, Slice};
use super::{Claimed, Others, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vmpath_core::ownership::Found;
use vmpath_core::placement::{Claim, HostSummary};

#[derive(Debug)]
pub(super) struct View {
    keys: Keys,
    /// `target/unit` of this host's disks.
    units: BTreeSet<String>,
    /// What was heard of units, and of how late a revision anything was.
    past: Past,
    /// Counts the owners that were new.
    version: u64,
    slices: BTreeMap<String, BTreeMap<String, Slice>>,
    hosts: BTreeMap<String, Arc<HostSummary>>,
    /// By target, host and id.
    rooms: BTreeMap<(String, String, String), Claimed>,
    dirty: bool,
}

/// A key as it is now, or was deleted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fact<'a> {
    pub(super) key: &'a [u8],
    /// None: it is gone.
    pub(super) value: Option<&'a [u8]>,
    pub(super) revision: Revision,
}

/// What a fact changed that somebody is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Owner(Found),
    /// A host's word of a target is gone.
    HostGone {
        target: String,
        host: String,
    },
}

impl View {
    pub(super) fn new(keys: Keys, units: impl Iterator<Item = String>) -> Self {
        Self {
            keys,
            units: units.collect(),
            past: Past::default(),
            version: 0,
            slices: BTreeMap::new(),
            hosts: BTreeMap::new(),
            rooms: BTreeMap::new(),
            dirty: false,
        }
    }

    /// Before everything is listed anew. Owners stay: of them only newer ones count.
    pub(super) fn forget_others(&mut self) {
        self.slices.clear();
        self.hosts.clear();
        self.rooms.clear();
        self.dirty = true;
    }

    /// Differs when an owner is known that was not.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// What a session has to go on from.
    pub(super) const fn past(&self) -> &Past {
        &self.past
    }

    /// From now on with an etcd that was found to have lost no owner. If its revisions are new, whatever it says is later than what is known.
    pub(super) fn go_on(&mut self, present: &Present, revisions: Revisions) {
        self.past.cluster = Some(present.cluster);
        match revisions {
            Revisions::Continued => self.past.revision = self.past.revision.max(present.revision),
            Revisions::Anew => {
                self.past.revision = present.revision;
                self.past.owners.values_mut().for_each(|(_, since)| *since = 0);
            }
        }
    }

    pub(super) fn learn(&mut self, fact: Fact<'_>) -> Option<Change> {
        self.past.revision = self.past.revision.max(fact.revision);
        let keys = self.keys.clone();
        match keys.parse(fact.key)? {
            Key::Owner { unit } => {
                let record = match fact.value.map(Record::read) {
                    None => Record::ABSENT,
                    Some(Ok(record)) => record,
                    Some(Err(why)) => {
                        tracing::warn!("etcd: the owner of {unit} cannot be read: {why}");
                        return None;
                    }
                };
                self.owner(unit, record, fact.revision).map(Change::Owner)
            }
            Key::Host { target, host } => {
                self.dirty = true;
                self.slice(target, host, fact.value.and_then(Slice::read));
                let (target, host) = (target.to_owned(), host.to_owned());
                fact.value.is_none().then_some(Change::HostGone { target, host })
            }
            Key::Room { target, host, id } => {
                self.dirty = true;
                let [target, host, id] = [target, host, id].map(str::to_owned);
                let key = (target.clone(), host.clone(), id.clone());
                match fact.value.and_then(read_room) {
                    Some((vm, rate)) => {
                        let claim = Claim { vm, host, target, rate };
                        self.rooms.insert(key, Claimed { id, claim, revision: fact.revision })
                    }
                    None => self.rooms.remove(&key),
                };
                None
            }
        }
    }

    /// Tells of a unit of ours whose record is new.
    pub(super) fn owner(&mut self, unit: &str, record: Record, revision: Revision) -> Option<Found> {
        if !self.units.contains(unit) {
            return None;
        }
        if let Some((known, since)) = self.past.owners.get_mut(unit) {
            if *since >= revision {
                return None;
            }
            *since = revision;
            if *known == record {
                return None;
            }
        }
        let found = record.found(unit);
        self.past.owners.insert(unit.to_owned(), (record, revision));
        self.version += 1;
        Some(found)
    }

    /// Takes in what a call has found of units. Returns what of it is new, and whose record is known to have changed since.
    pub(super) fn read(&mut self, reading: &Reading) -> (Vec<Found>, Vec<Found>) {
        let mut told = vec![];
        let mut later = vec![];
        self.past.revision = self.past.revision.max(reading.as_of);
        for Entry { unit, record, revision } in &reading.entries {
            // What is not there is so as of the reading.
            let revision = if *revision == 0 { reading.as_of } else { *revision };
            told.extend(self.owner(unit, record.clone(), revision));
            later.extend(
                self.past
                    .owners
                    .get(unit)
                    .filter(|(known, since)| *since > reading.as_of && known != record)
                    .map(|(known, _)| known.found(unit)),
            );
        }
        (told, later)
    }

    fn slice(&mut self, target: &str, host: &str, slice: Option<Slice>) {
        let slices = self.slices.entry(host.to_owned()).or_default();
        match slice {
            Some(slice) => drop(slices.insert(target.to_owned(), slice)),
            None => drop(slices.remove(target)),
        }
        match slice::joined(host, slices) {
            Some(summary) => drop(self.hosts.insert(host.to_owned(), Arc::new(summary))),
            None => {
                self.slices.remove(host);
                self.hosts.remove(host);
            }
        }
    }

    /// Whether the host's word of the target is there.
    pub(super) fn has(&self, host: &str, target: &str) -> bool {
        self.slices.get(host).is_some_and(|slices| slices.contains_key(target))
    }

    pub(super) const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// All of it, for whoever decides.
    pub(super) fn told(&mut self) -> Arc<Others> {
        self.dirty = false;
        Arc::new(Others {
            hosts: self.hosts.values().cloned().collect(),
            rooms: self.rooms.values().cloned().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Held, write_room};
    use super::super::slice::tests::host;
    use super::*;

    fn view() -> View {
        View::new(Keys::new("/v"), ["san0/u0".to_owned()].into_iter())
    }

    fn record(host: &str, epoch: u64) -> Vec<u8> {
        Record { epoch, held: Some(Held { host: host.into(), move_id: None }) }.write()
    }

    fn owner_text(found: &Found) -> String {
        found.owner.as_ref().map_or_else(|| "free".into(), ToString::to_string)
    }

    fn owner(view: &mut View, unit: &str, value: Option<&[u8]>, revision: Revision) -> Option<String> {
        let key = Keys::new("/v").owner(unit);
        match view.learn(Fact { key: key.as_bytes(), value, revision })? {
            Change::Owner(found) => Some(owner_text(&found)),
            Change::HostGone { .. } => panic!("an owner"),
        }
    }

    #[test]
    fn owners_go_forward_only_and_are_told_once() {
        let mut view = view();
        let mut learn = |value: Option<&[u8]>, revision| owner(&mut view, "san0/u0", value, revision);
        assert_eq!(learn(Some(&record("a", 1)), 10).as_deref(), Some("a (epoch 1)"));
        assert_eq!(learn(Some(&record("a", 1)), 11), None, "nothing new");
        assert_eq!(learn(Some(&record("b", 2)), 9), None, "older than what is known");
        assert_eq!(learn(Some(b"garbage"), 12), None, "not taken for a unit without an owner");
        assert_eq!(learn(None, 13).as_deref(), Some("free"));
        assert_eq!(owner(&mut view, "san0/other", Some(&record("a", 1)), 14), None, "no disk of ours");
    }

    #[test]
    fn a_reading_is_compared_with_what_was_heard_meanwhile() {
        let mut view = view();
        let read = |view: &mut View, record: Record, revision, as_of| {
            let entries = vec![Entry { unit: "san0/u0".into(), record, revision }];
            let (told, later) = view.read(&Reading { as_of, entries });
            let words = |found: Vec<Found>| found.iter().map(owner_text).collect::<Vec<_>>().join(" ");
            (words(told), words(later))
        };
        let held = |epoch| Record { epoch, held: Some(Held { host: "a".into(), move_id: None }) };
        let words = |told: &str, later: &str| (told.to_owned(), later.to_owned());
        assert_eq!(read(&mut view, Record::ABSENT, 0, 5), words("free", ""));
        assert_eq!(read(&mut view, held(1), 7, 8), words("a (epoch 1)", ""));
        assert_eq!(read(&mut view, held(1), 7, 12), words("", ""));
        owner(&mut view, "san0/u0", Some(&record("a", 2)), 10);
        assert_eq!(read(&mut view, held(1), 7, 9), words("", "a (epoch 2)"), "a change was heard of sooner");
        assert_eq!(read(&mut view, held(2), 10, 11), words("", ""));
        // Deleted by hand, and read before it is heard of.
        assert_eq!(read(&mut view, Record::ABSENT, 0, 15), words("free", ""));
        assert_eq!(owner(&mut view, "san0/u0", None, 14), None);
    }

    #[test]
    fn hosts_come_and_go_with_their_slices() {
        let (mut view, keys, summary) = (view(), Keys::new("/v"), host("kvm2", 3));
        let value = Slice::of(&summary, &summary.targets[0]).write();
        let key = keys.host("san0", "kvm2");
        let fact = |value| Fact { key: key.as_bytes(), value, revision: 5 };
        assert_eq!(view.learn(fact(Some(&value))), None);
        assert!(view.is_dirty());
        let told = view.told();
        assert_eq!((told.hosts.len(), &*told.hosts[0]), (1, &summary));
        assert!(!view.is_dirty());
        let gone = Change::HostGone { target: "san0".into(), host: "kvm2".into() };
        assert_eq!(view.learn(fact(None)), Some(gone));
        assert!(view.told().hosts.is_empty());
    }

    #[test]
    fn rooms_are_kept_until_they_are_gone() {
        let (mut view, key) = (view(), Keys::new("/v").room("san0", "kvm2", "kvm1.7.1"));
        view.learn(Fact { key: key.as_bytes(), value: Some(&write_room("db1", 7)), revision: 1 });
        let claim = Claim { vm: "db1".into(), host: "kvm2".into(), target: "san0".into(), rate: 7 };
        let room = Claimed { id: "kvm1.7.1".into(), claim, revision: 1 };
        assert_eq!(view.told().rooms, [room]);
        view.learn(Fact { key: key.as_bytes(), value: None, revision: 2 });
        assert!(view.told().rooms.is_empty());
        view.learn(Fact { key: key.as_bytes(), value: Some(&write_room("db1", 7)), revision: 3 });
        view.forget_others();
        assert!(view.told().rooms.is_empty());
    }
}
