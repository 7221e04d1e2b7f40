//! Locks that the kernel drops with the process that holds them.
//!
//! A process that has just been killed is there for some moments more, and with it its locks: they are tried again for a while.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::time::Duration;

/// For how long a dying process is waited for.
pub const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// Locks an open file or directory for this process alone, for as long as the file is open. None: another one has it. Blocks for
/// `patience`.
///
/// # Errors
/// The system's refusal.
pub fn take(file: File, patience: Duration) -> io::Result<Option<File>> {
    let taken = patiently(patience, || match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(())),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
        Err(error) => Err(io::Error::from(error)),
    })?;
    Ok(taken.map(|()| file))
}

/// Tries once, and again for as long as `patience` lasts. None: it never came to anything.
///
/// # Errors
/// Of the attempt that had one.
pub fn patiently<T, E>(
    patience: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let mut left = patience.as_millis() / PAUSE.as_millis();
    loop {
        if let Some(done) = attempt()? {
            return Ok(Some(done));
        }
        if left == 0 {
            return Ok(None);
        }
        left -= 1;
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_at_a_time_and_the_next_when_that_one_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::open(dir.path()).unwrap();
        let first = take(open(), Duration::ZERO).unwrap();
        assert!(first.is_some());
        assert!(take(open(), Duration::ZERO).unwrap().is_none());
        drop(first);
        assert!(take(open(), Duration::ZERO).unwrap().is_some());
    }

    #[test]
    fn what_comes_late_is_waited_for_and_what_never_comes_is_not_for_ever() {
        let mut tries = 0;
        let third = |tries: &mut u32| {
            *tries += 1;
            Ok::<_, ()>((*tries == 3).then_some("done"))
        };
        assert_eq!(patiently(PAUSE * 2, || third(&mut tries)), Ok(Some("done")));
        let mut tries = 0;
        assert_eq!(patiently(PAUSE, || third(&mut tries)), Ok(None));
        assert_eq!(tries, 2);
    }
}
