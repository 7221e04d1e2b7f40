//! Transmission: round trips through streams cut at random, and a table of violations for each side.

mod common;

use common::{ClientOwner, Pieces, ServerOwner};
use proptest::prelude::*;
use vmpath_protocol::nbd::wire::{
    CHUNK_ERROR, CHUNK_ERROR_OFFSET, CHUNK_FLAG_DONE, CHUNK_NONE, CHUNK_OFFSET_DATA, ChunkHeader,
    RequestHeader,
};
use vmpath_protocol::nbd::{
    BlockSizes, ChunkEnd, Command, CommandFlags, ExportInfo, NbdError, RefusedReason, ReplyParser,
    ReplyStyle, Request, RequestError, RequestEvent, RequestParser, SessionError, TransmissionFlags,
    encode_data_chunk, encode_error_chunk, encode_hole_chunk, encode_none_chunk, encode_request,
    encode_simple_reply,
};

const SIZE: u64 = 1 << 20;

fn export() -> ExportInfo {
    let flags = [
        TransmissionFlags::FLUSH,
        TransmissionFlags::FUA,
        TransmissionFlags::TRIM,
        TransmissionFlags::WRITE_ZEROES,
        TransmissionFlags::DF,
    ];
    ExportInfo {
        size: SIZE,
        flags: flags.into_iter().fold(TransmissionFlags::HAS_FLAGS, |all, flag| all | flag),
        block: BlockSizes::new(512, 4096, 64 << 10).unwrap(),
        structured_replies: true,
    }
}

fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let header = ChunkHeader { flags, kind, cookie, len: payload.len() as u32 };
    [&header.encode()[..], payload].concat()
}

fn data(cookie: u64, offset: u64, bytes: &[u8], end: ChunkEnd) -> Vec<u8> {
    [&encode_data_chunk(cookie, offset, bytes.len() as u32, end)[..], bytes].concat()
}

fn error_payload(code: u32, message: &[u8], claimed: u16, offset: Option<u64>) -> Vec<u8> {
    let tail = offset.map(|o| o.to_be_bytes().to_vec()).unwrap_or_default();
    [&code.to_be_bytes()[..], &claimed.to_be_bytes(), message, &tail].concat()
}

/// A client with a read (cookie 7, 64 bytes at 1000), a write (8) and a flush (9) outstanding meets the stream.
fn client(style: ReplyStyle, stream: &[u8]) -> Result<(ClientOwner, ReplyParser), SessionError> {
    let mut owner = ClientOwner::default();
    owner.ask(7, Command::Read, 1000, 64);
    owner.ask(8, Command::Write, 2000, 64);
    owner.ask(9, Command::Flush, 0, 0);
    let mut parser = ReplyParser::new(style);
    owner.receive(&mut parser, stream)?;
    Ok((owner, parser))
}

type Case = (ReplyStyle, Vec<u8>, SessionError);

fn outside(offset: u64, len: u32) -> SessionError {
    SessionError::OutsideRequest { cookie: 7, offset, len }
}

fn expect_violations(cases: Vec<Case>) {
    for (style, stream, expected) in cases {
        let got = client(style, &stream).err();
        assert_eq!(got.as_ref(), Some(&expected), "{expected}");
    }
}

#[test]
fn client_detects_replies_that_fit_no_request() {
    use ReplyStyle::{Simple, Structured};
    let ok = |cookie| encode_simple_reply(cookie, Ok(())).to_vec();
    expect_violations(vec![
        (Simple, vec![1; 4], SessionError::BadMagic(0x0101_0101)),
        (Simple, ok(3), SessionError::UnknownCookie(3)),
        (Structured, encode_none_chunk(3).to_vec(), SessionError::UnknownCookie(3)),
        (Simple, encode_none_chunk(7).to_vec(), SessionError::ChunkNotNegotiated(7)),
        (Structured, ok(7), SessionError::SimpleReadReply(7)),
        (Structured, encode_simple_reply(7, Err(NbdError::Io)).to_vec(), SessionError::SimpleReadReply(7)),
        (
            Structured,
            [chunk(0, CHUNK_ERROR, 8, &error_payload(5, b"", 0, None)), ok(8)].concat(),
            SessionError::SimpleAmongChunks(8),
        ),
        (
            Structured,
            data(8, 2000, &[1; 64], ChunkEnd::Last),
            SessionError::UnexpectedChunk { cookie: 8, kind: CHUNK_OFFSET_DATA, command: Command::Write },
        ),
    ]);
    let unknown = SessionError::UnknownCookie(7).to_string();
    assert_eq!(unknown, "reply carries cookie 7, which is not outstanding");
}

