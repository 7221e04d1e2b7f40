//! Waiting for many disks at once: their interrupts, and the ends of their connections.
//!
//! Edge-triggered, so that an interrupt costs one system call and no read of the eventfd. Invariant: ask the ring for an
//! interrupt and look once more before waiting, or a wake is missed. Rejected: a thread for each disk.
//! It does not know: rings, requests.

use super::client::Client;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

/// Events of one system call.
const AT_ONCE: usize = 64;
const QUEUE_BITS: u32 = 8;
const CONNECTION: u64 = (1 << QUEUE_BITS) - 1;
const TIMER: u64 = u64::MAX;

/// What has happened. `disk` is the number under which it was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The device has interrupted.
    Queue { disk: usize, queue: u16 },
    /// The connection has ended (or the back end has sent something unasked, which it never does).
    Connection { disk: usize },
    /// The pace of [`Waiter::tick_every`].
    Tick,
}

/// What waits.
#[derive(Debug)]
pub struct Waiter {
    epoll: Epoll,
    timer: Option<TimerFd>,
    events: [EpollEvent; AT_ONCE],
}

impl AsRawFd for Waiter {
    /// Readable while there is something to tell.
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl Waiter {
    /// # Errors
    /// Of the system.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, timer: None, events: [EpollEvent::default(); AT_ONCE] })
    }

    /// Waits for a disk's interrupts from now on.
    ///
    /// # Errors
    /// Of the system; as for a disk that was added before.
    pub fn add(&self, disk: usize, client: &Client) -> io::Result<()> {
        for queue in 0..client.queues() {
            self.watch(client.call_fd(queue), key(disk, u64::from(queue)), EventSet::IN)?;
        }
        self.add_connection(disk, client)
    }

    /// Waits for the end of its connection: after [`Client::try_reconnect`] again, since that is another socket.
    ///
    /// # Errors
    /// Of the system.
    pub fn add_connection(&self, disk: usize, client: &Client) -> io::Result<()> {
        match client.connection_fd() {
            Some(fd) => self.watch(fd, key(disk, CONNECTION), EventSet::IN | EventSet::READ_HANG_UP),
            None => Ok(()),
        }
    }

    /// Wakes up at this pace, too.
    ///
    /// # Errors
    /// Of the system.
    pub fn tick_every(&mut self, pace: Duration) -> io::Result<()> {
        let mut timer = TimerFd::new().map_err(io::Error::from)?;
        timer.reset(pace, Some(pace)).map_err(io::Error::from)?;
        self.watch(timer.as_raw_fd(), TIMER, EventSet::IN)?;
        self.timer = Some(timer);
        Ok(())
    }

    /// Waits for something to happen, at most `limit` (in whole milliseconds); what has happened is added to `woken`.
    ///
    /// # Errors
    /// Of the system.
    pub fn wait(&mut self, limit: Duration, woken: &mut Vec<Woken>) -> io::Result<()> {
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        let count = match self.epoll.wait(limit, &mut self.events) {
            Err(why) if why.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        for event in &self.events[..count] {
            if let Some(timer) = self.timer.as_mut().filter(|_| event.data() == TIMER) {
                // A periodic timer goes on only when it is read.
                timer.wait().map_err(io::Error::from)?;
            }
            woken.push(meaning(event.data()));
        }
        Ok(())
    }

    fn watch(&self, fd: RawFd, key: u64, what: EventSet) -> io::Result<()> {
        let event = EpollEvent::new(what | EventSet::EDGE_TRIGGERED, key);
        self.epoll.ctl(ControlOperation::Add, fd, event)
    }
}

fn key(disk: usize, what: u64) -> u64 {
    (disk as u64) << QUEUE_BITS | what
}

fn meaning(key: u64) -> Woken {
    let disk = (key >> QUEUE_BITS) as usize;
    match key & CONNECTION {
        _ if key == TIMER => Woken::Tick,
        CONNECTION => Woken::Connection { disk },
        queue => Woken::Queue { disk, queue: queue as u16 },
    }
}
