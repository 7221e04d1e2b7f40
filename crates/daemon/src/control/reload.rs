//! Reloading the configuration: off the owner's task, one at a time.
//!
//! Invariant: the owner only ever sees a whole, valid configuration, rebased on the one in force (the same names keep
//! their ids). Anything else is reported, to the caller and to the log, and changes nothing.

use super::config::{ConfigError, load};
use super::handle::Input;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use vmpath_core::spec::{Fault, Spec};

/// Reloads asked for and not yet begun; more are refused.
pub const REQUESTS_MAX: usize = 4;

#[derive(Debug)]
pub struct ReloadRequest {
    /// None when a signal asked.
    pub reply: Option<oneshot::Sender<Result<Reloaded, ReloadError>>>,
}

/// The new configuration is in force.
#[derive(Clone, Debug, Default)]
pub struct Reloaded {
    /// What in the files is suspicious.
    pub warnings: Vec<Fault>,
    /// What left the files and is served all the same; in words.
    pub leaving: Vec<String>,
}

/// Why the old configuration stays in force.
#[derive(Clone, Debug)]
pub enum ReloadError {
    Config(ConfigError),
    /// Valid, but it asks for what a running daemon cannot do; in words.
    NotWhileRunning(Vec<String>),
    ShuttingDown,
}

/// Serves requests until their senders are gone.
#[derive(Debug)]
pub struct Reloader {
    file: PathBuf,
    in_force: Arc<Spec>,
    owner: mpsc::Sender<Input>,
}

impl Reloader {
    #[must_use]
    pub const fn new(file: PathBuf, in_force: Arc<Spec>, owner: mpsc::Sender<Input>) -> Self {
        Self { file, in_force, owner }
    }

    pub async fn run(mut self, mut requests: mpsc::Receiver<ReloadRequest>) {
        while let Some(request) = requests.recv().await {
            let done = self.reload().await;
            tell_log(&done);
            if let Some(reply) = request.reply {
                // The caller may have given up; the reload has happened all the same.
                let _ = reply.send(done);
            }
        }
    }

    async fn reload(&mut self) -> Result<Reloaded, ReloadError> {
        let (file, in_force) = (self.file.clone(), Arc::clone(&self.in_force));
        let read = tokio::task::spawn_blocking(move || prepare(&file, &in_force));
        let (spec, warnings) = read.await.map_err(|_| ReloadError::ShuttingDown)??;
        let (applied, done) = oneshot::channel();
        let input = Input::Reload { spec: Arc::clone(&spec), applied };
        self.owner.send(input).await.map_err(|_| ReloadError::ShuttingDown)?;
        let leaving = done.await.map_err(|_| ReloadError::ShuttingDown)?;
        self.in_force = spec;
        Ok(Reloaded { warnings, leaving })
    }
}

fn prepare(file: &std::path::Path, in_force: &Spec) -> Result<(Arc<Spec>, Vec<Fault>), ReloadError> {
    let config = load(file).map_err(ReloadError::Config)?;
    let spec = Arc::unwrap_or_clone(config.spec);
    let spec = spec.rebase(in_force).map_err(ReloadError::NotWhileRunning)?;
    Ok((Arc::new(spec), config.warnings))
}

fn tell_log(done: &Result<Reloaded, ReloadError>) {
    match done {
        // What is leaving is in the journal.
        Ok(Reloaded { warnings, leaving: _ }) => {
            for warning in warnings {
                tracing::warn!("config: {warning}");
            }
        }
        Err(error) => {
            let lines = match error {
                ReloadError::Config(error) => error.lines(),
                ReloadError::NotWhileRunning(why) => why.clone(),
                ReloadError::ShuttingDown => vec!["the daemon is shutting down".into()],
            };
            tracing::error!("reload refused, the old configuration stays in force");
            for line in lines {
                tracing::error!("config: {line}");
            }
        }
    }
}
