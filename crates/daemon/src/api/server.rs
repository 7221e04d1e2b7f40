//! The API's task: from ready to a bounded end.

use super::access::Caller;
use super::listener::{Acceptor, Files, Listener};
use super::routes::{Shared, router};
use crate::control::handle::ControlHandle;
use crate::sys::clock;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

/// What a slow client gets when the daemon ends.
const STOP_WAIT: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub struct Server {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    files: Files,
}

impl Connected<IncomingStream<'_, Acceptor>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Acceptor>) -> Self {
        *stream.remote_addr()
    }
}

impl Server {
    /// Serves what `control` shows and lets be changed.
    #[must_use]
    pub fn start(listener: Listener, control: ControlHandle) -> Self {
        let (acceptor, files) = listener.into_parts();
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = Shared {
            control,
            daemon_uid: rustix::process::geteuid().as_raw(),
            started_unix_us: clock::unix_micros(clock::now()),
            forecasts: Arc::new(Semaphore::new(1)),
        };
        let service = router(shared).into_make_service_with_connect_info::<Caller>();
        let task = tokio::spawn(async move {
            let until = async move {
                // Fired, or dropped: both mean the end.
                let _ = stopped.await;
            };
            if let Err(error) = axum::serve(acceptor, service).with_graceful_shutdown(until).await {
                tracing::error!("the API has ended: {error}");
            }
        });
        Self { task, stop, files }
    }

    /// Takes no new clients, gives the present ones a moment, and removes the socket.
    pub async fn stop(mut self) {
        self.files.remove();
        let _ = self.stop.send(());
        if tokio::time::timeout(STOP_WAIT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}
