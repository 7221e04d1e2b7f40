//! Log lines to stderr, through a bounded queue and a thread of their own.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines kept while stderr is stuck: some seconds of the worst burst, about a megabyte.
const LINES_QUEUED_MAX: usize = 8192;

/// How long the end of the process waits for the last lines.
const FLUSH_WAIT: Duration = Duration::from_millis(500);

/// Starts logging to stderr. `RUST_LOG` chooses what; default `info`. Keep the guard until the process ends.
#[must_use]
pub fn init() -> LogGuard {
    let (lines, queued) = sync_channel(LINES_QUEUED_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let (done, finished) = sync_channel(1);
    let counter = Arc::clone(&dropped);
    let thread = std::thread::Builder::new().name("log".into()).spawn(move || {
        copy(&queued, &counter);
        let _ = done.send(());
    });
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let writer = LineQueue { lines: lines.clone(), dropped };
    // Fails only when a subscriber is set already: then that one stays.
    let _ = tracing_subscriber::fmt()
        .compact()
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_writer(writer)
        .try_init();
    LogGuard { lines, finished, thread: thread.ok() }
}

/// Waits for the last lines when dropped, but not for a stuck reader.
#[derive(Debug)]
pub struct LogGuard {
    lines: SyncSender<Line>,
    finished: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let _ = self.lines.try_send(Line::End);
        if self.finished.recv_timeout(FLUSH_WAIT).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
enum Line {
    Text(Vec<u8>),
    End,
}

fn copy(queued: &Receiver<Line>, dropped: &AtomicU64) {
    let mut stderr = io::stderr();
    while let Ok(Line::Text(text)) = queued.recv() {
        // A closed stderr is no reason to stop serving disks.
        let _ = stderr.write_all(&text);
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(stderr, "({lost} log lines dropped: the log's reader was too slow)");
        }
    }
}

#[derive(Clone, Debug)]
struct LineQueue {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl Write for LineQueue {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match self.lines.try_send(Line::Text(text.to_vec())) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_reader_costs_lines_and_no_time() {
        let (lines, queued) = sync_channel(1);
        let mut queue = LineQueue { lines, dropped: Arc::default() };
        for line in ["kept\n", "lost\n", "lost\n"] {
            assert_eq!(queue.write(line.as_bytes()).unwrap(), line.len());
        }
        assert_eq!(queue.dropped.load(Ordering::Relaxed), 2);
        assert!(matches!(queued.try_recv(), Ok(Line::Text(text)) if text == b"kept\n"));
    }
}
