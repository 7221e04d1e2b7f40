//! Where a run takes place: its namespaces, its folder, the tools that its stages share.

use super::isolate;
use super::stage::{Stage, Tools};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use vmpath_lab::guest::FrontEnd;

#[derive(Debug)]
pub(crate) struct Ground {
    dir: tempfile::TempDir,
    tools: Rc<Tools>,
}

/// What is tried, and how long.
#[derive(Debug, Default)]
pub(crate) struct Subject {
    pub(crate) binary: PathBuf,
    /// The same with deliberate faults.
    pub(crate) mutants: Option<PathBuf>,
    /// How long to wait for what must not happen.
    pub(crate) patience: Option<Duration>,
}

impl Ground {
    /// Within the run's own namespaces.
    ///
    /// # Errors
    /// The network or a file system in memory cannot be had.
    pub(crate) fn new(root: &Path, subject: Subject) -> Result<Self> {
        isolate::prepare()?;
        let dir = tempfile::Builder::new().prefix("vmpath-e2e-").tempdir()?;
        let tools = Rc::new(Tools::new(root, subject, dir.path())?);
        Ok(Self { dir, tools })
    }

    /// # Errors
    /// Its folder cannot be made.
    pub(crate) fn stage(&self, name: &str, front_end: FrontEnd, bound: Duration) -> Result<Stage> {
        Stage::new(name, front_end, &self.tools, bound)
    }

    /// Leaves nothing behind.
    ///
    /// # Errors
    /// What is in memory cannot be taken away.
    pub(crate) fn leave(self) -> Result<()> {
        isolate::forget_memory(self.dir.path())
    }

    /// Leaves the logs, and says where.
    ///
    /// # Errors
    /// What is in memory cannot be taken away.
    pub(crate) fn leave_logs(self) -> Result<()> {
        isolate::forget_memory(self.dir.path())?;
        println!("logs, sockets and consoles are kept in {}", self.dir.keep().display());
        Ok(())
    }
}
