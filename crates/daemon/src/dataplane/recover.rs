//! What a former process of this host left behind, before anything is sent: its record, and its sockets.
//!
//! Rule 2 of the design's "never go wrong": its sockets to targets are dead before what they carried goes elsewhere; without
//! that proof the daemon does not start. Rule 4: what it had in flight or in quarantine goes into quarantine again.

use crate::sys::boot::BootId;
use crate::sys::diag::{Diag, Leftover};
use crate::sys::record::{self, Record, Remains};
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vmpath_core::ids::{UnitId, WorkerId};
use vmpath_core::spec::Spec;
use vmpath_core::time::Instant;

/// Records are `record-WORKER.START`: those of a former process stay until their content is in the new ones.
const PREFIX: &str = "record-";
const UNFINISHED: &str = ".new";
/// How often a leftover socket is looked for again, and for how long: a process that has just been killed lets go of its sockets
/// within milliseconds.
const LEFTOVER_PAUSE: Duration = Duration::from_millis(20);
const LEFTOVER_TRIES: u32 = 100;

/// A write of unknown outcome: its unit, range and fence, if one was running.
pub(super) type Write = (UnitId, Range<u64>, Option<Instant>);

/// What was found, and the files in which.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) writes: Vec<Write>,
    pub(super) knowledge: Knowledge,
    files: Vec<PathBuf>,
    connections: Vec<(SocketAddr, SocketAddr)>,
}

/// Whether the records tell all that may still take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Knowledge {
    #[default]
    Complete,
    Incomplete,
}

impl Recovered {
    /// Reads all records of former processes.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub(super) fn read(folder: &Path, spec: &Spec) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut found = Self::default();
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
            match record::read(&path) {
                Ok(remains) => found.add(remains.unwrap_or_default(), spec),
                Err(error) => {
                    tracing::warn!(
                        "it is not known what the former vmpath had in flight, so every unit is held for its target's \
                         `quiesce`: {error}"
                    );
                    found.knowledge = Knowledge::Incomplete;
                }
            }
            found.files.push(path);
        }
        Ok(found)
    }

    fn add(&mut self, remains: Remains, spec: &Spec) {
        for (name, range, until) in remains.writes {
            match spec.unit_ids().find(|unit| spec.unit_name(*unit) == name) {
                Some(unit) => self.writes.push((unit, range, until)),
                // Nothing is sent to it, so nothing can be overtaken.
                None => tracing::info!(
                    unit = name,
                    "a write of unknown outcome to a unit that no disk uses any more"
                ),
            }
        }
        self.connections.extend(remains.connections);
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

    /// Their content is in the new records.
    pub(super) fn remove_files(&self) {
        for path in &self.files {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(%error, "cannot remove {}", path.display());
            }
        }
    }
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
