//! Whether a transfer of memory gets anywhere. QEMU sets no bound of its own: over a dead link it is `active` for ever,
//! and a guest that writes faster than the link carries is sent for ever.
//!
//! Rejected: to look for a new lowest `ram_remaining`. It is near zero at the end of each round, and grows by what the guest
//! wrote meanwhile: only what the rounds begin with says whether they shrink.
//! It does not know what is done about it.

use crate::migration::MigrationStatus;
use crate::time::{Duration, Instant};

/// A transfer that stands still is given up after this. A stuck migration must be cancelled within 10 s: the rest is for the
/// monitor's next answer and for the cancel.
pub const STALL_AFTER: Duration = Duration::from_secs(8);
/// Rounds that do not shrink for so long will not.
pub const CONVERGE_WITHIN: Duration = Duration::from_secs(8);
/// However well it goes. 256 GiB over a link of 1 Gbit/s take less.
pub const TRANSFER_MAX: Duration = Duration::from_secs(3600);
/// Less than this is no progress: protocol, keepalives, a link that only trickles.
const PROGRESS_MIN: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    began: Instant,
    /// When it last got anywhere.
    moved_at: Instant,
    /// Bytes sent and left at that time; none before memory is being sent.
    mark: Option<(u64, u64)>,
    /// Bytes left, as last seen.
    left: u64,
    /// What the round began with that had the least to send so far, and when.
    best: Option<(u64, Instant)>,
    /// When the latest round began, if it is no better than that one.
    no_better: Option<Instant>,
}

impl Watch {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { began: now, moved_at: now, mark: None, left: 0, best: None, no_better: None }
    }

    pub fn see(&mut self, now: Instant, status: &MigrationStatus) {
        if status.ram_total == 0 {
            return;
        }
        let (sent, left) = (status.transferred, status.ram_remaining);
        let progress = self.mark.is_none_or(|(sent_then, left_then)| {
            sent >= sent_then.saturating_add(PROGRESS_MIN) || left.saturating_add(PROGRESS_MIN) <= left_then
        });
        if progress {
            self.moved_at = now;
            self.mark = Some((sent, left));
        }
        self.round(now, left);
        self.left = left;
    }

    /// What is left has grown: a round has begun.
    fn round(&mut self, now: Instant, left: u64) {
        match self.best {
            None => self.best = Some((left, now)),
            Some(_) if left <= self.left => {}
            Some((least, _)) if left < least - least / 10 => {
                self.best = Some((left, now));
                self.no_better = None;
            }
            Some(_) => self.no_better = Some(now),
        }
    }

    /// Bytes sent, as of the last progress, and bytes left; none before memory is being sent.
    #[must_use]
    pub fn transfer(&self) -> Option<(u64, u64)> {
        self.mark.map(|(sent, _)| (sent, self.left))
    }

    /// Why it is to be given up, in words.
    #[must_use]
    pub fn verdict(&self, now: Instant) -> Option<String> {
        if now >= self.moved_at + STALL_AFTER {
            let stands = now.since(self.moved_at).as_secs_f64();
            return Some(match self.mark {
                Some(_) => format!("it stands still for {stands:.1} s, {} left", mib(self.left)),
                None => format!("no memory is being sent after {stands:.1} s"),
            });
        }
        if let (Some((least, since)), Some(round)) = (self.best, self.no_better)
            && round >= since + CONVERGE_WITHIN
        {
            let time = now.since(since).as_secs_f64();
            return Some(format!(
                "it does not converge: for {time:.1} s no round had less than {} to send, the guest writes as fast",
                mib(least)
            ));
        }
        (now >= self.began + TRANSFER_MAX).then(|| {
            format!("it is not done after {} min, {} left", TRANSFER_MAX.as_secs() / 60, mib(self.left))
        })
    }

    /// When time alone changes the verdict.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        (self.moved_at + STALL_AFTER).min(self.began + TRANSFER_MAX)
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
