//! A scripted QEMU against the session (pure, virtual time) and against the task (a real socket, no sleeping).

mod migration;

use super::actor::{Reporter, run};
use super::session::Session;
use super::{Order, Report};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use vmpath_core::event::{HypervisorReport, Machine, Role, RunState, StopsOnError};
use vmpath_core::ids::VmId;
use vmpath_core::time::Instant;
use vmpath_protocol::qmp::{self, QemuVersion, QmpCommand, QmpCommandReader, QmpRequest};

const INSTANCE: u64 = 7;

const NBD_DISK: &str = r#"[{"qdev":"disk0","inserted":{"file":"nbd+unix://?socket=/s"}}]"#;

/// What a QEMU would say.
struct Qemu {
    commands: QmpCommandReader,
    status: &'static str,
    /// By property.
    on_error: [(&'static str, &'static str); 2],
    /// What `query-block` returns, as text.
    disks: &'static str,
    /// What `query-migrate` returns, as text.
    migration: &'static str,
    /// Commands that are answered with an error.
    refuses: Vec<&'static str>,
    /// All commands but the questions, with their arguments, as they came.
    told: Vec<String>,
    /// Answers held back while a `stop` drains the disks.
    draining: Option<Vec<u8>>,
    drains: bool,
}

impl Qemu {
    fn new() -> Self {
        Self {
            commands: QmpCommandReader::new(),
            status: "running",
            on_error: [("werror", "stop"), ("rerror", "stop")],
            disks: NBD_DISK,
            migration: "{}",
            refuses: Vec::new(),
            told: Vec::new(),
            draining: None,
            drains: false,
        }
    }

    fn greeting() -> Vec<u8> {
        qmp::encode_greeting(&QemuVersion { major: 7, minor: 2, ..QemuVersion::default() })
    }

    fn event(name: &str) -> Vec<u8> {
        format!("{{\"event\":\"{name}\",\"timestamp\":{{\"seconds\":1,\"microseconds\":2}}}}\r\n")
            .into_bytes()
    }

    /// Answers whole commands, in order; silent while a `stop` drains.
    fn answer(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let fed = self.commands.feed(bytes).expect("commands are short");
            bytes = &bytes[fed.consumed..];
            let Some(request) = fed.event else { return out };
            let QmpRequest::Command(command) = request else { panic!("not a command: {request:?}") };
            let answer = self.execute(&command);
            if command.name == "stop" && self.drains {
                // The event comes at once; the answer, and all later ones, when the disks are drained.
                out.extend(Self::event("STOP"));
                self.draining = Some(Vec::new());
            }
            self.draining.as_mut().unwrap_or(&mut out).extend(answer);
        }
    }

    fn execute(&mut self, command: &QmpCommand) -> Vec<u8> {
        if !command.name.starts_with("q") || command.name == "quit" {
            self.told.push(format!("{} {}", command.name, command.arguments));
        }
        if self.refuses.contains(&command.name.as_str()) {
            return qmp::encode_error(command.id.as_ref(), "GenericError", "not now");
        }
        let value = match command.name.as_str() {
            "query-memory-size-summary" => r#"{"base-memory":268435456,"plugged-memory":0}"#.to_owned(),
            "query-memdev" => r#"[{"size":5}]"#.to_owned(),
            "query-migrate" => self.migration.to_owned(),
            "migrate-set-capabilities"
            | "migrate-set-parameters"
            | "migrate"
            | "migrate-continue"
            | "migrate_cancel"
            | "quit" => "{}".to_owned(),
            "qmp_capabilities" => "{}".to_owned(),
            "query-block" => self.disks.to_owned(),
            "qom-get" => {
                assert_eq!(command.arguments["path"], "/machine/peripheral/disk0");
                let asked = command.arguments["property"].as_str().unwrap_or_default();
                let known = self.on_error.iter().find(|(property, _)| *property == asked);
                format!("\"{}\"", known.expect("a known property").1)
            }
            "query-status" => {
                format!("{{\"status\":\"{}\",\"running\":{}}}", self.status, self.status == "running")
            }
            "stop" => {
                self.status = "paused";
                "{}".to_owned()
            }
            "cont" if self.status == "shutdown" => {
                let desc = "Resetting the Virtual Machine is required";
                return qmp::encode_error(command.id.as_ref(), "GenericError", desc);
            }
            "cont" => {
                self.status = "running";
                "{}".to_owned()
            }
            other => panic!("unexpected command {other}"),
        };
        let id = command.id.as_ref().expect("every command has an id");
        format!("{{\"return\":{value},\"id\":{id}}}\r\n").into_bytes()
    }

    fn drained(&mut self) -> Vec<u8> {
        self.drains = false;
        self.draining.take().unwrap_or_default()
    }
}

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

