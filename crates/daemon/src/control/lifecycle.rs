//! The daemon from start to end.
//!
//! Invariant: nothing is started on a configuration with faults or beside another daemon, and the end is bounded:
//! the data plane's own bound and two seconds, whatever paths, hypervisors and the state disk do. Suspended VMs stay suspended when the daemon
//! ends; the next one knows them.

use super::config::{Config, load};
use super::effects::{Outcome, Performer};
use super::handle::ControlHandle;
use super::hosts::{Hosts, Post};
use super::journal::{Bounds, Journal};
use super::monitor::{Beat, Monitor};
use super::owner::{Ended, Owner, Sources};
use super::reload::{self, ReloadRequest, Reloader};
use super::run_dir;
use crate::api;
use crate::cluster;
use crate::dataplane::{Dataplane, Former, STOP_MAX, WorkerReport};
use crate::hypervisor::{Hypervisors, Report};
use crate::store::{Left, OpenError, Store};
use crate::sys::boot::BootId;
use crate::sys::clock;
use crate::sys::lock;
use crate::telemetry::{log, notify};
use anyhow::{Context, Result, anyhow, bail};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use vmpath_core::controller::Controller;
use vmpath_core::effect::{Effect, JournalEntry, JournalKind, Subject};
use vmpath_core::saved::Before;
use vmpath_core::spec::Spec;

/// Questions that may wait for the owner; the API bounds its connections further.
const INPUTS_MAX: usize = 256;

/// Hypervisor reports that may wait; a monitor's task then waits, and QEMU keeps its events.
const HYPERVISOR_REPORTS_MAX: usize = 256;

/// Control needs little: one thread for the owner, one for what it talks to.
const CONTROL_THREADS: usize = 2;

/// The data plane's stop is bounded by itself; this is for when it is not.
const DATAPLANE_STOP_WAIT: Duration = STOP_MAX.saturating_add(Duration::from_millis(500));

/// For the last commit of the store.
const STORE_CLOSE_WAIT: Duration = Duration::from_secs(1);

/// For tasks that still wait for a file or a client.
const RUNTIME_STOP_WAIT: Duration = Duration::from_millis(200);

/// Runs the daemon with the configuration of `file` until a signal ends it.
///
/// # Errors
/// What could not be started, or what brought it down.
pub fn run(file: &Path) -> Result<ExitCode> {
    let config = match load(file) {
        Ok(config) => config,
        Err(error) => {
            for line in error.lines() {
                eprintln!("{line}");
            }
            bail!("the configuration is not valid; nothing was started");
        }
    };
    if let Some(why) = cluster::lacking(&config.spec) {
        bail!("{why}");
    }
    let _log = log::init();
    for warning in &config.warnings {
        tracing::warn!("config: {warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control threads")?;
    let done = start_and_serve(&runtime, file, &config);
    runtime.shutdown_timeout(RUNTIME_STOP_WAIT);
    done.map(|()| ExitCode::SUCCESS)
}

fn start_and_serve(runtime: &Runtime, file: &Path, config: &Config) -> Result<()> {
    runtime.block_on(async {
        let daemon = Daemon::start(file.to_owned(), config).await?;
        daemon.serve().await
    })
}

struct Daemon {
    owner: tokio::task::JoinHandle<(Ended, Dataplane, Store)>,
    stop_owner: oneshot::Sender<()>,
    api: api::Server,
    reloads: mpsc::Sender<ReloadRequest>,
    _monitor: Monitor,
}

impl Daemon {
    async fn start(file: PathBuf, config: &Config) -> Result<Self> {
        let spec = Arc::clone(&config.spec);
        // First: a second daemon must not get as far as the disks' sockets.
        let listener = api::Listener::bind(&spec.host.api_socket, lock::PATIENCE)?;
        let (input, inputs) = mpsc::channel(INPUTS_MAX);
        let (report, hypervisors) = mpsc::channel(HYPERVISOR_REPORTS_MAX);
        let (stop_owner, stop) = oneshot::channel();
        let (worker_report, dataplane) = mpsc::unbounded_channel();

        let beat = Beat::default();
        run_dir::hold(&spec.host.run_dir, lock::PATIENCE)?;
        let (store, left) = open_store(&spec).await?;
        let links = Links { monitors: report, reports: worker_report };
        let commits = store.commits();
        let (owner, hosts) = owner(&spec, &links, store, left, beat.clone())?;
        let sources = Sources { inputs, hypervisors, dataplane, hosts, commits, stop };
        let (reload, reloads) = mpsc::channel(reload::REQUESTS_MAX);
        let handle = ControlHandle::new(input.clone(), reload.clone(), owner.snapshots());
        let monitor = Monitor::start(beat).context("cannot start the monitor thread")?;
        let owner = tokio::spawn(owner.run(sources));
        tokio::spawn(Reloader::new(file, Arc::clone(&spec), input).run(reloads));
        let api = api::Server::start(listener, handle);
        tracing::info!("ready: {}, API at {}", sizes(&spec), spec.host.api_socket.display());
        notify::ready();
        Ok(Self { owner, stop_owner, api, reloads: reload, _monitor: monitor })
    }

    async fn serve(mut self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut hang_up = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hang_up.recv() => {
                    // Full: a reload is about to happen anyway, and it will read the files later than this.
                    let _ = self.reloads.try_send(ReloadRequest { reply: None });
                }
                ended = &mut self.owner => {
                    self.api.stop().await;
                    return Err(fell(ended));
                }
            }
        }
        tracing::info!("stopping");
        notify::stopping();
        self.stop().await
    }

    async fn stop(self) -> Result<()> {
        self.api.stop().await;
        // Its end is also the answer to a send that finds it gone.
        let _ = self.stop_owner.send(());
        let (_, dataplane, store) =
            self.owner.await.map_err(|error| anyhow!("the control owner failed: {error}"))?;
        let stopped = tokio::task::spawn_blocking(move || dataplane.stop());
        match tokio::time::timeout(DATAPLANE_STOP_WAIT, stopped).await {
            Ok(_) => tracing::info!("stopped"),
            Err(_) => tracing::warn!("the data plane did not end in time; ending without it"),
        }
        // Last: until here it is no clean end.
        let closed = tokio::task::spawn_blocking(move || store.close(STORE_CLOSE_WAIT));
        if !closed.await.unwrap_or(false) {
            tracing::warn!(
                "vmpath's own state was not written to its end; the next start takes this one for a crash"
            );
        }
        Ok(())
    }
}

