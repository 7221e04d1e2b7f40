//! The asking end: one connection for each host, dialled when it is needed, shared by all calls.
//!
//! Invariant: every call ends within its bound, as `Refused` only if its request surely did not leave this host or the other
//! end says so itself. A call is repeated by itself only if it never left.
//! Rejected: dialling ahead. A thousand hosts that hold connections for moves that never come would cost more than they save.
//! It does not know why something is asked.

use super::call::{Answer, Outcome, PeerAnswer, PeerOrder, PeerRequest};
use super::dial::{self, Connection, Dial};
use super::renewal::Keeper;
use super::routes::Own;
use super::wire;
use super::words::Other;
use crate::sys::clock;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;
use vmpath_core::time::Instant;

/// A connection that nobody has used for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// An older one is replaced before its next use, so that certificates are looked at again; younger than the server's bound.
const AGE_MAX: Duration = Duration::from_secs(1800);

/// Asks other hosts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    own: Arc<Own>,
    keeper: Keeper,
    links: Arc<Mutex<HashMap<String, Arc<Link>>>>,
}

/// One host's connection, if there is one. Whoever dials holds the lock; the others wait for the same connection.
#[derive(Debug, Default)]
struct Link {
    live: AsyncMutex<Option<Live>>,
    used: Mutex<Instant>,
}

#[derive(Debug)]
struct Live {
    connection: Arc<Connection>,
    address: String,
    since: Instant,
}

/// A request as it goes over the wire.
struct Sending {
    method: Method,
    path: String,
    body: Bytes,
}

impl Peers {
    #[must_use]
    pub fn new(own: Own, keeper: Keeper) -> Self {
        Self { own: Arc::new(own), keeper, links: Arc::default() }
    }

    /// Asks, and waits for the outcome: at most as long as the request says.
    pub async fn call(&self, order: &PeerOrder) -> Outcome {
        let sending = match Sending::of(&order.request) {
            Ok(sending) => sending,
            Err(why) => return Answer::Refused(why),
        };
        let link = self.link(&order.to);
        let (within, host, name) = (order.request.within(), &order.to, order.request.name());
        let mut left = false;
        let asked = timeout(within, self.ask(&link, order, &sending, &mut left)).await;
        match asked {
            Ok(outcome) => outcome,
            Err(_) if left => {
                Answer::Unknown(format!("{host} did not answer this {name} within {} s", within.as_secs()))
            }
            Err(_) => Answer::Refused(format!("{host} could not be reached within {} s", within.as_secs())),
        }
    }

    /// `left` becomes true when the request may have left.
    async fn ask(&self, link: &Link, order: &PeerOrder, sending: &Sending, left: &mut bool) -> Outcome {
        let host = &order.to;
        for _ in 0..TRIES {
            let connection = match self.connection(link, order).await {
                Ok(connection) => connection,
                Err(why) => return Answer::Refused(why),
            };
            let target = (sending.method.clone(), sending.path.as_str());
            let request = match dial::request(&self.own, host, target, sending.body.clone()) {
                Ok(request) => request,
                Err(why) => return Answer::Refused(why),
            };
            *left = true;
            let mut requests = connection.requests.clone();
            match requests.try_send_request(request).await {
                Ok(response) => return finish(&order.request, host, dial::collect(response).await),
                // Given back: it has not left, so it may go again.
                Err(error) if error.message().is_some() => {
                    *left = false;
                    link.forget(&connection).await;
                }
                Err(error) => {
                    link.forget(&connection).await;
                    let why = error.into_error();
                    return Answer::Unknown(format!(
                        "the connection to {host} broke before its answer: {why}"
                    ));
                }
            }
        }
        Answer::Refused(format!("{host} closes each connection before anything can be asked"))
    }