/// Lets both talk until neither has anything to say.
fn talk(session: &mut Session, qemu: &mut Qemu, now: Instant) {
    loop {
        let sent = std::mem::take(session.output());
        if sent.is_empty() {
            return;
        }
        // Byte by byte: cut lines are the normal case.
        for byte in qemu.answer(&sent) {
            session.feed(&[byte], now).expect("QEMU speaks QMP");
        }
    }
}

fn connected(qemu: &mut Qemu) -> (Session, Vec<HypervisorReport>) {
    let mut session = Session::new(INSTANCE, at(0));
    session.feed(&Qemu::greeting(), at(0)).expect("a greeting");
    talk(&mut session, qemu, at(0));
    let reports = session.take_reports();
    (session, reports)
}

fn is_connected(state: RunState, stops_on_error: StopsOnError) -> Vec<HypervisorReport> {
    let machine =
        Machine { instance: INSTANCE, version: "7.2.0".into(), memory: Some(256 << 20), role: Role::Home };
    vec![
        HypervisorReport::Connected { instance: INSTANCE, state, stops_on_error },
        HypervisorReport::Machine(machine),
    ]
}

#[test]
fn connecting_finds_out_state_and_error_policy() {
    let stop = ("werror", "stop");
    let scripts = [
        (NBD_DISK, [stop, ("rerror", "stop")], StopsOnError::Yes),
        (NBD_DISK, [stop, ("rerror", "report")], StopsOnError::No),
        (NBD_DISK, [("werror", "auto"), ("rerror", "stop")], StopsOnError::No),
        ("[]", [stop, ("rerror", "stop")], StopsOnError::No),
        (r#""nonsense""#, [stop, ("rerror", "stop")], StopsOnError::No),
    ];
    for (disks, on_error, expect) in scripts {
        let mut qemu = Qemu { disks, on_error, ..Qemu::new() };
        assert_eq!(connected(&mut qemu).1, is_connected(RunState::Running, expect), "{disks} {on_error:?}");
    }
}

#[test]
fn every_state_has_its_meaning() {
    let states = [
        ("running", RunState::Running),
        ("paused", RunState::Paused),
        ("io-error", RunState::IoError),
        ("prelaunch", RunState::Other),
        ("postmigrate", RunState::Other),
        ("shutdown", RunState::Other),
        ("a-state-to-come", RunState::Other),
    ];
    for (status, expect) in states {
        let mut qemu = Qemu { status, ..Qemu::new() };
        assert_eq!(connected(&mut qemu).1, is_connected(expect, StopsOnError::Yes), "{status}");
    }
}

#[test]
fn events_ask_and_answers_are_reported_even_if_unchanged() {
    let mut qemu = Qemu::new();
    let (mut session, _) = connected(&mut qemu);
    qemu.status = "io-error";
    for event in ["BLOCK_IO_ERROR", "STOP", "RTC_CHANGE"] {
        session.feed(&Qemu::event(event), at(1)).unwrap();
    }
    talk(&mut session, &mut qemu, at(1));
    // One for the first event, one because more happened meanwhile.
    let expect = [const { HypervisorReport::State(RunState::IoError) }; 2];
    assert_eq!(session.take_reports(), expect);
    session.tick(session.deadline()).unwrap();
    talk(&mut session, &mut qemu, at(6000));
    assert_eq!(session.take_reports(), [], "a poll that finds nothing new says nothing");
    qemu.status = "paused";
    session.tick(session.deadline()).unwrap();
    talk(&mut session, &mut qemu, at(12_000));
    assert_eq!(session.take_reports(), [HypervisorReport::State(RunState::Paused)]);
}

#[test]
fn orders_reach_only_the_instance_that_was_meant() {
    let mut qemu = Qemu::new();
    let (mut session, _) = connected(&mut qemu);
    session.order(Order::Stop { instance: INSTANCE + 1 }, at(1));
    assert!(session.output().is_empty());
    assert!(
        matches!(&session.take_reports()[..], [HypervisorReport::Refused { why }] if why.contains("another QEMU"))
    );
    session.order(Order::Stop { instance: INSTANCE }, at(2));
    talk(&mut session, &mut qemu, at(2));
    assert_eq!(session.take_reports(), [HypervisorReport::State(RunState::Paused)]);
    session.order(Order::Continue { instance: INSTANCE }, at(3));
    talk(&mut session, &mut qemu, at(3));
    assert_eq!(session.take_reports(), [HypervisorReport::State(RunState::Running)]);
}

#[test]
fn an_order_is_refused_before_the_probe_is_over_and_when_qemu_refuses() {
    let mut session = Session::new(INSTANCE, at(0));
    session.order(Order::Stop { instance: INSTANCE }, at(0));
    assert!(matches!(&session.take_reports()[..], [HypervisorReport::Refused { .. }]));
    let mut qemu = Qemu { status: "shutdown", ..Qemu::new() };
    let (mut session, _) = connected(&mut qemu);
    session.order(Order::Continue { instance: INSTANCE }, at(1));
    talk(&mut session, &mut qemu, at(1));
    let reports = session.take_reports();
    assert!(
        matches!(&reports[..], [HypervisorReport::Refused { why }, HypervisorReport::State(RunState::Other)] if why.contains("is required")),
        "{reports:?}"
    );
}

#[test]
fn a_stop_that_drains_for_long_is_refused_once_and_heard_in_the_end() {
    let mut qemu = Qemu { drains: true, ..Qemu::new() };
    let (mut session, _) = connected(&mut qemu);
    session.order(Order::Stop { instance: INSTANCE }, at(0));
    session.order(Order::Stop { instance: INSTANCE }, at(1));
    talk(&mut session, &mut qemu, at(1));
    assert_eq!(session.take_reports(), [], "STOP alone proves nothing: the disks are not drained");
    for second in 1..120 {
        session.tick(at(second * 1000)).expect("a drain is no death");
    }
    let reports = session.take_reports();
    assert!(
        matches!(&reports[..], [HypervisorReport::Refused { why }] if why.contains("open requests")),
        "{reports:?}"
    );
    session.feed(&qemu.drained(), at(120_000)).unwrap();
    talk(&mut session, &mut qemu, at(120_000));
    assert_eq!(session.take_reports().last(), Some(&HypervisorReport::State(RunState::Paused)));
    // And what is asked next is again expected to be answered.
    session.feed(&Qemu::event("RESUME"), at(121_000)).unwrap();
    assert!(session.tick(at(140_000)).unwrap_err().contains("not answered"));
}

#[test]
fn silence_and_garbage_end_a_connection() {
    let mut session = Session::new(INSTANCE, at(0));
    assert!(session.tick(at(4999)).is_ok());
    assert!(session.tick(at(5000)).unwrap_err().contains("one at a time"));
    for garbage in ["SSH-2.0-OpenSSH\r\n", "[1]\n", "{\"QMP\"\n"] {
        let mut session = Session::new(INSTANCE, at(0));
        assert!(session.feed(garbage.as_bytes(), at(0)).unwrap_err().contains("not QMP"), "{garbage}");
    }
    let mut endless = Session::new(INSTANCE, at(0));
    assert!(endless.feed(&vec![b'x'; 2 << 20], at(0)).is_err());
    let mut qemu = Qemu::new();
    let (mut session, _) = connected(&mut qemu);
    session.tick(at(5000)).unwrap();
    assert!(
        session.tick(at(15_000)).unwrap_err().contains("not answered"),
        "a dead monitor is found by the poll"
    );
}

#[test]
fn answers_to_nothing_and_unknown_messages_are_ignored() {
    let mut qemu = Qemu::new();
    let (mut session, _) = connected(&mut qemu);
    for line in [
        "{\"return\":{},\"id\":999}\n",
        "{\"return\":{}}\n",
        "{\"news\":1}\n",
        "{\"error\":{},\"id\":\"x\"}\n",
    ] {
        session.feed(line.as_bytes(), at(1)).unwrap();
    }
    assert_eq!(session.take_reports(), []);
    assert!(session.output().is_empty());
}

/// The task under test, and what reaches its owner.
struct Watched {
    orders: mpsc::Sender<Order>,
    reports: mpsc::Receiver<Report>,
    dir: tempfile::TempDir,
}

impl Watched {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (orders, taken) = mpsc::channel(4);
        let (report, reports) = mpsc::channel(4);
        tokio::spawn(run(dir.path().join("qmp"), taken, Reporter::new(VmId::at(0), report)));
        Self { orders, reports, dir }
    }

    fn listen(&self) -> UnixListener {
        let path = self.dir.path().join("qmp");
        // Absent at first.
        let _ = std::fs::remove_file(&path);
        UnixListener::bind(path).expect("a socket")
    }

    async fn next(&mut self) -> HypervisorReport {
        loop {
            let report = tokio::time::timeout(Duration::from_secs(20), self.reports.recv()).await;
            match report.expect("a report in time").expect("a living task").report {
                // Follows each `Connected`.
                HypervisorReport::Machine(_) => {}
                report => return report,
            }
        }
    }

    async fn expect_lost(&mut self, words: &str) {
        match self.next().await {
            HypervisorReport::Lost { why } => assert!(why.contains(words), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    async fn expect_instance(&mut self) -> u64 {
        match self.next().await {
            HypervisorReport::Connected { instance, stops_on_error: StopsOnError::Yes, .. } => instance,
            other => panic!("{other:?}"),
        }
    }
}

async fn greet(listener: &UnixListener) -> UnixStream {
    let (mut stream, _) = listener.accept().await.expect("a client");
    stream.write_all(&Qemu::greeting()).await.expect("a greeting");
    stream
}

/// Serves commands until the client has gone, or until a `stop` drains.
async fn serve(stream: &mut UnixStream, qemu: &mut Qemu) {
    let mut bytes = [0; 4096];
    while qemu.draining.is_none() {
        match stream.read(&mut bytes).await {
            Ok(length) if length > 0 => {
                let answer = qemu.answer(&bytes[..length]);
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
            Ok(_) | Err(_) => return,
        }
    }
}

#[tokio::test]
async fn it_waits_for_an_absent_monitor_and_comes_back_to_a_new_one() {
    let mut watched = Watched::start();
    watched.expect_lost("is the VM running").await;
    watched.orders.send(Order::Stop { instance: 1 }).await.unwrap();
    assert!(
        matches!(watched.next().await, HypervisorReport::Refused { why } if why.contains("not connected"))
    );

    let listener = watched.listen();
    let (mut garbage, _) = listener.accept().await.unwrap();
    garbage.write_all(b"220 mail.example.org ESMTP\r\n").await.unwrap();
    watched.expect_lost("not QMP").await;

    let mut cut = greet(&listener).await;
    cut.write_all(b"{\"retu").await.unwrap();
    drop(cut);
    watched.expect_lost("closed").await;

    let (mut stream, mut qemu) = (greet(&listener).await, Qemu::new());
    let instance = tokio::select! {
        instance = watched.expect_instance() => instance,
        () = serve(&mut stream, &mut qemu) => panic!("the client has gone"),
    };
    assert_eq!(instance & 0x3f_ffff, u64::from(std::process::id()), "the peer is this very process");
    drop(stream);
    watched.expect_lost("closed").await;

    let (mut stream, mut qemu) = (greet(&listener).await, Qemu { status: "paused", ..Qemu::new() });
    tokio::select! {
        again = watched.expect_instance() => assert_eq!(again, instance),
        () = serve(&mut stream, &mut qemu) => panic!("the client has gone"),
    }
}

#[tokio::test]
async fn events_are_heard_while_a_stop_blocks() {
    let mut watched = Watched::start();
    watched.expect_lost("is the VM running").await;
    let listener = watched.listen();
    let (mut stream, mut qemu) = (greet(&listener).await, Qemu { drains: true, ..Qemu::new() });
    let instance = tokio::select! {
        instance = watched.expect_instance() => instance,
        () = serve(&mut stream, &mut qemu) => panic!("the client has gone"),
    };
    watched.orders.send(Order::Stop { instance }).await.unwrap();
    serve(&mut stream, &mut qemu).await;
    // QEMU is draining; an order for another process is refused at once all the same.
    watched.orders.send(Order::Stop { instance: instance + 1 }).await.unwrap();
    assert!(matches!(watched.next().await, HypervisorReport::Refused { .. }));
    let drained = qemu.drained();
    stream.write_all(&drained).await.unwrap();
    tokio::select! {
        report = watched.next() => assert_eq!(report, HypervisorReport::State(RunState::Paused)),
        () = serve(&mut stream, &mut qemu) => panic!("the client has gone"),
    }
}
