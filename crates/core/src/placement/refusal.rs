//! Why a host cannot have a VM.

use crate::spec::ByteRate;
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing is heard of it.
    Silent,
    /// The VM leaves it.
    Leaves,
    UnknownVm,
    NoLaunch,
    /// It says that it serves the VM already.
    AlreadyThere,
    Version {
        theirs: String,
        ours: String,
    },
    /// In its own words.
    Accepts(String),
    /// `target/unit`, or the target.
    NoUnit(String),
    Size {
        unit: String,
        theirs: u64,
        ours: u64,
    },
    NoPath {
        unit: String,
        has: u32,
        needs: u32,
    },
    NotWhole {
        target: String,
        lost: u32,
    },
    /// Bytes per second.
    NoRoom {
        target: String,
        has: u64,
        needs: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("nothing is heard of it"),
            Self::Leaves => f.write_str("the VM is there now"),
            Self::UnknownVm => f.write_str("its configuration has no such VM"),
            Self::NoLaunch => f.write_str("the VM has no `launch` in its configuration"),
            Self::AlreadyThere => f.write_str("it says that the VM runs there already"),
            Self::Version { theirs, ours } => write!(f, "its vmpath is {theirs}, and this one {ours}"),
            Self::Accepts(why) => write!(f, "it takes nobody: {why}"),
            Self::NoUnit(unit) => write!(f, "it does not reach {unit}"),
            Self::Size { unit, theirs, ours } => {
                write!(f, "its {unit} has {theirs} bytes, and ours {ours}")
            }
            Self::NoPath { unit, has, needs } => {
                write!(f, "{has} of its paths to {unit} can be relied on, and {needs} must be")
            }
            Self::NotWhole { target, lost } => {
                write!(f, "{lost} of its paths to {target} are not back, or not for long enough")
            }
            Self::NoRoom { target, has, needs } => write!(
                f,
                "it has {} left on {target}, and the VM has reserved {}",
                ByteRate(*has),
                ByteRate(*needs)
            ),
        }
    }
}
