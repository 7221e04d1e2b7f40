//! From an HTTP request to a [`PeerRequest`], and from its outcome to a response.
//!
//! Invariant: a request reaches control only if its caller's certificate names the host that it says it is, it is meant
//! for this host, both run the same version, and all of it could be read. 200 is done; 4xx and 503 are refused, and had no
//! effect; 500 and 504 are unknown. It decides nothing.

use super::call::{Answer, Outcome, PeerAnswer, PeerCall, PeerRequest};
use super::identity::names_host;
use super::renewal::Keeper;
use super::wire::{self, BODY_BYTES_MAX, SMALL_BODY_BYTES_MAX};
use super::words::other_version;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use vmpath_core::migration::MoveId;

/// What each request says of itself.
pub(super) const FROM: &str = "vmpath-from";
pub(super) const TO: &str = "vmpath-to";
pub(super) const VERSION: &str = "vmpath-version";

/// For all of a body to come.
const BODY_WAIT: Duration = Duration::from_secs(5);

/// So much earlier than its caller this host gives up, so that the caller hears why.
const EARLIER: Duration = Duration::from_millis(500);

/// What this host is.
#[derive(Clone, Debug)]
pub struct Own {
    pub host: String,
    pub version: String,
}

/// What all requests need.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) own: Own,
    pub(super) calls: mpsc::Sender<PeerCall>,
    /// Bytes of bodies that may lie in memory.
    pub(super) bodies: Semaphore,
    pub(super) keeper: Keeper,
}

/// Not done, and why.
struct Failed {
    status: StatusCode,
    why: String,
}

fn failed(status: StatusCode, why: impl Into<String>) -> Failed {
    Failed { status, why: why.into() }
}

/// Answers one request, whatever it is.
pub(super) async fn answer(
    shared: &Shared,
    certificate: &CertificateDer<'static>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (status, body) = match carry(shared, certificate, request).await {
        Ok(body) => (StatusCode::OK, body),
        Err(Failed { status, why }) => {
            tracing::debug!("a request of another host is answered with {status}: {why}");
            (status, wire::write(&wire::reason(&why)).unwrap_or_default())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

async fn carry(
    shared: &Shared,
    certificate: &CertificateDer<'static>,
    request: Request<Incoming>,
) -> Result<Vec<u8>, Failed> {
    let from = caller(&shared.own, certificate, request.headers())?;
    let place = Place::of(request.method(), request.uri().path())?;
    if matches!(place, Place::Hello) {
        let Own { host, version } = shared.own.clone();
        return written(&wire::Hello { host, version, clock: shared.keeper.unix_now() });
    }
    let request = {
        let most = if matches!(place, Place::HandOver(_)) { BODY_BYTES_MAX } else { SMALL_BODY_BYTES_MAX };
        // Held until the body has become a request, which is about as large.
        let (body, _room) = body(shared, request.into_body(), most).await?;
        place.read(&body, &from, &shared.own.host)?
    };
    let bound = request.within().saturating_sub(EARLIER);
    respond(control(shared, from, request, bound).await)
}

/// Who asks; refused if the certificate does not say so, too, or if it should not be here.
fn caller(own: &Own, certificate: &CertificateDer<'static>, headers: &HeaderMap) -> Result<String, Failed> {
    let text = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| failed(StatusCode::BAD_REQUEST, format!("the request has no header {name}")))
    };
    let (from, to, version) = (text(FROM)?, text(TO)?, text(VERSION)?);
    if let Err(whose) = names_host(certificate, from) {
        let why = format!("it says that it is {from}, and its certificate is for {whose}");
        tracing::warn!("a request of another host is refused: {why}");
        return Err(failed(StatusCode::FORBIDDEN, why));
    }
    if to != own.host {
        return Err(failed(StatusCode::MISDIRECTED_REQUEST, format!("this is {}, not {to}", own.host)));
    }
    if version != own.version {
        let why = format!("this is {}: {}", own.host, other_version(from, version, &own.version));
        return Err(failed(StatusCode::UPGRADE_REQUIRED, why));
    }
    Ok(from.to_owned())
}

/// What is asked for, before its body is read.
enum Place {
    Hello,
    Probe,
    Prepare,
    HandOver(MoveId),
    Discard(MoveId),
    Ask(MoveId),
}

impl Place {
    fn of(method: &Method, path: &str) -> Result<Self, Failed> {
        let parts: Vec<&str> = path.trim_start_matches('/').splitn(5, '/').collect();
        let id = |text| wire::move_id(text).map_err(|why| failed(StatusCode::BAD_REQUEST, why));
        match (method, parts.as_slice()) {
            (&Method::GET, ["v1", "hello"]) => Ok(Self::Hello),
            (&Method::POST, ["v1", "probe"]) => Ok(Self::Probe),
            (&Method::POST, ["v1", "moves"]) => Ok(Self::Prepare),
            (&Method::PUT, ["v1", "moves", move_id, "handover"]) => Ok(Self::HandOver(id(move_id)?)),
            (&Method::DELETE, ["v1", "moves", move_id]) => Ok(Self::Discard(id(move_id)?)),
            (&Method::GET, ["v1", "moves", move_id]) => Ok(Self::Ask(id(move_id)?)),
            (method, _) => {
                Err(failed(StatusCode::NOT_FOUND, format!("there is no {method} {}", short(path))))
            }
        }
    }