    /// The connection to the host, dialled if there is none that is of use.
    async fn connection(&self, link: &Link, order: &PeerOrder) -> Result<Arc<Connection>, String> {
        let mut live = link.live.lock().await;
        let now = clock::now();
        *link.used.lock().unwrap_or_else(PoisonError::into_inner) = now;
        let of_use = live.as_ref().filter(|live| live.is_of_use(&order.address, now));
        if let Some(found) = of_use {
            return Ok(Arc::clone(&found.connection));
        }
        *live = None;
        let other = Other { host: &order.to, address: &order.address };
        let dialled = Dial { own: &self.own, keeper: &self.keeper, other }.connect().await?;
        let connection = Arc::new(dialled);
        let address = order.address.clone();
        *live = Some(Live { connection: Arc::clone(&connection), address, since: clock::now() });
        Ok(connection)
    }

    /// The host's link; those that nobody has used for long go.
    fn link(&self, host: &str) -> Arc<Link> {
        let now = clock::now();
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|name, link| name == host || Arc::strong_count(link) > 1 || !link.is_idle(now));
        Arc::clone(links.entry(host.to_owned()).or_default())
    }
}

/// Once more if a connection turns out to be gone when it is to be used.
const TRIES: usize = 2;

impl Link {
    fn is_idle(&self, now: Instant) -> bool {
        now.since(*self.used.lock().unwrap_or_else(PoisonError::into_inner)) > IDLE_MAX
    }

    /// Drops the connection, if it is still this one.
    async fn forget(&self, connection: &Arc<Connection>) {
        let mut live = self.live.lock().await;
        if live.as_ref().is_some_and(|live| Arc::ptr_eq(&live.connection, connection)) {
            *live = None;
        }
    }
}

impl Live {
    fn is_of_use(&self, address: &str, now: Instant) -> bool {
        self.address == address && !self.connection.is_closed() && now.since(self.since) < AGE_MAX
    }
}

impl Sending {
    fn of(request: &PeerRequest) -> Result<Self, String> {
        let (method, path, body) = match request {
            PeerRequest::Probe { units } => {
                (Method::POST, "/v1/probe".to_owned(), wire::write(&wire::Probe { units: units.clone() })?)
            }
            PeerRequest::Prepare(order) => {
                (Method::POST, "/v1/moves".to_owned(), wire::write(&wire::Prepare::of(order))?)
            }
            PeerRequest::HandOver(given) => {
                let path = format!("/v1/moves/{}/handover", given.move_id);
                (Method::PUT, path, wire::write(&wire::HandOver::of(given))?)
            }
            PeerRequest::Discard { move_id, why } => {
                let body = wire::write(&wire::Discard { why: wire::reason(why).reason })?;
                (Method::DELETE, format!("/v1/moves/{move_id}"), body)
            }
            PeerRequest::Ask { move_id } => (Method::GET, format!("/v1/moves/{move_id}"), Vec::new()),
        };
        Ok(Self { method, path, body: body.into() })
    }
}

/// What the answer means. Anything that is not plainly done or refused may have had an effect.
fn finish(request: &PeerRequest, host: &str, answered: Result<(StatusCode, Bytes), String>) -> Outcome {
    let (status, body) = match answered {
        Ok(answered) => answered,
        Err(why) => return Answer::Unknown(format!("the answer of {host} broke off: {why}")),
    };
    let why = || dial::reason(&body).unwrap_or_else(|| format!("{host} answers {status}"));
    match status {
        StatusCode::OK => done(request, &body)
            .unwrap_or_else(|why| Answer::Unknown(format!("{host} says that it is done, but {why}"))),
        StatusCode::SERVICE_UNAVAILABLE => Answer::Refused(why()),
        status if status.is_client_error() => Answer::Refused(why()),
        _ => Answer::Unknown(why()),
    }
}

fn done(request: &PeerRequest, body: &[u8]) -> Result<Outcome, String> {
    let answer = match request {
        PeerRequest::Probe { .. } | PeerRequest::HandOver(_) => PeerAnswer::Done,
        PeerRequest::Discard { .. } if body.is_empty() => PeerAnswer::Done,
        PeerRequest::Discard { .. } => PeerAnswer::State(wire::read::<wire::MoveState>(body)?.state),
        PeerRequest::Prepare(_) => PeerAnswer::Incoming(wire::read::<wire::Prepared>(body)?.incoming),
        PeerRequest::Ask { .. } => PeerAnswer::State(wire::read::<wire::MoveState>(body)?.state),
    };
    Ok(Answer::Done(answer))
}
