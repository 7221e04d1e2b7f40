//! From an address to a connection on which the other host has greeted us: TCP, TLS, HTTP/2, and one question that
//! changes nothing.
//!
//! Invariant: whatever fails here had no effect over there. Certificates, names and versions are all checked before the first
//! real request leaves. It does not know what the connection is for.

use super::identity::{Identity, names_host};
use super::renewal::Keeper;
use super::routes::{FROM, Own, TO, VERSION};
use super::wire;
use super::witness::{Seen, Witness, tls_error};
use super::words::{self, Other};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// For TCP, TLS and the greeting together.
const DIAL_WAIT: Duration = Duration::from_secs(3);

/// A dead link is known after both, also to who only waits for an answer.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_WAIT: Duration = Duration::from_secs(3);

/// Beyond it the log tells both: certificates' dates are all that clocks matter for.
const CLOCKS_APART_S: u64 = 60;

/// A connection that was greeted.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) requests: SendRequest<Full<Bytes>>,
    seen: Seen,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    pub(super) fn is_closed(&self) -> bool {
        self.requests.is_closed() || self.task.is_finished()
    }
}

/// Whom to dial, as whom.
pub(super) struct Dial<'a> {
    pub(super) own: &'a Own,
    pub(super) keeper: &'a Keeper,
    pub(super) other: Other<'a>,
}

impl Dial<'_> {
    /// # Errors
    /// Why the other host cannot be asked anything, in words.
    pub(super) async fn connect(&self) -> Result<Connection, String> {
        let dialled = timeout(DIAL_WAIT, self.steps()).await;
        dialled.unwrap_or_else(|_| Err(words::silent(self.other)))
    }

    async fn steps(&self) -> Result<Connection, String> {
        let present = self.keeper.present();
        let identity = present.as_ref().as_ref().map_err(Clone::clone)?;
        let stream = TcpStream::connect(self.other.address)
            .await
            .map_err(|error| words::unreachable(&error, self.other))?;
        // Without it requests would wait for acknowledgements; a socket that refuses it works all the same.
        let _ = stream.set_nodelay(true);
        let stream = self.encrypt(identity, stream).await?;
        let (witness, seen) = Witness::new(stream);
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WAIT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(witness))
            .await
            .map_err(|error| self.broken(identity, &seen, &error))?;
        let task = run(connection).abort_handle();
        let mut connection = Connection { requests, seen, task };
        self.greet(identity, &mut connection).await?;
        Ok(connection)
    }

    async fn encrypt(&self, identity: &Identity, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let host = self.other.host;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host:?} cannot stand in a certificate: it must be a DNS name"))?;
        let connect = TlsConnector::from(Arc::clone(&identity.client)).connect(name, stream);
        let stream = connect.await.map_err(|error| self.refused(identity, &error))?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let Some(certificate) = shown else { return Err(format!("{host} shows no certificate")) };
        names_host(certificate, host).map_err(|whose| {
            format!("{}: the certificate is for {whose}, not for {host}", self.other.address)
        })?;
        Ok(stream)
    }

    fn refused(&self, identity: &Identity, error: &io::Error) -> String {
        match tls_error(error) {
            Some(why) => words::refused_by_tls(why, self.other, identity.dates, self.keeper.unix_now()),
            None => words::unreachable(error, self.other),
        }
    }

    fn broken(&self, identity: &Identity, seen: &Seen, error: &hyper::Error) -> String {
        match seen.get() {
            Some(why) => words::refused_by_tls(why, self.other, identity.dates, self.keeper.unix_now()),
            None => format!(
                "{} at {} closed the connection before it greeted ({error}); its log says why",
                self.other.host, self.other.address
            ),
        }
    }

    /// Both say who they are and which version they run; nothing is changed by it.
    async fn greet(&self, identity: &Identity, connection: &mut Connection) -> Result<(), String> {
        let Other { host, address } = self.other;
        let request = request(self.own, host, (Method::GET, "/v1/hello"), Bytes::new())?;
        let answered = connection.requests.send_request(request).await;
        let response = answered.map_err(|error| self.broken(identity, &connection.seen, &error))?;
        let (status, body) =
            collect(response).await.map_err(|why| format!("{host} at {address} does not greet: {why}"))?;
        if status != StatusCode::OK {
            return Err(reason(&body).unwrap_or_else(|| format!("{host} at {address} answers {status}")));
        }
        let hello: wire::Hello = wire::read(&body).map_err(|why| format!("{host} at {address}: {why}"))?;
        if hello.host != host {
            return Err(format!("{} answers at {address}, not {host}", hello.host));
        }
        if hello.version != self.own.version {
            return Err(words::other_version(host, &hello.version, &self.own.version));
        }
        let now = self.keeper.unix_now();
        if hello.clock.abs_diff(now) > CLOCKS_APART_S {
            let (its, ours) = (words::date(hello.clock), words::date(now));
            tracing::warn!(
                "the clock of {host} says {its}, this host's {ours}: certificates may end early by one of them"
            );
        }
        Ok(())
    }
}

fn run<T: Send + 'static>(connection: impl Future<Output = T> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        // Its error is told to whoever waits for an answer on it.
        let _ = connection.await;
    })
}

/// A request that says who asks whom.
pub(super) fn request(
    own: &Own,
    to: &str,
    (method, path): (Method, &str),
    body: Bytes,
) -> Result<Request<Full<Bytes>>, String> {
    Request::builder()
        .method(method)
        .uri(format!("https://{to}{path}"))
        .header(FROM, &own.host)
        .header(TO, to)
        .header(VERSION, &own.version)
        .body(Full::new(body))
        .map_err(|error| format!("cannot be asked: {error}"))
}

/// Status and body of a response, the body within bounds.
pub(super) async fn collect(
    response: Response<hyper::body::Incoming>,
) -> Result<(StatusCode, Bytes), String> {
    let status = response.status();
    let body = Limited::new(response.into_body(), wire::SMALL_BODY_BYTES_MAX).collect().await;
    Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
}

/// The words of a refusal.
pub(super) fn reason(body: &[u8]) -> Option<String> {
    wire::read::<wire::Reason>(body).ok().map(|found| found.reason)
}
