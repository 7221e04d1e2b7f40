//! What an NBD client says: the handshake, then requests that become the router's.

use super::{EXPORT_WAIT_MAX, FrontRequest, Payload, Worker};
use crate::sys::uring::Segment;
use std::rc::Rc;
use vmpath_core::ids::DiskId;
use vmpath_core::router::{Durability, Operation, Request, ZeroMode};
use vmpath_core::spec::Spec;
use vmpath_core::time::Instant;
use vmpath_protocol::nbd::{
    BlockSizes, Command, CommandFlags, ExportAnswer, ExportInfo, ExportRefusal, RefusalReason, ReplyStyle,
    Request as NbdRequest, RequestEvent, RequestParser, ServerHandshake, ServerHandshakeEvent,
    TransmissionFlags,
};

/// The longest request that is offered to clients, whatever the target takes: 32 MiB, the protocol's own default.
const REQUEST_MAX: u32 = 32 << 20;

/// ```text
/// Handshake ──export opened──▶ Session ──disconnect, fault──▶ Closing ──reaped──▶ (gone)
/// ```
#[derive(Debug)]
pub(super) enum Phase {
    Handshake(Box<Handshake>),
    Session(Box<Session>),
    Closing,
}

#[derive(Debug)]
pub(super) struct Handshake {
    machine: ServerHandshake,
    /// The export asked for and not answered, and since when.
    wanted: Option<(String, Instant)>,
}

#[derive(Debug)]
pub(super) struct Session {
    parser: RequestParser,
    pub(super) style: ReplyStyle,
    receiving: Receiving,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The client has taken its leave: what it asked for is finished, nothing more is read.
    Ending,
}

/// A write's payload on its way in.
#[derive(Debug)]
enum Receiving {
    Nothing,
    Write { request: NbdRequest, data: Vec<u8> },
}

/// What feeding a connection once came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Again,
    Starved,
    Close,
}

impl Phase {
    pub(super) fn handshake(spec: &Spec, disk: DiskId) -> Self {
        let machine = ServerHandshake::new(vec![spec.disk(disk).name.clone()]);
        Self::Handshake(Box::new(Handshake { machine, wanted: None }))
    }

    /// The rest of a write is to come.
    pub(super) fn is_within_payload(&self) -> bool {
        matches!(self, Self::Session(session) if session.parser.payload_pending() > 0)
    }

    pub(super) fn is_ending(&self) -> bool {
        matches!(self, Self::Session(session) if session.stage == Stage::Ending)
    }
}

impl Handshake {
    pub(super) fn wants_export(&self) -> bool {
        self.wanted.is_some()
    }
}

impl Session {
    fn new(export: ExportInfo) -> Self {
        Self {
            style: export.reply_style(),
            parser: RequestParser::new(export),
            receiving: Receiving::Nothing,
            stage: Stage::Open,
        }
    }
}

impl Worker {
    /// Gives the machine what has been received, once.
    pub(super) fn feed_front(&mut self, index: usize) -> Turn {
        let front = &mut self.fronts.fronts[index];
        match &mut front.phase {
            Phase::Handshake(handshake) => {
                let fed = handshake.machine.feed(front.stream.received());
                let output = handshake.machine.take_output();
                if !output.is_empty() {
                    front.stream.push(0, Segment::Bytes(output), None);
                }
                match fed {
                    Err(error) => {
                        tracing::info!(disk = self.disk_name(self.fronts.fronts[index].disk), %error, "client refused");
                        self.say_last_words(index)
                    }
                    Ok(fed) => {
                        front.stream.consume(fed.consumed);
                        match fed.event {
                            None => Turn::Starved,
                            Some(event) => self.handshake_event(index, event),
                        }
                    }
                }
            }
            Phase::Session(_) => self.feed_session(index),
            Phase::Closing => Turn::Close,
        }
    }

    /// What the machine still has to say is sent before closing, if the socket takes it at once.
    fn say_last_words(&mut self, index: usize) -> Turn {
        self.fronts.fronts[index].stream.flush(&mut self.ring);
        Turn::Close
    }

    fn handshake_event(&mut self, index: usize, event: ServerHandshakeEvent) -> Turn {
        let now = self.now;
        let front = &mut self.fronts.fronts[index];
        let Phase::Handshake(handshake) = &mut front.phase else { return Turn::Close };
        match event {
            ServerHandshakeEvent::WantExport { name, .. } => {
                handshake.wanted = Some((name, now));
                self.answer_export(index)
            }
            ServerHandshakeEvent::Done { export, .. } => {
                front.phase = Phase::Session(Box::new(Session::new(export)));
                Turn::Again
            }
            ServerHandshakeEvent::Aborted => self.say_last_words(index),
        }
    }

    /// Answers a client that asks for the export, as soon as a path has shown what the unit is.
    pub(super) fn answer_export(&mut self, index: usize) -> Turn {
        let front = &mut self.fronts.fronts[index];
        let disk = self.plan.spec.disk(front.disk);
        let Phase::Handshake(handshake) = &mut front.phase else { return Turn::Close };
        let Some((name, since)) = &handshake.wanted else { return Turn::Starved };
        let answer = if !name.is_empty() && *name != disk.name {
            let message = format!("this socket serves one export, {:?} (or the empty name)", disk.name);
            Err(ExportRefusal { reason: RefusalReason::Unknown, message })
        } else if let Some(export) = self.backs.export_of(disk.unit) {
            Ok(ExportAnswer { export: offered(export), description: self.plan.spec.unit_name(disk.unit) })
        } else if self.now.since(*since) < EXPORT_WAIT_MAX {
            return Turn::Starved;
        } else {
            let message = "no path to the unit has been up yet; see `vmpath show units`".to_owned();
            Err(ExportRefusal { reason: RefusalReason::Shutdown, message })
        };
        handshake.wanted = None;
        let answered = handshake.machine.answer_export(answer);
        let output = handshake.machine.take_output();
        if !output.is_empty() {
            front.stream.push(0, Segment::Bytes(output), None);
        }
        self.fronts.dirty.push(index);
        match answered {
            Ok(()) => Turn::Again,
            Err(error) => {
                tracing::info!(%error, "client refused");
                self.say_last_words(index)
            }
        }
    }

