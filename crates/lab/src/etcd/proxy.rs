//! A wire between a client and one member of etcd, which fails on command: cut, or silent from a certain request on.
//!
//! Invariant: what a wire has swallowed never comes after all: with each change of what it does, its connections end.
//! Rejected: a firewall's rules; they know no requests, and tests of one machine should need no rights.
//! It does not know HTTP/2: it looks for bytes.

use anyhow::Result;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a wire takes at most to notice that it shall do something else.
const NOTICE: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Nobody gets through, and whoever was connected is cut off.
    Cut,
    /// From the request on that holds these bytes, replies are swallowed; the requests arrive.
    SwallowReplies(Vec<u8>),
    /// That request and all after it are swallowed.
    SwallowRequests(Vec<u8>),
    Ended,
}

/// Passes everything on until it is told otherwise.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// Connections of an older one end.
    generation: u64,
}

impl Proxy {
    /// Listens on a port of loopback for those who want to reach `member`.
    ///
    /// # Errors
    /// If there is no port.
    pub fn to(member: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State { mode: Mode::Pass, generation: 0 }));
        let shared = Arc::clone(&state);
        thread::spawn(move || accept(&listener, member, &shared));
        Ok(Self { address, state })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pass(&self) {
        self.set(Mode::Pass);
    }

    /// Ends all connections and takes no new one.
    pub fn cut(&self) {
        self.set(Mode::Cut);
    }

    /// From the next request that holds `bytes` on, no reply arrives. Connections go on until then.
    pub fn swallow_replies_from(&self, bytes: &[u8]) {
        self.keep_connections(Mode::SwallowReplies(bytes.to_vec()));
    }

    /// The next request that holds `bytes`, and all after it, do not arrive.
    pub fn swallow_requests_from(&self, bytes: &[u8]) {
        self.keep_connections(Mode::SwallowRequests(bytes.to_vec()));
    }

    fn set(&self, mode: Mode) {
        let mut state = lock(&self.state);
        state.mode = mode;
        state.generation += 1;
    }

    fn keep_connections(&self, mode: Mode) {
        lock(&self.state).mode = mode;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Mode::Ended);
        // The thread that accepts waits for a connection.
        _ = TcpStream::connect(self.address);
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, member: SocketAddr, state: &Arc<Mutex<State>>) {
    for client in listener.incoming().flatten() {
        let (mode, generation) = {
            let state = lock(state);
            (state.mode.clone(), state.generation)
        };
        match mode {
            Mode::Ended => return,
            Mode::Cut => _ = client.shutdown(Shutdown::Both),
            Mode::Pass | Mode::SwallowReplies(_) | Mode::SwallowRequests(_) => {
                let Ok(server) = TcpStream::connect(member) else { continue };
                let silent = Arc::new(Mutex::new(Silence::None));
                for (from, to, way) in [(&client, &server, Way::Requests), (&server, &client, Way::Replies)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let (state, silent) = (Arc::clone(state), Arc::clone(&silent));
                    thread::spawn(move || carry(&Wire { from, to, way, state, silent, generation }));
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Requests,
    Replies,
}

/// What a connection swallows, since it has seen the bytes that it waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Silence {
    None,
    Replies,
    Both,
}

struct Wire {
    from: TcpStream,
    to: TcpStream,
    way: Way,
    state: Arc<Mutex<State>>,
    silent: Arc<Mutex<Silence>>,
    generation: u64,
}

fn carry(wire: &Wire) {
    _ = wire.from.set_read_timeout(Some(NOTICE));
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = match (&wire.from).read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(_) => break,
        };
        if lock(&wire.state).generation != wire.generation {
            break;
        }
        if !wire.swallows(&bytes[..read]) && (&wire.to).write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    _ = wire.from.shutdown(Shutdown::Both);
    _ = wire.to.shutdown(Shutdown::Both);
}

impl Wire {
    fn swallows(&self, bytes: &[u8]) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if self.way == Way::Requests && *silent == Silence::None {
            let holds = |marker: &[u8]| bytes.windows(marker.len().max(1)).any(|window| window == marker);
            *silent = match &lock(&self.state).mode {
                Mode::SwallowReplies(marker) if holds(marker) => Silence::Replies,
                Mode::SwallowRequests(marker) if holds(marker) => Silence::Both,
                Mode::Pass | Mode::Cut | Mode::Ended | Mode::SwallowReplies(_) | Mode::SwallowRequests(_) => {
                    Silence::None
                }
            };
        }
        match *silent {
            Silence::None => false,
            Silence::Replies => self.way == Way::Replies,
            Silence::Both => true,
        }
    }
}
