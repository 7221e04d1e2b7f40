//! The client against QEMU's storage daemon, where there is one: an implementation of the other side that is not ours.

use super::*;
use crate::vhost::{Chains, VhostError, feature_names};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const BOUND: Duration = Duration::from_secs(10);

/// A storage daemon with a disk of zeroed or file-backed blocks.
struct StorageDaemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for StorageDaemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl StorageDaemon {
    /// None if it is not installed.
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::File::create(dir.path().join("disk")).unwrap().set_len(8 << 20).unwrap();
        let child = Self::spawn(dir.path())?;
        Some(Self { child, dir })
    }

    fn spawn(dir: &Path) -> Option<Child> {
        let disk = dir.join("disk");
        let socket = dir.join("vhost");
        let node = format!("driver=file,node-name=n,filename={},discard=unmap", disk.display());
        let export = format!(
            "type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path={},writable=on,num-queues=2",
            socket.display()
        );
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--blockdev", &node, "--export", &export]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let end = Instant::now() + BOUND;
        while !socket.exists() && Instant::now() < end {
            std::thread::yield_now();
        }
        Some(child)
    }

    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::remove_file(self.dir.path().join("vhost")).unwrap();
        self.child = Self::spawn(self.dir.path()).unwrap();
    }

    fn options(&self) -> Options {
        Options { slots: 16, ..Options::new(self.dir.path().join("vhost")) }
    }
}

/// Every shape of chain, with and without EVENT_IDX: what is written is read back, and zeroes are zeroes.
#[test]
fn requests_of_all_kinds_are_carried_out() {
    let Some(daemon) = StorageDaemon::start() else { return };
    for (chains, without) in [
        (Chains::Direct, 0),
        (Chains::Indirect, feature::EVENT_IDX),
        (Chains::Mixed, 0),
        (Chains::Indirect, feature::INDIRECT_DESC),
    ] {
        let mut client = Client::connect(Options { chains, without, ..daemon.options() }).unwrap();
        assert_eq!(client.config().bytes(), 8 << 20);
        assert!(!client.is_read_only(), "{}", feature_names(client.agreed().features));
        let data: Vec<u8> = (0..96 << 10).map(|at: usize| (at / 512 + at) as u8).collect();
        client.write_at(4096, &data, BOUND).unwrap();
        client.flush(BOUND).unwrap();
        let mut back = vec![0; data.len()];
        client.read_at(4096, &mut back, BOUND).unwrap();
        assert!(back == data, "{chains:?}");
        client.write_zeroes(4096, 8192, BOUND).unwrap();
        client.discard(4096 + 8192, 4096, BOUND).unwrap();
        client.read_at(4096, &mut back, BOUND).unwrap();
        assert!(back[..8192].iter().all(|byte| *byte == 0) && back[12288..] == data[12288..]);
        let beyond = client.read_at(8 << 20, &mut back[..512], BOUND);
        assert!(matches!(beyond, Err(VhostError::Unfit(_))), "an error of the device is told: {beyond:?}");
        assert_eq!(client.strays(), 0);
    }
}

#[test]
fn many_requests_in_flight_on_two_queues_complete_once_each() {
    let Some(daemon) = StorageDaemon::start() else { return };
    let mut client = Client::connect(Options { queues: 2, ..daemon.options() }).unwrap();
    assert_eq!(client.queues(), 2);
    let (mut done, mut completed) = (Vec::new(), 0);
    for round in 0..50 {
        for queue in 0..2 {
            while let Some(slot) = client.acquire(queue) {
                let offset = u64::from(slot.index) * 4096 + u64::from(queue) * (1 << 20);
                client.submit(slot, BlockRequest::new(Operation::Read, offset, 4096));
            }
            client.publish(queue);
        }
        assert_eq!(client.open(), 32, "round {round}");
        while client.open() > 0 {
            client.wait(BOUND, &mut done).unwrap();
            assert!(!done.is_empty(), "something completes");
            completed += done.len();
            for done in done.drain(..) {
                assert_eq!(done.status, Status::Ok);
                client.release(done.slot);
            }
        }
    }
    assert_eq!((completed, client.strays()), (50 * 32, 0));
}

#[test]
fn a_stop_answers_the_base_and_the_rings_go_on_from_it() {
    let Some(daemon) = StorageDaemon::start() else { return };
    let mut client = Client::connect(daemon.options()).unwrap();
    for round in 1..=3u16 {
        client.write_at(0, &[round as u8; 512], BOUND).unwrap();
        let stopped = client.stop().unwrap();
        assert_eq!(
            (stopped.answered, stopped.bases.as_slice(), stopped.open),
            (true, &[round * 2 - 1][..], 0)
        );
        assert!(client.stop().is_err(), "it is stopped already");
        client.resume().unwrap();
        let mut back = [0; 512];
        client.read_at(0, &mut back, BOUND).unwrap();
        assert_eq!(back, [round as u8; 512]);
    }
    assert_eq!(client.touched_while_stopped(), 0);
}

#[test]
fn after_a_death_the_rings_start_at_the_used_index() {
    let Some(mut daemon) = StorageDaemon::start() else { return };
    let mut client = Client::connect(daemon.options()).unwrap();
    client.write_at(8192, &[7; 4096], BOUND).unwrap();
    daemon.restart();
    let mut done = Vec::new();
    while client.is_connected() {
        client.wait(BOUND, &mut done).unwrap();
    }
    client.reconnect(Duration::from_millis(5), BOUND).unwrap();
    let mut back = [0; 4096];
    client.read_at(8192, &mut back, BOUND).unwrap();
    assert_eq!(back, [7; 4096]);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    let stopped = client.stop().unwrap();
    assert_eq!((stopped.answered, stopped.bases), (false, stopped.used));
}

#[test]
fn a_back_end_that_never_answers_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("mute");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let options = Options { patience: Duration::from_millis(30), ..Options::new(socket) };
    let began = Instant::now();
    let why = Client::connect(options).unwrap_err();
    assert!(matches!(why, VhostError::NoAnswer { what: "the handshake", .. }), "{why}");
    assert!(began.elapsed() < BOUND);
}

#[test]
fn slots_that_no_ring_can_hold_are_refused_in_words() {
    let Some(daemon) = StorageDaemon::start() else { return };
    let why = Client::connect(Options { slots: 512, segments: 16, ..daemon.options() }).unwrap_err();
    assert!(why.to_string().contains("use fewer"), "{why}");
}
