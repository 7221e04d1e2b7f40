//! The listening end: other hosts' connections, within bounds, each with the names that its certificate proves.
//!
//! Invariant: nothing is read as HTTP before both ends have shown a certificate by our authority. Connections, handshakes
//! and times are bounded, so that whoever reaches the port can use up nothing that the storage needs.
//! It does not know what is asked ([`super::routes`]), nor decides it (control).

use super::call::PeerCall;
use super::renewal::Keeper;
use super::routes::{self, Shared};
use super::wire::BODY_BYTES_MAX;
use super::words;
use crate::sys::clock;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use vmpath_core::time::Instant;

/// Handshakes at once: each costs a signature, and anybody may begin one.
const HANDSHAKES_MAX: usize = 32;
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);

/// Peers' connections at once: one of each host of a large cluster.
const CONNECTIONS_MAX: usize = 1024;

/// Connections of one address at once: one that works, and those that it has not yet seen to be dead.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 8;

/// Requests at once on one connection.
const STREAMS_MAX: u32 = 32;

/// A name, a version and a path are short.
const HEADER_BYTES_MAX: u32 = 8 << 10;

/// Bytes of bodies that lie in memory at once, of all connections.
const BODIES_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;

/// No connection lasts longer: its other end comes again, and shows a certificate of today.
const CONNECTION_LASTS: Duration = Duration::from_secs(3600);

/// A dead link is known after both.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_WAIT: Duration = Duration::from_secs(5);

/// For whoever is refused to read the alert before a reset could destroy it.
const LINGER: Duration = Duration::from_secs(1);

/// After a failed bind or accept: the address may still come, descriptors may be short for a moment.
const PAUSE: Duration = Duration::from_secs(1);

/// Refusals are told in the log at most so often.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Where other hosts are listened to, or why not, in words.
pub type Listening = Result<SocketAddr, String>;

/// What a connection's task needs.
#[derive(Clone, Debug)]
struct Context {
    keeper: Keeper,
    shared: Arc<Shared>,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    seats: Seats,
    told: Arc<Mutex<Instant>>,
}

/// Listens and serves, for ever; binds again when the address is not there yet.
pub async fn run(
    listen: SocketAddr,
    names: routes::Own,
    keeper: Keeper,
    calls: mpsc::Sender<PeerCall>,
    listening: watch::Sender<Listening>,
) {
    let shared =
        Shared { own: names, calls, bodies: Semaphore::new(BODIES_BYTES_MAX), keeper: keeper.clone() };
    let context = Context {
        keeper,
        shared: Arc::new(shared),
        handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        seats: Seats::default(),
        told: Arc::default(),
    };
    let listener = loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => break listener,
            Err(error) => {
                let why = format!("cannot listen for other hosts at {listen}: {error}");
                if listening.borrow().as_ref().err() != Some(&why) {
                    tracing::error!("{why}");
                    drop(listening.send_replace(Err(why)));
                }
                sleep(PAUSE).await;
            }
        }
    };
    drop(listening.send_replace(listener.local_addr().map_err(|error| error.to_string())));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, address)) => admit(&mut tasks, &context, stream, address),
            Err(error) => {
                context.tell(&format!("cannot accept other hosts' connections: {error}"));
                sleep(PAUSE).await;
            }
        }
    }
}

/// Over a bound the connection is closed at once: its other end says "try again" better than a queue would.
fn admit(tasks: &mut JoinSet<()>, context: &Context, stream: TcpStream, address: SocketAddr) {
    let seat = context.seats.take(address.ip());
    let permits = (
        Arc::clone(&context.handshakes).try_acquire_owned(),
        Arc::clone(&context.connections).try_acquire_owned(),
    );
    let (Some(seat), (Ok(handshake), Ok(connection))) = (seat, permits) else {
        context.tell(&format!("{address} is turned away: too many connections"));
        return;
    };
    let context = context.clone();
    tasks.spawn(async move {
        if let Some(stream) = shake_hands(&context, stream, address, handshake).await {
            serve(&context, stream, address).await;
        }
        drop((seat, connection));
    });
}

