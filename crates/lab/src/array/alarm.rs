//! An alarm that rings to some microseconds.
//!
//! A portal of 64 MiB/s serves 8 KiB in 122 µs, and a client with little in flight feels every moment by which its reply
//! is late: the portal would carry less than its capacity. Invariant: it never rings early. Rejected: the runtime's own
//! timers, which have ticks of a millisecond; spinning, which takes a processor.
//! It does not know: what is due.

use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Alarm {
    timer: AsyncFd<OwnedFd>,
    /// For when the timer is set; none if it has rung.
    set: Option<Instant>,
}

impl Alarm {
    /// # Errors
    /// Of the system.
    #[expect(
        deprecated,
        reason = "an OwnedFd keeps its descriptor, which is all that matters; what replaces it is unsafe"
    )]
    pub(super) fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { timer: AsyncFd::with_interest(timer, Interest::READABLE)?, set: None })
    }

    /// Returns at that time or soon after it; never without one. It may be dropped and asked again.
    ///
    /// # Errors
    /// Of the system.
    pub(super) async fn until(&mut self, wake: Option<Instant>) -> io::Result<()> {
        let Some(wake) = wake else { return std::future::pending().await };
        let left = wake.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        if self.set != Some(wake) {
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once(left))?;
            self.set = Some(wake);
        }
        loop {
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0; 8];
            match rustix::io::read(&self.timer, &mut expirations) {
                Ok(_) => {
                    self.set = None;
                    return Ok(());
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(why) => return Err(why.into()),
            }
        }
    }
}

fn once(left: Duration) -> Itimerspec {
    let value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
    Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn it_rings_at_the_time_asked_for_last_and_never_early() {
        let mut alarm = Alarm::new().unwrap();
        let begin = Instant::now();
        assert!(timeout(MS, alarm.until(Some(begin + 3_600_000 * MS))).await.is_err());
        for after in [2, 1, 5, 5] {
            let due = begin + after * MS;
            timeout(1000 * MS, alarm.until(Some(due))).await.unwrap().unwrap();
            assert!(Instant::now() >= due);
        }
        assert!(timeout(MS, alarm.until(None)).await.is_err());
        assert!(timeout(MS, alarm.until(Some(Instant::now() + 3_600_000 * MS))).await.is_err());
    }
}
