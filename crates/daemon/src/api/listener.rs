//! The API's socket: who holds it, who may connect, and how many at once.
//!
//! Invariant: one daemon a socket, by a lock that the kernel drops with the process, and connections are bounded: any
//! user of the host may connect, and must not be able to use up the descriptors that reach the storage.

use super::access::Caller;
use crate::sys::lock;
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Sleep, sleep};

/// Connections of one user at once. Root and the daemon's user are not counted.
const CONNECTIONS_PER_USER_MAX: usize = 16;

/// Connections of all such users at once.
const CONNECTIONS_MAX: usize = 64;

/// No connection lasts longer; clients that want more connect again.
const CONNECTION_LASTS: Duration = Duration::from_secs(60);

/// After a failed accept: descriptors may be short for a moment.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bound socket. Removed, and the lock with it, by [`Listener::cleanup`].
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    files: Files,
    seats: Seats,
}

/// What the listener leaves in the file system.
#[derive(Debug)]
pub(super) struct Files {
    socket: PathBuf,
    /// Held for as long as the daemon lives.
    _lock: File,
}

impl Files {
    /// Removes the socket, so that clients find nobody instead of silence.
    pub(super) fn remove(&self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.socket);
    }
}

impl Listener {
    /// Binds the socket (mode 0666; its directory is made if missing) after a dead daemon's was removed. Blocks for `patience` while
    /// another daemon has it.
    ///
    /// # Errors
    /// Another daemon has it, something else is there, or the system's refusal.
    pub fn bind(path: &Path, patience: Duration) -> Result<Self> {
        let shown = path.display();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make the directory of the API socket {shown}"))?;
        }
        let lock = lock(path, patience)?;
        if lock::patiently(patience, || remove_stale(path))?.is_none() {
            bail!("somebody answers at the API socket {shown}: stop it, or choose another host.api_socket");
        }
        let socket =
            UnixListener::bind(path).with_context(|| format!("cannot bind the API socket {shown}"))?;
        fs::set_permissions(path, Permissions::from_mode(0o666))
            .with_context(|| format!("cannot let users connect to the API socket {shown}"))?;
        let files = Files { socket: path.to_owned(), _lock: lock };
        Ok(Self { socket, files, seats: Seats::default() })
    }

    pub(super) fn into_parts(self) -> (Acceptor, Files) {
        (Acceptor { socket: self.socket, seats: self.seats }, self.files)
    }
}

fn lock(socket: &Path, patience: Duration) -> Result<File> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let taken = lock::take(file, patience).with_context(|| format!("cannot lock {}", path.display()))?;
    taken.with_context(|| {
        format!(
            "another vmpath daemon runs with the API socket {}: stop it first, or give this one another host.api_socket",
            socket.display()
        )
    })
}

/// None while somebody answers there.
fn remove_stale(path: &Path) -> Result<Option<()>> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(())),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {shown}")),
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{shown} is there and is no socket: move it away")
        }
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {shown}"))?;
            Ok(Some(()))
        }
        Ok(_) | Err(_) => Ok(None),
    }
}

/// Who is connected, by uid.
#[derive(Clone, Debug, Default)]
struct Seats(Arc<Mutex<HashMap<u32, usize>>>);

/// A user's place among the connections; given back when dropped.
#[derive(Debug)]
struct Seat {
    uid: u32,
    seats: Seats,
}

impl Seats {
    fn take(&self, uid: u32) -> Option<Seat> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let mine = taken.entry(uid).or_default();
        if *mine >= CONNECTIONS_PER_USER_MAX || all >= CONNECTIONS_MAX {
            return None;
        }
        *mine += 1;
        Some(Seat { uid, seats: self.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = taken.get_mut(&self.uid) {
            *mine -= 1;
            if *mine == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

/// Accepts connections, within bounds.
#[derive(Debug)]
pub(super) struct Acceptor {
    socket: UnixListener,
    seats: Seats,
}

impl axum::serve::Listener for Acceptor {
    type Io = Connection;
    type Addr = Caller;

    async fn accept(&mut self) -> (Connection, Caller) {
        loop {
            let stream = match self.socket.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("the API cannot accept: {error}");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(credentials) = stream.peer_cred() else { continue };
            let caller = Caller { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() };
            let privileged = caller.uid == 0 || caller.uid == rustix::process::geteuid().as_raw();
            let seat = if privileged { None } else { self.seats.take(caller.uid) };
            // Over the bound: closed at once. The client says "try again" better than a queue would.
            if privileged || seat.is_some() {
                return (Connection { stream, ends: Box::pin(sleep(CONNECTION_LASTS)), _seat: seat }, caller);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A client's connection, which ends after [`CONNECTION_LASTS`].
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    ends: Pin<Box<Sleep>>,
    _seat: Option<Seat>,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ends.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.ends.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_every_seat() {
        let seats = Seats::default();
        let mut eve: Vec<_> = (0..CONNECTIONS_PER_USER_MAX).map(|_| seats.take(1).unwrap()).collect();
        assert!(seats.take(1).is_none());
        let adam = seats.take(2);
        assert!(adam.is_some());
        eve.pop();
        assert!(seats.take(1).is_some());
        drop((eve, adam));
        assert!(seats.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_daemon_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/api.sock");
        let bind = |path| Listener::bind(path, Duration::ZERO);
        let first = bind(&path).unwrap();
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.contains("another vmpath daemon"), "{error}");
        drop(first);
        assert!(path.exists(), "a dead daemon leaves its socket");
        let second = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        second.files.remove();
        fs::write(&path, "").unwrap();
        drop(second);
        assert!(bind(&path).unwrap_err().to_string().contains("no socket"));
    }
}
