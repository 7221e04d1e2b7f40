//! The task of one managed VM: keeps its monitor connected, for ever, and carries bytes for [`super::session`].
//!
//! Invariant: it never waits for an answer, only for the next thing that happens, so that a slow `stop` hides no event.
//! An absent or dead socket is a report, once for each change of reason, and then patience.

use super::session::Session;
use super::{Order, Report, instance};
use crate::sys::clock;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use vmpath_core::event::HypervisorReport;
use vmpath_core::ids::VmId;

/// Pauses between attempts to connect: doubling from the first to the last.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// A VM that starts is known within it: of one that the daemon has never reached, a restart knows nothing.
const RETRY_LAST: Duration = Duration::from_secs(1);

/// Read at once; QMP lines are mostly far below.
const READ_BYTES: usize = 16 * 1024;

/// The way up to the control owner.
#[derive(Debug)]
pub(super) struct Reporter {
    vm: VmId,
    reports: mpsc::Sender<Report>,
    /// The reason last reported, while the monitor is away.
    lost: Option<String>,
}

/// The owner is gone: the task ends.
struct OwnerGone;

impl Reporter {
    pub(super) const fn new(vm: VmId, reports: mpsc::Sender<Report>) -> Self {
        Self { vm, reports, lost: None }
    }

    async fn tell(&mut self, report: HypervisorReport) -> Result<(), OwnerGone> {
        match &report {
            HypervisorReport::Lost { why } if self.lost.as_ref() == Some(why) => return Ok(()),
            HypervisorReport::Lost { why } => self.lost = Some(why.clone()),
            HypervisorReport::Connected { .. } => self.lost = None,
            HypervisorReport::State(_)
            | HypervisorReport::Refused { .. }
            | HypervisorReport::Machine(_)
            | HypervisorReport::Migration(_)
            | HypervisorReport::MigrationRefused { .. }
            | HypervisorReport::Deaf { .. } => {}
        }
        let report = Report { vm: self.vm, report };
        self.reports.send(report).await.map_err(|_| OwnerGone)
    }
}

/// Serves until the owner drops its end.
pub(super) async fn run(socket: PathBuf, mut orders: mpsc::Receiver<Order>, mut reporter: Reporter) {
    let mut pause = RETRY_FIRST;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let why = match UnixStream::connect(&socket).await {
            Ok(stream) => {
                let session = Session::new(instance::of(&stream, attempt), clock::now());
                let mut connection = Connection { stream, session, was_ready: false };
                let Ok(why) = connection.serve(&mut orders, &mut reporter).await else { return };
                if connection.was_ready {
                    pause = RETRY_FIRST;
                }
                why
            }
            Err(error) => explain(&socket, &error),
        };
        let told = reporter.tell(HypervisorReport::Lost { why }).await;
        if told.is_err() || refuse_for(pause, &mut orders, &mut reporter).await.is_err() {
            return;
        }
        pause = (pause * 2).min(RETRY_LAST);
    }
}

fn explain(socket: &Path, error: &io::Error) -> String {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("no QMP socket at {socket}: is the VM running?"),
        io::ErrorKind::ConnectionRefused => {
            format!("nobody answers at the QMP socket {socket}: has the VM ended?")
        }
        io::ErrorKind::PermissionDenied => format!("no permission to connect to the QMP socket {socket}"),
        _ => format!("cannot connect to the QMP socket {socket}: {error}"),
    }
}

/// Whether the end is seen by a read or by a write is chance; the reason is the same.
fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            "QEMU closed its monitor".into()
        }
        _ => format!("the connection to QEMU's monitor broke: {error}"),
    }
}

async fn refuse_for(
    pause: Duration,
    orders: &mut mpsc::Receiver<Order>,
    reporter: &mut Reporter,
) -> Result<(), OwnerGone> {
    let paused = tokio::time::sleep(pause);
    tokio::pin!(paused);
    loop {
        tokio::select! {
            () = &mut paused => return Ok(()),
            order = orders.recv() => {
                let order = order.ok_or(OwnerGone)?;
                reporter.tell(order.refused("the VM's monitor is not connected".into())).await?;
            }
        }
    }
}

struct Connection {
    stream: UnixStream,
    session: Session,
    was_ready: bool,
}

impl Connection {
    /// Carries bytes until the connection is of no more use; returns why.
    async fn serve(
        &mut self,
        orders: &mut mpsc::Receiver<Order>,
        reporter: &mut Reporter,
    ) -> Result<String, OwnerGone> {
        loop {
            let step = self.step(orders).await?;
            for report in self.session.take_reports() {
                reporter.tell(report).await?;
            }
            self.was_ready |= self.session.is_ready();
            if let Err(why) = step {
                return Ok(why);
            }
        }
    }

    /// Waits for one thing and lets the session know of it.
    async fn step(&mut self, orders: &mut mpsc::Receiver<Order>) -> Result<Result<(), String>, OwnerGone> {
        let wait = self.session.deadline().since(clock::now());
        let must_write = !self.session.output().is_empty();
        tokio::select! {
            ready = self.stream.readable() => Ok(ready.map_err(|error| broken(&error)).and_then(|()| self.read())),
            ready = self.stream.writable(), if must_write => {
                Ok(ready.map_err(|error| broken(&error)).and_then(|()| self.write()))
            }
            order = orders.recv() => {
                self.session.order(order.ok_or(OwnerGone)?, clock::now());
                Ok(Ok(()))
            }
            () = tokio::time::sleep(wait) => Ok(self.session.tick(clock::now())),
        }
    }

    fn read(&mut self) -> Result<(), String> {
        let mut bytes = [0; READ_BYTES];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => Err(broken(&io::ErrorKind::UnexpectedEof.into())),
            Ok(length) => self.session.feed(&bytes[..length], clock::now()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(broken(&error)),
        }
    }

    fn write(&mut self) -> Result<(), String> {
        let output = self.session.output();
        match self.stream.try_write(output) {
            Ok(length) => {
                output.drain(..length);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(broken(&error)),
        }
    }
}
