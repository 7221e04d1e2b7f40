//! Each fault, seen from a client's end of the wire.

use super::*;
use crate::array::control::ArrayControl;
use clap::Parser;
use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use vmpath_protocol::nbd::{
    ClientHandshake, Command, CommandFlags, ExportInfo, NbdError, Outstanding, ReplyEvent, ReplyParser,
    encode_request,
};

const BOUND: Duration = Duration::from_secs(10);
/// Long enough to say that nothing comes.
const SILENCE: Duration = Duration::from_millis(100);
const MS: Duration = Duration::from_millis(1);

#[derive(clap::Parser)]
struct ArrayCommand {
    #[command(flatten)]
    args: ArrayArgs,
}

struct World {
    dir: tempfile::TempDir,
    array: Array,
}

impl World {
    /// Two units behind the portals `a` and `b`.
    async fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let portals = format!("--portal a=127.0.0.1:0{options} --portal b=127.0.0.1:0");
        let line =
            format!("array --unit u=1MiB --unit v=1MiB {portals} --control {}/ctl", dir.path().display());
        let array = ArrayCommand::parse_from(line.split(' ')).args.open().await.unwrap();
        Self { dir, array }
    }

    async fn control<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut ArrayControl) -> T + Send + 'static,
    ) -> T {
        let socket = self.dir.path().join("ctl");
        let blocking = move || ask(&mut ArrayControl::connect(&socket).unwrap());
        tokio::task::spawn_blocking(blocking).await.unwrap()
    }

    async fn fault(&self, faults: &'static str) -> u64 {
        self.control(move |control| control.fault("a", faults).unwrap()).await
    }

    async fn clear(&self) {
        self.control(|control| control.clear("a").unwrap()).await;
    }

    /// A counter of portal `a`.
    async fn counter(&self, name: &str) -> u64 {
        self.control(|control| control.status().unwrap()).await["portals"][0][name].as_u64().unwrap()
    }

    /// Waits until a counter of portal `a` has reached a value.
    async fn until(&self, name: &str, value: u64) {
        let end = Instant::now() + BOUND;
        while self.counter(name).await < value {
            assert!(Instant::now() < end, "{name} stays below {value}");
            tokio::time::sleep(MS).await;
        }
    }

    async fn connect(&self, portal: usize) -> Result<Client, Error> {
        let address = self.array.portals()[portal].portal.address.to_string();
        Client::open(TcpStream::connect(address).await?, "u").await
    }
}

/// A client that keeps to one thing at a time.
struct Client {
    stream: TcpStream,
    export: ExportInfo,
    parser: ReplyParser,
    asked: HashMap<u64, Outstanding>,
    cookie: u64,
    held: Vec<u8>,
}

impl Client {
    async fn open(mut stream: TcpStream, export: &str) -> Result<Self, Error> {
        let mut handshake = ClientHandshake::new(export).unwrap();
        let mut held = Vec::new();
        loop {
            let fed = handshake.feed(&held).map_err(Error::other)?;
            held.drain(..fed.consumed);
            if let Some(export) = fed.event {
                let parser = ReplyParser::new(export.reply_style());
                return Ok(Self { stream, export, parser, asked: HashMap::new(), cookie: 0, held });
            }
            stream.write_all(&handshake.take_output()).await?;
            read_more(&mut stream, &mut held).await?;
        }
    }

    async fn send(&mut self, command: Command, offset: u64, data: &[u8], len: u32) -> Result<(), Error> {
        self.cookie += 1;
        self.asked.insert(self.cookie, Outstanding { command, offset, len });
        let mut bytes = encode_request(command, CommandFlags::NONE, self.cookie, offset, len).to_vec();
        bytes.extend_from_slice(data);
        self.stream.write_all(&bytes).await
    }

    /// The next reply to anything, with what was read.
    async fn reply(&mut self) -> Result<Result<Vec<u8>, NbdError>, Error> {
        let mut data = Vec::new();
        loop {
            let pending = self.parser.payload_pending() as usize;
            if pending > 0 {
                let taken = pending.min(self.held.len());
                data.extend(self.held.drain(..taken));
                self.parser.payload_taken(taken as u32).map_err(Error::other)?;
            }
            let fed = self
                .parser
                .feed(&self.held, |cookie| self.asked.get(&cookie).copied())
                .map_err(Error::other)?;
            self.held.drain(..fed.consumed);
            match fed.event {
                Some(ReplyEvent::Done { result, .. }) => return Ok(result.map(|()| data)),
                Some(_) => {}
                None => read_more(&mut self.stream, &mut self.held).await?,
            }
        }
    }

