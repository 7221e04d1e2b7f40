//! The directory that outlives the process but not the boot, as a daemon finds it at its start.
//!
//! It does not know what lies in it.

use anyhow::{Context, Result};
use rustix::fs::fstatfs;
use std::fs::{self, File};
use std::path::Path;

/// What the kernel calls them (statfs(2)).
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

/// Makes it if need be, and warns if it is on a disk: what is noted for each write of a guest would wait for that.
///
/// # Errors
/// It cannot be made or opened.
pub fn look(run_dir: &Path) -> Result<()> {
    let shown = run_dir.display();
    fs::create_dir_all(run_dir).with_context(|| format!("cannot make run_dir, {shown}"))?;
    let opened = File::open(run_dir).with_context(|| format!("cannot open run_dir, {shown}"))?;
    match fstatfs(&opened) {
        Ok(found) if [TMPFS, RAMFS].contains(&found.f_type) => {}
        Ok(_) => tracing::warn!(
            "run_dir, {shown}, is not on a tmpfs: whenever its disk is slow or hangs, so may every write of every guest; name a \
             directory under /run with `run_dir` under [host]"
        ),
        Err(error) => tracing::warn!("it cannot be seen whether run_dir, {shown}, is on a tmpfs: {error}"),
    }
    Ok(())
}
