//! NBD clients of a VM that has moved away: its old process is answered with errors, a new one waits.

use super::{Ground, Host, VM, WorkerOrder, plan_of};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(20);
/// What is held is not answered in this.
const HELD: Duration = Duration::from_millis(300);
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
/// Of the protocol.
const ESHUTDOWN: u32 = 108;

/// As little of an NBD client as asks and listens (`doc/proto.md`: fixed newstyle, `NBD_OPT_EXPORT_NAME`, simple replies).
struct Client(UnixStream);

impl Client {
    fn attach(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        let mut hello = 3_u32.to_be_bytes().to_vec();
        hello.extend(b"IHAVEOPT");
        hello.extend(1_u32.to_be_bytes());
        hello.extend(0_u32.to_be_bytes());
        stream.write_all(&hello).unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
        Self(stream)
    }

    fn ask(&mut self, command: u16) {
        let data: &[u8] = if command == WRITE { &[7; 4096] } else { &[] };
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(command.to_be_bytes());
        bytes.extend([0; 16]);
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.0.write_all(&bytes).unwrap();
    }

    /// The error of the next reply.
    fn answer(&mut self) -> u32 {
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply).unwrap();
        u32::from_be_bytes(reply[4..8].try_into().unwrap())
    }

    fn asked(&mut self, command: u16) -> u32 {
        self.ask(command);
        self.answer()
    }

    fn assert_waits(&mut self) {
        self.0.set_read_timeout(Some(HELD)).unwrap();
        let silence = self.0.read(&mut [0; 1]).unwrap_err();
        assert_eq!(silence.kind(), ErrorKind::WouldBlock);
        self.0.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    }
}

#[test]
fn what_a_vm_has_left_behind_can_end_and_who_comes_anew_waits() {
    let ground = Ground::new();
    let folder = ground.folder.path().join("a");
    std::fs::create_dir_all(&folder).unwrap();
    let config = ground.config("a", &folder).replace("queues = 2\nvhost_user", "nbd");
    let mut host = Host::start(&folder, plan_of(&config));
    let [socket, other] = host.sockets();
    let mut old = Client::attach(&socket);
    assert_eq!((old.asked(WRITE), old.asked(FLUSH)), (0, 0));

    host.order(WorkerOrder::Left { vm: VM });
    assert_eq!(old.asked(FLUSH), 0, "the unit is this host's: nobody has left");

    // It has moved, and its process flushes before it ends.
    assert!(host.settle(ANSWER_MAX).unwrap().iter().all(|disk| disk.queues.is_empty()));
    host.disown();
    old.ask(WRITE);
    old.ask(FLUSH);
    old.assert_waits();
    host.order(WorkerOrder::Left { vm: VM });
    assert_eq!((old.answer(), old.answer()), (ESHUTDOWN, ESHUTDOWN));
    assert_eq!((old.asked(WRITE), old.asked(FLUSH)), (ESHUTDOWN, ESHUTDOWN));
    let mut again = Client::attach(&other);
    assert_eq!(again.asked(FLUSH), ESHUTDOWN, "it had lost its connection");
    drop((old, again));

    // The VM comes back.
    host.expect_vm(1).unwrap();
    let mut anew = Client::attach(&socket);
    anew.ask(FLUSH);
    anew.assert_waits();
}
