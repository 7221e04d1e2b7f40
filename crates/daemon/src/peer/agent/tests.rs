//! Launches with a shell in the place of a hypervisor, and a monitor that the test plays.

use super::*;
use crate::sys::child::with_environment;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader as AsyncReader};
use tokio::net::UnixListener;
use vmpath_protocol::qmp::{QmpCommandReader, QmpRequest, encode_return};

struct Scene {
    dir: tempfile::TempDir,
    agent: Option<Agent>,
    reports: mpsc::UnboundedReceiver<AgentReport>,
    reporter: mpsc::UnboundedSender<AgentReport>,
    move_id: MoveId,
}

/// Whatever a failed test leaves must not outlive it.
impl Drop for Scene {
    fn drop(&mut self) {
        for pid in self.processes() {
            crate::sys::child::signal(pid, rustix::process::Signal::KILL);
        }
    }
}

fn places(dir: &std::path::Path) -> Places {
    Places { run_dir: dir.to_owned(), address: "127.0.0.1".parse().unwrap(), ports: 42_000..=42_999 }
}

impl Scene {
    /// `name` tells the tests' processes apart.
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (reporter, reports) = mpsc::unbounded_channel();
        let agent = Some(Agent::start(&places(dir.path()), reporter.clone()).unwrap());
        let nonce = u64::from(std::process::id());
        Self { dir, agent, reports, reporter, move_id: MoveId { host: name.to_owned(), nonce, number: 1 } }
    }

    fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn launch(&self, command: &str) -> Result<(), String> {
        self.agent().launch(Launch {
            move_id: self.move_id.clone(),
            vm: "db".to_owned(),
            command: command.to_owned(),
            qmp: self.path("qmp"),
            memory: Some(1 << 28),
        })
    }

    /// A monitor behind the name that the launch command links to: nobody answers before it runs.
    fn monitor(&self, state: &str, memory: u64) -> String {
        let socket = self.path("monitor");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(play(listener, state.to_owned(), memory));
        format!("ln -s {} $VMPATH_QMP", socket.display())
    }

    async fn event(&mut self) -> Event {
        let report = timeout(Duration::from_secs(60), self.reports.recv()).await.expect("a report in time");
        let report = report.expect("an agent");
        assert_eq!(report.move_id, self.move_id);
        report.event
    }

    async fn failure(&mut self) -> String {
        match self.event().await {
            Event::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    fn processes(&self) -> Vec<rustix::process::Pid> {
        with_environment("VMPATH_MOVE", &self.move_id.to_string())
    }
}

/// Answers as QEMU does, to as many clients as come.
async fn play(listener: UnixListener, state: String, memory: u64) {
    while let Ok((stream, _)) = listener.accept().await {
        let (read, mut write) = stream.into_split();
        let mut lines = AsyncReader::new(read).lines();
        write
            .write_all(b"{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7}}, \"capabilities\": []}}\n")
            .await
            .unwrap();
        let mut commands = QmpCommandReader::new();
        while let Ok(Some(line)) = lines.next_line().await {
            let fed = commands.feed(format!("{line}\n").as_bytes()).unwrap();
            let Some(QmpRequest::Command(command)) = fed.event else { continue };
            let value = match command.name.as_str() {
                "query-status" => serde_json::json!({ "status": state, "running": false }),
                "query-memory-size-summary" => serde_json::json!({ "base-memory": memory }),
                _ => serde_json::json!({}),
            };
            if write.write_all(&encode_return(command.id.as_ref(), &value)).await.is_err() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_launched_hypervisor_is_told_what_it_needs_and_kept_when_the_vm_runs_in_it() {
    let mut scene = Scene::new("kept");
    let link = scene.monitor("inmigrate", 1 << 28);
    scene.launch(&format!("env | grep VMPATH_; {link}; exec sleep 600")).unwrap();
    let Event::Ready { incoming } = scene.event().await else { panic!("it is ready") };
    assert!(incoming.starts_with("tcp:127.0.0.1:42"), "{incoming}");
    let log = fs::read_to_string(scene.path("launch/db.log")).unwrap();
    let qmp = format!("VMPATH_QMP={}", scene.path("qmp").display());
    for wanted in ["VMPATH_VM=db", &format!("VMPATH_INCOMING={incoming}"), &qmp] {
        assert!(log.lines().any(|line| line == wanted), "{wanted} in {log}");
    }
    assert!(scene.launch("true").unwrap_err().contains("already waits here"));
    scene.agent().keep(&scene.move_id);
    assert!(!scene.path("launch/db.note").exists());
    while !scene.agent().waiting().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!scene.agent().end(&scene.move_id), "what is kept is nobody's to end");
    assert!(!scene.processes().is_empty());
}

#[tokio::test]
async fn ending_reaches_who_ignores_it_and_who_has_left_the_group() {
    let mut scene = Scene::new("ended");
    let link = scene.monitor("inmigrate", 1 << 28);
    scene.launch(&format!("trap '' TERM; setsid sleep 600 & {link}; sleep 600; sleep 600")).unwrap();
    assert!(matches!(scene.event().await, Event::Ready { .. }));
    assert!(scene.processes().len() >= 2);
    assert!(scene.agent().end(&scene.move_id));
    assert_eq!(scene.event().await, Event::Ended("it was ended, as the move is given up".into()));
    assert!(scene.processes().is_empty());
    assert!(scene.agent().waiting().is_empty());
}

#[tokio::test]
async fn a_launch_that_fails_says_what_it_printed() {
    let mut scene = Scene::new("failed");
    scene.launch("echo one; echo 'no such machine: q36' >&2; exit 3").unwrap();
    let why = scene.failure().await;
    assert!(why.contains("exit status: 3") && why.contains("one | no such machine: q36"), "{why}");
    assert!(scene.agent().waiting().is_empty());
    // Another attempt is free to be made.
    scene.launch("exit 4").unwrap();
    assert!(scene.failure().await.contains("exit status: 4"));
}

#[tokio::test]
async fn a_hypervisor_that_runs_already_or_is_another_size_is_refused_and_ended() {
    let mut scene = Scene::new("running");
    let link = scene.monitor("running", 1 << 28);
    scene.launch(&format!("{link}; exec sleep 600")).unwrap();
    let why = scene.failure().await;
    assert!(why.contains("is running") && why.contains("-incoming"), "{why}");
    assert!(scene.processes().is_empty());
    // Somebody answers there now: that one is left alone.
    scene.launch("exec sleep 600").unwrap();
    assert!(scene.failure().await.contains("runs here already"));

    let mut scene = Scene::new("size");
    let link = scene.monitor("inmigrate", 1 << 27);
    scene.launch(&format!("{link}; exec sleep 600")).unwrap();
    let why = scene.failure().await;
    assert!(why.contains("268435456") && why.contains("134217728"), "{why}");
    assert!(scene.processes().is_empty());
}

#[tokio::test]
async fn a_move_given_up_before_it_is_ready_is_ended_too() {
    let mut scene = Scene::new("early");
    scene.launch("exec sleep 600").unwrap();
    assert!(scene.agent().end(&scene.move_id));
    assert!(scene.failure().await.contains("given up"));
    assert!(scene.processes().is_empty());
}

#[tokio::test]
async fn the_next_agent_takes_charge_of_what_the_last_one_left() {
    let mut scene = Scene::new("adopted");
    let link = scene.monitor("inmigrate", 1 << 28);
    scene.launch(&format!("{link}; while :; do echo alive; sleep 0.01; done")).unwrap();
    assert!(matches!(scene.event().await, Event::Ready { .. }));
    fs::write(scene.path("launch/gone.note"), "kvm1.1.1\ngone\ntcp:127.0.0.1:42000\n1 1\n").unwrap();
    let left = Arc::downgrade(&scene.agent().waiting);
    scene.agent = None;
    // Its task ends with it.
    while left.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
    // It goes on.
    let printed = || fs::metadata(scene.path("launch/db.log")).unwrap().len();
    let before = printed();
    while printed() < before + 30 {
        assert!(!scene.processes().is_empty());
    }
    scene.agent = Some(Agent::start(&places(scene.dir.path()), scene.reporter.clone()).unwrap());
    assert_eq!(scene.agent().waiting(), [scene.move_id.clone()], "and not one whose process is another");
    assert!(scene.agent().end(&scene.move_id));
    assert!(matches!(scene.event().await, Event::Ended(_)));
    assert!(scene.processes().is_empty());
}

/// Not a test of its own: the process that the next test kills.
#[tokio::test]
async fn as_a_daemon_that_will_be_killed() {
    let Ok(dir) = std::env::var("VMPATH_TEST_DAEMON_DIR") else { return };
    let (reporter, mut reports) = mpsc::unbounded_channel();
    let agent = Agent::start(&places(std::path::Path::new(&dir)), reporter).unwrap();
    let qmp = PathBuf::from(&dir).join("qmp");
    let listener = UnixListener::bind(PathBuf::from(&dir).join("monitor")).unwrap();
    tokio::spawn(play(listener, "inmigrate".to_owned(), 0));
    let move_id = MoveId::parse(&std::env::var("VMPATH_TEST_DAEMON_MOVE").unwrap()).unwrap();
    let command = "ln -s monitor $VMPATH_QMP; while :; do echo alive; sleep 0.01; done".to_owned();
    agent.launch(Launch { move_id, vm: "db".to_owned(), command, qmp, memory: None }).unwrap();
    assert!(matches!(reports.recv().await, Some(AgentReport { event: Event::Ready { .. }, .. })));
    println!("\nits hypervisor is ready");
    std::future::pending::<()>().await;
}

#[test]
fn a_guest_does_not_die_with_its_daemon() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("killed.{:x}.{}", std::process::id(), signal.as_raw());
        let mut daemon = Command::new(std::env::current_exe().unwrap())
            .args(["peer::agent::tests::as_a_daemon_that_will_be_killed", "--exact", "--nocapture"])
            .env("VMPATH_TEST_DAEMON_DIR", dir.path())
            .env("VMPATH_TEST_DAEMON_MOVE", &name)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "its hypervisor is ready"));
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, signal).unwrap();
        daemon.wait().unwrap();
        // It goes on printing, too: nothing of the daemon's is what it writes to.
        let log = dir.path().join("launch/db.log");
        let printed = fs::metadata(&log).unwrap().len();
        while fs::metadata(&log).unwrap().len() <= printed + 12 {
            assert!(!with_environment("VMPATH_MOVE", &name).is_empty(), "after {signal:?}");
            std::thread::yield_now();
        }
        for pid in with_environment("VMPATH_MOVE", &name) {
            crate::sys::child::signal(pid, rustix::process::Signal::KILL);
        }
    }
}
