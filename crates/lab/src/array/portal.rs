//! A portal: one address under which the array serves all of its units, with its own capacity and its own faults.
//!
//! One task owns the listening socket and applies fault commands; each connection is a task that watches the faults.
//! Invariant: a command is answered after it has taken effect: the socket is closed, the connections are gone. The
//! time that is answered was read before the first of them died, so a latency measured from it is never flattered.
//! Rejected: faults behind a lock that each connection polls. It does not know: NBD, the units' bytes.

use super::cache::CacheId;
use super::connection;
use super::fault::{Fault, FaultSet};
use super::service::Service;
use super::unit::Unit;
use crate::clock::unix_micros;
use crate::net::{Address, Listener, Stream};
use crate::units::{parse_duration, parse_rate};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Connections that have been told to die are gone within this, or the answer says that they are not.
const RESET_BOUND: Duration = Duration::from_secs(1);
/// Commands that wait for a portal; each is applied within milliseconds.
const COMMANDS_WAITING: usize = 16;

/// What `--portal NAME=ADDRESS[,capacity=RATE][,latency=TIME][,cache=volatile][,host=NAME]` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortalArg {
    pub name: String,
    pub address: Address,
    /// Bytes per second, both directions together.
    pub capacity: Option<u64>,
    pub latency: Duration,
    /// Whether it keeps what is written until it is told to flush.
    pub volatile_cache: bool,
    /// Whose writes come over it.
    pub host: Option<String>,
}

impl std::str::FromStr for PortalArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || {
            format!(
                "{text:?} is no portal: write NAME=ADDRESS[,capacity=RATE][,latency=TIME][,cache=volatile][,host=NAME], as in a=127.0.0.1:0,capacity=100MiB/s"
            )
        };
        let (name, rest) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(usage)?;
        let mut parts = rest.split(',');
        let address = parts.next().unwrap_or_default().parse()?;
        let (name, latency) = (name.to_owned(), Duration::ZERO);
        let mut arg = Self { name, address, capacity: None, latency, volatile_cache: false, host: None };
        for part in parts {
            match part.split_once('=') {
                Some(("capacity", rate)) => arg.capacity = Some(parse_rate(rate)?),
                Some(("latency", time)) => arg.latency = parse_duration(time)?,
                Some(("cache", "volatile")) => arg.volatile_cache = true,
                Some(("host", name)) if !name.is_empty() => arg.host = Some(name.to_owned()),
                _ => return Err(usage()),
            }
        }
        Ok(arg)
    }
}

/// What has happened at a portal since it was opened.
#[derive(Debug, Default)]
pub struct Counters {
    pub connections: AtomicU64,
    pub connections_total: AtomicU64,
    /// Taken off the wire, payload included.
    pub received: AtomicU64,
    /// Answered.
    pub requests: AtomicU64,
    pub bytes_read: AtomicU64,
    pub bytes_written: AtomicU64,
    pub errors: AtomicU64,
    pub ghosts_pending: AtomicU64,
    pub ghosts_executed: AtomicU64,
    /// Writes that were received, and then dropped because their connection broke.
    pub writes_dropped: AtomicU64,
    /// Sectors of 512 bytes that were lost with the cache.
    pub sectors_lost: AtomicU64,
}

/// A portal's line in `status`.
#[derive(Clone, Debug, Serialize)]
pub struct PortalStatus {
    pub name: String,
    pub address: String,
    /// What is switched on.
    pub faults: Vec<String>,
    pub connections: u64,
    pub connections_total: u64,
    pub received: u64,
    pub requests: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub errors: u64,
    pub ghosts_pending: u64,
    pub ghosts_executed: u64,
    pub writes_dropped: u64,
    pub sectors_lost: u64,
}

/// What connections share.
#[derive(Debug)]
pub struct Portal {
    pub name: String,
    pub address: Address,
    pub units: Arc<Vec<Arc<Unit>>>,
    pub counters: Counters,
    /// Its cache, if it loses what is not flushed.
    pub(super) cache: Option<CacheId>,
    /// Whose writes come over it; those of nobody are not logged.
    pub(super) host: Option<String>,
    service: Mutex<Service>,
    faults: watch::Sender<FaultSet>,
}

/// What can be asked of a portal while it runs.
#[derive(Clone, Debug)]
pub enum Order {
    Fault(Vec<Fault>),
    Clear,
}

/// Microseconds of the wall clock, or why the order could not be carried out.
pub type Effected = Result<u64, String>;

type Command = (Order, oneshot::Sender<Effected>);

/// The way to a portal's task.
#[derive(Clone, Debug)]
pub struct PortalHandle {
    pub portal: Arc<Portal>,
    commands: mpsc::Sender<Command>,
}