#[test]
fn client_detects_chunks_of_wrong_shape() {
    use ReplyStyle::Structured;
    let too_long = ChunkHeader { flags: 1, kind: CHUNK_ERROR, cookie: 7, len: 65537 }.encode().to_vec();
    let errors = chunk(0, CHUNK_ERROR, 9, &error_payload(5, b"", 0, None)).repeat(1025);
    expect_violations(vec![
        (Structured, chunk(1, 99, 7, &[]), SessionError::UnknownChunk { cookie: 7, kind: 99 }),
        (Structured, chunk(1, 5, 7, &[0; 12]), SessionError::UnknownChunk { cookie: 7, kind: 5 }),
        (
            Structured,
            chunk(1, CHUNK_NONE, 7, &[0]),
            SessionError::ChunkLength { cookie: 7, kind: CHUNK_NONE, len: 1 },
        ),
        (
            Structured,
            chunk(1, CHUNK_OFFSET_DATA, 7, &[0; 8]),
            SessionError::ChunkLength { cookie: 7, kind: CHUNK_OFFSET_DATA, len: 8 },
        ),
        (Structured, chunk(1, 2, 7, &[0; 13]), SessionError::ChunkLength { cookie: 7, kind: 2, len: 13 }),
        (
            Structured,
            chunk(1, CHUNK_ERROR, 7, &[0; 5]),
            SessionError::ChunkLength { cookie: 7, kind: CHUNK_ERROR, len: 5 },
        ),
        (
            Structured,
            chunk(1, CHUNK_ERROR_OFFSET, 7, &[0; 13]),
            SessionError::ChunkLength { cookie: 7, kind: CHUNK_ERROR_OFFSET, len: 13 },
        ),
        (Structured, too_long, SessionError::ChunkLength { cookie: 7, kind: CHUNK_ERROR, len: 65537 }),
        (Structured, chunk(0, CHUNK_NONE, 7, &[]), SessionError::EmptyNotLast(7)),
        (
            Structured,
            chunk(1, CHUNK_ERROR, 7, &error_payload(0, b"", 0, None)),
            SessionError::ErrorWithoutCode(7),
        ),
        (
            Structured,
            chunk(1, CHUNK_ERROR, 7, &error_payload(5, b"abc", 4, None)),
            SessionError::ErrorMessageLength { cookie: 7, message: 4, len: 9 },
        ),
        (
            Structured,
            chunk(1, CHUNK_ERROR_OFFSET, 7, &error_payload(5, b"abc", 4, Some(1000))),
            SessionError::ErrorMessageLength { cookie: 7, message: 4, len: 17 },
        ),
        (
            Structured,
            chunk(1, CHUNK_ERROR_OFFSET, 7, &error_payload(5, b"", 0, Some(1064))),
            outside(1064, 0),
        ),
        (Structured, errors, SessionError::TooManyErrors(9)),
    ]);
}

#[test]
fn client_detects_reads_that_are_not_covered_exactly_once() {
    use ReplyStyle::Structured;
    let half = |end| data(7, 1000, &[1; 32], end);
    expect_violations(vec![
        (Structured, data(7, 999, &[1; 8], ChunkEnd::Last), outside(999, 8)),
        (Structured, data(7, 1060, &[1; 8], ChunkEnd::Last), outside(1060, 8)),
        (Structured, data(7, u64::MAX, &[1; 8], ChunkEnd::Last), outside(u64::MAX, 8)),
        (Structured, encode_hole_chunk(7, 1000, 65, ChunkEnd::Last).to_vec(), outside(1000, 65)),
        (Structured, encode_hole_chunk(7, 1000, 0, ChunkEnd::Last).to_vec(), outside(1000, 0)),
        (Structured, encode_hole_chunk(7, 1000, u32::MAX, ChunkEnd::Last).to_vec(), outside(1000, u32::MAX)),
        (
            Structured,
            [half(ChunkEnd::More), data(7, 1031, &[1; 2], ChunkEnd::More)].concat(),
            SessionError::Overlap { cookie: 7, offset: 1031, len: 2 },
        ),
        (Structured, half(ChunkEnd::Last), SessionError::NotCovered { cookie: 7, covered: 32, len: 64 }),
        (
            Structured,
            [half(ChunkEnd::More), encode_none_chunk(7).to_vec()].concat(),
            SessionError::NotCovered { cookie: 7, covered: 32, len: 64 },
        ),
        (
            Structured,
            encode_none_chunk(7).to_vec(),
            SessionError::NotCovered { cookie: 7, covered: 0, len: 64 },
        ),
    ]);
}

