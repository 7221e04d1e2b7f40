//! A client that sends anything: handshake, options, then requests.

use crate::input::{Input, Pieces};
use crate::meter;
use vmpath_protocol::nbd::{
    BlockSizes, Command, ExportAnswer, ExportInfo, ExportRefusal, RefusalReason, Request, RequestError,
    RequestEvent, RequestParser, ServerHandshake, ServerHandshakeError, ServerHandshakeEvent,
    TransmissionFlags,
};

const BYTES_PER_BYTE: usize = 128;
/// Answers to 64 options, each of which may list every export.
const BYTES_FIXED: usize = 4 << 20;
const SIZE: u64 = 1 << 20;

/// Everything that an owner has seen.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    output: Vec<u8>,
    events: Vec<ServerHandshakeEvent>,
    refused: Option<ServerHandshakeError>,
    requests: Vec<RequestEvent>,
    broken: Option<RequestError>,
}

/// Bytes 0 and 1: what the export can do; 2: its blocks, and where to begin; 3: how the stream is cut; then the stream.
///
/// # Panics
/// A rule does not hold.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let flags = TransmissionFlags::from_bits(input.u16() | 1);
    let shape = input.byte();
    let cut = input.byte();
    let min = 1 << (shape & 0x0f).min(12);
    let Ok(block) = BlockSizes::new(min, 4096, 64 << 10) else { return };
    let export = ExportInfo { size: SIZE, flags, block, structured_replies: shape & 0x40 != 0 };
    let begin = shape & 0x80 == 0;
    let stream = input.rest();
    let whole = meter::bounded(BYTES_FIXED + stream.len() * BYTES_PER_BYTE, || {
        play(begin, &export, std::iter::once(stream))
    });
    let cut = play(begin, &export, Pieces::new(stream, cut));
    assert_eq!(whole, cut, "the same bytes in pieces mean something else");
}

fn play<'a>(begin: bool, export: &ExportInfo, pieces: impl Iterator<Item = &'a [u8]>) -> Seen {
    let mut server = Server { export: *export, handshake: None, requests: None, seen: Seen::default() };
    if begin {
        let mut handshake = ServerHandshake::new(vec!["disk".to_owned(), "other".to_owned()]);
        server.seen.output = handshake.take_output();
        server.handshake = Some(handshake);
    } else {
        server.requests = Some(RequestParser::new(*export));
    }
    for piece in pieces {
        server.receive(piece);
    }
    server.seen
}

#[derive(Debug)]
struct Server {
    export: ExportInfo,
    handshake: Option<ServerHandshake>,
    requests: Option<RequestParser>,
    seen: Seen,
}

impl Server {
    fn receive(&mut self, mut piece: &[u8]) {
        while let Some(handshake) = &mut self.handshake {
            let fed = handshake.feed(piece);
            self.seen.output.extend(handshake.take_output());
            let event = match fed {
                Err(why) => return self.refuse(why),
                Ok(fed) => {
                    piece = advance(piece, fed.consumed);
                    let Some(event) = fed.event else { return };
                    event
                }
            };
            self.seen.events.push(event.clone());
            match event {
                ServerHandshakeEvent::WantExport { name, .. } => {
                    let answer = answer(&name, self.export);
                    let answered = handshake.answer_export(answer);
                    self.seen.output.extend(handshake.take_output());
                    if let Err(why) = answered {
                        return self.refuse(why);
                    }
                }
                ServerHandshakeEvent::Done { export, .. } => {
                    self.export = export;
                    self.requests = Some(RequestParser::new(export));
                    self.handshake = None;
                }
                ServerHandshakeEvent::Aborted => self.handshake = None,
            }
        }
        self.requests(piece);
    }

    fn refuse(&mut self, why: ServerHandshakeError) {
        self.seen.refused = Some(why);
        self.handshake = None;
    }

    fn requests(&mut self, mut piece: &[u8]) {
        let Some(requests) = &mut self.requests else { return };
        while self.seen.broken.is_none() {
            let payload = (requests.payload_pending() as usize).min(piece.len());
            if payload > 0 {
                piece = &piece[payload..];
                assert_eq!(requests.payload_taken(payload as u32), Ok(()));
            }
            match requests.feed(piece) {
                Err(why) => self.seen.broken = Some(why),
                Ok(fed) => {
                    piece = advance(piece, fed.consumed);
                    let Some(event) = fed.event else { return };
                    if let RequestEvent::Request(request) = event {
                        check(&self.export, &request);
                    }
                    self.seen.requests.push(event);
                }
            }
        }
    }
}

fn answer(name: &str, export: ExportInfo) -> Result<ExportAnswer, ExportRefusal> {
    let refusal = |reason| Err(ExportRefusal { reason, message: format!("no {name}") });
    match name {
        "" | "disk" => Ok(ExportAnswer { export, description: "a disk".to_owned() }),
        "other" => refusal(RefusalReason::Policy),
        "gone" => refusal(RefusalReason::Shutdown),
        _ => refusal(RefusalReason::Unknown),
    }
}

/// Whoever executes a request checks nothing again.
fn check(export: &ExportInfo, request: &Request) {
    let &Request { command, offset, len, .. } = request;
    assert!(command != Command::Disconnect);
    assert!(!(export.flags.read_only() && command.modifies()), "a write to a disk that is read-only");
    if command == Command::Flush {
        assert_eq!((offset, len), (0, 0));
        return;
    }
    let min = export.block.min();
    assert!(len > 0 && len.is_multiple_of(min) && offset.is_multiple_of(u64::from(min)));
    assert!(offset.checked_add(u64::from(len)).is_some_and(|end| end <= export.size));
    if matches!(command, Command::Read | Command::Write) {
        assert!(len <= export.block.max());
    }
}

fn advance(piece: &[u8], consumed: usize) -> &[u8] {
    assert!(consumed <= piece.len(), "more was consumed than was given");
    &piece[consumed..]
}
