//! What was heard of this host's units, for the process after this one: a file in `state_dir`, by which it notices that etcd has gone
//! back meanwhile.
//!
//! Invariant: the file never says more than etcd has said, so it may be late, or lost, and costs a check and never a false alarm.
//! It is written by one thread at a time, at most once a second: nobody waits for its disk, which may be sick. Rejected: etcd's own
//! revisions; a store that has gone back overtakes them. It does not know what a refusal leads to.

use super::Revision;
use super::past::Past;
use super::record::Record;
use crate::sys::clock;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use tokio::task::JoinHandle;
use vmpath_core::time::{Duration, Instant};

/// In `state_dir`.
const FILE: &str = "owners.json";
/// A disk that hangs costs the first session that.
const READ_WITHIN: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_secs(1);
/// After a write that has failed.
const PAUSE_FAILED: Duration = Duration::from_secs(60);

/// By `target/unit`.
type Owners = BTreeMap<String, Record>;

#[derive(Debug)]
pub(super) struct Kept {
    file: PathBuf,
    prefix: String,
    /// What the process before has left.
    former: Owners,
    /// What the file says, or will in a moment.
    says: u64,
    writing: Option<JoinHandle<io::Result<()>>>,
    next: Instant,
    is_told: bool,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Wire {
    prefix: String,
    /// As in etcd.
    owners: BTreeMap<String, Value>,
}

impl Kept {
    pub(super) fn new(state_dir: &Path, prefix: &str) -> Self {
        Self {
            file: state_dir.join(FILE),
            prefix: prefix.to_owned(),
            former: Owners::new(),
            says: 0,
            writing: None,
            next: Instant::ZERO,
            is_told: false,
        }
    }

    /// Reads what the process before has left; to be called once, before the first session.
    pub(super) async fn read(&mut self) {
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read(file));
        let why = match tokio::time::timeout(READ_WITHIN, read).await {
            Ok(Ok(Ok(bytes))) => match parse(&bytes, &self.prefix) {
                Ok(owners) => {
                    self.former = owners;
                    return;
                }
                Err(why) => why,
            },
            Ok(Ok(Err(error))) if error.kind() == io::ErrorKind::NotFound => return,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not read within {} s", READ_WITHIN.as_secs()),
        };
        tracing::warn!(
            "{}: {why}: should etcd have gone back while vmpath did not run, that is not noticed",
            self.file.display()
        );
    }

    /// With what only the process before has heard.
    pub(super) fn add_to(&self, mut past: Past) -> Past {
        for (unit, record) in &self.former {
            past.owners.entry(unit.clone()).or_insert_with(|| (record.clone(), Revision::MIN));
        }
        past
    }

    /// When [`Self::write`] has something to do; `version` counts what was heard.
    pub(super) fn due(&self, version: u64) -> Option<Instant> {
        (self.says != version || self.writing.is_some()).then_some(self.next)
    }

    /// Writes what is known, if it is time, and the last write has ended.
    pub(super) async fn write(&mut self, version: u64, past: &Past) {
        let now = clock::now();
        if self.due(version).is_none_or(|due| due > now) {
            return;
        }
        self.next = now + PAUSE;
        if let Some(writing) = self.writing.take_if(|writing| writing.is_finished()) {
            let failed = match writing.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(why) = failed {
                (self.says, self.next) = (0, now + PAUSE_FAILED);
                if !std::mem::replace(&mut self.is_told, true) {
                    tracing::warn!(
                        "{}: {why}: the next vmpath may not notice that etcd has gone back",
                        self.file.display()
                    );
                }
                return;
            }
        }
        if self.writing.is_none() && self.says != version {
            self.says = version;
            let (file, bytes) = (self.file.clone(), self.bytes(past));
            self.writing = Some(tokio::task::spawn_blocking(move || write(&file, &bytes)));
        }
    }

    fn bytes(&self, past: &Past) -> Vec<u8> {
        let all = self.add_to(past.clone()).owners.into_iter();
        let known = all.filter(|(_, (record, _))| *record != Record::ABSENT);
        let value = |record: &Record| serde_json::from_slice(&record.write()).ok();
        let owners = known.filter_map(|(unit, (record, _))| Some((unit, value(&record)?))).collect();
        serde_json::to_vec(&Wire { prefix: self.prefix.clone(), owners }).unwrap_or_default()
    }
}

fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let beside = file.with_extension("new");
    std::fs::write(&beside, bytes)?;
    std::fs::File::open(&beside)?.sync_all()?;
    std::fs::rename(&beside, file)
}

/// Of another part of etcd it says nothing. What cannot be read of a unit is passed over.
fn parse(bytes: &[u8], prefix: &str) -> Result<Owners, String> {
    let wire: Wire = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if wire.prefix != prefix {
        return Ok(Owners::new());
    }
    let record = |(unit, value): (String, Value)| {
        let bytes = serde_json::to_vec(&value).ok()?;
        Some((unit, Record::read(&bytes).ok()?))
    };
    Ok(wire.owners.into_iter().filter_map(record).collect())
}

#[cfg(test)]
mod tests {
    use super::super::record::Held;
    use super::*;

    fn record(epoch: u64) -> Record {
        Record { epoch, held: Some(Held { host: "kvm1".into(), move_id: None }) }
    }

    #[tokio::test]
    async fn the_next_process_knows_what_this_one_has_heard() {
        let dir = tempfile::tempdir().expect("a directory");
        let of = |units: &[(&str, u64)]| {
            let owner = |(unit, epoch): &(&str, u64)| ((*unit).to_owned(), (record(*epoch), 5));
            Past { owners: units.iter().map(owner).collect(), ..Past::default() }
        };
        let mut kept = Kept::new(dir.path(), "/v");
        assert_eq!(kept.due(0), None);
        kept.write(3, &of(&[("san0/a", 4), ("san0/b", 2)])).await;
        kept.writing.take().expect("it is written").await.expect("no panic").expect("written");
        let mut next = Kept::new(dir.path(), "/v");
        next.read().await;
        let known = next.add_to(of(&[("san0/a", 9)]));
        let epochs: Vec<_> =
            known.owners.iter().map(|(unit, (record, _))| (unit.as_str(), record.epoch)).collect();
        assert_eq!(epochs, [("san0/a", 9), ("san0/b", 2)], "what was heard since is later");
        let mut elsewhere = Kept::new(dir.path(), "/other");
        elsewhere.read().await;
        assert!(elsewhere.former.is_empty());
        for broken in ["", "{}", "[]", "\u{0}"] {
            assert!(parse(broken.as_bytes(), "/v").is_err());
        }
    }

    #[tokio::test]
    async fn one_write_at_a_time_and_the_last_word_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut kept = Kept::new(dir.path(), "/v");
        kept.writing = Some(tokio::spawn(std::future::pending()));
        kept.write(1, &Past::default()).await;
        assert_eq!(kept.says, 0, "the disk hangs");
        let due = kept.due(1).expect("it is looked at again");
        assert!(due > clock::now());
    }
}
