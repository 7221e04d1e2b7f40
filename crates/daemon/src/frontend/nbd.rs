//! What an NBD client says: the handshake, then requests that become the router's.

use super::{
    Body, Client, EXPORT_WAIT_MAX, FrontRequest, Head, Name, NbdClient, NbdRequest, Payload, Standing, Worker,
};
use crate::dataplane::Received;
use crate::sys::buffer::Buffer;
use crate::sys::socket::Pieces;
use vmpath_core::ids::DiskId;
use vmpath_core::router::{Durability, Operation, Origin, Request, ZeroMode};
use vmpath_core::spec::Spec;
use vmpath_core::time::Instant;
use vmpath_protocol::nbd::{
    BlockSizes, Command, CommandFlags, ExportAnswer, ExportInfo, ExportRefusal, RefusalReason, ReplyStyle,
    RequestEvent, RequestParser, ServerHandshake, ServerHandshakeEvent, TransmissionFlags,
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
    Write { request: NbdRequest, data: Buffer, filled: usize },
}

/// What feeding a connection once came to; with the bytes that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Again(usize),
    Starved(usize),
    Close,
}

/// Receives from one client before others have their turn.
const RECEIVES_PER_TURN: usize = 4;

impl Phase {
    pub(super) fn handshake(spec: &Spec, disk: DiskId) -> Self {
        let machine = ServerHandshake::new(vec![spec.disk(disk).name.clone()]);
        Self::Handshake(Box::new(Handshake { machine, wanted: None }))
    }

    /// The rest of a write is to come.
    pub(super) fn is_within_payload(&self) -> bool {
        matches!(self, Self::Session(session) if session.parser.payload_pending() > 0)
    }

