//! Both handshakes against each other, and each against a peer that breaks the rules.

mod common;

use common::Pieces;
use proptest::prelude::*;
use vmpath_protocol::nbd::wire::{
    self, HANDSHAKE_FIXED_NEWSTYLE, HANDSHAKE_NO_ZEROES, INFO_BLOCK_SIZE, INFO_EXPORT, MAGIC, OLDSTYLE_MAGIC,
    OPT_GO, OPT_STRUCTURED_REPLY, OPTION_MAGIC, OptionHeader, OptionReplyHeader, REP_ACK, REP_ERR_INVALID,
    REP_ERR_POLICY, REP_ERR_SHUTDOWN, REP_ERR_TLS_REQD, REP_ERR_UNKNOWN, REP_ERR_UNSUP, REP_INFO, REP_SERVER,
};
use vmpath_protocol::nbd::{
    BlockSizeError, BlockSizes, ClientHandshake, ExportAnswer, ExportInfo, ExportQuery, ExportRefusal,
    HandshakeError, RefusalReason, ServerHandshake, ServerHandshakeError, ServerHandshakeEvent,
    TransmissionFlags,
};

fn export() -> ExportInfo {
    ExportInfo {
        size: 1 << 30,
        flags: TransmissionFlags::HAS_FLAGS
            | TransmissionFlags::FLUSH
            | TransmissionFlags::DF
            | TransmissionFlags::MULTI_CONN,
        block: BlockSizes::new(512, 4096, 1 << 20).unwrap(),
        structured_replies: false,
    }
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = OptionReplyHeader { option, kind, len: data.len() as u32 }.encode().to_vec();
    out.extend_from_slice(data);
    out
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut out = OptionHeader { option, len: data.len() as u32 }.encode().to_vec();
    out.extend_from_slice(data);
    out
}

fn go(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(infos.len() as u16).to_be_bytes());
    infos.iter().for_each(|info| data.extend_from_slice(&info.to_be_bytes()));
    data
}

fn greeting(flags: u16) -> Vec<u8> {
    [&MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &flags.to_be_bytes()].concat()
}