    async fn read(&mut self, offset: u64, len: u32) -> Result<Result<Vec<u8>, NbdError>, Error> {
        self.send(Command::Read, offset, &[], len).await?;
        timeout(BOUND, self.reply()).await?
    }

    async fn write(&mut self, offset: u64, data: &[u8]) -> Result<Result<Vec<u8>, NbdError>, Error> {
        self.send(Command::Write, offset, data, data.len() as u32).await?;
        timeout(BOUND, self.reply()).await?
    }
}

async fn read_more(stream: &mut TcpStream, held: &mut Vec<u8>) -> Result<(), Error> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer).await? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        bytes => {
            held.extend_from_slice(&buffer[..bytes]);
            Ok(())
        }
    }
}

#[tokio::test]
async fn all_portals_show_the_same_units() {
    let world = World::new("").await;
    let (mut a, mut b) = (world.connect(0).await.unwrap(), world.connect(1).await.unwrap());
    a.write(8192, &[7; 4096]).await.unwrap().unwrap();
    assert!(b.read(8192, 4096).await.unwrap().unwrap() == [7; 4096]);
    assert!(a.export.flags.can_multi_conn() && a.export.size == 1 << 20);
    assert_eq!(b.read(1 << 20, 4096).await.unwrap(), Err(NbdError::Inval));
    assert_eq!(b.write(1 << 20, &[7; 4096]).await.unwrap(), Err(NbdError::NoSpace));
}