    fn feed_session(&mut self, index: usize) -> Turn {
        let front = &mut self.fronts.fronts[index];
        let Phase::Session(session) = &mut front.phase else { return Turn::Close };
        let pending = session.parser.payload_pending() as usize;
        if pending > 0 {
            let input = front.stream.received();
            let taken = pending.min(input.len());
            if taken == 0 {
                return Turn::Starved;
            }
            if let Receiving::Write { data, .. } = &mut session.receiving {
                data.extend_from_slice(&input[..taken]);
            }
            front.stream.consume(taken);
            if session.parser.payload_taken(taken as u32).is_err() {
                return Turn::Close;
            }
            return if taken == pending { self.payload_complete(index) } else { Turn::Starved };
        }
        let fed = match session.parser.feed(front.stream.received()) {
            Ok(fed) => fed,
            Err(error) => {
                tracing::info!(disk = self.disk_name(self.fronts.fronts[index].disk), %error, "client cut off");
                return Turn::Close;
            }
        };
        front.stream.consume(fed.consumed);
        match fed.event {
            None => Turn::Starved,
            Some(RequestEvent::Disconnect) => {
                session.stage = Stage::Ending;
                if front.is_finished() { Turn::Close } else { Turn::Again }
            }
            Some(RequestEvent::Refused(refused)) => {
                front.stream.push(0, Segment::head(refused.reply_head(session.style).as_bytes()), None);
                Turn::Again
            }
            Some(RequestEvent::Request(request)) if request.command == Command::Write => {
                session.receiving =
                    Receiving::Write { request, data: Vec::with_capacity(request.len as usize) };
                front.open_bytes += request.len as usize;
                Turn::Again
            }
            Some(RequestEvent::Request(request)) => {
                let payload = match request.command {
                    Command::Read => Payload::Filling(vec![0; request.len as usize]),
                    Command::Write
                    | Command::Disconnect
                    | Command::Flush
                    | Command::Trim
                    | Command::WriteZeroes => Payload::None,
                };
                if request.command == Command::Read {
                    front.open_bytes += request.len as usize;
                }
                self.submit(index, &request, payload);
                Turn::Again
            }
        }
    }

    fn payload_complete(&mut self, index: usize) -> Turn {
        let front = &mut self.fronts.fronts[index];
        let Phase::Session(session) = &mut front.phase else { return Turn::Close };
        if let Receiving::Write { request, data } =
            std::mem::replace(&mut session.receiving, Receiving::Nothing)
        {
            self.submit(index, &request, Payload::Shared(Rc::new(data)));
        }
        Turn::Again
    }

    fn submit(&mut self, index: usize, request: &NbdRequest, payload: Payload) {
        let front = &mut self.fronts.fronts[index];
        let entry = self.requests.vacant_entry();
        let token = entry.key() as u32;
        let routed = Request {
            disk: front.disk,
            token,
            operation: operation(request),
            offset: request.offset,
            length: request.len,
            durability: if request.flags.contains(CommandFlags::FUA) {
                Durability::Stable
            } else {
                Durability::Volatile
            },
        };
        // The key is known before anything can be completed: completions come out of `poll` only.
        let key = self.router.submit(routed, self.now);
        entry.insert(FrontRequest {
            client: Some(index),
            key,
            cookie: request.cookie,
            command: request.command,
            offset: request.offset,
            length: request.len,
            payload,
        });
        front.open.push(token);
    }
}

fn operation(request: &NbdRequest) -> Operation {
    match request.command {
        Command::Read => Operation::Read,
        Command::Write => Operation::Write,
        Command::Trim => Operation::Trim,
        Command::WriteZeroes if request.flags.contains(CommandFlags::NO_HOLE) => {
            Operation::WriteZeroes(ZeroMode::KeepAllocated)
        }
        Command::WriteZeroes => Operation::WriteZeroes(ZeroMode::MayPunchHoles),
        // The parser gives no `Disconnect` as a request; a flush does no harm.
        Command::Flush | Command::Disconnect => Operation::Flush,
    }
}

/// What a disk offers: what its unit does, and what the router adds to it.
fn offered(unit: ExportInfo) -> ExportInfo {
    let mut flags = unit.flags.without(TransmissionFlags::FAST_ZERO).without(TransmissionFlags::DF);
    // All of a disk's clients meet in one router, and a flush covers what was answered to any of them.
    flags = flags | TransmissionFlags::MULTI_CONN;
    if flags.can_flush() {
        // The router flushes after the write where the target has no FUA.
        flags = flags | TransmissionFlags::FUA;
    }
    // The bounds are multiples of any minimum; what the unit announced was valid, so this is.
    let (preferred, max) = (unit.block.preferred().min(REQUEST_MAX), unit.block.max().min(REQUEST_MAX));
    let block = BlockSizes::new(unit.block.min(), preferred, max).unwrap_or(unit.block);
    ExportInfo { flags, block, structured_replies: false, ..unit }
}
