//! The binary as an operator meets it: exit statuses, reports, a daemon from start to end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

const GOOD: &str = r#"
[host]
name = "kvm1"
api_socket = "DIR/run/vmpath.sock"
state_dir = "DIR/state"
run_dir = "DIR/run"

[[target]]
name = "san0"
[[target.path]]
name = "a"
url = "nbd+unix:///?socket=DIR/absent-a"
[[target.path]]
name = "b"
url = "nbd+unix:///?socket=DIR/absent-b"

[[vm]]
name = "gold"
priority = 100
[[vm.disk]]
name = "vda"
unit = "san0/gold"
nbd = "DIR/gold.sock"
"#;

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a configuration; `DIR` stands for the directory.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        let dir = self.dir.path().to_str().expect("a plain name");
        fs::write(&path, text.replace("DIR", dir)).expect("a file");
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmpath"));
        command.args(args).env("VMPATH_SOCKET", self.path("run/vmpath.sock")).env_remove("RUST_LOG");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    fn check(&self, file: &Path) -> (i32, String) {
        let output = self.run(&["check", file.to_str().expect("a plain name")]);
        (output.status.code().expect("an exit status"), text(&output.stdout))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A daemon that is killed when the test is over, however it ends.
struct Daemon {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Daemon {
    fn start(host: &Host, config: &Path) -> Self {
        let mut command = host.command(&["daemon", "-c", config.to_str().expect("a plain name")]);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the daemon starts");
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut daemon = Self { child, log };
        daemon.wait_for("ready");
        daemon
    }

    fn wait_for(&mut self, words: &str) {
        let mut seen = String::new();
        loop {
            let start = seen.len();
            let length = self.log.read_line(&mut seen).expect("a readable log");
            assert!(length > 0, "the daemon ended before it said `{words}`:\n{seen}");
            if seen[start..].contains(words) {
                return;
            }
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the daemon lives");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended as the test wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_good_configuration_is_summed_up() {
    let host = Host::new();
    let (status, report) = host.check(&host.write("vmpath.toml", GOOD));
    assert_eq!(status, 0, "{report}");
    assert!(
        report.contains("good: host kvm1") && report.contains("2 paths") && report.contains("1 VM"),
        "{report}"
    );
}

#[test]
fn every_fault_of_every_file_is_reported_with_its_place() {
    let host = Host::new();
    let faulty = GOOD.replace("priority = 100", "priorty = 100\nlimit = \"5 apples\"");
    let main = host.write("vmpath.toml", &faulty);
    host.write(
        "conf.d/more.toml",
        "[[vm]]\nname = \"gold\"\n[[vm.disk]]\nname = \"vda\"\nunit = \"san9/x\"\nnbd = \"DIR/x\"\n",
    );
    let (status, report) = host.check(&main);
    assert_eq!(status, 1, "{report}");
    for place in ["vmpath.toml:19:1:", "vmpath.toml:20:9:"] {
        assert!(report.contains(place), "{place} is not in:\n{report}");
    }
    assert!(report.contains("conf.d/more.toml:"), "{report}");
}

#[test]
fn what_cannot_be_read_or_understood_has_its_own_status() {
    let host = Host::new();
    let (status, report) = host.check(&host.path("absent.toml"));
    assert!(status == 1 && report.contains("absent.toml: no such file"), "{report}");
    for usage in
        [&["path", "disable", "san0"][..], &["show", "nothing"], &["frobnicate"], &["top", "-i", "1"]]
    {
        assert_eq!(host.run(usage).status.code(), Some(2), "{usage:?}");
    }
    for alone in [&["show", "paths"][..], &["top"]] {
        let alone = host.run(alone);
        assert_eq!(alone.status.code(), Some(1));
        assert!(text(&alone.stderr).contains("is it running"), "{}", text(&alone.stderr));
    }
}

#[test]
fn a_daemon_does_not_start_on_faults() {
    let host = Host::new();
    let config = host.write("vmpath.toml", &GOOD.replace("san0/gold", "san1/gold"));
    let output = host.run(&["daemon", "-c", config.to_str().expect("a plain name")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("vmpath.toml:22:"), "{}", text(&output.stderr));
    assert!(!host.path("run").exists() && !host.path("gold.sock").exists(), "nothing was started");
}

#[test]
fn a_daemon_serves_reloads_and_ends_cleanly() {
    let host = Host::new();
    let config = host.write("vmpath.toml", GOOD);
    let mut daemon = Daemon::start(&host, &config);
    let shown = |args: &[&str]| {
        let output = host.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    assert!(shown(&["show", "paths"]).contains("nbd+unix://"));
    assert!(shown(&["show", "vms", "-o", "json"]).contains("\"priority\":100"));
    assert!(shown(&["explain", "vm", "gold"]).contains("unmanaged"));
    assert!(shown(&["show", "vm", "gold"]).contains("  priority      100\n"));
    // Without a terminal, and with --once, it is one frame of plain text.
    for args in [&["top", "-i", "250ms"][..], &["top", "--once", "-i", "250ms"]] {
        let frame = shown(args);
        let named = ["vmpath kvm1  up ", "\nsan0/a ", "\nsan0/b ", "\ngold ", "IO/s"];
        assert!(named.iter().all(|words| frame.contains(words)) && !frame.contains('\x1b'), "{frame}");
    }
    assert!(shown(&["path", "disable", "san0/a"]).contains("san0/a"));
    assert!(shown(&["show", "paths"]).contains("disabled"), "who is told that it is done sees it done");
    assert!(shown(&["show", "events"]).contains("path-disabled"));

    let second = host.run(&["daemon", "-c", config.to_str().expect("a plain name")]);
    assert!(text(&second.stderr).contains("another vmpath daemon"), "{}", text(&second.stderr));

    host.write("vmpath.toml", &GOOD.replace("priority = 100", "priority = \"high\""));
    let refused = host.run(&["reload"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("vmpath.toml:19:12"), "{}", text(&refused.stderr));
    assert!(shown(&["show", "vms", "-o", "json"]).contains("\"priority\":100"));
    host.write("vmpath.toml", &GOOD.replace("priority = 100", "priority = 200"));
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_for("reloaded");
    assert!(shown(&["reload"]).contains("reloaded"));
    assert!(shown(&["show", "vms", "-o", "json"]).contains("\"priority\":200"));

    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.child.wait().expect("an end").code(), Some(0));
    assert!(!host.path("run/vmpath.sock").exists());
}

#[test]
fn what_it_knows_outlives_a_kill_and_a_stop() {
    let host = Host::new();
    let config = host.write("vmpath.toml", GOOD);
    let shown = |args: &[&str]| text(&host.run(args).stdout);
    let mut daemon = Daemon::start(&host, &config);
    assert!(shown(&["path", "disable", "san0/a"]).contains("san0/a"));
    daemon.wait_for("path-disabled");
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.child.wait().expect("an end").code(), Some(0));

    let mut daemon = Daemon::start(&host, &config);
    assert!(shown(&["show", "paths"]).contains("disabled"));
    let events = shown(&["show", "events"]);
    assert!(
        events.contains("taken out by the operator") && events.contains("after it was stopped"),
        "{events}"
    );

    let elsewhere =
        GOOD.replace("DIR/run/vmpath.sock", "DIR/other.sock").replace("gold.sock", "other-gold.sock");
    let second = host.write("second/vmpath.toml", &elsewhere);
    let second = host.run(&["daemon", "-c", second.to_str().expect("a plain name")]);
    assert!(text(&second.stderr).contains("another vmpath daemon uses"), "{}", text(&second.stderr));

    daemon.child.kill().expect("it lives");
    daemon.child.wait().expect("an end");
    let _daemon = Daemon::start(&host, &config);
    let events = shown(&["show", "events"]);
    assert!(events.contains("after it was killed"), "{events}");
    assert!(shown(&["show", "paths"]).contains("disabled"));
}