    /// What it asks for, all of it; `from` is proven, `own` is this host.
    fn read(self, body: &[u8], from: &str, own: &str) -> Result<PeerRequest, Failed> {
        let bad = |why| failed(StatusCode::BAD_REQUEST, why);
        match self {
            Self::Probe => {
                wire::read::<wire::Probe>(body).map(|asked| PeerRequest::Probe { units: asked.units })
            }
            Self::Prepare => {
                let asked =
                    wire::read::<wire::Prepare>(body).and_then(wire::Prepare::into_core).map_err(bad)?;
                ends(&asked.id, (&asked.from, &asked.to), from, own)?;
                return Ok(PeerRequest::Prepare(asked));
            }
            Self::HandOver(id) => {
                let given =
                    wire::read::<wire::HandOver>(body).and_then(wire::HandOver::into_core).map_err(bad)?;
                ends(&id, (&given.from, &given.to), from, own)?;
                if given.move_id != id {
                    return Err(bad(format!("this is handed over for {}, not for {id}", given.move_id)));
                }
                return Ok(PeerRequest::HandOver(given));
            }
            Self::Discard(move_id) => {
                ends(&move_id, (from, own), from, own)?;
                wire::read::<wire::Discard>(body)
                    .map(|asked| PeerRequest::Discard { move_id, why: asked.why })
            }
            Self::Ask(move_id) => Ok(PeerRequest::Ask { move_id }),
            Self::Hello => Err("a greeting asks for nothing".to_owned()),
        }
        .map_err(bad)
    }
}

/// A move is from the host that calls and has named it, to this one.
fn ends(id: &MoveId, told: (&str, &str), from: &str, own: &str) -> Result<(), Failed> {
    if told == (from, own) && id.host == from {
        return Ok(());
    }
    let why = format!("{id} is said to go from {} to {}, but {from} asks {own}", told.0, told.1);
    Err(failed(StatusCode::FORBIDDEN, why))
}

/// Somebody else's text in our words.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// All of the body, and the room that it was given.
async fn body<'a>(
    shared: &'a Shared,
    body: Incoming,
    most: usize,
) -> Result<(Bytes, tokio::sync::SemaphorePermit<'a>), Failed> {
    let too_large = || failed(StatusCode::PAYLOAD_TOO_LARGE, format!("more than {most} bytes"));
    // Who announces a length gets room for it; who does not, for the most.
    let announced =
        body.size_hint().upper().map_or(most, |upper| usize::try_from(upper).unwrap_or(usize::MAX));
    if announced > most {
        return Err(too_large());
    }
    let room = u32::try_from(announced).unwrap_or(u32::MAX);
    let read = async {
        let room = shared
            .bodies
            .acquire_many(room)
            .await
            .map_err(|error| failed(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
        let read = Limited::new(body, most).collect().await;
        Ok((read.map_err(|_| too_large())?.to_bytes(), room))
    };
    let late = |_| failed(StatusCode::REQUEST_TIMEOUT, "the request did not come to its end");
    timeout(BODY_WAIT, read).await.map_err(late)?
}

/// Hands it to control and waits for the answer, for at most `bound`.
async fn control(shared: &Shared, from: String, request: PeerRequest, bound: Duration) -> Outcome {
    let name = request.name();
    let own = &shared.own.host;
    let (reply, answer) = oneshot::channel();
    match shared.calls.try_send(PeerCall { from, request, reply }) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => return Answer::Refused(format!("{own} is too busy for this {name}")),
        Err(TrySendError::Closed(_)) => return Answer::Refused(format!("vmpath on {own} is ending")),
    }
    match timeout(bound, answer).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Answer::Unknown(format!("vmpath on {own} has ended over this {name}")),
        Err(_) => Answer::Unknown(format!("{own} did not finish this {name} in {} s", bound.as_secs())),
    }
}

fn respond(outcome: Outcome) -> Result<Vec<u8>, Failed> {
    match outcome {
        Answer::Done(PeerAnswer::Done) => Ok(Vec::new()),
        Answer::Done(PeerAnswer::Incoming(incoming)) => written(&wire::Prepared { incoming }),
        Answer::Done(PeerAnswer::State(state)) => {
            written(&wire::MoveState { state: wire::reason(&state).reason })
        }
        Answer::Refused(why) => Err(failed(StatusCode::CONFLICT, why)),
        Answer::Unknown(why) => Err(failed(StatusCode::GATEWAY_TIMEOUT, why)),
    }
}

fn written<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Failed> {
    wire::write(value).map_err(|why| failed(StatusCode::INTERNAL_SERVER_ERROR, why))
}
