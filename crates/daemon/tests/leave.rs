//! A VM that is removed from the configuration while it uses its disk: served until it lets go, and served again when it
//! is back.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use vmpath_lab::array::{Array, ArrayArgs};
use vmpath_lab::hop::HopArgs;

const HOST: &str = r#"
[host]
name = "h"
api_socket = "DIR/api.sock"
state_dir = "DIR/state"
run_dir = "DIR/run"
[[target]]
name = "t"
[[target.path]]
name = "a"
url = "nbd+unix:///?socket=DIR/a.sock"
[[vm]]
name = "db"
[[vm.disk]]
name = "vda"
unit = "t/db"
vhost_user = "DIR/db.sock"
"#;

const WEB: &str = r#"
[[vm]]
name = "web"
[[vm.disk]]
name = "vda"
unit = "t/web"
vhost_user = "DIR/web.sock"
nbd = "DIR/web-nbd.sock"
"#;

/// Looks at the daemon's answers before a state that does not come counts as one; each is a process of its own.
const LOOKS_MAX: usize = 500;

struct Host {
    dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
    _array: Array,
    daemon: Child,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Host {
    /// One path to an array in this process, and a daemon that is ready.
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("threads");
        let args = ArrayArgs {
            unit: ["db=16MiB", "web=16MiB"].map(|unit| unit.parse().expect("a unit")).to_vec(),
            portal: vec![format!("a=unix:{}/a.sock", dir.path().display()).parse().expect("a portal")],
            control: None,
            prefill: true,
        };
        let array = runtime.block_on(args.open()).expect("an array");
        write(dir.path(), &[HOST, WEB]);
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_vmpath"))
            .args(["daemon", "-c"])
            .arg(dir.path().join("vmpath.toml"))
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let mut log = BufReader::new(daemon.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert_ne!(log.read_line(&mut line).expect("its log"), 0, "it has ended");
        }
        // Nobody is to wait for room in the pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { dir, _runtime: runtime, _array: array, daemon }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vmpath"))
            .args(args)
            .env("VMPATH_SOCKET", self.path("api.sock"))
            .output()
            .expect("the binary runs")
    }

    fn reload(&self, pieces: &[&str]) -> String {
        write(self.dir.path(), pieces);
        let done = self.run(&["reload"]);
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).expect("text")
    }

    /// State and number attached of web's disk.
    fn disk(&self) -> (String, String) {
        let shown = String::from_utf8(self.run(&["show", "disks"]).stdout).expect("text");
        let line = shown.lines().find(|line| line.starts_with("web/vda")).expect("its row").to_owned();
        let mut words = line.split_whitespace().skip(1).map(str::to_owned);
        let (state, _, attached) = (words.next(), words.next(), words.next());
        (state.expect("a state"), attached.expect("a number"))
    }

    fn wait_for(&self, what: &str, is_so: impl Fn() -> bool) {
        let is_so_soon = (0..LOOKS_MAX).any(|_| {
            // The daemon is asked in between, so that it has lived on.
            is_so() || {
                assert!(self.run(&["show", "vms"]).status.success(), "the daemon has ended");
                false
            }
        });
        assert!(is_so_soon, "never: {what}");
    }

    fn wait_for_disk(&self, state: &str, attached: &str) {
        self.wait_for(&format!("{state}, {attached} attached"), || {
            self.disk() == (state.into(), attached.into())
        });
    }
}

fn write(dir: &Path, pieces: &[&str]) {
    let text = pieces.concat().replace("DIR", dir.to_str().expect("a plain name"));
    fs::write(dir.join("vmpath.toml"), text).expect("a file");
}

/// An NBD client that has been greeted.
fn greeted(socket: &Path) -> UnixStream {
    let mut client = UnixStream::connect(socket).expect("it is listened on");
    let mut greeting = [0; 8];
    client.read_exact(&mut greeting).expect("a greeting");
    assert_eq!(&greeting, b"NBDMAGIC");
    client
}

#[test]
fn a_vm_that_leaves_is_served_until_it_lets_go() {
    let host = Host::start();
    let (vhost, nbd) = (host.path("web.sock"), host.path("web-nbd.sock"));
    host.wait_for("the disk can be served", || vhost.exists());
    let load = HopArgs {
        seconds: Duration::from_millis(2500),
        warmup: Duration::from_millis(100),
        ..HopArgs::new(vec![vhost.clone()])
    };
    let load = std::thread::spawn(move || load.measure());
    host.wait_for_disk("present", "1");

    let said = host.reload(&[HOST]);
    assert!(said.contains("disk web/vda is no longer in the configuration"), "{said}");
    assert!(said.contains("until its front end lets go (1 attached)"), "{said}");
    assert_eq!(host.disk().0, "leaving");
    // As before: another kind of front end may still come, and then it is served for that one.
    let client = greeted(&nbd);
    let report = load.join().expect("no panic").expect("a report");
    assert_eq!((report.errors, report.mismatches, report.strays), (0, 0, 0));
    assert!(report.requests > 0);
    assert_eq!(host.disk().0, "leaving", "a client is attached");

    drop(client);
    host.wait_for_disk("gone", "0");
    assert!(!vhost.exists() && !nbd.exists(), "nobody listens, and the files are gone");
    assert!(host.path("db.sock").exists(), "others are served");
    let suspended = host.run(&["vm", "suspend", "web"]);
    assert!(
        String::from_utf8_lossy(&suspended.stderr).contains("no longer in the configuration"),
        "{suspended:?}"
    );

    let said = host.reload(&[HOST, WEB]);
    assert!(!said.contains("no longer"), "{said}");
    host.wait_for("it listens again", || vhost.exists() && nbd.exists());
    greeted(&nbd);
    let again = HopArgs { seconds: Duration::from_millis(300), ..HopArgs::new(vec![vhost]) }
        .measure()
        .expect("served");
    assert_eq!((again.errors, again.requests > 0), (0, true));
}
