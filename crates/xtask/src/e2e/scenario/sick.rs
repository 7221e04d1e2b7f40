//! Paths that are neither up nor lost, and clients that are neither good nor bad. Nobody waits for any of them longer than
//! the configuration says.

use crate::e2e::host::Host;
use crate::e2e::network::now_unix_us;
use crate::e2e::rawclient::{RawClient, Request};
use crate::e2e::stage::Stage;
use crate::e2e::storage;
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use vmpath_lab::array::control::ArrayControl;
use vmpath_lab::report::{Bound, Truth};

/// As in `sick-path.toml`.
const PING_BUDGET: Duration = Duration::from_secs(1);
const TCP_PORT: u16 = 10810;
const BLOCK: usize = 4096;
/// Requests are placed here, beyond what the identity check looks at first.
const PLACE: u64 = 8 << 20;
const SEEN_MAX: Duration = Duration::from_secs(1);
const UP_MAX: Duration = Duration::from_secs(6);
/// A path that failed requests which the other served is sick, and must look well for ten seconds.
const WELL_MAX: Duration = Duration::from_secs(20);
const RECONNECT_MAX: Duration = Duration::from_secs(3);

pub(super) fn sick_path(stage: &mut Stage) -> Result<()> {
    let (_storage, mut array) = storage::array(stage, &["gold", "silver", "bronze"])?;
    let mut host = Host::start(stage, "sick-path.toml")?;
    leave_at_once(stage)?;
    disable_hung(stage, &mut host, &mut array)?;
    reconnect_beside_errors(stage, &mut host, &mut array)?;
    only_handshakes(stage, &mut host, &mut array)?;
    crowd(stage, &mut host)?;
    host.finish(stage)
}

/// Writes with the leave right behind them are executed, whether the client waits for the end or is gone.
fn leave_at_once(stage: &mut Stage) -> Result<()> {
    const WRITES: u64 = 16;
    let socket = stage.dir.join("gold.sock");
    for (way, fill) in [("and waits", 0xa1_u8), ("and is gone", 0xa2)] {
        let data = [fill; BLOCK];
        let place = |n: u64| PLACE + n * BLOCK as u64;
        let mut client = RawClient::open(&socket, "vda")?;
        let mut requests: Vec<_> =
            (0..WRITES).map(|n| Request::Write { offset: place(n), data: &data }).collect();
        requests.push(Request::Disconnect);
        client.send(&requests)?;
        if way == "and waits" {
            let closed = client.is_closed()?;
            stage.report.check_that("a client that leaves is closed", Truth::from(closed), "");
        }
        drop(client);

        let mut reader = RawClient::open(&socket, "vda")?;
        let mut missing = WRITES;
        // One that is gone cannot know when its writes are executed.
        _ = stage.wait("the writes", SEEN_MAX, |_| {
            missing = 0;
            for n in 0..WRITES {
                missing += u64::from(read_block(&mut reader, place(n))? != data);
            }
            Ok((missing == 0).then_some(()))
        });
        let name = format!("writes lost of a client that writes, leaves {way}");
        stage.report.check(&name, missing as f64, Bound::Equal(0.0), "writes").note = format!("of {WRITES}");
        stage.say(format!("a client writes, leaves {way}: {missing} of {WRITES} writes lost"));
    }
    Ok(())
}

fn read_block(client: &mut RawClient, offset: u64) -> Result<Vec<u8>> {
    client.send(&[Request::Read { offset, length: BLOCK as u32 }])?;
    let reply = client.reply()?.context("the connection is closed instead of a reply")?;
    anyhow::ensure!(reply.error == 0, "a read fails: error {}", reply.error);
    Ok(reply.data)
}

