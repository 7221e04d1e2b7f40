//! People's words for the reasons on the wire, for `explain` and for the commands.
//!
//! Invariant: every reason of this version has words; one that a newer daemon sends is shown as it came.

use super::wire;

/// A few letters, for a column.
#[must_use]
pub fn held_short(reason: &str) -> &str {
    match reason {
        "no-path" => "no path",
        "window" => "no room",
        "retry-later" => "retry later",
        "stopped" => "ring stopped",
        "identity-check" => "identity",
        "acknowledgement" => "unfenced",
        // limit, policy, headroom, quarantine, owner, fence.
        plain => plain,
    }
}

/// What holds a request, as the end of "held by …".
#[must_use]
pub fn held(reason: &str) -> &str {
    match reason {
        "limit" => "its limit",
        "policy" => "policy",
        "no-path" => "no path",
        "window" => "no room on a path",
        "headroom" => "headroom kept for a higher priority",
        "quarantine" => "quarantine",
        "retry-later" => "a target short of resources",
        "stopped" => "a stopped ring",
        "owner" => "another host's ownership",
        "fence" => "the fence after a restart",
        "identity-check" => "an identity check",
        "acknowledgement" => "the fence before its answer",
        newer => newer,
    }
}

/// `held at once, suspended after 60.0 s`; the fate itself where nothing changes.
#[must_use]
pub fn stages(vm: &wire::VmFate) -> String {
    let stage = |stage: &wire::Stage| match stage.after_ms {
        0 => format!("{} at once", stage.fate),
        ms @ 1..1000 => format!("{} after {ms} ms", stage.fate),
        ms => format!("{} after {:.1} s", stage.fate, ms as f64 / 1000.0),
    };
    let stages: Vec<_> = vm.stages.iter().map(stage).collect();
    if stages.is_empty() { vm.fate.clone() } else { stages.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmpath_core::view::HoldReason;

    #[test]
    fn every_reason_has_words_that_fit() {
        for reason in HoldReason::ALL {
            let key = reason.as_str();
            let (long, short) = (held(key), held_short(key));
            assert!(long.contains(' ') || ["policy", "quarantine"].contains(&long), "{key}: {long}");
            assert!(short.len() <= 12 && !short.contains('-'), "{key}: {short}");
        }
        assert_eq!((held("phase-of-moon"), held_short("phase-of-moon")), ("phase-of-moon", "phase-of-moon"));
    }
}
