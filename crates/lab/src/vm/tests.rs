//! The stand-in against the lab's own array: it must behave as QEMU does, and its verifier must be able to fail.

use super::*;
use crate::array::control::ArrayControl;
use crate::array::{Array, ArrayArgs};
use clap::Parser;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc::UnboundedReceiver;

mod vhost;

/// Nothing here takes longer than a fraction of it.
const BOUND: Duration = Duration::from_secs(20);

#[derive(clap::Parser)]
struct ArrayCommand {
    #[command(flatten)]
    args: ArrayArgs,
}

#[derive(clap::Parser)]
struct VmCommand {
    #[command(flatten)]
    args: VmArgs,
}

struct World {
    dir: tempfile::TempDir,
    _array: Option<Array>,
    stdin: mpsc::Sender<String>,
    lines: UnboundedReceiver<Value>,
}

impl World {
    /// An array with a small unit behind one portal, and a VM on it with more options.
    async fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let array = format!("array --unit u=512KiB --portal a=unix:{} --control {}", at("nbd"), at("ctl"));
        let array = ArrayCommand::parse_from(array.split(' ')).args.open().await.unwrap();
        let disk = format!("nbd+unix:///u?socket={}", at("nbd"));
        let world = Self::on(dir, &disk, options);
        Self { _array: Some(array), ..world }
    }

    /// A VM on a disk that is served already.
    fn on(dir: tempfile::TempDir, disk: &str, options: &str) -> Self {
        let vm = format!(
            "vm --disk vda={disk} --qmp {} --sizes 4KiB,32KiB --slots 8 --sample-every 20ms {options}",
            dir.path().join("qmp").display()
        );
        let args = VmCommand::parse_from(vm.split_whitespace()).args;
        let (stdin, stdin_lines) = mpsc::channel(16);
        let (say, lines) = mpsc::unbounded_channel();
        let out: Out = Box::new(move |line| drop(say.send(line.clone())));
        tokio::task::spawn_local(async move { args.work(stdin_lines, out).await.unwrap() });
        Self { dir, _array: None, stdin, lines }
    }

    async fn array(&self, portal_order: impl FnOnce(&mut ArrayControl) + Send + 'static) {
        let socket = self.dir.path().join("ctl");
        let ask = move || portal_order(&mut ArrayControl::connect(&socket).unwrap());
        tokio::task::spawn_blocking(ask).await.unwrap();
    }

    async fn fault(&self, faults: &'static str) {
        self.array(move |array| {
            array.fault("a", faults).unwrap();
        })
        .await;
    }

    async fn clear(&self) {
        self.array(|array| {
            array.clear("a").unwrap();
        })
        .await;
    }

    async fn qmp(&self) -> Qmp {
        Qmp::connect(&self.dir.path().join("qmp")).await
    }

    async fn line(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let search = async {
            loop {
                let line = self.lines.recv().await.expect("the VM still runs");
                if wanted(&line) {
                    return line;
                }
            }
        };
        timeout(BOUND, search).await.expect("the line comes")
    }

    /// Waits until this many requests more are done.
    async fn progress(&mut self, requests: u64) {
        let done = |line: &Value| line["sample"]["requests"].as_u64();
        let now = done(&self.line(|line| done(line).is_some()).await).unwrap();
        self.line(|line| done(line).is_some_and(|later| later >= now + requests)).await;
    }

    async fn say(&self, command: &str) {
        self.stdin.send(command.to_owned()).await.unwrap();
    }

    /// Reads everything back and quits; the report.
    async fn finish(mut self) -> Value {
        self.say("readback").await;
        self.line(|line| line.get("readback").is_some()).await;
        self.say("quit").await;
        self.line(|line| line.get("report").is_some()).await["report"].take()
    }
}

/// A QMP client that keeps what it reads.
struct Qmp {
    stream: BufReader<UnixStream>,
    events: Vec<String>,
}

impl Qmp {
    async fn connect(socket: &Path) -> Self {
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break BufReader::new(stream),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let mut qmp = Self { stream, events: Vec::new() };
        assert_eq!(qmp.read().await["QMP"]["version"]["qemu"]["major"], 7);
        assert_eq!(qmp.ask("query-status").await["error"]["class"], "CommandNotFound");
        qmp.ask("qmp_capabilities").await;
        qmp
    }

    async fn read(&mut self) -> Value {
        let mut line = String::new();
        timeout(BOUND, self.stream.read_line(&mut line)).await.expect("QMP answers").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn send(&mut self, command: &str) {
        let line = format!("{{\"execute\": \"{command}\", \"id\": \"{command}\"}}\r\n");
        self.stream.write_all(line.as_bytes()).await.unwrap();
    }

    /// The next answer; events before it are kept.
    async fn answer(&mut self) -> Value {
        loop {
            let message = self.read().await;
            match message["event"].as_str() {
                Some(event) => self.events.push(event.to_owned()),
                None => return message,
            }
        }
    }

    async fn ask(&mut self, command: &str) -> Value {
        self.send(command).await;
        self.answer().await
    }

    async fn event(&mut self, wanted: &str) {
        while !self.events.iter().any(|event| event == wanted) {
            let message = self.read().await;
            self.events.push(message["event"].as_str().expect("an event").to_owned());
        }
    }

    async fn status(&mut self) -> String {
        self.ask("query-status").await["return"]["status"].as_str().unwrap().to_owned()
    }
}

/// Runs a test on one thread, as `lab vm` itself runs.
fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async { test().await });
}

fn wrong(report: &Value) -> [u64; 4] {
    ["mismatches", "lost", "completed_twice", "errors"].map(|key| report[key].as_u64().unwrap())
}

