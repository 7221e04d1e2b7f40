//! What happens to the paths, in order, and when it happened in one turn.

use serde::Serialize;

/// ```text
/// healthy -(path b is reset and refuses)-> lost -(cleared, up again)-> repaired -(path b + 20 ms)-> slower -(cleared)-> restored
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    Healthy,
    Lost,
    Repaired,
    Slower,
    Restored,
}

impl Phase {
    pub(super) const ALL: [Self; 5] =
        [Self::Healthy, Self::Lost, Self::Repaired, Self::Slower, Self::Restored];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Lost => "one path lost",
            Self::Repaired => "repaired",
            Self::Slower => "one path 20 ms slower",
            Self::Restored => "restored",
        }
    }

    /// Whether both paths carry all that they can.
    pub(super) fn is_whole(self) -> bool {
        match self {
            Self::Healthy | Self::Repaired | Self::Restored => true,
            Self::Lost | Self::Slower => false,
        }
    }
}

/// Times in seconds since the load began.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Mark {
    pub(super) phase: Phase,
    /// The array was told.
    pub(super) began: f64,
    /// The daemon uses the paths as they are now: the same but for a repair.
    pub(super) in_force: f64,
    /// From here on figures are of a steady state.
    pub(super) steady: f64,
    pub(super) ended: f64,
}
