//! The causes of suspensions, read from the journal's sentences: the one place here that knows words.

/// Why a VM is held or suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Operator,
    /// `on_path_loss`.
    PathLoss,
    /// `on_no_path`.
    NoPath,
    Shed,
    /// It stopped while vmpath was away, or its front end had to be woken.
    Other,
}

impl Cause {
    pub(super) fn of(reason: &str) -> Self {
        let says = |words: &str| reason.contains(words);
        if says("the operator asked for it") {
            Self::Operator
        } else if says("shedding, ") {
            Self::Shed
        } else if says("on_path_loss = ") {
            Self::PathLoss
        } else if says("on_no_path") {
            Self::NoPath
        } else {
            Self::Other
        }
    }

    /// Failures alone lead to it, however often they come.
    pub(super) fn is_by_failure(self) -> bool {
        match self {
            Self::PathLoss | Self::NoPath | Self::Shed => true,
            Self::Operator | Self::Other => false,
        }
    }
}

/// The attempts to resume it are used up; the operator is asked.
pub(super) fn is_giving_up(reason: &str) -> bool {
    reason.contains("attempts to resume it")
}

/// A `cont` that did not take effect is taken back: the paths are gone again.
pub(super) fn is_taken_back(reason: &str) -> bool {
    reason.starts_with("not resumed after all")
}

/// What was stopped already is to stay so for another reason.
pub(super) fn is_retained(reason: &str) -> bool {
    reason.starts_with("it is to stay suspended: ") || reason.starts_with("it stays suspended: ")
}

/// A release of the requests that waited for a path, not of what a rule has done.
pub(super) fn is_path_back(reason: &str) -> bool {
    reason.starts_with("a path to ")
        || reason.starts_with("it has its min_paths to ")
        || reason.contains(" is no longer refused ")
}

/// A `cont` of ours that nobody wanted any more has taken effect: the suspension before goes on.
pub(super) fn is_late_cont(reason: &str) -> bool {
    reason.starts_with("a `cont` that was taken back took effect late")
}

pub(super) fn is_by_other(reason: &str) -> bool {
    reason.starts_with("somebody else continued it")
}

/// The rule that a VM is or was suspended by, in the words of a view.
pub(super) fn suspended_by(because: &str) -> Option<&str> {
    because.strip_prefix("rule: ").or_else(|| because.strip_prefix("it was suspended by the rule: "))
}
