//! One client's connection to a portal, from its first byte to its death.
//!
//! ```text
//! Handshake -(export opened)-> Session -(end of stream | reset | broken protocol)-> buried: ghosts, or nothing
//! ```
//! One task, one pass after another: read what there is, execute what is due, write what fits, wait.
//! Invariant: a request is executed at most once, in the pass that answers it or as a ghost. Writes that wait when the
//! connection breaks become ghosts if the portal has them, and are dropped otherwise: both may happen to an
//! initiator, and both must do no harm. It does not know: which faults make sense.

use super::alarm::Alarm;
use super::fault::{FaultSet, Gate};
use super::ghost;
use super::portal::Portal;
use super::session::{Flow, Session, WAITING_BYTES};
use super::unit::Unit;
use crate::net::{Inbox, Outbox, Received, Stream};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::time::Instant;
use vmpath_protocol::nbd::{
    BlockSizes, ExportAnswer, ExportInfo, ExportRefusal, RefusalReason, ServerHandshake,
    ServerHandshakeEvent, TransmissionFlags,
};

/// Holds headers and small requests; payloads bypass it.
const INBOX: usize = 8 << 10;
/// Requests taken in one pass, so that replies are not kept waiting by a stream of requests.
const INTAKE: usize = 64;

/// Why a connection is over.
enum End {
    /// By the client, by the protocol, or by an error of the socket.
    Closed,
    /// By a fault: to be reset.
    Reset,
}

struct Connection<'a> {
    portal: &'a Arc<Portal>,
    stream: &'a Stream,
    inbox: Inbox,
    outbox: Outbox<Vec<u8>>,
    phase: Phase,
}

/// The portal's faults, and how many resets there had been when the connection was accepted.
#[derive(Debug)]
pub(super) struct Faults {
    watch: watch::Receiver<FaultSet>,
    born_after: u64,
}

impl Faults {
    #[must_use]
    pub(super) fn of(portal: &Portal) -> Self {
        let watch = portal.watch_faults();
        let born_after = watch.borrow().resets;
        Self { watch, born_after }
    }
}

enum Phase {
    Handshake(Box<ServerHandshake>, Option<Arc<Unit>>),
    Session(Box<Session>),
}

/// Serves a connection until it ends. `faults` was subscribed when the connection was accepted, and has not changed
/// since as far as it knows: so no reset is missed between the two.
pub(super) async fn serve(portal: Arc<Portal>, stream: Stream, mut faults: Faults) {
    portal.counters.connections.fetch_add(1, Ordering::Relaxed);
    portal.counters.connections_total.fetch_add(1, Ordering::Relaxed);
    let names = portal.units.iter().map(|unit| unit.name.clone()).collect();
    let mut connection = Connection {
        portal: &portal,
        stream: &stream,
        inbox: Inbox::new(INBOX),
        outbox: Outbox::new(),
        phase: Phase::Handshake(Box::new(ServerHandshake::new(names)), None),
    };
    let end = connection.run(&mut faults).await.unwrap_or(End::Closed);
    let phase = connection.phase;
    match end {
        End::Closed => drop(stream),
        End::Reset => stream.reset(),
    }
    if let Phase::Session(session) = phase {
        ghost::bury(&portal, *session, Instant::now());
    }
    portal.counters.connections.fetch_sub(1, Ordering::Relaxed);
}