#[tokio::test]
async fn reset_breaks_connections_and_refuse_keeps_new_ones_out() {
    let world = World::new("").await;
    let mut old = world.connect(0).await.unwrap();
    let before = unix_micros();
    let at = world.fault("reset refuse").await;
    assert!((before..=unix_micros()).contains(&at));
    let refused = world.connect(0).await.err().map(|why| why.kind());
    assert_eq!(refused, Some(ErrorKind::ConnectionRefused));
    assert_eq!(old.read(0, 4096).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    world.clear().await;
    world.connect(0).await.unwrap().read(0, 4096).await.unwrap().unwrap();
}

#[tokio::test]
async fn refuse_alone_leaves_connections_alone() {
    let world = World::new("").await;
    let mut old = world.connect(0).await.unwrap();
    world.fault("refuse").await;
    old.read(0, 4096).await.unwrap().unwrap();
    world.fault("reset").await;
    old.read(0, 4096).await.unwrap_err();
}

#[tokio::test]
async fn hang_accepts_and_answers_nothing_until_it_is_cleared() {
    let world = World::new("").await;
    let mut old = world.connect(0).await.unwrap();
    world.fault("hang").await;
    old.send(Command::Read, 0, &[], 4096).await.unwrap();
    assert!(timeout(SILENCE, old.reply()).await.is_err());
    assert!(timeout(SILENCE, world.connect(0)).await.is_err(), "no handshake either");
    world.clear().await;
    timeout(BOUND, old.reply()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_stall_delays_and_then_lets_flow() {
    let world = World::new("").await;
    let mut client = world.connect(0).await.unwrap();
    world.fault("stall 200ms").await;
    let start = Instant::now();
    client.read(0, 4096).await.unwrap().unwrap();
    assert!(start.elapsed() > 150 * MS);
    client.read(0, 4096).await.unwrap().unwrap();
}

#[tokio::test]
async fn errors_and_slowness_last_until_cleared() {
    let world = World::new("").await;
    let mut client = world.connect(0).await.unwrap();
    world.fault("error ENOMEM slow 30ms").await;
    let start = Instant::now();
    assert_eq!(client.write(0, &[1; 4096]).await.unwrap(), Err(NbdError::NoMem));
    assert!(start.elapsed() >= 30 * MS);
    world.clear().await;
    assert!(client.read(0, 4096).await.unwrap().unwrap() == [0; 4096], "it was not executed");
}

#[tokio::test]
async fn a_ghost_is_executed_after_its_connection_is_dead() {
    let world = World::new("").await;
    let (mut a, mut b) = (world.connect(0).await.unwrap(), world.connect(1).await.unwrap());
    world.fault("ghost 100ms hang").await;
    a.send(Command::Write, 0, &[9; 4096], 4096).await.unwrap();
    world.until("received", 1).await;
    world.fault("reset").await;
    b.write(0, &[1; 4096]).await.unwrap().unwrap();
    assert_eq!(world.counter("ghosts_pending").await, 1);
    world.until("ghosts_executed", 1).await;
    assert!(b.read(0, 4096).await.unwrap().unwrap() == [9; 4096], "the newer write is gone");
    assert_eq!(world.counter("ghosts_pending").await, 0);
}

#[tokio::test]
async fn without_ghosts_a_waiting_write_dies_with_its_connection() {
    let world = World::new("").await;
    let (mut a, mut b) = (world.connect(0).await.unwrap(), world.connect(1).await.unwrap());
    world.fault("slow 10s").await;
    a.send(Command::Write, 0, &[9; 4096], 4096).await.unwrap();
    world.until("received", 1).await;
    world.fault("reset").await;
    assert_eq!(world.counter("writes_dropped").await, 1);
    assert!(b.read(0, 4096).await.unwrap().unwrap() == [0; 4096]);
}

#[tokio::test]
async fn misbehaviour_is_what_its_name_says() {
    for (fault, expected) in [
        ("garbage", "which is no reply"),
        ("unknown-cookie", "which is not outstanding"),
        ("cut-reply", "end of file"),
    ] {
        let world = World::new("").await;
        let mut client = world.connect(0).await.unwrap();
        world.fault(fault).await;
        let why = client.read(0, 4096).await.unwrap_err().to_string();
        assert!(why.contains(expected), "{fault}: {why}");
    }
    let world = World::new("").await;
    world.fault("announce-size 2MiB").await;
    let mut client = world.connect(0).await.unwrap();
    assert_eq!(client.export.size, 2 << 20);
    assert_eq!(client.read(1 << 20, 4096).await.unwrap(), Err(NbdError::Inval));
}

#[tokio::test]
async fn a_portal_s_capacity_is_shared_by_its_connections() {
    let world = World::new(",capacity=20MiB/s").await;
    let (mut one, mut two) = (world.connect(0).await.unwrap(), world.connect(0).await.unwrap());
    let start = Instant::now();
    for _ in 0..32 {
        one.send(Command::Write, 0, &[1; 65536], 65536).await.unwrap();
        two.send(Command::Read, 0, &[], 65536).await.unwrap();
    }
    for _ in 0..32 {
        one.reply().await.unwrap().unwrap();
        two.reply().await.unwrap().unwrap();
    }
    assert!(start.elapsed() >= 199 * MS, "4 MiB through 20 MiB/s took {:?}", start.elapsed());
}

#[tokio::test]
async fn wrong_orders_are_refused_in_words() {
    let world = World::new("").await;
    let refused = world
        .control(|c| [c.fault("z", "hang"), c.fault("a", "bang")].map(|r| r.unwrap_err().to_string()))
        .await;
    assert!(refused[0].contains("there are: a, b, and all"), "{}", refused[0]);
    assert!(refused[1].contains("cut-reply"), "{}", refused[1]);
    let twice =
        ArrayCommand::parse_from("array --unit u=4KiB --unit u=4KiB --portal a=127.0.0.1:0".split(' '));
    assert!(twice.args.open().await.unwrap_err().to_string().contains("given twice"));
}

#[tokio::test]
async fn a_late_read_sees_what_was_written_meanwhile() {
    let world = World::new("").await;
    let (mut a, mut b) = (world.connect(0).await.unwrap(), world.connect(0).await.unwrap());
    world.fault("late-read 200ms").await;
    a.send(Command::Read, 0, &[], 4096).await.unwrap();
    world.until("received", 1).await;
    let start = Instant::now();
    b.write(0, &[5; 4096]).await.unwrap().unwrap();
    assert!(start.elapsed() < 150 * MS, "writes do not wait");
    assert!(timeout(BOUND, a.reply()).await.unwrap().unwrap().unwrap() == [5; 4096]);
}

#[tokio::test]
async fn another_unit_under_the_same_name_for_who_comes_anew() {
    let world = World::new("").await;
    let mut old = world.connect(0).await.unwrap();
    world.array.portals()[0].portal.units[1].write(0, &[8; 4096]).unwrap();
    world.fault("other-unit").await;
    let mut new = world.connect(0).await.unwrap();
    assert!(new.read(0, 4096).await.unwrap().unwrap() == [8; 4096]);
    assert!(old.read(0, 4096).await.unwrap().unwrap() == [0; 4096], "who is there keeps its unit");
    world.clear().await;
    assert!(world.connect(0).await.unwrap().read(0, 4096).await.unwrap().unwrap() == [0; 4096]);
}

#[tokio::test]
async fn a_corrupt_reply_has_a_wrong_bit_in_each_block_and_the_unit_has_not() {
    let world = World::new("").await;
    let mut client = world.connect(0).await.unwrap();
    client.write(0, &[0; 8192]).await.unwrap().unwrap();
    world.fault("corrupt-reply").await;
    let wrong = client.read(0, 8192).await.unwrap().unwrap();
    assert_eq!(wrong.chunks(4096).map(|b| b.iter().filter(|x| **x != 0).count()).collect::<Vec<_>>(), [1, 1]);
    world.clear().await;
    assert!(client.read(0, 8192).await.unwrap().unwrap() == [0; 8192]);
}

#[tokio::test]
async fn a_dropped_cache_loses_what_its_portal_had_not_flushed() {
    let world = World::new(",cache=volatile").await;
    let (mut a, mut b) = (world.connect(0).await.unwrap(), world.connect(1).await.unwrap());
    a.write(0, &[1; 4096]).await.unwrap().unwrap();
    a.send(Command::Flush, 0, &[], 0).await.unwrap();
    a.reply().await.unwrap().unwrap();
    a.write(0, &[2; 4096]).await.unwrap().unwrap();
    b.send(Command::Flush, 0, &[], 0).await.unwrap();
    b.reply().await.unwrap().unwrap();
    assert!(b.read(0, 4096).await.unwrap().unwrap() == [2; 4096], "the caches are coherent");
    world.fault("drop-cache").await;
    assert!(b.read(0, 4096).await.unwrap().unwrap() == [1; 4096], "another portal's flush did not cover it");
    assert_eq!(world.counter("sectors_lost").await, 8);
    let without = world.control(|c| c.fault("b", "drop-cache").unwrap_err().to_string()).await;
    assert!(without.contains("cache=volatile"), "{without}");
}

/// Two hosts, each with a portal of its own, on the unit `u`.
async fn two_hosts() -> World {
    let dir = tempfile::tempdir().unwrap();
    let portals = "--portal a=127.0.0.1:0,host=h1 --portal b=127.0.0.1:0,host=h2";
    let line = format!("array --unit u=1MiB {portals} --control {}/ctl", dir.path().display());
    let array = ArrayCommand::parse_from(line.split(' ')).args.open().await.unwrap();
    World { dir, array }
}

async fn judged(world: &World, owners: &'static [&'static str]) -> Vec<String> {
    let owners: Vec<_> = owners.iter().copied().map(writers::Owned::sometime).collect();
    let seen = world.control(|control| control.writers().unwrap()).await;
    writers::judge(&seen[0], &owners)
}

#[tokio::test]
async fn two_hosts_that_write_by_turns_are_found_out_unless_the_owner_changed() {
    let world = two_hosts().await;
    let (mut one, mut two) = (world.connect(0).await.unwrap(), world.connect(1).await.unwrap());
    for _ in 0..2 {
        one.write(0, &[1; 4096]).await.unwrap().unwrap();
        two.read(0, 4096).await.unwrap().unwrap();
    }
    assert!(judged(&world, &["h1"]).await.is_empty(), "a read is nobody's business");
    two.write(0, &[2; 4096]).await.unwrap().unwrap();
    assert!(judged(&world, &["h1", "h2"]).await.is_empty());
    assert_eq!(judged(&world, &["h1"]).await.len(), 1, "nobody has handed it over");
    one.write(8192, &[1; 512]).await.unwrap().unwrap();
    let faults = judged(&world, &["h1", "h2"]).await;
    assert!(matches!(&faults[..], [fault] if fault.contains("1 write(s) of h1")), "{faults:?}");
    assert!(judged(&world, &["h1", "h2", "h1"]).await.is_empty());
}

#[tokio::test]
async fn a_ghost_of_the_old_owner_may_not_destroy_what_the_new_one_wrote() {
    for (again, faults) in [(1, 0), (2, 1)] {
        let world = two_hosts().await;
        let mut one = world.connect(0).await.unwrap();
        world.fault("slow 200ms ghost 300").await;
        one.send(Command::Write, 0, &[1; 512], 512).await.unwrap();
        world.until("received", 1).await;
        world.fault("reset").await;
        let mut two = world.connect(1).await.unwrap();
        two.write(0, &[again; 512]).await.unwrap().unwrap();
        world.until("ghosts_executed", 1).await;
        let found = judged(&world, &["h1", "h2"]).await;
        assert_eq!(found.len(), faults, "{found:?}");
    }
}
