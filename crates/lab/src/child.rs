//! What the lab's long-running processes have in common: how they are ended, and where they are controlled.
//!
//! Invariant: SIGTERM, SIGINT and the end of the parent's interest are all a clean end.
//! Rejected: a framework for services. It does not know: what the process does.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The requests to end, from now on: none is missed between two waits.
#[derive(Debug)]
pub(crate) struct Termination {
    terminate: Signal,
    interrupt: Signal,
}

impl Termination {
    /// # Errors
    /// If the signals cannot be caught.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns when the process is asked to end.
    pub(crate) async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A Unix socket that only this user and group may use; a socket that a killed process has left is replaced.
///
/// # Errors
/// If it cannot be bound; the error names it.
pub(crate) fn bind_control(path: &Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path).map_err(|why| {
        anyhow::anyhow!("cannot listen on {}: {why}; name a path in a directory that exists", path.display())
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}