#[test]
fn client_takes_errors_and_keeps_the_words() {
    let stream = [
        encode_error_chunk(7, NbdError::NoMem, "the \x07cache is full"),
        encode_simple_reply(8, Err(NbdError::NoSpace)).to_vec(),
        chunk(CHUNK_FLAG_DONE, 0x8099, 9, &error_payload(4711, b"odd", 3, Some(5))),
    ]
    .concat();
    let (owner, parser) = client(ReplyStyle::Structured, &stream).unwrap();
    let results: Vec<_> = owner.done.into_values().collect();
    assert_eq!(results, [Err(NbdError::NoMem), Err(NbdError::NoSpace), Err(NbdError::Other(4711))]);
    assert_eq!(parser.error_text(), "odd");
}

#[test]
fn client_reports_an_error_with_offset_only_at_the_end() {
    let stream = [
        chunk(0, CHUNK_ERROR_OFFSET, 7, &error_payload(5, b"bad sector", 10, Some(1010))),
        data(7, 1032, &[3; 32], ChunkEnd::More),
    ]
    .concat();
    let (mut owner, mut parser) = client(ReplyStyle::Structured, &stream).unwrap();
    assert!(owner.done.is_empty());
    owner.receive(&mut parser, &encode_none_chunk(7)).unwrap();
    assert_eq!(owner.done[&7], Err(NbdError::Io));
    assert_eq!(parser.error_text(), "bad sector");
}

#[test]
fn client_parses_nothing_while_payload_is_pending() {
    let mut parser = ReplyParser::new(ReplyStyle::Simple);
    let stream = [&encode_simple_reply(7, Ok(()))[..], &[5; 64]].concat();
    let asked = vmpath_protocol::nbd::Outstanding { command: Command::Read, offset: 0, len: 64 };
    assert_eq!(parser.feed(&stream, |_| Some(asked)).unwrap().consumed, 16);
    let idle = parser.feed(&stream[16..], |_| Some(asked)).unwrap();
    assert_eq!((idle.consumed, idle.event), (0, None));
    parser.payload_taken(60).unwrap();
    assert_eq!(parser.payload_pending(), 4);
    let overrun = SessionError::PayloadOverrun { taken: 5, pending: 4 };
    assert_eq!(parser.payload_taken(5), Err(overrun.clone()));
    assert_eq!(parser.feed(&[], |_| None), Err(overrun));
}

fn refusal(export: ExportInfo, header: RequestHeader) -> Option<(NbdError, RefusedReason)> {
    let mut parser = RequestParser::new(export);
    match parser.feed(&header.encode()).unwrap().event.unwrap() {
        RequestEvent::Refused(refused) => {
            let skipped = if header.command == 1 { header.len } else { 0 };
            assert_eq!(parser.payload_pending(), skipped);
            assert_eq!(refused.cookie, header.cookie);
            assert!(refused.reply_head(ReplyStyle::Structured).as_bytes().len() >= 16);
            Some((refused.error, refused.reason))
        }
        _ => None,
    }
}