async fn shake_hands(
    context: &Context,
    stream: TcpStream,
    address: SocketAddr,
    _permit: OwnedSemaphorePermit,
) -> Option<TlsStream<TcpStream>> {
    let present = context.keeper.present();
    let identity = match present.as_ref() {
        Ok(identity) => identity,
        Err(why) => {
            context.tell(&format!("{address} is turned away: {why}"));
            return None;
        }
    };
    // Without it answers would wait for acknowledgements; a socket that refuses it works all the same.
    let _ = stream.set_nodelay(true);
    let accept = TlsAcceptor::from(Arc::clone(&identity.server)).accept(stream).into_fallible();
    match timeout(HANDSHAKE_WAIT, accept).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err((error, stream))) => {
            context.tell(&refusal(&error, address));
            let _ = timeout(LINGER, drain(stream)).await;
            None
        }
        Err(_) => {
            context.tell(&format!("{address} connects and does not begin an encryption"));
            None
        }
    }
}

/// Lets the other end read what was said last.
async fn drain(mut stream: TcpStream) {
    let mut bytes = [0; 1024];
    let _ = stream.shutdown().await;
    while stream.read(&mut bytes).await.is_ok_and(|length| length > 0) {}
}

fn refusal(error: &io::Error, address: SocketAddr) -> String {
    let why = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => words::refused_certificate(why, "the host there"),
        Some(rustls::Error::NoCertificatesPresented) => "it shows no certificate".to_owned(),
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("it refuses this host's certificate, or what it speaks ({alert:?})")
        }
        Some(other) => other.to_string(),
        None => error.to_string(),
    };
    format!("the connection from {address} is refused: {why}")
}

async fn serve(context: &Context, stream: TlsStream<TcpStream>, address: SocketAddr) {
    let Some(certificate) = certificate(&stream) else {
        context.tell(&format!("the connection from {address} is refused: it shows no certificate"));
        return;
    };
    let (shared, certificate) = (Arc::clone(&context.shared), Arc::new(certificate));
    let service = service_fn(move |request| {
        let (shared, certificate) = (Arc::clone(&shared), Arc::clone(&certificate));
        async move { Ok::<_, std::convert::Infallible>(routes::answer(&shared, &certificate, request).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Its end by an error is its other end's business; requests on it were answered, or their callers know nothing.
    if timeout(CONNECTION_LASTS, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(CLOSE_WAIT, connection).await;
    }
}

/// For requests that are open when a connection has lasted long enough; the longest is a prepare.
const CLOSE_WAIT: Duration = Duration::from_secs(40);

fn certificate(stream: &TlsStream<TcpStream>) -> Option<CertificateDer<'static>> {
    Some(stream.get_ref().1.peer_certificates()?.first()?.clone().into_owned())
}

impl Context {
    /// In the log, but not as often as somebody outside might wish.
    fn tell(&self, what: &str) {
        let now = clock::now();
        let mut last = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == Instant::ZERO || now.since(*last) >= TELL_EVERY {
            *last = now;
            tracing::warn!("{what}");
        }
    }
}

/// How many connections each address has.
#[derive(Clone, Debug, Default)]
struct Seats(Arc<Mutex<std::collections::HashMap<IpAddr, usize>>>);

#[derive(Debug)]
struct Seat {
    address: IpAddr,
    seats: Seats,
}

impl Seats {
    fn take(&self, address: IpAddr) -> Option<Seat> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = taken.entry(address).or_default();
        if *mine >= CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        *mine += 1;
        Some(Seat { address, seats: self.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = taken.get_mut(&self.address) {
            *mine -= 1;
            if *mine == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_seat() {
        let seats = Seats::default();
        let [eve, adam] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut hers: Vec<_> = (0..CONNECTIONS_PER_ADDRESS_MAX).map(|_| seats.take(eve).unwrap()).collect();
        assert!(seats.take(eve).is_none());
        let his = seats.take(adam);
        assert!(his.is_some());
        hers.pop();
        assert!(seats.take(eve).is_some());
        drop((hers, his));
        assert!(seats.0.lock().unwrap().is_empty());
    }
}
