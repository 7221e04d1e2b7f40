//! The processes of one launch: its shell, the hypervisor, and whatever they have started.
//!
//! Invariant: nothing here ends a process by being dropped.

use super::Launch;
use super::log::Log;
use crate::sys::child::{self, Group};
use rustix::process::Signal;
use std::process::{Command as StdCommand, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::sleep;
use vmpath_core::migration::MoveId;

/// Names one launch in the environment of all of its processes.
const MOVE: &str = "VMPATH_MOVE";

/// What a service manager tells the daemon, and not its children.
const NOT_THEIRS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// Who is not our child is looked for in all of /proc.
const LOOK_SELDOM: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Process {
    /// None: a daemon before this one has started it.
    child: Option<Child>,
    group: Group,
    move_id: String,
}

impl Process {
    /// Runs the launch command.
    ///
    /// # Errors
    /// It cannot be run, in words.
    pub(super) fn start(launch: &Launch, incoming: &str, log: &Log) -> Result<Self, String> {
        let cannot = |error| format!("the launch command of VM {} cannot be run: {error}", launch.vm);
        let output = log.create().map_err(cannot)?;
        let errors = output.try_clone().map_err(cannot)?;
        let move_id = launch.move_id.to_string();
        let mut command = StdCommand::new("/bin/sh");
        command.arg("-c").arg(&launch.command).current_dir("/");
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        for name in NOT_THEIRS {
            command.env_remove(name);
        }
        command.env("VMPATH_VM", &launch.vm).env("VMPATH_INCOMING", incoming);
        command.env("VMPATH_QMP", &launch.qmp).env(MOVE, &move_id);
        child::apart(&mut command);
        let child = Command::from(command).spawn().map_err(cannot)?;
        // Not reaped yet, so its number is its own.
        let group = child.id().and_then(Group::of);
        let group =
            group.ok_or_else(|| format!("VM {}: /proc does not show its launch command", launch.vm))?;
        Ok(Self { child: Some(child), group, move_id })
    }

    /// One that a daemon before this one has started.
    pub(super) fn found(group: Group, move_id: &MoveId) -> Self {
        Self { child: None, group, move_id: move_id.to_string() }
    }

    pub(super) const fn group(&self) -> Group {
        self.group
    }

    /// Until its leader has ended; how, in words. A command that leaves its hypervisor to itself and ends well goes on as
    /// long as that one does.
    pub(super) async fn ended(&mut self) -> String {
        let mut how = "without its end being seen".to_owned();
        if let Some(child) = &mut self.child {
            match child.wait().await {
                Ok(status) if status.success() => how = status.to_string(),
                Ok(status) => return status.to_string(),
                Err(error) => how = error.to_string(),
            }
        }
        self.gone(LOOK_SELDOM).await;
        how
    }

    /// Until nothing is left of it; looked at so often.
    pub(super) async fn gone(&mut self, every: Duration) {
        while self.group.is_there() || !self.strays().await.is_empty() {
            sleep(every).await;
        }
    }

    /// Takes what its leader leaves when it ends.
    pub(super) async fn reap(mut self) {
        if let Some(child) = &mut self.child {
            // There is nobody to be told.
            let _ = child.wait().await;
        }
    }

    pub(super) async fn signal(&self, signal: Signal) {
        self.group.signal(signal);
        for stray in self.strays().await {
            child::signal(stray, signal);
        }
    }

    /// All processes of this launch, also those that have left the group; /proc may be long.
    async fn strays(&self) -> Vec<rustix::process::Pid> {
        let move_id = self.move_id.clone();
        let found = tokio::task::spawn_blocking(move || child::with_environment(MOVE, &move_id));
        found.await.unwrap_or_default()
    }
}
