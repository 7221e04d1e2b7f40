//! The ground of a run: a folder, and one prefilled target in memory behind a unix socket that has two names.
//!
//! Prefilled, because an empty memory disk answers reads without touching memory. Two names, because two paths of one
//! target need two addresses.

use super::client::{self, Client};
use super::workload::{Pattern, Workload};
use crate::e2e::server::Server;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Larger than any cache of the processor that would flatter whoever reads it twice.
pub(super) const DISK_BYTES: u64 = 512 << 20;

#[derive(Debug)]
pub(super) struct Scene {
    /// The vmpath to measure.
    pub(super) binary: PathBuf,
    pub(super) dir: PathBuf,
    /// The target's socket; [`other_name`] is the same.
    pub(super) target: PathBuf,
    /// Size of its disk.
    pub(super) bytes: u64,
    storage: Server,
}

impl Scene {
    /// Starts the target and fills it.
    ///
    /// # Errors
    /// nbdkit or fio is not installed, or does not work.
    pub(super) fn set(binary: &Path, dir: &Path) -> Result<Self> {
        let (target, storage) = nbdkit(dir, "target", &[], DISK_BYTES)?;
        Ok(Self { binary: binary.to_owned(), dir: dir.to_owned(), target, bytes: DISK_BYTES, storage })
    }

    /// # Errors
    /// The target has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        self.storage.check_alive()
    }

    /// Waits until a server listens on a socket, without connecting: some serve their first client only.
    ///
    /// # Errors
    /// It does not in time, or has ended.
    pub(super) fn wait_socket(&self, server: &mut Server, socket: &Path) -> Result<()> {
        wait(&format!("a server on {}", socket.display()), || {
            server.check_alive()?;
            Ok(socket.exists())
        })
    }
}

/// The second name of a target's socket.
pub(super) fn other_name(target: &Path) -> PathBuf {
    target.with_extension("b.sock")
}

/// A memory disk that is full of noise, under any export name.
///
/// # Errors
/// nbdkit or fio is not installed, or does not work.
pub(super) fn nbdkit(dir: &Path, name: &str, options: &[&str], bytes: u64) -> Result<(PathBuf, Server)> {
    let socket = dir.join(format!("{name}.sock"));
    let mut command = Command::new("nbdkit");
    command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(&socket).args(options);
    let mut server = Server::start(name, command.args(["memory", &bytes.to_string()]), dir)?;
    wait("nbdkit to listen", || {
        server.check_alive()?;
        Ok(UnixStream::connect(&socket).is_ok())
    })?;
    fs::hard_link(&socket, other_name(&socket)).context("a second name for the target's socket")?;
    let noise =
        Workload { name: "fill", about: "", pattern: Pattern::SequentialWrite, block: 1 << 20, depth: 4 };
    client::fill(&Client::fio(&socket, ""), noise, bytes)?;
    Ok((socket, server))
}

/// Looks again and again until something is so.
///
/// # Errors
/// It is not in time, or looking fails.
pub(super) fn wait(what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + START_MAX;
    while !look()? {
        if Instant::now() > end {
            bail!("waited {} s for {what}, in vain", START_MAX.as_secs());
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}