#[test]
fn server_refuses_each_request_that_breaks_a_rule() {
    let req = |command, flags, offset, len| RequestHeader { flags, command, cookie: 5, offset, len };
    let read_only = ExportInfo { flags: TransmissionFlags::READ_ONLY | export().flags, ..export() };
    let bare = ExportInfo { flags: TransmissionFlags::HAS_FLAGS, ..export() };
    let inval = |reason| Some((NbdError::Inval, reason));
    let beyond = |offset, len| RefusedReason::OutOfRange { offset, len, size: SIZE };
    let cases = [
        (export(), req(5, 0, 0, 512), inval(RefusedReason::UnknownCommand(5))),
        (export(), req(7, 0, 0, 512), inval(RefusedReason::UnknownCommand(7))),
        (export(), req(0, 1 << 5, 0, 512), inval(RefusedReason::Flags(32))),
        (export(), req(0, CommandFlags::NO_HOLE.bits(), 0, 512), inval(RefusedReason::Flags(2))),
        (export(), req(1, CommandFlags::DF.bits(), 0, 512), inval(RefusedReason::Flags(4))),
        (export(), req(6, CommandFlags::FAST_ZERO.bits(), 0, 512), inval(RefusedReason::Flags(16))),
        (bare, req(1, CommandFlags::FUA.bits(), 0, 512), inval(RefusedReason::Flags(1))),
        (read_only, req(1, 0, 0, 512), Some((NbdError::Perm, RefusedReason::ReadOnly))),
        (read_only, req(4, 0, 0, 512), Some((NbdError::Perm, RefusedReason::ReadOnly))),
        (read_only, req(6, 0, 0, 512), Some((NbdError::Perm, RefusedReason::ReadOnly))),
        (bare, req(3, 0, 0, 0), inval(RefusedReason::NotOffered(Command::Flush))),
        (bare, req(4, 0, 0, 512), inval(RefusedReason::NotOffered(Command::Trim))),
        (bare, req(6, 0, 0, 512), inval(RefusedReason::NotOffered(Command::WriteZeroes))),
        (export(), req(3, 0, 512, 0), inval(RefusedReason::FlushWithRange)),
        (export(), req(0, 0, 0, 0), inval(RefusedReason::Empty)),
        (export(), req(1, 0, 0, 0), inval(RefusedReason::Empty)),
        (export(), req(0, 0, 0, 66048), inval(RefusedReason::TooLong { len: 66048, max: 65536 })),
        (export(), req(1, 0, 0, 33 << 20), inval(RefusedReason::TooLong { len: 33 << 20, max: 65536 })),
        (export(), req(0, 0, SIZE, 512), inval(beyond(SIZE, 512))),
        (export(), req(4, 0, u64::MAX - 511, 512), inval(beyond(u64::MAX - 511, 512))),
        (export(), req(1, 0, SIZE - 512, 1024), Some((NbdError::NoSpace, beyond(SIZE - 512, 1024)))),
        (export(), req(6, 0, SIZE, 512), Some((NbdError::NoSpace, beyond(SIZE, 512)))),
        (export(), req(0, 0, 100, 512), inval(RefusedReason::Misaligned { offset: 100, len: 512, min: 512 })),
        (export(), req(1, 0, 512, 100), inval(RefusedReason::Misaligned { offset: 512, len: 100, min: 512 })),
        (export(), req(0, CommandFlags::DF.bits() | CommandFlags::FUA.bits(), 512, 512), None),
        (read_only, req(0, 0, SIZE - 512, 512), None),
        (export(), req(3, CommandFlags::FUA.bits(), 0, 0), None),
        (export(), req(6, CommandFlags::NO_HOLE.bits(), 0, SIZE as u32), None),
    ];
    for (export, header, expected) in cases {
        assert_eq!(refusal(export, header), expected, "{header:?}");
    }
}

#[test]
fn server_closes_when_the_stream_is_lost() {
    let mut parser = RequestParser::new(export());
    assert_eq!(parser.feed(&[3; 28]).unwrap_err(), RequestError::BadMagic(0x0303_0303));
    assert!(
        parser.feed(&encode_request(Command::Flush, CommandFlags::NONE, 1, 0, 0)).is_err(),
        "errors are final"
    );
    let mut parser = RequestParser::new(export());
    let len = (33 << 20) + 1;
    let absurd = parser.feed(&encode_request(Command::Write, CommandFlags::NONE, 1, 0, len));
    assert_eq!(absurd.unwrap_err(), RequestError::WriteTooLong { len, max: 33 << 20 });
    let mut parser = RequestParser::new(export());
    let _ = parser.feed(&encode_request(Command::Write, CommandFlags::NONE, 1, 0, 512)).unwrap();
    assert_eq!(parser.payload_taken(513), Err(RequestError::PayloadOverrun { taken: 513, pending: 512 }));
}

#[test]
fn server_hears_nothing_after_a_disconnect() {
    let mut parser = RequestParser::new(export());
    let stream = encode_request(Command::Disconnect, CommandFlags::NONE, 0, 0, 0).repeat(2);
    let fed = parser.feed(&stream).unwrap();
    assert_eq!((fed.consumed, fed.event), (28, Some(RequestEvent::Disconnect)));
    assert_eq!(parser.feed(&stream[28..]).unwrap().consumed, 0);
}

#[derive(Debug, Clone)]
struct Asked {
    command: Command,
    offset: u64,
    len: u32,
    fails: bool,
}

