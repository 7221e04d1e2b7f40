//! What a former process of this host left behind, before anything is sent: its record, and its sockets.
//!
//! Rule 2 of the design's "never go wrong": its sockets to targets are dead before what they carried goes elsewhere; without
//! that proof the daemon does not start. Rule 4: what it had in flight or in quarantine goes into quarantine again; of what no record
//! tells, though there must have been one, nothing is sent for one bound.

use crate::sys::boot::BootId;
use crate::sys::diag::{Diag, Leftover};
use crate::sys::record::{self, Record, Remains};
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vmpath_core::ids::{UnitId, WorkerId};
use vmpath_core::router;
pub(crate) use vmpath_core::router::Knowledge;
use vmpath_core::spec::Spec;
use vmpath_core::time::Instant;

/// Records are `record-WORKER.START`: those of a former process stay until their content is in the new ones.
const PREFIX: &str = "record-";
const UNFINISHED: &str = ".new";
/// What follows in the name of one that cannot be read: when that was first seen, in nanoseconds of the monotonic clock.
const UNREADABLE: &str = ".unreadable-";
/// Stands for a record that should have been there, with the same after it.
const MISSING: &str = "record-missing";
/// How often a leftover socket is looked for again, and for how long: a process that has just been killed lets go of its sockets
/// within milliseconds.
const LEFTOVER_PAUSE: Duration = Duration::from_millis(20);
const LEFTOVER_TRIES: u32 = 100;
/// The same, where it is not known which sockets those are: then it is waited for.
const LEFTOVER_MAX: Duration = Duration::from_secs(2);

/// A write of unknown outcome: its unit, range and fence, if one was running.
pub(super) type Write = (UnitId, Range<u64>, Option<Instant>);

/// Whether a vmpath has run before in this boot of the host, and so has left a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Former {
    None,
    Ran,
    /// Nobody remembers.
    Unknown,
}

/// What was found, and the files in which.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) writes: Vec<Write>,
    pub(super) knowledge: Knowledge,
    /// Why not all is known, if something may still come of it; in words.
    pub(super) unknown: Vec<String>,
    files: Vec<PathBuf>,
    /// With when each was first seen.
    unreadable: Vec<(PathBuf, Instant)>,
    connections: Vec<(SocketAddr, SocketAddr)>,
}

