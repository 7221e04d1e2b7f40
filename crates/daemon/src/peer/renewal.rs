//! Keeps the identity as the files say: read at the start, and again when they have changed, so that a renewed certificate
//! needs no restart.
//!
//! Invariant: files that do not fit together (half replaced, say) never displace an identity that works. The files are read
//! on a thread for blocking work: the disk under /etc may be the sick one.
//! It does not know connections: those that stand keep the identity with which they began.

use super::identity::{Files, Identity};
use crate::sys::clock;
use arc_swap::ArcSwap;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long a renewed certificate may lie there unread.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// An end that is nearer than this is told as a warning.
const WARN_BEFORE_S: u64 = 14 * 86_400;

/// Of a file's mode: what everybody may do.
const OTHERS: u32 = 0o007;

/// The identity, or why there is none, in words.
type Present = Result<Identity, String>;

/// The daemon's wall clock, as rustls asks for it.
#[derive(Debug)]
pub struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_micros(clock::unix_micros(clock::now()))))
    }
}

/// What the files say. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keeper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Files,
    time: Arc<dyn TimeProvider>,
    present: ArcSwap<Present>,
    /// What was last read, and on which day: an end that comes nearer is told once a day.
    read: Mutex<Option<(Stamp, u64)>>,
}

/// What tells one state of the files from another: of each the inode, the times of change, the length.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp([Option<(u64, i64, i64, u64)>; 3]);

/// The task that looks at the files; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Keeper {
    /// Reads the files, which blocks, as the start of a daemon may.
    #[must_use]
    pub fn new(files: Files, time: Arc<dyn TimeProvider>) -> Self {
        let nothing = Err("the certificate was not read".to_owned());
        let (present, read) = (ArcSwap::from_pointee(nothing), Mutex::default());
        let keeper = Self(Arc::new(Inner { files, time, present, read }));
        keeper.look();
        keeper
    }

    /// Looks again and again.
    #[must_use]
    pub fn watch(&self) -> Watch {
        let keeper = self.clone();
        Watch(tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let looking = keeper.clone();
                // It fails only when the daemon ends.
                let _ = tokio::task::spawn_blocking(move || looking.look()).await;
            }
        }))
    }

    /// Reads the files if they are others than before. Blocks on them.
    pub(super) fn look(&self) {
        let Inner { files, time, read, .. } = &*self.0;
        // Taken first: what changes meanwhile is seen the next time.
        let stamp = Stamp([&files.ca, &files.cert, &files.key].map(|file| stamp(file)));
        let now = (stamp, self.unix_now() / 86_400);
        let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.as_ref() != Some(&now) {
            *read = Some(now);
            if let Ok(key) = fs::metadata(&files.key)
                && key.mode() & OTHERS != 0
            {
                let file = files.key.display();
                tracing::warn!(
                    "{file} can be read by other users, who can then speak in this host's name: chmod 600"
                );
            }
            self.take(Identity::load(files, time));
        }
    }

    #[must_use]
    pub fn present(&self) -> Arc<Present> {
        self.0.present.load_full()
    }

    /// Seconds since 1970, by the clock that certificates are held against.
    #[must_use]
    pub fn unix_now(&self) -> u64 {
        self.0.time.current_time().map_or(0, |now| now.as_secs())
    }

    /// Takes what was read, unless it is worse than what is there.
    fn take(&self, read: Present) {
        match read {
            Ok(identity) => {
                let end = identity.dates.to;
                if let Some(trouble) = &identity.trouble {
                    tracing::error!("other hosts will refuse this one: {trouble}");
                } else if end.saturating_sub(self.unix_now()) < WARN_BEFORE_S {
                    tracing::warn!("this host's certificate ends on {}", super::words::date(end));
                } else {
                    tracing::info!("this host's certificate is good until {}", super::words::date(end));
                }
                self.0.present.store(Arc::new(Ok(identity)));
            }
            Err(why) if self.present().is_ok() => {
                tracing::error!("the new certificate is not taken, the one before stays in force: {why}");
            }
            Err(why) => {
                tracing::error!("no other host can be spoken to: {why}");
                self.0.present.store(Arc::new(Err(why)));
            }
        }
    }
}

fn stamp(file: &Path) -> Option<(u64, i64, i64, u64)> {
    let found = fs::metadata(file).ok()?;
    let change = found.ctime().wrapping_mul(1_000_000_000).wrapping_add(found.ctime_nsec());
    Some((found.ino(), found.mtime(), change, found.len()))
}
