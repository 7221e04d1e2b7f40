//! Which process uses this host's name: the daemon of one machine, and not also that of a copy of it.
//!
//! Invariant: what stands under `alive/HOST` in etcd is under the lease of a process that may have a session. Another one takes its
//! place when that lease has run out, or at once if it knows that the writer is dead: its number is in a file in `run_dir` of which
//! whoever lives holds the lock. Rejected: to go by the kernel's boot id; two containers on one computer have the same.
//! It does not know owners.

use crate::sys::boot::BootId;
use rustix::fs::{FlockOperation, flock};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// In `run_dir`.
const FILE: &str = "process";
/// The file's first line; another form says nothing.
const FORM: &str = "vmpath processes 1";
/// Processes of before that are remembered: each may have been killed before etcd heard of the next one.
const FORMER_MAX: usize = 64;
const MACHINE: &str = "/etc/machine-id";

/// This one, as the others of its name are told of it.
#[derive(Clone, Debug)]
pub struct Process {
    /// No other one has it.
    pub(super) id: u64,
    /// What tells one machine from another that was given its name by mistake.
    pub(super) machine: String,
    pub(super) boot: String,
    /// Seconds since 1970, by this machine's clock.
    pub(super) since: u64,
    /// Those before it, that are certainly dead.
    pub(super) former: Arc<[u64]>,
    /// Held for as long as this process lives.
    _lock: Option<Arc<File>>,
}

impl Process {
    /// `since`: seconds since 1970.
    ///
    /// # Errors
    /// Nobody could tell this machine from a copy of it; in words.
    pub fn open(run_dir: &Path, id: u64, since: u64) -> Result<Self, String> {
        let machine = fs::read_to_string(MACHINE).unwrap_or_default().trim().to_owned();
        if machine.is_empty() {
            return Err(format!(
                "this system has no {MACHINE}, by which others know that this host's name is not used twice: make one with \
                 systemd-machine-id-setup"
            ));
        }
        let boot = BootId::current().map_err(|error| error.to_string())?.to_string();
        let process = Self { id, machine, boot, since, former: Arc::new([]), _lock: None };
        Ok(match process.lock(run_dir) {
            Ok((lock, former)) => Self { former: former.into(), _lock: Some(Arc::new(lock)), ..process },
            Err(error) => {
                tracing::warn!(
                    "{}: {error}: if a vmpath before this one was killed just now, its lease in etcd is waited for",
                    run_dir.join(FILE).display()
                );
                process
            }
        })
    }

    /// The lock, and who has had it before.
    fn lock(&self, run_dir: &Path) -> io::Result<(File, Vec<u64>)> {
        fs::create_dir_all(run_dir)?;
        let path = run_dir.join(FILE);
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let (on, at) = (file.metadata()?, fs::metadata(&path)?);
        if (on.dev(), on.ino()) != (at.dev(), at.ino()) {
            return Err(io::Error::other("it was replaced meanwhile"));
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A copy of it, as in a container that was copied, is another file: whoever is named there may live.
        let head = format!("{FORM}\n{}\n{} {}\n", self.boot, on.dev(), on.ino());
        let former = text.strip_prefix(&head).map(numbers).unwrap_or_default();
        let mut text = head;
        for id in former.iter().rev().take(FORMER_MAX).rev().chain([&self.id]) {
            let _ = writeln!(text, "{id:x}");
        }
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(text.as_bytes())?;
        Ok((file, former))
    }

    /// On a machine that is called so.
    #[cfg(test)]
    pub(super) fn of_test(id: u64, former: &[u64], machine: &str) -> Self {
        let boot = "0".repeat(32);
        Self { id, machine: machine.to_owned(), boot, since: 0, former: former.into(), _lock: None }
    }
}

/// One a line.
fn numbers(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| u64::from_str_radix(line, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: u64) -> Process {
        Process::of_test(id, &[], "m")
    }

    #[test]
    fn whoever_gets_the_lock_knows_who_is_dead() {
        let dir = tempfile::tempdir().expect("a directory");
        let (lock, former) = process(1).lock(dir.path()).expect("the lock");
        assert_eq!(former, [0; 0]);
        assert!(process(2).lock(dir.path()).is_err(), "the first one lives");
        drop(lock);
        let (lock, former) = process(3).lock(dir.path()).expect("the lock");
        assert_eq!(former, [1]);
        drop(lock);
        let (lock, former) = process(4).lock(dir.path()).expect("the lock");
        assert_eq!(former, [1, 3], "the third may never have been heard");
        drop(lock);
        let (_lock, former) = Process { boot: "1".into(), ..process(5) }.lock(dir.path()).expect("the lock");
        assert_eq!(former, [0; 0], "of another boot, whose processes' leases are waited for");
    }

    #[test]
    fn a_copy_of_the_file_says_nothing() {
        let (one, two) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let (_lock, _) = process(1).lock(one.path()).expect("the lock");
        fs::copy(one.path().join(FILE), two.path().join(FILE)).expect("copied");
        let (_other, former) = process(2).lock(two.path()).expect("its own lock");
        assert_eq!(former, [0; 0], "the first one lives");
    }
}