impl Connection<'_> {
    async fn run(&mut self, faults: &mut Faults) -> io::Result<End> {
        let mut alarm = Alarm::new()?;
        loop {
            let set = faults.watch.borrow_and_update().clone();
            if set.resets != faults.born_after {
                return Ok(End::Reset);
            }
            let gate = set.gate(Instant::now());
            let flow = self.pass(&set, gate)?;
            match flow {
                Flow::Over if self.outbox.is_empty() => return Ok(End::Closed),
                Flow::Again => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Flow::Over | Flow::More | Flow::Full => {}
            }
            let wake = match gate {
                Gate::Shut => None,
                Gate::ShutUntil(until) => Some(until),
                Gate::Open => self.next_due(),
            };
            tokio::select! {
                ready = ready(self.stream, self.interest(flow, gate)) => ready?,
                rung = alarm.until(wake) => rung?,
                _ = faults.watch.changed() => {}
            }
        }
    }

    /// Reads, executes and writes what can be now.
    fn pass(&mut self, faults: &FaultSet, gate: Gate) -> io::Result<Flow> {
        let mut flow = self.take_in(faults)?;
        if gate == Gate::Open {
            if let Phase::Session(session) = &mut self.phase {
                let executed = session.execute_due(self.portal, faults, &mut self.outbox);
                flow = match (flow, executed) {
                    (_, Flow::Over) => Flow::Over,
                    (Flow::Full, Flow::More) => Flow::Again,
                    _ => flow,
                };
            }
            self.outbox.flush(self.stream)?;
        }
        Ok(flow)
    }

    fn take_in(&mut self, faults: &FaultSet) -> io::Result<Flow> {
        for _ in 0..INTAKE {
            let flow = match &mut self.phase {
                Phase::Session(session) => {
                    session.take_in(self.portal, faults, &mut self.inbox, self.stream)?
                }
                Phase::Handshake(..) => self.haggle(faults)?,
            };
            if flow == Flow::More {
                match self.inbox.fill(self.stream)? {
                    Received::Bytes(_) => {}
                    Received::Dry => return Ok(Flow::More),
                    Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                }
            } else if flow != Flow::Again {
                return Ok(flow);
            }
        }
        Ok(Flow::Again)
    }

    fn haggle(&mut self, faults: &FaultSet) -> io::Result<Flow> {
        let Phase::Handshake(handshake, opened) = &mut self.phase else { return Ok(Flow::Again) };
        let fed = handshake.feed(self.inbox.bytes()).map_err(io::Error::other)?;
        self.inbox.consume(fed.consumed);
        let mut flow = Flow::Again;
        let mut session = None;
        match fed.event {
            None => flow = Flow::More,
            Some(ServerHandshakeEvent::Aborted) => flow = Flow::Over,
            Some(ServerHandshakeEvent::WantExport { name, .. }) => {
                let answer = answer_export(&self.portal.units, &name, faults);
                *opened = answer.as_ref().ok().map(|(unit, _)| Arc::clone(unit));
                handshake.answer_export(answer.map(|(_, answer)| answer)).map_err(io::Error::other)?;
            }
            Some(ServerHandshakeEvent::Done { export, .. }) => {
                session = opened.take().map(|unit| Session::new(unit, export));
            }
        }
        let output = handshake.take_output();
        if !output.is_empty() {
            self.outbox.push(output);
        }
        if let Some(session) = session {
            self.phase = Phase::Session(Box::new(session));
        }
        Ok(flow)
    }

    fn next_due(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Session(session) if self.outbox.len() < WAITING_BYTES => session.next_due(),
            Phase::Session(_) => None,
            Phase::Handshake(..) => None,
        }
    }

    fn interest(&self, flow: Flow, gate: Gate) -> Option<Interest> {
        let write = (gate == Gate::Open && !self.outbox.is_empty()).then_some(Interest::WRITABLE);
        let read = (flow == Flow::More).then_some(Interest::READABLE);
        match (read, write) {
            (Some(read), Some(write)) => Some(read | write),
            (read, write) => read.or(write),
        }
    }
}

fn answer_export(
    units: &[Arc<Unit>],
    name: &str,
    faults: &FaultSet,
) -> Result<(Arc<Unit>, ExportAnswer), ExportRefusal> {
    let found = match (name, units) {
        ("", [_]) => Some(0),
        _ => units.iter().position(|unit| unit.name == name),
    };
    let place = found.map(|place| if faults.other_unit { (place + 1) % units.len() } else { place });
    let Some(unit) = place.and_then(|place| units.get(place)) else {
        let message = format!("there is no unit {name:?} in this array");
        return Err(ExportRefusal { reason: RefusalReason::Unknown, message });
    };
    let flags = TransmissionFlags::FLUSH
        | TransmissionFlags::FUA
        | TransmissionFlags::TRIM
        | TransmissionFlags::WRITE_ZEROES
        | TransmissionFlags::DF
        | TransmissionFlags::MULTI_CONN;
    let block = BlockSizes::new(512, 4096, 32 << 20).unwrap_or_default();
    let size = faults.announce_size.unwrap_or(unit.size);
    let export = ExportInfo { size, flags, block, structured_replies: false };
    Ok((Arc::clone(unit), ExportAnswer { export, description: format!("vmpath lab unit {name}") }))
}

async fn ready(stream: &Stream, interest: Option<Interest>) -> io::Result<()> {
    match interest {
        Some(interest) => stream.ready(interest).await,
        None => std::future::pending().await,
    }
}