impl PortalHandle {
    /// Opens the portal with this number and serves it until the runtime ends.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn open(number: usize, arg: &PortalArg, units: Arc<Vec<Arc<Unit>>>) -> anyhow::Result<Self> {
        let (listener, address) = Listener::bind(&arg.address).await.map_err(|why| {
            anyhow::anyhow!(
                "portal {}: cannot listen on {}: {why}; choose another address",
                arg.name,
                arg.address
            )
        })?;
        let portal = Arc::new(Portal {
            name: arg.name.clone(),
            address,
            units,
            counters: Counters::default(),
            cache: arg.volatile_cache.then_some(number),
            host: arg.host.clone(),
            service: Mutex::new(Service::new(arg.capacity, arg.latency, Instant::now())),
            faults: watch::Sender::new(FaultSet::default()),
        });
        let (commands, orders) = mpsc::channel(COMMANDS_WAITING);
        let task =
            PortalTask { portal: Arc::clone(&portal), listener: Some(listener), connections: JoinSet::new() };
        tokio::spawn(task.run(orders));
        Ok(Self { portal, commands })
    }

    /// Carries the order out; the time is when it took effect.
    ///
    /// # Errors
    /// If it could not be carried out; in words.
    pub async fn order(&self, order: Order) -> Effected {
        let (done, answer) = oneshot::channel();
        let sent = self.commands.send((order, done)).await;
        let answer = if sent.is_ok() { answer.await.ok() } else { None };
        answer.unwrap_or_else(|| Err("the portal's task has ended; restart the array".to_owned()))
    }
}

impl Portal {
    /// Queues `bytes` for service; says when they are served.
    #[must_use]
    pub fn admit(&self, bytes: u32, now: Instant) -> Instant {
        self.service.lock().unwrap_or_else(PoisonError::into_inner).admit(bytes, now)
    }

    /// # Errors
    /// In words, if a fault makes no sense here.
    fn can_have(&self, faults: &[Fault]) -> Result<(), String> {
        if faults.contains(&Fault::DropCache) && self.cache.is_none() {
            let name = &self.name;
            return Err(format!("portal {name} has no cache to lose; start it with ,cache=volatile"));
        }
        if faults.contains(&Fault::OtherUnit) && self.units.len() < 2 {
            return Err(
                "this array has one unit, so there is no other to serve; start it with two".to_owned()
            );
        }
        Ok(())
    }

    /// # Errors
    /// Of a unit's file.
    fn drop_cache(&self) -> Result<(), String> {
        let Some(cache) = self.cache else { return Ok(()) };
        for unit in self.units.iter() {
            let lost = unit.lose(cache).map_err(|why| format!("unit {}: {why}", unit.name))?;
            self.counters.sectors_lost.fetch_add(lost, Ordering::Relaxed);
        }
        Ok(())
    }

    #[must_use]
    pub fn watch_faults(&self) -> watch::Receiver<FaultSet> {
        self.faults.subscribe()
    }

    #[must_use]
    pub fn status(&self) -> PortalStatus {
        let c = &self.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PortalStatus {
            name: self.name.clone(),
            address: self.address.to_string(),
            faults: self.faults.borrow().words(),
            connections: get(&c.connections),
            connections_total: get(&c.connections_total),
            received: get(&c.received),
            requests: get(&c.requests),
            bytes_read: get(&c.bytes_read),
            bytes_written: get(&c.bytes_written),
            errors: get(&c.errors),
            ghosts_pending: get(&c.ghosts_pending),
            ghosts_executed: get(&c.ghosts_executed),
            writes_dropped: get(&c.writes_dropped),
            sectors_lost: get(&c.sectors_lost),
        }
    }
}

/// Owner of a portal's listening socket.
struct PortalTask {
    portal: Arc<Portal>,
    /// None while connections are refused.
    listener: Option<Listener>,
    connections: JoinSet<()>,
}

impl PortalTask {
    async fn run(mut self, mut orders: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => {
                    let Some((order, done)) = order else { return };
                    let _ = done.send(self.carry_out(order).await);
                }
                Some(_) = self.connections.join_next() => {}
                accepted = accept(self.listener.as_ref()) => match accepted {
                    Ok(stream) => self.serve(stream),
                    // Out of descriptors, mostly: do not spin.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        }
    }

    fn serve(&mut self, stream: Stream) {
        let faults = connection::Faults::of(&self.portal);
        self.connections.spawn(connection::serve(Arc::clone(&self.portal), stream, faults));
    }

    async fn carry_out(&mut self, order: Order) -> Effected {
        match order {
            Order::Fault(faults) => self.break_with(&faults).await,
            Order::Clear => self.repair().await,
        }
    }

    /// The listener goes first: who is reset must not come in again through the old door.
    async fn break_with(&mut self, faults: &[Fault]) -> Effected {
        self.portal.can_have(faults)?;
        if faults.contains(&Fault::Refuse) {
            self.listener = None;
        }
        let at = unix_micros();
        let now = Instant::now();
        self.portal.faults.send_modify(|set| faults.iter().for_each(|fault| set.add(*fault, now)));
        if faults.contains(&Fault::Reset) {
            let all_gone = async { while self.connections.join_next().await.is_some() {} };
            let gone = tokio::time::timeout(RESET_BOUND, all_gone).await;
            gone.map_err(|_| "some connections are not reset yet; ask for the status".to_owned())?;
        }
        // Connections are gone first: one that is about to die must not acknowledge into an empty cache what then stays.
        if faults.contains(&Fault::DropCache) {
            self.portal.drop_cache()?;
        }
        Ok(at)
    }

    async fn repair(&mut self) -> Effected {
        let address = &self.portal.address;
        if self.listener.is_none() {
            let bound = Listener::bind(address).await;
            self.listener =
                Some(bound.map_err(|why| format!("cannot listen on {address} again: {why}; try again"))?.0);
        }
        self.portal.faults.send_modify(FaultSet::clear);
        Ok(unix_micros())
    }
}

async fn accept(listener: Option<&Listener>) -> std::io::Result<Stream> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}
