//! The one classifier of failures: from what went wrong to what becomes of the request.
//!
//! An error that belongs to the command never fails a path; a lost connection never fails a command. Rejected: deciding
//! at each place where an error shows up, which is how requests get lost.

/// What went wrong with one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptFault {
    /// The connection died with the request on it.
    ConnectionLost,
    /// The target answered with an error; it is finished with the attempt.
    Target(TargetError),
}

/// A target's error, whatever its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// The target could not do the I/O (NBD EIO): a medium error, or trouble behind this one portal.
    Io,
    /// Short of resources (ENOMEM): not done, to be tried again.
    Busy,
    NoSpace,
    /// The request is refused as such (EINVAL, EPERM, EOVERFLOW, ENOTSUP): the same everywhere.
    Invalid,
    NotPermitted,
    /// This portal is going away (ESHUTDOWN).
    ShuttingDown,
}

/// What is left to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alternatives {
    /// Another path with a live connection has not been tried by this request.
    pub untried_path: Presence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Present,
    Absent,
}

/// What becomes of the request. Never "nothing". Whether its range is in quarantine is not decided here: what was lost
/// after it was sent is put there before anything is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Queue it again, at the front; any path may take it (a path already tried only if it is the last).
    Retry,
    /// Queue it again after a pause.
    RetryLater,
    /// Answer the guest with this error.
    Fail(TargetError),
}

#[must_use]
pub fn verdict(fault: AttemptFault, left: Alternatives) -> Verdict {
    match fault {
        AttemptFault::ConnectionLost => Verdict::Retry,
        AttemptFault::Target(error) => match error {
            TargetError::Io => match left.untried_path {
                Presence::Present => Verdict::Retry,
                Presence::Absent => Verdict::Fail(TargetError::Io),
            },
            // A target that stays in this state and keeps the connection would be asked again without a pause. How long that
            // goes on is the policy's to say: no count and no time makes an error of it here.
            TargetError::Busy | TargetError::ShuttingDown => match left.untried_path {
                Presence::Present => Verdict::Retry,
                Presence::Absent => Verdict::RetryLater,
            },
            TargetError::NoSpace | TargetError::Invalid | TargetError::NotPermitted => Verdict::Fail(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        use AttemptFault::{ConnectionLost, Target};
        let some = Alternatives { untried_path: Presence::Present };
        let none = Alternatives { untried_path: Presence::Absent };
        let rows = [
            (ConnectionLost, some, Verdict::Retry),
            (ConnectionLost, none, Verdict::Retry),
            (Target(TargetError::Io), some, Verdict::Retry),
            (Target(TargetError::Io), none, Verdict::Fail(TargetError::Io)),
            (Target(TargetError::Busy), some, Verdict::Retry),
            (Target(TargetError::Busy), none, Verdict::RetryLater),
            (Target(TargetError::NoSpace), some, Verdict::Fail(TargetError::NoSpace)),
            (Target(TargetError::Invalid), some, Verdict::Fail(TargetError::Invalid)),
            (Target(TargetError::NotPermitted), some, Verdict::Fail(TargetError::NotPermitted)),
            (Target(TargetError::ShuttingDown), some, Verdict::Retry),
            (Target(TargetError::ShuttingDown), none, Verdict::RetryLater),
        ];
        for (fault, left, expected) in rows {
            assert_eq!(verdict(fault, left), expected, "{fault:?} {left:?}");
        }
    }
}
