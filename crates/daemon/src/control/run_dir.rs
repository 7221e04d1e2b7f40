//! The directory that outlives the process but not the boot: one daemon's at a time.
//!
//! Invariant: nothing in it is read or changed before it is held. The lock is on the directory itself, so that it is not lost
//! with what lies in it when somebody empties that. It does not know what that is.

use crate::sys::lock;
use anyhow::{Context, Result};
use rustix::fs::fstatfs;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

/// What the kernel calls them (statfs(2)).
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

/// Makes it if need be, and holds it until the kernel takes the whole process away: a data plane that does not end in time may still write there.
/// Warns if it is on a disk: what is noted for each write of a guest would wait for that. Blocks for `patience`.
///
/// # Errors
/// Another daemon has it, or it cannot be made or opened.
pub fn hold(run_dir: &Path, patience: Duration) -> Result<()> {
    let held = take(run_dir, patience)?;
    let shown = run_dir.display();
    match fstatfs(&held) {
        Ok(found) if [TMPFS, RAMFS].contains(&found.f_type) => {}
        Ok(_) => tracing::warn!(
            "run_dir, {shown}, is not on a tmpfs: whenever its disk is slow or hangs, so may every write of every guest; name a \
             directory under /run with `run_dir` under [host]"
        ),
        Err(error) => tracing::warn!("it cannot be seen whether run_dir, {shown}, is on a tmpfs: {error}"),
    }
    std::mem::forget(held);
    Ok(())
}

fn take(run_dir: &Path, patience: Duration) -> Result<File> {
    let shown = run_dir.display();
    fs::create_dir_all(run_dir).with_context(|| format!("cannot make run_dir, {shown}"))?;
    let opened = File::open(run_dir).with_context(|| format!("cannot open run_dir, {shown}"))?;
    let taken = lock::take(opened, patience).with_context(|| format!("cannot lock run_dir, {shown}"))?;
    taken.with_context(|| {
        format!(
            "another vmpath daemon uses run_dir, {shown}: it would lose its connections, and what is known of its writes; stop it first, \
             or give this one another host.run_dir"
        )
    })
}