#[test]
fn a_load_on_an_honest_array_finds_nothing_wrong() {
    run(|| async {
        let mut world = World::new("--zero 10 --flush-every 8").await;
        world.progress(500).await;
        let report = world.finish().await;
        assert_eq!(wrong(&report), [0; 4], "{report}");
        assert!(report["blocks_verified"].as_u64() > Some(500) && report["flushes"].as_u64() > Some(10));
    });
}

#[test]
fn stop_is_answered_when_nothing_is_open_and_blocks_qmp_until_then() {
    run(|| async {
        let mut world = World::new("").await;
        let mut qmp = world.qmp().await;
        world.progress(50).await;
        world.fault("hang").await;
        qmp.send("stop").await;
        qmp.send("query-status").await;
        qmp.event("STOP").await;
        let blocked = timeout(Duration::from_millis(100), qmp.read()).await;
        assert!(blocked.is_err(), "nothing is answered while requests are open: {blocked:?}");
        world.clear().await;
        assert_eq!(qmp.answer().await["id"], "stop");
        assert_eq!(qmp.answer().await["return"]["status"], "paused");
        world.line(|line| line["sample"]["run_state"] == "paused" && line["sample"]["open"] == 0).await;
        qmp.ask("cont").await;
        qmp.event("RESUME").await;
        world.progress(50).await;
        assert_eq!(wrong(&world.finish().await), [0; 4]);
    });
}

#[test]
fn an_error_stops_the_machine_and_cont_repeats_what_failed() {
    run(|| async {
        let mut world = World::new("").await;
        let mut qmp = world.qmp().await;
        world.progress(50).await;
        world.fault("error EIO").await;
        qmp.event("BLOCK_IO_ERROR").await;
        qmp.event("STOP").await;
        assert_eq!(qmp.status().await, "io-error");
        qmp.events.clear();
        qmp.ask("cont").await;
        qmp.event("STOP").await;
        assert_eq!(qmp.status().await, "io-error", "it has failed again");
        world.clear().await;
        qmp.ask("stop").await;
        assert_eq!(qmp.status().await, "io-error", "it was stopped already");
        qmp.ask("cont").await;
        world.progress(50).await;
        let report = world.finish().await;
        assert_eq!(wrong(&report), [0; 4], "{report}");
        assert!(report["io_errors_kept"].as_u64() >= Some(2));
    });
}

#[test]
fn after_a_lost_connection_repeated_cont_brings_it_back() {
    run(|| async {
        let mut world = World::new("").await;
        let mut qmp = world.qmp().await;
        world.progress(50).await;
        world.fault("reset").await;
        qmp.event("STOP").await;
        while qmp.status().await != "running" {
            qmp.ask("cont").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.progress(50).await;
        assert_eq!(wrong(&world.finish().await), [0; 4]);
    });
}

#[test]
fn what_the_daemon_asks_of_qemu_is_answered_as_by_qemu() {
    run(|| async {
        let world = World::new("--paused").await;
        let mut qmp = world.qmp().await;
        let disk = qmp.ask("query-block").await["return"][0].take();
        assert!(disk["inserted"]["file"].as_str().unwrap().starts_with("nbd+unix://"));
        let get = json!({
            "execute": "qom-get",
            "arguments": { "path": disk["qdev"], "property": "werror" },
        });
        qmp.stream.write_all(format!("{get}\n").as_bytes()).await.unwrap();
        assert_eq!(qmp.answer().await["return"], "stop");
        assert_eq!(qmp.ask("migrate").await["error"]["class"], "CommandNotFound");
        qmp.ask("cont").await;
        assert_eq!(qmp.events, ["STOP", "RESUME"], "as QEMU says of a machine that runs already");
        world.finish().await;
    });
}

#[test]
fn a_reply_to_nothing_is_counted() {
    run(|| async {
        let mut world = World::new("").await;
        world.progress(50).await;
        world.fault("unknown-cookie").await;
        let counted = |line: &Value| line["sample"]["completed_twice"].as_u64() >= Some(1);
        world.line(counted).await;
    });
}

#[test]
fn a_request_that_is_never_answered_is_lost() {
    run(|| async {
        let mut world = World::new("--drain 200ms").await;
        world.progress(50).await;
        world.fault("hang").await;
        world.say("quit").await;
        let report = world.line(|line| line.get("report").is_some()).await;
        assert!(report["report"]["lost"].as_u64() >= Some(1), "{report}");
    });
}

/// This client fences nothing, as QEMU's: on an array with ghosts it reads stale data, and must say so.
#[test]
fn a_ghost_is_caught() {
    run(|| async {
        let mut world = World::new("--read 20").await;
        let mut qmp = world.qmp().await;
        world.progress(200).await;
        // Several rounds: a ghost that lands on what has not been overwritten since does no harm.
        let mut caught = false;
        for _ in 0..10 {
            world.fault("ghost 60ms").await;
            world.progress(20).await;
            qmp.events.clear();
            world.fault("reset").await;
            qmp.event("STOP").await;
            while qmp.status().await != "running" {
                qmp.ask("cont").await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            world.progress(300).await;
            tokio::time::sleep(Duration::from_millis(80)).await;
            let sample = world.line(|line| line.get("sample").is_some()).await;
            caught |= sample["sample"]["mismatches"].as_u64() > Some(0);
            world.clear().await;
        }
        let report = world.finish().await;
        assert!(caught || report["mismatches"].as_u64() > Some(0), "{report}");
        let found = &report["disks"][0]["report"]["mismatch_details"][0]["found"];
        assert!(found.as_str().unwrap().starts_with("stale"), "{report}");
    });
}