fn info_export(size: u64, flags: u16) -> Vec<u8> {
    let data = [&INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
    reply(OPT_GO, REP_INFO, &data)
}

fn info_block(min: u32, preferred: u32, max: u32) -> Vec<u8> {
    let sizes = [min.to_be_bytes(), preferred.to_be_bytes(), max.to_be_bytes()].concat();
    reply(OPT_GO, REP_INFO, &[&INFO_BLOCK_SIZE.to_be_bytes()[..], &sizes].concat())
}

/// A server's stream up to the point where GO is asked.
fn until_go() -> Vec<u8> {
    [greeting(3), reply(OPT_STRUCTURED_REPLY, REP_ACK, &[])].concat()
}

fn client_gets(stream: &[u8]) -> Result<Option<ExportInfo>, HandshakeError> {
    ClientHandshake::new("disk").unwrap().feed(stream).map(|fed| fed.event)
}

fn expect_errors(cases: Vec<(Vec<u8>, HandshakeError)>) {
    for (stream, expected) in cases {
        assert_eq!(client_gets(&stream), Err(expected.clone()), "{expected}");
        assert!(!expected.to_string().chars().any(char::is_control));
    }
}

fn after_go(parts: &[Vec<u8>]) -> Vec<u8> {
    [until_go(), parts.concat()].concat()
}

#[test]
fn client_tells_strangers_apart() {
    expect_errors(vec![
        (b"SSH-2.0-OpenSSH".to_vec(), HandshakeError::NotNbd("SSH-2.0-".into())),
        ([MAGIC.to_be_bytes(), OLDSTYLE_MAGIC.to_be_bytes()].concat(), HandshakeError::Oldstyle),
        ([MAGIC.to_be_bytes(), *b"whatever"].concat(), HandshakeError::NotNbd("whatever".into())),
        (greeting(HANDSHAKE_NO_ZEROES), HandshakeError::NotFixedNewstyle),
    ]);
}

#[test]
fn client_passes_on_why_it_was_refused() {
    let said = "no\u{fffd}[31m!".to_owned();
    let refusal = |kind| after_go(&[reply(OPT_GO, kind, b"no\x1b[31m!")]);
    let name = "disk".to_owned();
    expect_errors(vec![
        (
            refusal(REP_ERR_UNKNOWN),
            HandshakeError::ExportUnknown { export: name.clone(), message: said.clone() },
        ),
        (refusal(REP_ERR_TLS_REQD), HandshakeError::TlsRequired { message: said.clone() }),
        (
            refusal(REP_ERR_POLICY),
            HandshakeError::PolicyRefused { export: name.clone(), message: said.clone() },
        ),
        (refusal(REP_ERR_SHUTDOWN), HandshakeError::ShuttingDown { message: said.clone() }),
        (refusal(REP_ERR_UNSUP), HandshakeError::GoUnsupported),
        (refusal(0x8000_0099), HandshakeError::Refused { export: name, code: 0x8000_0099, message: said }),
        (
            [greeting(1), reply(OPT_STRUCTURED_REPLY, REP_ERR_TLS_REQD, b"")].concat(),
            HandshakeError::TlsRequired { message: String::new() },
        ),
    ]);
}

#[test]
fn client_refuses_what_breaks_the_rules() {
    let too_long = OptionReplyHeader { option: OPT_GO, kind: REP_INFO, len: 65537 }.encode().to_vec();
    let many: Vec<Vec<u8>> = (0..65).map(|_| info_export(1, 1)).collect();
    expect_errors(vec![
        ([greeting(1), vec![7; 20]].concat(), HandshakeError::BadReplyMagic(0x0707_0707_0707_0707)),
        (
            [greeting(1), reply(OPT_GO, REP_ACK, b"")].concat(),
            HandshakeError::WrongOption { got: 7, asked: 8 },
        ),
        (after_go(&[too_long]), HandshakeError::ReplyTooLong { option: OPT_GO, len: 65537 }),
        (
            after_go(&[reply(OPT_GO, REP_SERVER, b"abcde")]),
            HandshakeError::UnexpectedReply { option: OPT_GO, kind: REP_SERVER, len: 5 },
        ),
        (
            [greeting(1), reply(OPT_STRUCTURED_REPLY, REP_ACK, b"x")].concat(),
            HandshakeError::UnexpectedReply { option: OPT_STRUCTURED_REPLY, kind: REP_ACK, len: 1 },
        ),
        (
            after_go(&[reply(OPT_GO, REP_INFO, &[0, 0, 9])]),
            HandshakeError::BadInfo { kind: INFO_EXPORT, len: 3 },
        ),
        (
            after_go(&[reply(OPT_GO, REP_INFO, &[0; 13])]),
            HandshakeError::BadInfo { kind: INFO_EXPORT, len: 13 },
        ),
        (after_go(&many), HandshakeError::TooManyInfos),
        (after_go(&[reply(OPT_GO, REP_ACK, b"")]), HandshakeError::NoExportInfo),
        (after_go(&[info_block(3, 4096, 4096)]), HandshakeError::BadBlockSizes(BlockSizeError::Minimum(3))),
        (
            after_go(&[info_export(9000, 1), info_block(1, 8192, 4096), reply(OPT_GO, REP_ACK, b"")]),
            HandshakeError::BadBlockSizes(BlockSizeError::MaximumTooSmall {
                max: 4096,
                preferred: 8192,
                size: 9000,
            }),
        ),
    ]);
}

#[test]
fn client_leaves_politely_and_its_first_error_is_final() {
    let mut client = ClientHandshake::new("disk").unwrap();
    let stream = [until_go(), reply(OPT_GO, REP_ERR_UNKNOWN, b"")].concat();
    let error = client.feed(&stream).unwrap_err();
    assert!(client.take_output().ends_with(&option(wire::OPT_ABORT, b"")));
    assert_eq!(client.feed(&greeting(3)), Err(error));
}

#[test]
fn client_works_without_block_sizes_and_structured_replies() {
    let unknown_info = reply(OPT_GO, REP_INFO, &[0, 99, 1, 2, 3]);
    let stream = [
        greeting(1),
        reply(OPT_STRUCTURED_REPLY, REP_ERR_UNSUP, b"what?"),
        unknown_info,
        info_export(4096, 0),
        reply(OPT_GO, REP_ACK, b""),
    ]
    .concat();
    let info = client_gets(&stream).unwrap().unwrap();
    assert!(!info.structured_replies);
    assert_eq!(
        (info.size, info.flags, info.block),
        (4096, TransmissionFlags::default(), BlockSizes::default())
    );
}

#[test]
fn client_checks_the_name_it_asks_for() {
    assert_eq!(ClientHandshake::new("a\0b").unwrap_err(), HandshakeError::BadExportName(3));
    assert_eq!(ClientHandshake::new(&"x".repeat(4097)).unwrap_err(), HandshakeError::BadExportName(4097));
}

#[test]
fn block_sizes_are_checked() {
    for (min, preferred, max) in
        [(0, 4096, 4096), (131_072, 131_072, 131_072), (1, 256, 4096), (4096, 512, 4096)]
    {
        assert!(BlockSizes::new(min, preferred, max).is_err(), "{min} {preferred} {max}");
    }
    assert!(BlockSizes::new(512, 4096, 1000).is_err());
    assert!(BlockSizes::new(512, 4096, 0).is_err());
    assert!(BlockSizes::new(512, 4096, u32::MAX).is_ok());
}

/// A server that has taken the client's flags.
fn server(flags: u32) -> ServerHandshake {
    let mut server = ServerHandshake::new(vec!["a".into(), "b".into()]);
    assert_eq!(server.take_output(), greeting(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES));
    let fed = server.feed(&flags.to_be_bytes()).unwrap();
    assert_eq!((fed.consumed, fed.event), (4, None));
    server
}

fn event(server: &mut ServerHandshake, stream: &[u8]) -> Option<ServerHandshakeEvent> {
    let fed = server.feed(stream).unwrap();
    assert_eq!(fed.consumed, stream.len());
    fed.event
}

fn yes() -> Result<ExportAnswer, ExportRefusal> {
    Ok(ExportAnswer { export: export(), description: "the disk".into() })
}

fn no(reason: RefusalReason) -> Result<ExportAnswer, ExportRefusal> {
    Err(ExportRefusal { reason, message: "sorry".into() })
}

#[test]
fn server_answers_every_option() {
    let mut server = server(3);
    for unsupported in
        [5, 9, wire::OPT_LIST_META_CONTEXT, wire::OPT_SET_META_CONTEXT, wire::OPT_EXTENDED_HEADERS, 77]
    {
        assert_eq!(event(&mut server, &option(unsupported, b"data")), None);
        assert_eq!(server.take_output(), reply(unsupported, REP_ERR_UNSUP, b""));
    }
    assert_eq!(event(&mut server, &option(wire::OPT_LIST, b"")), None);
    let listed =
        [reply(3, REP_SERVER, b"\0\0\0\x01a"), reply(3, REP_SERVER, b"\0\0\0\x01b"), reply(3, REP_ACK, b"")];
    assert_eq!(server.take_output(), listed.concat());
    for invalid in [
        option(wire::OPT_LIST, b"x"),
        option(OPT_STRUCTURED_REPLY, b"x"),
        option(OPT_GO, b""),
        option(OPT_GO, &[0, 0, 0, 9, b'a', 0, 0]),
        option(OPT_GO, &[0xff, 0xff, 0xff, 0xff, b'a', 0, 0]),
        option(OPT_GO, &[go("a", &[]), vec![0]].concat()),
        option(OPT_GO, &go("a\0", &[])),
        option(OPT_GO, &[0, 0, 0, 1, 0xff, 0, 0]),
        option(wire::OPT_INFO, &go(&"x".repeat(4097), &[])),
    ] {
        assert_eq!(event(&mut server, &invalid), None);
        let output = server.take_output();
        let header = OptionReplyHeader::decode(output.first_chunk().unwrap()).unwrap();
        assert_eq!(header.kind, REP_ERR_INVALID);
    }
    assert_eq!(event(&mut server, &option(wire::OPT_ABORT, b"")), Some(ServerHandshakeEvent::Aborted));
    assert_eq!(server.take_output(), reply(2, REP_ACK, b""));
    assert_eq!(server.feed(b"more").unwrap().consumed, 0);
}

#[test]
fn server_waits_for_its_owner_and_says_no_in_words() {
    let mut server = server(3);
    for (reason, kind) in [
        (RefusalReason::Unknown, REP_ERR_UNKNOWN),
        (RefusalReason::Policy, REP_ERR_POLICY),
        (RefusalReason::Shutdown, REP_ERR_SHUTDOWN),
    ] {
        let wanted = event(&mut server, &option(OPT_GO, &go("x", &[])));
        assert_eq!(
            wanted,
            Some(ServerHandshakeEvent::WantExport { name: "x".into(), query: ExportQuery::Go })
        );
        assert_eq!(
            server.feed(&option(wire::OPT_LIST, b"")).unwrap().consumed,
            0,
            "must wait for the answer"
        );
        server.answer_export(no(reason)).unwrap();
        assert_eq!(server.take_output(), reply(OPT_GO, kind, b"sorry"));
    }
    assert_eq!(server.answer_export(yes()), Err(ServerHandshakeError::NoQuestion));
}

#[test]
fn server_tells_all_that_was_asked() {
    let mut server = server(3);
    let asked = go("x", &[INFO_BLOCK_SIZE, wire::INFO_NAME, wire::INFO_DESCRIPTION, 4711]);
    event(&mut server, &option(wire::OPT_INFO, &asked));
    server.answer_export(yes()).unwrap();
    let mut output = &server.take_output()[..];
    let mut kinds = Vec::new();
    while !output.is_empty() {
        let header = OptionReplyHeader::decode(output.first_chunk().unwrap()).unwrap();
        let (data, rest) = output[20..].split_at(header.len as usize);
        kinds.push((header.kind, data.first_chunk().map(|kind| u16::from_be_bytes(*kind))));
        output = rest;
    }
    let info = |kind| (REP_INFO, Some(kind));
    assert_eq!(kinds, [info(0), info(3), info(1), info(2), (REP_ACK, None)]);
    assert_eq!(event(&mut server, b""), None, "an INFO opens nothing");
}

#[test]
fn export_name_gets_its_zeroes_unless_agreed_otherwise() {
    for (flags, len) in [(1u32, 10 + 124), (3, 10), (0, 134)] {
        let mut server = server(flags);
        let wanted = event(&mut server, &option(wire::OPT_EXPORT_NAME, b"x"));
        assert_eq!(
            wanted,
            Some(ServerHandshakeEvent::WantExport { name: "x".into(), query: ExportQuery::ExportName })
        );
        server.answer_export(yes()).unwrap();
        let output = server.take_output();
        assert_eq!(output.len(), len);
        let announced = u16::from_be_bytes([output[8], output[9]]);
        assert!(!TransmissionFlags::from_bits(announced).can_df(), "DF needs structured replies");
        let done = server.feed(b"REQUEST").unwrap();
        assert_eq!(done.consumed, 0);
        assert!(
            matches!(done.event, Some(ServerHandshakeEvent::Done { export, .. }) if !export.structured_replies)
        );
    }
}

#[test]
fn server_closes_on_what_it_cannot_answer() {
    let closes = |stream: &[u8]| ServerHandshake::new(Vec::new()).feed(stream).unwrap_err();
    let with_flags = |stream: &[u8]| closes(&[&3u32.to_be_bytes()[..], stream].concat());
    assert_eq!(closes(&8u32.to_be_bytes()), ServerHandshakeError::UnknownClientFlags(8));
    assert_eq!(closes(&0x1_0001u32.to_be_bytes()), ServerHandshakeError::UnknownClientFlags(0x1_0001));
    assert_eq!(with_flags(&[9; 16]), ServerHandshakeError::BadOptionMagic(0x0909_0909_0909_0909));
    let long = OptionHeader { option: OPT_GO, len: 16385 }.encode();
    assert_eq!(with_flags(&long), ServerHandshakeError::OptionTooLong { option: OPT_GO, len: 16385 });
    assert_eq!(with_flags(&option(77, b"").repeat(65)), ServerHandshakeError::TooManyOptions);
    assert_eq!(with_flags(&option(wire::OPT_EXPORT_NAME, &[0xff])), ServerHandshakeError::BadExportName);
    let mut server = server(3);
    event(&mut server, &option(wire::OPT_EXPORT_NAME, b"x"));
    let refused = server.answer_export(no(RefusalReason::Unknown));
    assert_eq!(refused, Err(ServerHandshakeError::RefusedByClosing("x".into())));
    assert!(server.feed(b"").is_err());
}

/// Carries bytes between both machines, cut at random, until both are done.
fn meet(export: ExportInfo, name: &str, cuts: &[usize]) -> (ExportInfo, ServerHandshakeEvent) {
    let mut client = ClientHandshake::new(name).unwrap();
    let mut server = ServerHandshake::new(vec![name.to_owned()]);
    for _ in 0..20 {
        let to_client = [server.take_output(), b"TRAILER".to_vec()].concat();
        let body = &to_client[..to_client.len() - 7];
        for piece in Pieces::new(body, cuts) {
            let fed = client.feed(piece).unwrap();
            assert_eq!(fed.consumed, piece.len());
            if let Some(opened) = fed.event {
                assert_eq!(client.feed(b"TRAILER").unwrap().consumed, 0);
                let done = server.feed(b"TRAILER").unwrap();
                assert_eq!(done.consumed, 0);
                return (opened, done.event.unwrap());
            }
        }
        let to_server = client.take_output();
        for piece in Pieces::new(&to_server, cuts) {
            let fed = server.feed(piece).unwrap();
            assert_eq!(fed.consumed, piece.len());
            if let Some(ServerHandshakeEvent::WantExport { name: asked, .. }) = fed.event {
                assert_eq!(asked, name);
                server.answer_export(Ok(ExportAnswer { export, description: String::new() })).unwrap();
            }
        }
    }
    panic!("the handshake does not end");
}

proptest! {
    #[test]
    fn both_sides_agree(
        size in any::<u64>(), bits in any::<u16>(), shift in 0u32..=16, max in 1u32..1000,
        name in "[^\0]{0,40}", cuts in proptest::collection::vec(1usize..30, 0..60),
    ) {
        let min = 1u32 << shift;
        let block = BlockSizes::new(min, min.max(512), (max * min).max(min.max(512))).unwrap();
        let flags = TransmissionFlags::from_bits(bits);
        let export = ExportInfo { size, flags, block, structured_replies: true };
        let (opened, done) = meet(export, &name, &cuts);
        prop_assert_eq!(opened, export);
        prop_assert_eq!(done, ServerHandshakeEvent::Done { name, export });
    }

    #[test]
    fn arbitrary_bytes_never_panic_a_client(
        start in 0usize..60, noise in proptest::collection::vec(any::<u8>(), 0..300),
        cuts in proptest::collection::vec(1usize..30, 0..30),
    ) {
        let honest = [until_go(), info_export(4096, 1), reply(OPT_GO, REP_ACK, b"")].concat();
        let stream = [&honest[..start.min(honest.len())], &noise].concat();
        let mut client = ClientHandshake::new("disk").unwrap();
        for piece in Pieces::new(&stream, &cuts) {
            match client.feed(piece) {
                Ok(fed) => prop_assert!(fed.consumed <= piece.len()),
                Err(_) => break,
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_a_server(
        options in proptest::collection::vec(
            (0u32..14, 0usize..4, proptest::collection::vec(any::<u8>(), 0..40)), 0..10),
        noise in proptest::collection::vec(any::<u8>(), 0..100),
        cuts in proptest::collection::vec(1usize..30, 0..30),
    ) {
        let mut stream = 3u32.to_be_bytes().to_vec();
        for (code, kind, data) in options {
            let data = if kind == 0 { go("x", &[3]) } else { data };
            stream.extend(option(code, &data));
        }
        stream.extend(noise);
        let mut server = ServerHandshake::new(vec!["a".into()]);
        for piece in Pieces::new(&stream, &cuts) {
            let mut rest = piece;
            let mut steps = 0;
            while let Ok(fed) = server.feed(rest) {
                prop_assert!(fed.consumed <= rest.len());
                rest = &rest[fed.consumed..];
                let Some(event) = fed.event else { break };
                if matches!(event, ServerHandshakeEvent::WantExport { .. }) {
                    let _ = server.answer_export(if steps % 2 == 0 { no(RefusalReason::Unknown) } else { yes() });
                }
                steps += 1;
                prop_assert!(steps <= 70, "events without end");
            }
        }
    }
}