/// An operator takes out a path that hangs: what is on it does not wait for its return.
fn disable_hung(stage: &mut Stage, host: &mut Host, array: &mut ArrayControl) -> Result<()> {
    const EACH: u64 = 32;
    let bound = PING_BUDGET + Duration::from_secs(1);
    let mut client = RawClient::open(&stage.dir.join("gold.sock"), "vda")?;
    array.fault("a", "hang")?;
    let data = [0xb1; BLOCK];
    let offset = |n: u64| PLACE + n * BLOCK as u64;
    let writes = (0..EACH).map(|n| Request::Write { offset: offset(n), data: &data });
    let reads = (EACH..2 * EACH).map(|n| Request::Read { offset: offset(n), length: BLOCK as u32 });
    client.send(&writes.chain(reads).collect::<Vec<_>>())?;
    let mut waiting = 0.0_f64;
    _ = stage.wait("requests to be on path a", SEEN_MAX / 2, |_| {
        waiting = waiting.max(host.path_number("san0/a", "pending_requests")?);
        Ok((waiting > 0.0).then_some(()))
    });
    let name = "requests on the hung path when it is disabled";
    stage.report.check(name, waiting, Bound::AtLeast(1.0), "requests");

    switch(stage, host, "disable")?;
    let began = Instant::now();
    let failed = collect(&mut client, began + bound + Duration::from_secs(1))?;
    let took = (client.open_requests() == 0).then(|| millis(began.elapsed()));
    let name = "from the disabling to the last of its requests completed";
    stage.report.check(name, took, Bound::AtMost(millis(bound)), "ms").note =
        format!("{} without a reply", client.open_requests());
    stage.report.check("of them failed", failed as f64, Bound::Equal(0.0), "requests");
    stage.say(format!("{} of {} requests have no reply", client.open_requests(), 2 * EACH));

    array.clear("a")?;
    switch(stage, host, "enable")?;
    host.wait_all_up(stage, UP_MAX)
}

fn switch(stage: &mut Stage, host: &mut Host, word: &str) -> Result<()> {
    let answer = host.operator(&["path", word, "san0/a"])?;
    let words = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).trim().to_owned();
    stage.say(format!("path {word} san0/a: {words}"));
    stage.report.check_that(
        &format!("vmpath path {word} is accepted"),
        Truth::from(answer.status.success()),
        words,
    );
    Ok(())
}

/// Takes in replies until all are there or the time is over. How many are errors.
fn collect(client: &mut RawClient, until: Instant) -> Result<usize> {
    let mut failed = 0;
    while client.open_requests() > 0 {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        client.set_patience(left)?;
        match client.reply() {
            Ok(reply) => failed += usize::from(reply.context("closed instead of a reply")?.error != 0),
            Err(_) if Instant::now() >= until => break, // its wait was cut short by us
            Err(why) => return Err(why),
        }
    }
    Ok(failed)
}

/// A path comes back while the only one that is up answers nothing but errors.
fn reconnect_beside_errors(stage: &mut Stage, host: &mut Host, array: &mut ArrayControl) -> Result<()> {
    array.fault("a", "error EIO")?;
    let reset_at = array.fault("b", "reset")?;
    let reset_when = Instant::now();
    stage.say("portal a answers EIO; portal b is reset");
    let lost = stage.wait("path b to be seen lost", SEEN_MAX, |_| {
        let told = host.events()?.into_iter().filter(|e| e.at_unix_us >= reset_at);
        let is_loss = |kind: &str| matches!(kind, "path-down" | "link-down");
        Ok(told.into_iter().find(|e| is_loss(&e.kind) && e.subject.contains("san0/b")).map(drop))
    });
    stage.report.check_that("path b was seen lost", Truth::from(lost.is_ok()), "");
    let up = stage.wait("path b to be up", RECONNECT_MAX + SEEN_MAX, |_| {
        Ok(leads_everywhere(host, "san0/b")?.then(|| reset_when.elapsed()))
    });
    let name = "from the reset of path b to path b up, path a answering EIO";
    let reason = host.path("san0/b")?["reason"].as_str().unwrap_or_default().to_owned();
    stage.report.check(name, up.as_ref().ok().copied().map(millis), Bound::AtMost(3000.0), "ms").note =
        reason;
    stage
        .say(up.map_or_else(|why| format!("{why:#}"), |t| format!("path b is up after {:.0} ms", millis(t))));

    let mut client = RawClient::open(&stage.dir.join("gold.sock"), "vda")?;
    let data = [0xc1; BLOCK];
    for n in 0..32 {
        let offset = PLACE + n * BLOCK as u64;
        client.send(&[Request::Write { offset, data: &data }, Request::Read { offset, length: 512 }])?;
    }
    let failed = collect(&mut client, Instant::now() + RECONNECT_MAX)?;
    let ill = failed + client.open_requests();
    stage.report.check("requests that failed then, of 64", ill as f64, Bound::Equal(0.0), "requests").note =
        format!("{failed} errors, {} without a reply", client.open_requests());
    array.clear("a")?;
    host.wait_all_up(stage, WELL_MAX)
}

fn leads_everywhere(host: &mut Host, path: &str) -> Result<bool> {
    let row = host.path(path)?;
    let links = row["links"].as_array().context("a path without links")?;
    Ok(row["health"] == "up" && links.iter().all(|link| link["state"] == "up"))
}

