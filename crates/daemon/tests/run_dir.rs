//! What a daemon finds in its `run_dir` at its start, as a client of a disk sees it: a record that is missing, and another daemon.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};
use vmpath_lab::array::{Array, ArrayArgs};

const CONFIG: &str = r#"
[host]
name = "h"
api_socket = "DIR/api.sock"
state_dir = "DIR/state"
run_dir = "DIR/run"
[[target]]
name = "t"
quiesce = "1s"
[[target.path]]
name = "a"
url = "nbd+unix:///?socket=DIR/a.sock"
[[vm]]
name = "db"
[[vm.disk]]
name = "vda"
unit = "t/db"
nbd = "DIR/db.sock"
"#;

/// `quiesce`, and how long a dead process's sockets may take to go.
const BOUND: Duration = Duration::from_secs(3);
/// Looks at the daemon's answers before a state that does not come counts as one; each is a process of its own.
const LOOKS_MAX: usize = 500;
const ANSWER_MAX: Duration = Duration::from_secs(30);

struct Host {
    dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
    _array: Array,
}

/// Killed when it is dropped.
struct Daemon {
    process: Child,
    log: Option<BufReader<ChildStderr>>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("threads");
        let args = ArrayArgs {
            unit: vec!["db=16MiB".parse().expect("a unit")],
            portal: vec![format!("a=unix:{}/a.sock", dir.path().display()).parse().expect("a portal")],
            control: None,
            prefill: true,
        };
        let array = runtime.block_on(args.open()).expect("an array");
        let host = Self { dir, _runtime: runtime, _array: array };
        host.configure("vmpath.toml", |text| text);
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, file: &str, change: impl Fn(String) -> String) {
        let text = CONFIG.replace("DIR", self.dir.path().to_str().expect("a plain name"));
        fs::write(self.path(file), change(text)).expect("a file");
    }

    fn spawn(&self, config: &str) -> Daemon {
        let mut process = Command::new(env!("CARGO_BIN_EXE_vmpath"))
            .args(["daemon", "-c"])
            .arg(self.path(config))
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let log = process.stderr.take().map(BufReader::new);
        Daemon { process, log }
    }

    fn start(&self) -> Daemon {
        let mut daemon = self.spawn("vmpath.toml");
        let mut log = daemon.log.take().expect("piped");
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert_ne!(log.read_line(&mut line).expect("its log"), 0, "it has ended");
        }
        // Nobody is to wait for room in the pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        daemon
    }

    fn run(&self, args: &[&str]) -> String {
        let done: Output = Command::new(env!("CARGO_BIN_EXE_vmpath"))
            .args(args)
            .env("VMPATH_SOCKET", self.path("api.sock"))
            .output()
            .expect("the binary runs");
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).expect("text")
    }

    fn wait_for(&self, what: &str, is_so: impl Fn() -> bool) {
        // The daemon is asked in between, so that it has lived on.
        let is_so_soon = (0..LOOKS_MAX).any(|_| is_so() || self.run(&["show", "vms"]).is_empty());
        assert!(is_so_soon, "never: {what}");
    }

    /// A client of the disk, as soon as that is served.
    fn client(&self) -> Client {
        let socket = self.path("db.sock");
        self.wait_for("the disk is served", || UnixStream::connect(&socket).is_ok());
        Client::greeted(&socket)
    }
}

/// An NBD client (`doc/proto.md`: fixed newstyle, `NBD_OPT_EXPORT_NAME`, simple replies).
struct Client(UnixStream);

impl Client {
    fn greeted(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).expect("it is listened on");
        stream.set_read_timeout(Some(ANSWER_MAX)).expect("a timeout");
        stream.read_exact(&mut [0; 18]).expect("a greeting");
        let export = b"vda";
        let mut hello = 3u32.to_be_bytes().to_vec();
        hello.extend(b"IHAVEOPT");
        hello.extend(1u32.to_be_bytes());
        hello.extend((export.len() as u32).to_be_bytes());
        hello.extend(export);
        stream.write_all(&hello).expect("it listens");
        stream.read_exact(&mut [0; 10]).expect("the export");
        Self(stream)
    }

    fn ask_write(&mut self) {
        let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
        // No flags, write, cookie, offset, length.
        request.extend([0, 0, 0, 1]);
        request.extend(7u64.to_be_bytes());
        request.extend(4096u64.to_be_bytes());
        request.extend(512u32.to_be_bytes());
        request.extend([0x5a; 512]);
        self.0.write_all(&request).expect("it listens");
    }

    fn written(&mut self) {
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply).expect("a reply");
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "without an error");
    }
}

#[test]
fn writes_wait_where_the_record_of_a_killed_daemon_is_gone() {
    let host = Host::new();
    let daemon = host.start();
    let mut client = host.client();
    client.ask_write();
    client.written();
    drop(daemon);
    for entry in fs::read_dir(host.path("run")).expect("its directory") {
        fs::remove_file(entry.expect("an entry").path()).expect("it can be emptied");
    }

    let began = Instant::now();
    let daemon = host.start();
    let mut client = host.client();
    client.ask_write();
    host.wait_for("what waits says why", || {
        host.run(&["explain", "vm", "db"]).contains("as if it was emptied")
    });
    client.written();
    let waited = began.elapsed();
    assert!(waited >= BOUND, "after {waited:?}");
    let told = || host.run(&["show", "events"]).matches("as if it was emptied").count();
    assert_eq!(told(), 1);
    drop(daemon);

    // With a record there is nothing to wait for, and nothing to tell.
    let _daemon = host.start();
    let mut client = host.client();
    client.ask_write();
    client.written();
    assert_eq!(told(), 1);
}

#[test]
fn a_second_daemon_leaves_the_first_ones_directory_alone() {
    let host = Host::new();
    let _daemon = host.start();
    let mut client = host.client();
    let listed = || {
        let entries = fs::read_dir(host.path("run")).expect("its directory");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    let before = listed();
    host.configure("second.toml", |text| {
        text.replace("/api.sock", "/second.sock")
            .replace("/state\"", "/second\"")
            .replace("/db.sock", "/other.sock")
    });
    let mut second = host.spawn("second.toml");
    let mut log = String::new();
    second.log.as_mut().expect("piped").read_to_string(&mut log).expect("its log");
    assert_eq!(second.process.wait().expect("it ends").code(), Some(1), "{log}");
    assert!(log.contains("another vmpath daemon uses run_dir") && log.contains("host.run_dir"), "{log}");
    assert_eq!((listed(), host.path("second/vmpath.redb").exists()), (before, false));
    client.ask_write();
    client.written();
}

#[test]
fn a_start_waits_for_the_locks_of_a_process_that_is_dying() {
    let host = Host::new();
    fs::create_dir_all(host.path("run")).expect("a directory");
    let locked = |path: PathBuf, file: fs::File| {
        file.try_lock().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        file
    };
    let api = host.path("api.sock.lock");
    let files = [
        locked(host.path("run"), fs::File::open(host.path("run")).expect("it is there")),
        locked(api.clone(), fs::File::create(&api).expect("a file")),
    ];
    let dying = std::thread::spawn(move || {
        for file in files {
            std::thread::sleep(Duration::from_millis(300));
            drop(file);
        }
    });
    drop(host.start());
    dying.join().expect("no panic");
}
