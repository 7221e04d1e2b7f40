//! A storage server that sends anything: handshake, then replies to requests that are open or not.

use crate::input::{Input, Pieces};
use crate::meter;
use std::collections::BTreeMap;
use vmpath_protocol::nbd::{
    ClientHandshake, Command, ExportInfo, HandshakeError, Outstanding, ReplyEvent, ReplyParser, ReplyStyle,
    SessionError,
};

/// For each byte of the input: events are kept and compared, and an error may quote what came.
const BYTES_PER_BYTE: usize = 128;
/// Beyond that: the machines themselves, an option's reply, an error's text.
const BYTES_FIXED: usize = 1 << 20;

/// Everything that an owner has seen.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    output: Vec<u8>,
    export: Option<ExportInfo>,
    refused: Option<HandshakeError>,
    events: Vec<(ReplyEvent, String)>,
    broken: Option<SessionError>,
}

/// Byte 0: where to begin; 1: how the stream is cut; 2 to 33: eight requests; then the stream.
///
/// # Panics
/// A rule does not hold.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let begin = input.byte();
    let cut = input.byte();
    let open: BTreeMap<u64, Outstanding> = (0..8).map(|cookie| (cookie, request(input.bytes()))).collect();
    let stream = input.rest();
    let whole = meter::bounded(BYTES_FIXED + stream.len() * BYTES_PER_BYTE, || {
        play(begin, &open, std::iter::once(stream))
    });
    let cut = play(begin, &open, Pieces::new(stream, cut));
    assert_eq!(whole, cut, "the same bytes in pieces mean something else");
}

fn request([kind, offset, len, fine]: [u8; 4]) -> Outstanding {
    let command = match kind % 5 {
        0 | 1 => Command::Read,
        2 => Command::Write,
        3 => Command::Flush,
        _ => Command::WriteZeroes,
    };
    let len = u32::from(len) * 512 + u32::from(fine % 3);
    Outstanding { command, offset: u64::from(offset) * 512, len }
}

fn play<'a>(begin: u8, open: &BTreeMap<u64, Outstanding>, pieces: impl Iterator<Item = &'a [u8]>) -> Seen {
    let mut client = Client { open: open.clone(), ..Client::default() };
    match begin % 3 {
        0 => client.handshake = ClientHandshake::new("disk").ok(),
        1 => client.replies = Some(ReplyParser::new(ReplyStyle::Simple)),
        _ => client.replies = Some(ReplyParser::new(ReplyStyle::Structured)),
    }
    for piece in pieces {
        client.receive(piece);
    }
    client.seen
}

#[derive(Debug, Default)]
struct Client {
    handshake: Option<ClientHandshake>,
    replies: Option<ReplyParser>,
    open: BTreeMap<u64, Outstanding>,
    seen: Seen,
}

impl Client {
    fn receive(&mut self, mut piece: &[u8]) {
        while let Some(handshake) = &mut self.handshake {
            let fed = handshake.feed(piece);
            self.seen.output.extend(handshake.take_output());
            match fed {
                Err(why) => {
                    assert_eq!(handshake.feed(&[]), Err(why.clone()), "the first error is final");
                    self.seen.refused = Some(why);
                    return;
                }
                Ok(fed) => {
                    piece = advance(piece, fed.consumed);
                    let Some(export) = fed.event else {
                        assert!(piece.is_empty(), "bytes are left, and nothing is waited for");
                        return;
                    };
                    assert!(export.block.check_size(export.size).is_ok());
                    self.replies = Some(ReplyParser::new(export.reply_style()));
                    self.seen.export = Some(export);
                    self.handshake = None;
                }
            }
        }
        self.replies(piece);
    }

    fn replies(&mut self, mut piece: &[u8]) {
        let Some(replies) = &mut self.replies else { return };
        while self.seen.broken.is_none() {
            let payload = (replies.payload_pending() as usize).min(piece.len());
            if payload > 0 {
                piece = &piece[payload..];
                assert_eq!(replies.payload_taken(payload as u32), Ok(()));
                if replies.payload_pending() > 0 {
                    return;
                }
            }
            let open = &self.open;
            match replies.feed(piece, |cookie| open.get(&cookie).copied()) {
                Err(why) => self.seen.broken = Some(why),
                Ok(fed) => {
                    piece = advance(piece, fed.consumed);
                    let Some(event) = fed.event else {
                        assert!(piece.is_empty() || replies.payload_pending() > 0);
                        return;
                    };
                    check(&mut self.open, event);
                    let failed = matches!(event, ReplyEvent::Done { result: Err(_), .. });
                    let text = if failed { replies.error_text().to_owned() } else { String::new() };
                    self.seen.events.push((event, text));
                }
            }
        }
    }
}

/// Every event is about a request that is open, and lies within its buffer.
fn check(open: &mut BTreeMap<u64, Outstanding>, event: ReplyEvent) {
    match event {
        ReplyEvent::Payload { cookie, buf_offset, len } | ReplyEvent::Hole { cookie, buf_offset, len } => {
            let asked = open.get(&cookie).expect("an event about nothing");
            assert!(asked.command == Command::Read && len > 0);
            assert!(u64::from(buf_offset) + u64::from(len) <= u64::from(asked.len));
        }
        ReplyEvent::Done { cookie, .. } => assert!(open.remove(&cookie).is_some(), "completed twice"),
    }
}

fn advance(piece: &[u8], consumed: usize) -> &[u8] {
    assert!(consumed <= piece.len(), "more was consumed than was given");
    &piece[consumed..]
}