fn asked() -> impl Strategy<Value = Asked> {
    let command = prop_oneof![
        3 => Just(Command::Read), 2 => Just(Command::Write), 1 => Just(Command::Flush),
        1 => Just(Command::Trim), 1 => Just(Command::WriteZeroes)
    ];
    (command, 0u64..1024, 1u32..8, proptest::bool::weighted(0.2)).prop_map(
        |(command, block, blocks, fails)| {
            let (offset, len) = if command == Command::Flush { (0, 0) } else { (block * 512, blocks * 512) };
            Asked { command, offset, len, fails }
        },
    )
}

fn pattern(cookie: u64, len: u32) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ cookie as u8 | 1).collect()
}

/// The messages of one request's answer, in an order that is legal; `pick` cuts reads into chunks and holes.
fn answer(style: ReplyStyle, cookie: u64, asked: &Asked, pick: &[usize]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let failed = if asked.fails { Err(NbdError::Io) } else { Ok(()) };
    if asked.command != Command::Read || asked.fails {
        return (vec![style.status(asked.command, cookie, failed).as_bytes().to_vec()], Vec::new());
    }
    let mut bytes = pattern(cookie, asked.len);
    if style == ReplyStyle::Simple || pick.is_empty() {
        let head = style.read_head(cookie, asked.offset, asked.len);
        return (vec![[head.as_bytes(), &bytes].concat()], bytes);
    }
    let mut messages = Vec::new();
    let mut at = 0usize;
    for step in pick.iter().chain(&[usize::MAX]) {
        let end = at.saturating_add(*step).min(bytes.len());
        if at == end {
            break;
        }
        let offset = asked.offset + at as u64;
        if step % 3 == 0 {
            bytes[at..end].fill(0);
            messages.push(encode_hole_chunk(cookie, offset, (end - at) as u32, ChunkEnd::More).to_vec());
        } else {
            messages.push(data(cookie, offset, &bytes[at..end], ChunkEnd::More));
        }
        at = end;
    }
    let turn = pick[0] % messages.len();
    messages.rotate_left(turn);
    if pick[0].is_multiple_of(2) {
        messages.reverse();
    }
    messages.push(encode_none_chunk(cookie).to_vec());
    (messages, bytes)
}

fn style() -> impl Strategy<Value = ReplyStyle> {
    prop_oneof![Just(ReplyStyle::Simple), Just(ReplyStyle::Structured)]
}

/// Interleaves the messages of several replies, keeping each reply's own order.
fn interleave(mut replies: Vec<std::collections::VecDeque<Vec<u8>>>, order: &[usize]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut turns = order.iter().chain(std::iter::repeat(&0));
    while !replies.is_empty() {
        let at = turns.next().unwrap() % replies.len();
        out.extend(replies[at].pop_front());
        replies.retain(|reply| !reply.is_empty());
    }
    out
}