impl Recovered {
    /// Reads all records of former processes.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub(super) fn read(folder: &Path, spec: &Spec, former: Former, now: Instant) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut found = Self::default();
        let (quiesce, mut has_record) = (longest_quiesce(spec), false);
        let listing =
            std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in listing {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if !name.starts_with(PREFIX) {
                continue;
            }
            if name.ends_with(UNFINISHED) {
                // Its process had sent nothing yet.
                found.files.push(path);
                continue;
            }
            let why = if name.starts_with(MISSING) {
                // Who put it there had one of its own before it sent anything.
                has_record = true;
                Some("that one had lost its record".into())
            } else {
                match record::read(&path) {
                    Ok(None) => None,
                    Ok(Some(remains)) => {
                        has_record = true;
                        found.add(remains, spec).err()
                    }
                    Err(error) => {
                        has_record = true;
                        Some(error.to_string())
                    }
                }
            };
            match why {
                None => found.files.push(path),
                Some(why) => found.cannot_tell(&path, &why, quiesce, now),
            }
        }
        match former {
            Former::Ran | Former::Unknown if !has_record => found.is_missing(folder, former, now)?,
            Former::None | Former::Ran | Former::Unknown => {}
        }
        Ok(found)
    }

    /// What it would have told of may still take effect. A file stands for it, so that one that starts during the hold goes on with it.
    fn is_missing(&mut self, folder: &Path, former: Former, now: Instant) -> Result<()> {
        let path = folder.join(format!("{MISSING}{UNREADABLE}{}", now.as_nanos()));
        std::fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        let ran = match former {
            Former::Ran => "one has run since the host's boot",
            Former::None | Former::Unknown => "whether one has run since the host's boot is not known",
        };
        self.unknown.push(format!(
            "it is not known what the vmpath before had in flight: {ran}, and run_dir ({}) has no record of it, as if it was emptied or \
             is another one now (under systemd: RuntimeDirectory without RuntimeDirectoryPreserve=yes); nothing is sent to any unit \
             for its target's `quiesce` and {} s",
            folder.display(),
            LEFTOVER_MAX.as_secs()
        ));
        self.knowledge = Knowledge::Incomplete { since: now };
        self.unreadable.push((path, now));
        Ok(())
    }

    /// It stays until nothing that it would have told of can take effect any more: a process that dies while it holds must not be followed by
    /// one that knows of nothing. Its name remembers since when that is counted, so that no row of starts holds for ever.
    fn cannot_tell(&mut self, path: &Path, why: &str, quiesce: Duration, now: Instant) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let told = name.split_once(UNREADABLE).and_then(|(_, at)| at.parse().ok()).map(Instant::from_nanos);
        // One of the future is of another boot.
        let since = told.filter(|at| *at <= now).unwrap_or(now);
        if !is_over(since, quiesce, now) {
            self.unknown.push(format!(
                "it is not known what a vmpath before had in flight: {}: {why}; nothing is sent to any unit until its target's \
                 `quiesce` has passed since its sockets were gone ({} s after that was first seen, {} s ago)",
                path.display(),
                LEFTOVER_MAX.as_secs(),
                now.since(since).as_secs()
            ));
        }
        let latest = match self.knowledge {
            Knowledge::Complete => since,
            Knowledge::Incomplete { since: other } => since.max(other),
        };
        self.knowledge = Knowledge::Incomplete { since: latest };
        let first = name.split(UNREADABLE).next().unwrap_or(&name);
        let marked = path.with_file_name(format!("{first}{UNREADABLE}{}", since.as_nanos()));
        let kept = std::fs::rename(path, &marked).map_or_else(|_| path.to_owned(), |()| marked);
        self.unreadable.push((kept, since));
    }

    /// # Errors
    /// It tells of a unit of which the configuration does not: it may be there under another name.
    fn add(&mut self, remains: Remains, spec: &Spec) -> Result<(), String> {
        let mut unknown = Ok(());
        for (name, range, until) in remains.writes {
            match spec.unit_ids().find(|unit| spec.unit_name(*unit) == name) {
                Some(unit) => self.writes.push((unit, range, until)),
                None => {
                    unknown =
                        Err(format!("it tells of writes to {name}, which no disk uses under that name"));
                }
            }
        }
        self.connections.extend(remains.connections);
        unknown
    }

    /// Makes sure that no connection of the former process is left.
    ///
    /// # Errors
    /// One is, and it cannot be destroyed.
    pub(super) fn destroy_leftovers(&self) -> Result<()> {
        if self.connections.is_empty() {
            return Ok(());
        }
        let mut diag = Diag::open().context("cannot ask the kernel for the former vmpath's sockets")?;
        for (local, peer) in &self.connections {
            let mut tries = 0;
            loop {
                match diag.destroy(*local, *peer) {
                    Leftover::Gone => break,
                    Leftover::Destroyed => {
                        tracing::info!("destroyed a leftover connection {local} -> {peer}");
                    }
                    Leftover::NotPermitted(why) | Leftover::Failed(why) if tries >= LEFTOVER_TRIES => bail!(
                        "the former vmpath's connection {local} -> {peer} is still there and cannot be destroyed \
                         ({why}); end the process that holds it (`ss -tnp`), or let vmpath have CAP_NET_ADMIN"
                    ),
                    Leftover::NotPermitted(_) | Leftover::Failed(_) => std::thread::sleep(LEFTOVER_PAUSE),
                }
                tries += 1;
            }
        }
        Ok(())
    }

    /// Their content is in the new records, or can take no effect any more: `quiesce` is the longest of any target.
    pub(super) fn remove_files(&self, quiesce: Duration, now: Instant) {
        let over =
            self.unreadable.iter().filter(|(_, since)| is_over(*since, quiesce, now)).map(|(path, _)| path);
        for path in self.files.iter().chain(over) {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(%error, "cannot remove {}", path.display());
            }
        }
    }
}

pub(super) fn longest_quiesce(spec: &Spec) -> Duration {
    spec.targets.iter().map(|target| target.quiesce).max().unwrap_or_default()
}

/// Nothing of which is not known since then can take effect any more.
fn is_over(since: Instant, quiesce: Duration, now: Instant) -> bool {
    now.since(since) > quiesce + LEFTOVER_MAX
}

/// Until when nothing goes to a unit at all: what was sent before the boot of the host may come until one bound after it,
/// and what an unreadable record would have told of until one bound from when its sockets were gone. None if that is over.
pub(super) fn held_until(knowledge: Knowledge, quiesce: Duration, now: Instant) -> Option<Instant> {
    let gone = match knowledge {
        Knowledge::Complete => Knowledge::Complete,
        Knowledge::Incomplete { since } => Knowledge::Incomplete { since: since + LEFTOVER_MAX },
    };
    // The clock counts from the boot.
    router::held_until(gone, Instant::ZERO, quiesce, now)
}

