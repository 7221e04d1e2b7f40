//! Whether etcd still knows what this host has heard of it: a store that was restored from a backup, or emptied, does not.
//!
//! Invariant: an owner's epoch never goes back, so a store that says an earlier one, or another owner under the same, has lost what
//! was decided; no session is held with it. Where all owners are as they were known, or later, it may be used, whatever its revisions.
//! Rejected: comparing revisions alone. A store that went back overtakes them in time, and one that was put right could never be used.
//! It does not know units that are no disks of this host.

use super::Revision;
use super::keys::Keys;
use super::record::Record;
use std::collections::BTreeMap;

/// How what follows begins in each refusal.
const GONE_BACK: &str = "etcd has gone back";

/// Which etcd was spoken to, and what it has said of this host's units. Without a cluster's id: nothing yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    pub(super) cluster: Option<u64>,
    /// The latest that was heard of.
    pub(super) revision: Revision,
    /// By `target/unit`, with the revision since which it is so.
    pub(super) owners: BTreeMap<String, (Record, Revision)>,
}

/// What a new session has read.
#[derive(Clone, Debug)]
pub(super) struct Present {
    pub(super) cluster: u64,
    pub(super) revision: Revision,
    /// As in [`Past`], of each unit that could be read.
    pub(super) owners: Vec<(String, Record, Revision)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Revisions {
    /// They go on from those of the past.
    Continued,
    /// They cannot be compared with those of the past.
    Anew,
}

impl Past {
    /// # Errors
    /// In words, which owner is lost, and what is to be put into etcd so that it is not.
    pub(super) fn compare(&self, present: &Present, keys: &Keys) -> Result<Revisions, String> {
        let lost: Vec<_> =
            present.owners.iter().filter_map(|(unit, there, _)| self.lost(unit, there)).collect();
        if let Some((unit, known, there)) = lost.first() {
            let (more, value) = (lost.len() - 1, known.write());
            let more =
                if more == 0 { String::new() } else { format!(", and {more} more units are like that") };
            return Err(format!(
                "{GONE_BACK}: {unit} is {there} there, and was {known}{more}. It was restored or emptied. Owners stay as this \
                 host knows them until etcd says so too: put {} '{}' (docs/cluster.md, \"etcd has gone back\")",
                keys.owner(unit),
                String::from_utf8_lossy(&value),
                there = words(there),
                known = words(known),
            ));
        }
        let is_older = |(unit, _, since): &(String, Record, Revision)| {
            self.owners.get(unit).is_some_and(|(_, known_since)| since < known_since)
        };
        let anew = self.cluster.is_some_and(|cluster| cluster != present.cluster)
            || present.revision < self.revision
            || present.owners.iter().any(is_older);
        Ok(if anew { Revisions::Anew } else { Revisions::Continued })
    }

    fn lost<'p>(&'p self, unit: &'p str, there: &'p Record) -> Option<(&'p str, &'p Record, &'p Record)> {
        let (known, _) = self.owners.get(unit)?;
        let is_lost = there.epoch < known.epoch || there.epoch == known.epoch && there != known;
        is_lost.then_some((unit, known, there))
    }
}

fn words(record: &Record) -> String {
    match &record.held {
        Some(held) => format!("{}'s (epoch {})", held.host, record.epoch),
        None => format!("nobody's (epoch {})", record.epoch),
    }
}

/// Why an answer as of `revision` to a question that was asked after `known` was heard of is none.
pub(super) fn words_of(revision: Revision, known: Revision) -> String {
    format!("{GONE_BACK} from revision {known} to {revision}")
}

/// Such a refusal says that the session is of no more use.
pub(super) fn is_gone_back(why: &str) -> bool {
    why.starts_with(GONE_BACK)
}

#[cfg(test)]
mod tests {
    use super::super::record::Held;
    use super::*;

    fn record(epoch: u64, host: &str) -> Record {
        let held = (!host.is_empty()).then(|| Held { host: host.into(), move_id: None });
        Record { epoch, held }
    }

    /// Known: kvm1's under epoch 5, since revision 50; and revision 70 was heard of.
    fn compare(cluster: u64, revision: Revision, there: (Record, Revision)) -> Result<Revisions, String> {
        let known = ("san0/u0".to_owned(), (record(5, "kvm1"), 50));
        let past = Past { cluster: Some(1), revision: 70, owners: BTreeMap::from([known]) };
        let owners = vec![("san0/u0".into(), there.0, there.1), ("san0/new".into(), record(1, "kvm9"), 3)];
        past.compare(&Present { cluster, revision, owners }, &Keys::new("/v"))
    }

    #[test]
    fn no_owner_is_ever_forgotten_whatever_the_revisions() {
        for revision in [10, 70, 900] {
            for there in [record(0, ""), record(4, "kvm1"), record(5, "kvm2"), record(5, "")] {
                let why = compare(1, revision, (there, 9)).expect_err("lost");
                assert!(
                    is_gone_back(&why)
                        && why.contains("put /v/owner/san0/u0 '{\"host\":\"kvm1\",\"epoch\":5}'"),
                    "{why}"
                );
            }
        }
    }

    #[test]
    fn a_store_that_lost_no_owner_is_used_and_its_revisions_count_anew() {
        assert_eq!(compare(1, 70, (record(5, "kvm1"), 50)), Ok(Revisions::Continued));
        assert_eq!(compare(1, 80, (record(6, "kvm2"), 75)), Ok(Revisions::Continued));
        assert_eq!(compare(2, 80, (record(6, "kvm2"), 75)), Ok(Revisions::Anew), "another cluster");
        assert_eq!(compare(1, 60, (record(5, "kvm1"), 50)), Ok(Revisions::Anew), "behind what was heard");
        assert_eq!(
            compare(1, 80, (record(6, "kvm2"), 49)),
            Ok(Revisions::Anew),
            "overtaken, but the unit is older"
        );
    }
}
