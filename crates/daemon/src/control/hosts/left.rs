//! The units that this host holds, for the process after this one: one file on tmpfs, which goes with the boot.
//!
//! Invariant: the file never names a unit that this host may have given away. So it is cut before a change that gives one away leaves;
//! one that cannot be cut is emptied, and while that cannot be done either nothing is given away.
//! Rejected: the store in `state_dir`. It may lie on the very disk that is sick, and is behind by a commit.
//! It does not know why a unit is held.

use crate::sys::boot::BootId;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use vmpath_core::spec::Spec;

/// In `run_dir`.
const FILE: &str = "units";
/// The first line; another form is not believed.
const FORM: &str = "vmpath units 1";
/// The last one: the file is whole.
const END: &str = "end";

/// The units that this host holds, each with its epoch.
pub(super) type Holdings = BTreeMap<String, u64>;

#[derive(Debug)]
pub(super) struct Left {
    file: PathBuf,
    boot: BootId,
    host: String,
    prefix: String,
    /// What it says now.
    says: Holdings,
}

impl Left {
    /// And what the process before has left in this boot. None without a cluster, or if nobody can say which boot this is: then the
    /// next process has to ask etcd.
    pub(super) fn open(spec: &Spec) -> Option<(Self, Holdings)> {
        match BootId::current() {
            Ok(boot) => Self::open_in(spec, boot),
            Err(error) => {
                tracing::warn!("{error}");
                // Nobody would cut it.
                let _ = empty(&spec.host.run_dir.join(FILE));
                None
            }
        }
    }

    fn open_in(spec: &Spec, boot: BootId) -> Option<(Self, Holdings)> {
        let prefix = spec.cluster.as_ref()?.etcd.prefix.clone();
        let (file, host) = (spec.host.run_dir.join(FILE), spec.host.name.clone());
        let mut left = Self { file, boot, host, prefix, says: Holdings::new() };
        let found = left.read();
        left.says.clone_from(&found);
        Some((left, found))
    }

    fn read(&self) -> Holdings {
        let path = self.file.display();
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Holdings::new(),
            Err(error) => {
                tracing::warn!("{path}: {error}: etcd has to say which units are this host's");
                let _ = empty(&self.file);
                return Holdings::new();
            }
        };
        let Some(units) = text.strip_prefix(&self.head()) else { return Holdings::new() };
        parse(units).unwrap_or_else(|| {
            tracing::warn!("{path} is damaged: etcd has to say which units are this host's");
            let _ = empty(&self.file);
            Holdings::new()
        })
    }

    /// Of another boot, under another name or in another part of etcd the rest says nothing.
    fn head(&self) -> String {
        format!("{FORM}\n{}\n{}\n{}\n", self.boot, self.host, self.prefix)
    }

    /// Says that, from now on.
    ///
    /// # Errors
    /// It still says more than that; in words.
    pub(super) fn say(&mut self, holdings: Holdings) -> Result<(), String> {
        if self.says == holdings {
            return Ok(());
        }
        let Err(error) = self.write(&holdings) else {
            self.says = holdings;
            return Ok(());
        };
        let says_less = self.says.keys().all(|unit| holdings.contains_key(unit));
        if says_less {
            // The next process asks etcd about the rest.
            tracing::warn!("{}: {error}", self.file.display());
            return Ok(());
        }
        empty(&self.file).map_err(|second| format!("{}: {error}, {second}", self.file.display()))?;
        self.says.clear();
        Ok(())
    }

    fn write(&self, holdings: &Holdings) -> io::Result<()> {
        let mut text = self.head();
        for (unit, epoch) in holdings {
            let _ = writeln!(text, "{epoch} {unit}");
        }
        text.push_str(END);
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.file)
    }
}

/// The lines after the head: an epoch and `target/unit` each.
fn parse(text: &str) -> Option<Holdings> {
    let lines = text.strip_suffix(END)?.lines();
    let unit = |line: &str| {
        let (epoch, unit) = line.split_once(' ')?;
        Some((unit.to_owned(), epoch.parse().ok()?))
    };
    lines.map(unit).collect()
}

/// Needs no room.
fn empty(file: &Path) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).truncate(true).open(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