/// Path a shakes hands and answers nothing: what is compared with it must not hold up the guest.
fn only_handshakes(stage: &mut Stage, host: &mut Host, array: &mut ArrayControl) -> Result<()> {
    const WRITES: usize = 20;
    const PAUSE: Duration = Duration::from_millis(150);
    let mut client = RawClient::open(&stage.dir.join("bronze.sock"), "vda")?;
    array.fault("a", "slow 30s reset")?;
    stage.say("portal a shakes hands, and takes 30 s for each request");
    stage.watch(Duration::from_secs(1), |_| Ok(()))?;
    let mut slowest = Duration::ZERO;
    let mut failed = 0;
    let data = [0xd1; BLOCK];
    for _ in 0..WRITES {
        let began = Instant::now();
        client.send(&[Request::Write { offset: 0, data: &data }])?;
        failed += usize::from(client.reply()?.is_none_or(|reply| reply.error != 0));
        slowest = slowest.max(began.elapsed());
        stage.watch(PAUSE, |_| Ok(()))?;
    }
    let path = host.path("san1/a")?;
    let words = format!("{}: {}", path["health"], path["reason"]);
    stage.report.check_that("path a was sick meanwhile", Truth::from(path["health"] != "up"), words);
    let name = "slowest write to the first block while path a only shakes hands";
    stage.report.check(name, millis(slowest), Bound::AtMost(1000.0), "ms").note = format!("of {WRITES}");
    stage.report.check("of them failed", failed as f64, Bound::Equal(0.0), "writes");
    stage.say(format!("slowest write to the first block: {:.1} ms", millis(slowest)));
    array.clear("a")?;
    Ok(())
}

/// Clients that come to one disk and say nothing are nobody else's trouble, and none any more once they are gone.
fn crowd(stage: &mut Stage, host: &mut Host) -> Result<()> {
    const EACH: usize = 40;
    let gold = stage.dir.join("gold.sock");
    let mut before = RawClient::open(&gold, "vda")?;
    let idle = idle_clients(&gold, EACH);
    stage.report.check_that(
        "the idle clients get as far as they may",
        Truth::from(idle.len() >= EACH),
        format!("{} of {} connected", idle.len(), 2 * EACH),
    );
    stage.say(format!("{} idle clients of gold", idle.len()));
    for (name, socket) in [("silver", "silver.sock"), ("bronze", "bronze.sock")] {
        let began = Instant::now();
        let read = RawClient::open(&stage.dir.join(socket), "vda").and_then(|mut c| c.read(PLACE, 4096));
        let took = matches!(read, Ok(Some(0))).then(|| millis(began.elapsed()));
        let check = format!("opening and reading {name} beside {} idle clients of gold", 2 * EACH);
        stage.report.check(&check, took, Bound::AtMost(1000.0), "ms").note =
            read.err().map(|why| format!("{why:#}")).unwrap_or_default();
    }
    let began = Instant::now();
    let read = before.read(PLACE, 4096);
    let took = matches!(read, Ok(Some(0))).then(|| millis(began.elapsed()));
    stage.report.check("a read of gold's client that came before them", took, Bound::AtMost(1000.0), "ms");
    drop(idle);
    drop(before);
    let gone_at = now_unix_us();
    let served = stage.wait("gold to be served again", SEEN_MAX * 3, |_| {
        let served = RawClient::open(&gold, "vda").and_then(|mut client| client.read(PLACE, 4096));
        Ok(matches!(served, Ok(Some(0))).then(now_unix_us))
    });
    let took = served.ok().map(|at| (at - gone_at) as f64 / 1e3);
    let name = "from the idle clients' end to a new client of gold served";
    stage.report.check(name, took, Bound::AtMost(1000.0), "ms");
    host.check_alive()
}

/// Connections by unix socket and by TCP that say nothing.
///
/// Connecting to a unix socket that nobody accepts from has no bound of its own: a thread does it, and is given up.
fn idle_clients(gold: &Path, each: usize) -> Vec<OwnedFd> {
    let (by_unix, receiver) = mpsc::channel();
    let by_tcp = by_unix.clone();
    let socket = gold.to_owned();
    thread::spawn(move || {
        for stream in (0..each).map_while(|_| UnixStream::connect(&socket).ok()) {
            _ = by_unix.send(OwnedFd::from(stream)); // we may have been given up
        }
    });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, TCP_PORT));
    thread::spawn(move || {
        for stream in (0..each).map_while(|_| TcpStream::connect_timeout(&address, SEEN_MAX).ok()) {
            _ = by_tcp.send(OwnedFd::from(stream));
        }
    });
    let until = Instant::now() + SEEN_MAX * 2;
    let next = || receiver.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
    std::iter::from_fn(next).collect()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