/// A worker's new record, in a file that no other process has ever had.
///
/// # Errors
/// It cannot be made.
pub(super) fn new_record(spec: &Spec, worker: WorkerId, started: Instant) -> Result<Record> {
    let units: Vec<String> = spec.unit_ids().map(|unit| spec.unit_name(unit)).collect();
    let path = spec.host.run_dir.join(format!("{PREFIX}{}.{}", worker.0, started.as_nanos()));
    let boot = BootId::current()?;
    Record::create(&path, &boot, &units)
        .with_context(|| format!("cannot make the record of what is in flight, {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use vmpath_core::spec::{Source, parse};

    const CONFIG: &str = r#"
[host]
run_dir = "RUN"
[[target]]
name = "san0"
[[target.path]]
name = "a"
url = "nbd://127.0.0.1:1"
[[target.path]]
name = "b"
url = "nbd://127.0.0.1:2"
[[vm]]
name = "v"
[[vm.disk]]
name = "d"
unit = "san0/root"
nbd = "/run/d.sock"
"#;

    const NOW: Instant = Instant::from_millis(60_000);
    const QUIESCE: Duration = Duration::from_secs(5);

    struct Scene {
        _folder: tempfile::TempDir,
        spec: Spec,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let text = CONFIG.replace("RUN", folder.path().to_str().unwrap());
            let spec = parse(&[Source { name: "test", text: &text }]).unwrap().spec;
            Self { _folder: folder, spec }
        }

        fn folder(&self) -> &Path {
            &self.spec.host.run_dir
        }

        /// The record of a former process, with an open write and a ghost, which it leaves by dying.
        fn former(&self, number: u64) -> PathBuf {
            let mut record = new_record(&self.spec, WorkerId(0), Instant::from_nanos(number)).unwrap();
            record.remember(0, 0, 0..4096, None);
            record.remember(1, 0, 8192..12288, Some(Instant::from_millis(9000)));
            drop(record);
            self.folder().join(format!("{PREFIX}0.{number}"))
        }

        fn read(&self) -> Recovered {
            self.read_at(NOW)
        }

        fn read_at(&self, now: Instant) -> Recovered {
            self.read_after(Former::None, now)
        }

        fn read_after(&self, former: Former, now: Instant) -> Recovered {
            Recovered::read(self.folder(), &self.spec, former, now).unwrap()
        }
    }

    #[test]
    fn what_a_killed_process_had_under_way_is_given_back() {
        let scene = Scene::new();
        scene.former(1);
        let found = scene.read();
        let expected =
            vec![(UnitId(0), 0..4096, None), (UnitId(0), 8192..12288, Some(Instant::from_millis(9000)))];
        assert_eq!((found.writes.clone(), found.knowledge), (expected, Knowledge::Complete));
        // It dies again before it has put them into a record of its own.
        scene.former(2);
        assert_eq!(scene.read().writes.len(), 4);
        let found = scene.read();
        found.remove_files(QUIESCE, NOW);
        assert!(scene.read().writes.is_empty());
    }

    #[test]
    fn a_record_that_cannot_be_read_holds_everything_and_hides_no_other() {
        for spoil in [
            (|bytes| bytes.truncate(bytes.len() - 5)) as fn(&mut Vec<u8>),
            |bytes| bytes.truncate(100),
            Vec::clear,
            // The version before this one, and the one after it.
            |bytes| bytes[8] = 0,
            |bytes| bytes[8] = 2,
            |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 0x5a),
            // The range of its first slot.
            |bytes| bytes[4096 + 8] ^= 1,
        ] {
            let scene = Scene::new();
            let path = scene.former(1);
            scene.former(2);
            let mut bytes = fs::read(&path).unwrap();
            spoil(&mut bytes);
            fs::write(&path, bytes).unwrap();
            let found = scene.read();
            assert_eq!((found.knowledge, found.writes.len()), (Knowledge::Incomplete { since: NOW }, 2));
            found.remove_files(QUIESCE, NOW);
            // A row of starts does not hold for longer than one.
            for (later, left) in [(2, 1), (6, 1), (8, 0)] {
                let now = NOW + Duration::from_secs(later);
                let next = scene.read_at(now);
                assert_eq!((next.knowledge, next.writes.len()), (Knowledge::Incomplete { since: NOW }, 0));
                next.remove_files(QUIESCE, now);
                assert_eq!(fs::read_dir(scene.folder()).unwrap().count(), left, "{later} s later");
            }
            assert_eq!(scene.read().knowledge, Knowledge::Complete);
        }
    }

    #[test]
    fn what_was_never_finished_or_is_of_another_boot_counts_for_nothing() {
        let scene = Scene::new();
        fs::write(scene.folder().join("record-0.5.new"), b"half").unwrap();
        fs::write(scene.folder().join("other"), b"not ours").unwrap();
        let another_boot = BootId::from_bytes([3; 16]);
        let path = scene.folder().join("record-0.7");
        let mut before = Record::create(&path, &another_boot, &["san0/root".to_owned()]).unwrap();
        before.remember(0, 0, 0..4096, None);
        let found = scene.read();
        assert_eq!((found.writes.len(), found.knowledge), (0, Knowledge::Complete));
        found.remove_files(QUIESCE, NOW);
        assert_eq!(fs::read_dir(scene.folder()).unwrap().count(), 1, "what is not ours stays");
    }

    #[test]
    fn writes_to_a_unit_of_another_name_hold_everything_for_one_bound() {
        let scene = Scene::new();
        let path = scene.folder().join("record-0.6");
        let boot = BootId::current().unwrap();
        let units = ["san9/gone".to_owned(), "san0/root".to_owned()];
        let mut record = Record::create(&path, &boot, &units).unwrap();
        record.remember(0, 0, 0..4096, None);
        record.remember(1, 1, 4096..8192, None);
        drop(record);
        let found = scene.read();
        assert_eq!((found.knowledge, found.writes.len()), (Knowledge::Incomplete { since: NOW }, 1));
        found.remove_files(QUIESCE, NOW);
        let later = NOW + Duration::from_secs(8);
        let next = scene.read_at(later);
        assert_eq!(next.knowledge, Knowledge::Incomplete { since: NOW });
        next.remove_files(QUIESCE, later);
        assert_eq!(fs::read_dir(scene.folder()).unwrap().count(), 0);
    }

    #[test]
    fn a_record_that_must_have_been_there_and_is_not_holds_everything_for_one_bound() {
        let unknown = Knowledge::Incomplete { since: NOW };
        let scene = Scene::new();
        assert_eq!(scene.read().knowledge, Knowledge::Complete, "the first start ever, or after a boot");
        // What another boot has left, or one that had sent nothing, is no record of the process before.
        let another = scene.folder().join("record-0.7");
        drop(Record::create(&another, &BootId::from_bytes([3; 16]), &["san0/root".to_owned()]).unwrap());
        fs::write(scene.folder().join("record-0.5.new"), b"half").unwrap();
        for former in [Former::Ran, Former::Unknown] {
            let found = scene.read_after(former, NOW);
            assert_eq!(found.knowledge, unknown);
            assert_eq!(found.unknown.len(), 1);
            assert!(found.unknown[0].contains("emptied"), "{:?}", found.unknown);
            found.remove_files(QUIESCE, NOW);
            fs::remove_file(scene.folder().join(format!("{MISSING}{UNREADABLE}{}", NOW.as_nanos()))).unwrap();
        }
        // With a record all is known.
        scene.former(1);
        assert_eq!(scene.read_after(Former::Ran, NOW).knowledge, Knowledge::Complete);
    }

    #[test]
    fn a_kill_during_that_bound_does_not_end_it() {
        let scene = Scene::new();
        scene.read_after(Former::Ran, NOW).remove_files(QUIESCE, NOW);
        for (later, left) in [(2, 1), (6, 1), (8, 0)] {
            // Each has a record of its own, and is killed.
            let now = NOW + Duration::from_secs(later);
            let found = scene.read_after(Former::Ran, now);
            drop(new_record(&scene.spec, WorkerId(0), now).unwrap());
            assert_eq!(found.knowledge, Knowledge::Incomplete { since: NOW });
            assert_eq!(found.unknown.len(), left, "what is over is not told of");
            found.remove_files(QUIESCE, now);
        }
        let later = NOW + Duration::from_secs(9);
        assert_eq!(scene.read_after(Former::Ran, later).knowledge, Knowledge::Complete);
    }

    #[test]
    fn after_a_boot_one_bound_passes_and_what_is_unknown_waits_from_now() {
        let (quiesce, at) = (Duration::from_secs(5), Instant::from_millis);
        let unknown = Knowledge::Incomplete { since: at(58_000) };
        assert_eq!(held_until(Knowledge::Complete, quiesce, at(2000)), Some(at(5000)));
        assert_eq!(held_until(Knowledge::Complete, quiesce, at(5000)), None);
        assert_eq!(held_until(unknown, quiesce, at(60_000)), Some(at(65_000)));
        assert_eq!(held_until(unknown, quiesce, at(65_000)), None);
        assert_eq!(held_until(unknown, Duration::ZERO, at(58_000)), Some(at(60_000)), "its sockets");
    }
}