proptest! {
    #[test]
    fn requests_and_replies_survive_any_cutting(
        style in style(),
        all in proptest::collection::vec((asked(), proptest::collection::vec(1usize..1500, 0..6)), 1..8),
        order in proptest::collection::vec(0usize..8, 0..40),
        cuts in proptest::collection::vec(1usize..400, 0..80),
    ) {
        let mut requests = Vec::new();
        let mut owner = ClientOwner::default();
        for (cookie, (asked, _)) in (100u64..).zip(&all) {
            requests.extend(encode_request(asked.command, CommandFlags::NONE, cookie, asked.offset, asked.len));
            if asked.command == Command::Write {
                requests.extend(pattern(cookie, asked.len));
            }
            owner.ask(cookie, asked.command, asked.offset, asked.len);
        }
        let mut server = ServerOwner::default();
        let mut parser = RequestParser::new(export());
        for piece in Pieces::new(&requests, &cuts) {
            server.receive(&mut parser, piece).unwrap();
        }
        prop_assert_eq!(server.events.len(), all.len());
        for ((cookie, (asked, _)), (event, payload)) in (100u64..).zip(&all).zip(&server.events) {
            let Asked { command, offset, len, .. } = *asked;
            let request = Request { command, flags: CommandFlags::NONE, cookie, offset, len };
            prop_assert_eq!(event, &RequestEvent::Request(request));
            let written = if command == Command::Write { pattern(cookie, len) } else { Vec::new() };
            prop_assert_eq!(payload, &written);
        }
        let answers: Vec<_> = (100u64..).zip(&all).map(|(cookie, (a, pick))| answer(style, cookie, a, pick)).collect();
        let stream = interleave(answers.iter().map(|(m, _)| m.clone().into()).collect(), &order).concat();
        let mut parser = ReplyParser::new(style);
        for piece in Pieces::new(&stream, &cuts) {
            owner.receive(&mut parser, piece).unwrap();
        }
        prop_assert!(owner.outstanding.is_empty());
        for ((cookie, (asked, _)), (_, bytes)) in (100u64..).zip(&all).zip(&answers) {
            prop_assert_eq!(owner.done[&cookie], if asked.fails { Err(NbdError::Io) } else { Ok(()) });
            if asked.command == Command::Read && !asked.fails {
                prop_assert_eq!(&owner.buffers[&cookie], bytes);
            }
        }
    }

    /// The checker can fail: one content chunk too few or too many is never taken for success.
    #[test]
    fn a_lost_or_doubled_chunk_is_found(
        pick in proptest::collection::vec(1usize..1500, 1..6), at in any::<usize>(), doubled in any::<bool>(),
    ) {
        let asked = Asked { command: Command::Read, offset: 512, len: 4096, fails: false };
        let (mut messages, _) = answer(ReplyStyle::Structured, 1, &asked, &pick);
        let at = at % (messages.len() - 1);
        if doubled {
            messages.insert(at, messages[at].clone());
        } else {
            messages.remove(at);
        }
        let mut owner = ClientOwner::default();
        owner.ask(1, Command::Read, 512, 4096);
        let error = owner.receive(&mut ReplyParser::new(ReplyStyle::Structured), &messages.concat()).unwrap_err();
        let expected = match error {
            SessionError::Overlap { cookie: 1, .. } => doubled,
            SessionError::NotCovered { cookie: 1, .. } => !doubled,
            _ => false,
        };
        prop_assert!(expected, "{}", error);
    }

    #[test]
    fn damaged_replies_never_panic(
        style in style(),
        all in proptest::collection::vec((asked(), proptest::collection::vec(1usize..1500, 0..6)), 1..4),
        damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        noise in proptest::collection::vec(any::<u8>(), 0..60),
        cuts in proptest::collection::vec(1usize..400, 0..40),
    ) {
        let mut owner = ClientOwner::default();
        let mut stream = Vec::new();
        for (cookie, (asked, pick)) in (100u64..).zip(&all) {
            owner.ask(cookie, asked.command, asked.offset, asked.len);
            stream.extend(answer(style, cookie, asked, pick).0.concat());
        }
        for (at, byte) in damage {
            let at = at % stream.len().min(80); // mostly the headers
            stream[at] = byte;
        }
        stream.extend(noise);
        let mut parser = ReplyParser::new(style);
        for piece in Pieces::new(&stream, &cuts) {
            if owner.receive(&mut parser, piece).is_err() {
                break;
            }
        }
    }

    #[test]
    fn hostile_requests_never_panic_and_pass_only_if_legal(
        headers in proptest::collection::vec(
            (any::<u16>().prop_map(|f| f & 0x3f), 0u16..9, 0u64..2 * SIZE / 256, 0u32..300, any::<bool>()), 1..20),
        noise in proptest::collection::vec(any::<u8>(), 0..60),
        cuts in proptest::collection::vec(1usize..400, 0..40),
    ) {
        let mut stream = Vec::new();
        for (flags, command, offset, len, huge) in headers {
            let len = if huge && command != 1 { u32::MAX - len } else { len * 256 };
            stream.extend(RequestHeader { flags, command, cookie: 1, offset: offset * 256, len }.encode());
            if command == 1 {
                stream.extend(vec![9; len as usize]);
            }
        }
        stream.extend(noise);
        let mut owner = ServerOwner::default();
        let mut parser = RequestParser::new(export());
        for piece in Pieces::new(&stream, &cuts) {
            if owner.receive(&mut parser, piece).is_err() {
                break;
            }
        }
        for (event, _) in owner.events {
            if let RequestEvent::Request(r) = event {
                let flush = r.command == Command::Flush && r.len == 0 && r.offset == 0;
                let ranged = r.len > 0 && r.len % 512 == 0 && r.offset % 512 == 0 && r.offset + u64::from(r.len) <= SIZE;
                prop_assert!(flush || ranged, "{:?}", r);
            }
        }
    }
}