    /// It has an export open and has not taken its leave.
    fn is_within_session(&self) -> bool {
        matches!(self, Self::Session(session) if session.stage == Stage::Open)
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

/// The client has gone, or must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ended;

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
    /// Takes in what the client has sent, as far as there is room.
    pub(super) fn read_front(&mut self, index: usize) {
        for _ in 0..RECEIVES_PER_TURN {
            if !self.is_readable(index) {
                return self.await_room(index);
            }
            let mut staging = std::mem::take(&mut self.staging);
            let received = self.receive_front(index, &mut staging);
            self.staging = staging;
            match received {
                Ok(Received::Part(_)) => {}
                Ok(Received::All(_) | Received::Nothing) => return,
                Ok(Received::End) | Err(Ended) => return self.close_front(index),
            }
        }
        if !self.fronts.unread.contains(&index) {
            self.fronts.unread.push(index);
        }
    }

    /// It may not send more now; but it may have gone, and then what it has open is dropped before anybody else writes there.
    fn await_room(&mut self, index: usize) {
        let front = &mut self.fronts.fronts[index];
        front.waits_for_room = true;
        if front.phase.is_within_session() && front.stream.is_hung_up() {
            self.close_front(index);
        }
    }

    /// One receive: the rest of a write's data straight to its buffer, and what follows into the staging buffer.
    fn receive_front(&mut self, index: usize, staging: &mut [u8]) -> Result<Received, Ended> {
        let front = &mut self.fronts.fronts[index];
        let carried = front.stream.take_carry(staging);
        let mut pieces = Pieces::default();
        if let Phase::Session(session) = &mut front.phase
            && let Receiving::Write { data, filled, .. } = &mut session.receiving
            && carried == 0
        {
            pieces.push_target(&mut data[*filled..]);
        }
        let direct_room = pieces.bytes();
        pieces.push_target(&mut staging[carried..]);
        // With a staging buffer full of what has had to wait, the socket is not asked: it may have more.
        let is_asked = !pieces.is_empty();
        let Ok(received) = front.stream.receive(&mut pieces) else { return Err(Ended) };
        let bytes = match received {
            Received::All(bytes) | Received::Part(bytes) => bytes,
            Received::Nothing => 0,
            Received::End => return Ok(received),
        };
        let direct = bytes.min(direct_room);
        if direct > 0 && self.payload_received(index, direct) == Turn::Close {
            return Err(Ended);
        }
        self.feed_front(index, &staging[..carried + bytes - direct])?;
        Ok(if is_asked { received } else { Received::Part(0) })
    }

    /// Gives the machine what has been received; what it does not take is carried over.
    fn feed_front(&mut self, index: usize, bytes: &[u8]) -> Result<(), Ended> {
        let mut at = 0;
        loop {
            if !self.is_readable(index) {
                self.fronts.fronts[index].waits_for_room = true;
                break;
            }
            let turn = match &self.fronts.fronts[index].phase {
                Phase::Handshake(_) => self.feed_client_handshake(index, &bytes[at..]),
                Phase::Session(_) => self.feed_session(index, &bytes[at..]),
                Phase::Closing => Turn::Close,
            };
            match turn {
                Turn::Again(consumed) => at += consumed,
                Turn::Starved(consumed) => {
                    at += consumed;
                    break;
                }
                Turn::Close => return Err(Ended),
            }
        }
        self.fronts.fronts[index].stream.carry_over(&bytes[at..]);
        Ok(())
    }

    fn feed_client_handshake(&mut self, index: usize, bytes: &[u8]) -> Turn {
        let front = &mut self.fronts.fronts[index];
        let Phase::Handshake(handshake) = &mut front.phase else { return Turn::Close };
        let fed = handshake.machine.feed(bytes);
        let output = handshake.machine.take_output();
        if !output.is_empty() {
            front.stream.push_bytes(output);
        }
        self.fronts.dirty.push(index);
        match fed {
            Err(error) => {
                tracing::info!(disk = self.disk_name(self.fronts.fronts[index].disk), %error, "client refused");
                self.say_last_words(index)
            }
            Ok(fed) => match fed.event {
                None => Turn::Starved(fed.consumed),
                Some(event) => match self.handshake_event(index, event) {
                    Turn::Again(_) => Turn::Again(fed.consumed),
                    Turn::Starved(_) => Turn::Starved(fed.consumed),
                    Turn::Close => Turn::Close,
                },
            },
        }
    }

    /// What the machine still has to say is sent before closing, if the socket takes it at once.
    fn say_last_words(&mut self, index: usize) -> Turn {
        let front = &mut self.fronts.fronts[index];
        let _ = front.stream.flush(&mut self.ring, &mut self.pool, &self.requests);
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
                Turn::Again(0)
            }
            ServerHandshakeEvent::Aborted => self.say_last_words(index),
        }
    }

    /// Answers a client that asks for the export, as soon as a path has shown what the unit is.
    pub(super) fn answer_export(&mut self, index: usize) -> Turn {
        let front = &mut self.fronts.fronts[index];
        let disk = self.plan.spec.disk(front.disk);
        let Phase::Handshake(handshake) = &mut front.phase else { return Turn::Close };
        let Some((name, since)) = &handshake.wanted else { return Turn::Starved(0) };
        let answer = if !name.is_empty() && *name != disk.name {
            let message = format!("this socket serves one export, {:?} (or the empty name)", disk.name);
            Err(ExportRefusal { reason: RefusalReason::Unknown, message })
        } else if let Some(export) = self.backs.export_of(disk.unit) {
            Ok(ExportAnswer {
                export: offered(export, disk.read_only),
                description: self.plan.spec.unit_name(disk.unit),
            })
        } else if self.now.since(*since) < EXPORT_WAIT_MAX {
            return Turn::Starved(0);
        } else {
            let message = "no path to the unit has been up yet; see `vmpath show units`".to_owned();
            Err(ExportRefusal { reason: RefusalReason::Shutdown, message })
        };
        handshake.wanted = None;
        let answered = handshake.machine.answer_export(answer);
        let output = handshake.machine.take_output();
        if !output.is_empty() {
            front.stream.push_bytes(output);
        }
        self.fronts.dirty.push(index);
        match answered {
            Ok(()) => Turn::Again(0),
            Err(error) => {
                tracing::info!(%error, "client refused");
                self.say_last_words(index)
            }
        }
    }

    fn feed_session(&mut self, index: usize, bytes: &[u8]) -> Turn {
        let front = &mut self.fronts.fronts[index];
        let Phase::Session(session) = &mut front.phase else { return Turn::Close };
        let pending = session.parser.payload_pending() as usize;
        if pending > 0 {
            let taken = pending.min(bytes.len());
            if taken == 0 {
                return Turn::Starved(0);
            }
            if let Receiving::Write { data, filled, .. } = &mut session.receiving {
                data[*filled..*filled + taken].copy_from_slice(&bytes[..taken]);
            }
            return match self.payload_received(index, taken) {
                Turn::Close => Turn::Close,
                Turn::Again(_) | Turn::Starved(_) => Turn::Again(taken),
            };
        }
        let fed = match session.parser.feed(bytes) {
            Ok(fed) => fed,
            Err(error) => {
                tracing::info!(disk = self.disk_name(self.fronts.fronts[index].disk), %error, "client cut off");
                return Turn::Close;
            }
        };
        match fed.event {
            None => return Turn::Starved(fed.consumed),
            Some(RequestEvent::Disconnect) => {
                session.stage = Stage::Ending;
                if front.is_finished() {
                    return Turn::Close;
                }
            }
            Some(RequestEvent::Refused(refused)) => {
                let head = Head::new(refused.reply_head(session.style).as_bytes());
                front.stream.push(Name::default(), head, Body::None);
                self.fronts.dirty.push(index);
            }
            Some(RequestEvent::Request(request)) => self.begin(index, &request),
        }
        Turn::Again(fed.consumed)
    }

    fn begin(&mut self, index: usize, request: &NbdRequest) {
        let front = &mut self.fronts.fronts[index];
        let length = request.len as usize;
        let payload = match request.command {
            Command::Write if length > 0 => {
                front.open_bytes += length;
                if let Phase::Session(session) = &mut front.phase {
                    let data = self.pool.take(length);
                    session.receiving = Receiving::Write { request: *request, data, filled: 0 };
                }
                return;
            }
            Command::Read => {
                front.open_bytes += length;
                Payload::Buffer(self.pool.take(length))
            }
            Command::Write | Command::Disconnect | Command::Flush | Command::Trim | Command::WriteZeroes => {
                Payload::None
            }
        };
        self.submit(index, request, payload);
    }

    /// That much of a write's data is in its buffer.
    fn payload_received(&mut self, index: usize, bytes: usize) -> Turn {
        let front = &mut self.fronts.fronts[index];
        let Phase::Session(session) = &mut front.phase else { return Turn::Close };
        if session.parser.payload_taken(bytes as u32).is_err() {
            return Turn::Close;
        }
        if let Receiving::Write { filled, .. } = &mut session.receiving {
            *filled += bytes;
        }
        if session.parser.payload_pending() == 0
            && let Receiving::Write { request, data, .. } =
                std::mem::replace(&mut session.receiving, Receiving::Nothing)
        {
            self.submit(index, &request, Payload::Buffer(data));
        }
        Turn::Again(0)
    }

    fn submit(&mut self, index: usize, request: &NbdRequest, payload: Payload) {
        if self.fronts.fronts[index].standing == Standing::LeftBehind {
            return self.refuse(index, request, payload);
        }
        match operation(request) {
            Operation::Read | Operation::Flush => {}
            Operation::Write | Operation::Trim | Operation::WriteZeroes(_) => {
                self.note_change(self.fronts.fronts[index].disk);
            }
        }
        let front = &mut self.fronts.fronts[index];
        let entry = self.requests.table.vacant_entry();
        let token = entry.key() as u32;
        let routed = Request {
            disk: front.disk,
            token,
            origin: Origin::New,
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
        let client = NbdClient {
            front: index,
            cookie: request.cookie,
            command: request.command,
            offset: request.offset,
            length: request.len,
        };
        entry.insert(FrontRequest { client: Client::Nbd(client), key, payload });
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
fn offered(unit: ExportInfo, read_only: bool) -> ExportInfo {
    let mut flags = unit.flags.without(TransmissionFlags::FAST_ZERO).without(TransmissionFlags::DF);
    if read_only {
        flags = flags | TransmissionFlags::READ_ONLY;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_disk_is_offered_read_only_whatever_its_unit_is() {
        let flags = TransmissionFlags::FLUSH;
        let unit =
            ExportInfo { size: 1 << 20, flags, block: BlockSizes::default(), structured_replies: true };
        assert!(offered(unit, true).flags.read_only());
        assert!(!offered(unit, false).flags.read_only());
        let locked = ExportInfo { flags: flags | TransmissionFlags::READ_ONLY, ..unit };
        assert!(offered(locked, false).flags.read_only());
    }
}