fn fell(ended: Result<(Ended, Dataplane, Store), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok((Ended::DataplaneDead(why), ..)) => anyhow!("the data plane has ended, so the daemon ends: {why}"),
        Ok((Ended::Asked, ..)) => anyhow!("the control owner ended by itself"),
        Err(error) => anyhow!("the control owner failed: {error}"),
    }
}

/// Opens the store and reads what the process before has left. A sick disk keeps nobody from being served.
async fn open_store(spec: &Spec) -> Result<(Store, Left)> {
    let boot = BootId::current()?;
    let dir = spec.host.state_dir.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&dir, &boot));
    let (store, left) = match opened.await.map_err(|error| anyhow!("the store failed: {error}"))? {
        Ok(opened) => opened,
        Err(OpenError::Refused(why)) => bail!(why),
        Err(OpenError::Sick(why)) => {
            tracing::error!(
                "vmpath's own state is not kept on the disk in this run, and what the last one kept there is not known: {why}; VMs \
                 that it had suspended are shown as stopped-by-other and wait for you, unless it could not write either and has \
                 noted them in run_dir"
            );
            let unreadable = Some(format!("what the vmpath before has kept is not known: {why}"));
            (Store::none(), Left { unreadable, ..Left::default() })
        }
    };
    Ok(store.noting(&spec.host.run_dir, boot, left))
}

/// Where monitors and the data plane report to.
struct Links {
    monitors: mpsc::Sender<Report>,
    reports: mpsc::UnboundedSender<WorkerReport>,
}

/// Makes the owner: first decisions, data plane, monitors.
fn owner(
    spec: &Arc<Spec>,
    links: &Links,
    store: Store,
    left: Left,
    beat: Beat,
) -> Result<(Owner, Option<Post>)> {
    let Left { saved, moves, lines, unreadable, .. } = left;
    let former = match left.ran {
        Some(boot) if boot == BootId::current()? => Former::Ran,
        None if unreadable.is_some() => Former::Unknown,
        None | Some(_) => Former::None,
    };
    let (controller, effects) = match before(left.boot, left.clean)? {
        Some(before) => Controller::restore(Arc::clone(spec), saved, before, clock::now()),
        None => Controller::new(Arc::clone(spec), clock::now()),
    };
    let mut controller = controller;
    let mut effects = effects;
    effects.extend(controller.restore_moves(clock::now(), moves));
    let (plans, mut effects): (Vec<_>, Vec<_>) =
        effects.into_iter().partition(|effect| matches!(effect, Effect::Publish(_)));
    let Some(Effect::Publish(plan)) = plans.into_iter().last() else {
        bail!("the controller has published no first plan; this is a fault in vmpath");
    };
    effects.extend(unreadable.map(|why| Effect::Record(unknown_entry(why, None))));
    let dataplane = Dataplane::start(&Arc::new(plan), former, &links.reports)?;
    let held = |why: &String| unknown_entry(why.clone(), Some("the `quiesce` of each target".into()));
    effects.extend(dataplane.unknown().iter().map(|why| Effect::Record(held(why))));
    let hypervisors = Hypervisors::start(spec, &links.monitors);
    let journal = Journal::restored(Bounds::of(&spec.host), lines, clock::unix_micros(clock::now()));
    let now = clock::now();
    let nonce = clock::unix_micros(now) << 16 | u64::from(std::process::id() & 0xffff);
    let (hosts, post) = Hosts::start(spec, nonce, now).map_err(|why| anyhow!("[cluster]: {why}"))?.unzip();
    let mut performer = Performer { dataplane, hypervisors, hosts, journal, store, waiting: VecDeque::new() };
    performer.perform(effects, spec, &mut Outcome::default());
    Ok((Owner::new(Arc::clone(spec), controller, performer, beat), post))
}

/// How the process before ended; none if there was none.
fn before(boot: Option<BootId>, clean: bool) -> Result<Option<Before>> {
    let Some(boot) = boot else { return Ok(None) };
    if boot != BootId::current()? {
        return Ok(Some(Before::Booted));
    }
    Ok(Some(if clean { Before::Stopped } else { Before::Died }))
}

fn unknown_entry(why: String, until: Option<String>) -> JournalEntry {
    JournalEntry {
        at: clock::now(),
        incident: None,
        kind: JournalKind::Restarted,
        subject: Subject::Host,
        reason: why,
        until,
    }
}

fn sizes(spec: &Spec) -> String {
    let (vms, disks, paths, targets) =
        (spec.vms.len(), spec.disks.len(), spec.paths.len(), spec.targets.len());
    format!("VMs: {vms}, disks: {disks}, paths: {paths}, targets: {targets}")
}
