//! QMP lines as real QEMUs write them, broken ones, and round trips between both sides.

use proptest::prelude::*;
use serde_json::{Value, json};
use vmpath_protocol::qmp::{
    self, EventTime, LINE_LEN_MAX, QemuVersion, QmpCommand, QmpCommandReader, QmpError, QmpMessage,
    QmpReader, QmpRequest, RunState, StatusInfo,
};

fn read_all(reader: &mut QmpReader, mut input: &[u8]) -> Result<Vec<QmpMessage>, QmpError> {
    let mut messages = Vec::new();
    loop {
        let fed = reader.feed(input)?;
        assert!(fed.consumed <= input.len());
        input = &input[fed.consumed..];
        match fed.event {
            Some(message) => messages.push(message),
            None => return Ok(messages),
        }
    }
}

fn one(line: &str) -> QmpMessage {
    let mut messages = read_all(&mut QmpReader::new(), format!("{line}\r\n").as_bytes()).unwrap();
    assert_eq!(messages.len(), 1);
    messages.remove(0)
}

#[test]
fn reads_what_qemu_writes() {
    let greeting = one(concat!(
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7"},"#,
        r#" "capabilities": ["oob"]}}"#
    ));
    let version = QemuVersion { major: 7, minor: 2, micro: 22, package: "Debian 1:7.2+dfsg-7".into() };
    assert_eq!(greeting, QmpMessage::Greeting(version));
    assert_eq!(one(r#"{"return": {}, "id": 4}"#), QmpMessage::Return { id: Some(4), value: json!({}) });
    assert_eq!(
        one(r#"{"return": [1], "id": "libvirt-1"}"#),
        QmpMessage::Return { id: None, value: json!([1]) }
    );
    let error = QmpMessage::Error { id: Some(5), class: "GenericError".into(), desc: "no".into() };
    assert_eq!(one(r#"{"id": 5, "error": {"class": "GenericError", "desc": "no", "new": 1}}"#), error);
    let stop = QmpMessage::Event {
        name: "STOP".into(),
        time: EventTime { seconds: 1700000000, microseconds: 12 },
        data: Value::Null,
    };
    assert_eq!(one(r#"{"timestamp": {"seconds": 1700000000, "microseconds": 12}, "event": "STOP"}"#), stop);
}

#[test]
fn tolerates_what_it_does_not_know() {
    assert_eq!(one(r#"{"surprise": 1}"#), QmpMessage::Other(json!({"surprise": 1})));
    assert_eq!(one(r#"{"event": 5}"#), QmpMessage::Other(json!({"event": 5})));
    assert_eq!(one(r#"{"QMP": 3}"#), QmpMessage::Greeting(QemuVersion::default()));
    let bare = QmpMessage::Event {
        name: "X".into(),
        time: EventTime { seconds: -1, microseconds: -1 },
        data: json!({"a": 1}),
    };
    assert_eq!(one(r#"{"event": "X", "data": {"a": 1}, "timestamp": 9}"#), bare);
    assert_eq!(read_all(&mut QmpReader::new(), b"\r\n\n  \n").unwrap(), []);
}

#[test]
fn refuses_what_is_no_json_and_lines_without_end() {
    for line in ["nonsense", "[1]", "7", "{\"a\":", "\u{7f}\0"] {
        let error = QmpReader::new().feed(format!("{line}\n").as_bytes()).unwrap_err();
        assert!(matches!(error, QmpError::NotJson { .. }), "{error}");
    }
    let mut reader = QmpReader::new();
    let half = vec![b' '; LINE_LEN_MAX / 2];
    assert!(reader.feed(&half).unwrap().event.is_none());
    assert!(reader.feed(&half).unwrap().event.is_none());
    assert_eq!(reader.feed(b" "), Err(QmpError::LineTooLong));
    let deep = "[".repeat(100_000);
    assert!(QmpReader::new().feed(format!("{{\"a\":{deep}\n").as_bytes()).is_err());
}

#[test]
fn run_states_keep_their_names() {
    for name in [
        "running",
        "paused",
        "io-error",
        "postmigrate",
        "inmigrate",
        "prelaunch",
        "finish-migrate",
        "save-vm",
    ]
    .into_iter()
    .chain([
        "internal-error",
        "shutdown",
        "suspended",
        "watchdog",
        "guest-panicked",
        "restore-vm",
        "colo",
        "debug",
    ]) {
        assert!(!matches!(RunState::from_name(name), RunState::Other(_)), "{name}");
        assert_eq!(RunState::from_name(name).to_string(), name);
    }
    assert_eq!(RunState::from_name("warping"), RunState::Other("warping".into()));
    let status = StatusInfo { running: false, status: RunState::IoError };
    assert_eq!(StatusInfo::from_return(&status.to_return()), Ok(status));
    let implied = StatusInfo::from_return(&json!({"status": "running"})).unwrap();
    assert!(implied.running);
    assert!(matches!(StatusInfo::from_return(&json!({"status": 3})), Err(QmpError::NoStatus(_))));
}

#[test]
fn a_guest_reads_commands_and_malformed_lines() {
    let mut reader = QmpCommandReader::new();
    let mut next = |line: &[u8]| reader.feed(line).unwrap().event.unwrap();
    let stop =
        QmpRequest::Command(QmpCommand { name: "stop".into(), arguments: Value::Null, id: Some(json!(3)) });
    assert_eq!(next(&qmp::stop(3)), stop);
    let other = next(b"{\"execute\": \"x\", \"arguments\": {\"a\": 1}, \"id\": \"s\", \"extra\": 0}\n");
    let expected = QmpCommand { name: "x".into(), arguments: json!({"a": 1}), id: Some(json!("s")) };
    assert_eq!(other, QmpRequest::Command(expected));
    for (line, id) in
        [(&b"what?\n"[..], None), (b"{\"id\": 9}\n", Some(json!(9))), (b"{\"execute\": 1}\n", None)]
    {
        assert!(matches!(next(line), QmpRequest::Malformed { id: got, .. } if got == id));
    }
}

#[test]
fn encoders_write_single_lines() {
    let lines = [
        qmp::qmp_capabilities(1),
        qmp::cont(2),
        qmp::query_status(3),
        qmp::execute("a\nb", &json!({"x": "\n"}), 4),
        qmp::encode_error(None, "GenericError", "two\nlines"),
    ];
    for line in lines {
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        assert!(line.ends_with(b"\r\n"));
    }
}

proptest! {
    #[test]
    fn messages_survive_any_cutting(
        text in ".{0,30}", number in any::<u64>(), seconds in any::<i64>(), micros in 0i64..1_000_000,
        cuts in proptest::collection::vec(1usize..50, 0..40),
    ) {
        let version = QemuVersion { major: number, minor: 1, micro: 2, package: text.clone() };
        let time = EventTime { seconds, microseconds: micros };
        let data = json!({ "reason": text });
        let stream = [
            qmp::encode_greeting(&version),
            qmp::encode_event("BLOCK_IO_ERROR", time, &data),
            qmp::encode_return(Some(&json!(number)), &data),
            qmp::encode_error(None, "GenericError", &text),
        ].concat();
        let mut reader = QmpReader::new();
        let mut messages = Vec::new();
        let mut rest = &stream[..];
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (piece, later) = rest.split_at(cut.min(rest.len()));
            messages.extend(read_all(&mut reader, piece).unwrap());
            rest = later;
        }
        prop_assert_eq!(messages, [
            QmpMessage::Greeting(version),
            QmpMessage::Event { name: "BLOCK_IO_ERROR".into(), time, data: data.clone() },
            QmpMessage::Return { id: Some(number), value: data },
            QmpMessage::Error { id: None, class: "GenericError".into(), desc: text },
        ]);
    }

    #[test]
    fn arbitrary_lines_never_panic(line in "[\\{\\}\\[\\]\":,a-zA-Z0-9\n \\\\]{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        for input in [line.as_bytes(), &bytes] {
            let _ = read_all(&mut QmpReader::new(), input);
            let mut commands = QmpCommandReader::new();
            let fed = commands.feed(input).unwrap();
            prop_assert!(fed.consumed <= input.len());
        }
    }
}
