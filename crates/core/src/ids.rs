//! Names for things inside one process: small indices into the [`crate::spec::Spec`] tables.
//!
//! An id is valid for the spec it came from and for every later spec of the same process: a reload keeps the index of
//! each name. Ids never leave the process; outside, things are called by name.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u16);

        impl $name {
            /// Position in the spec's table.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }

            /// The id at a position. The spec's parser keeps tables under 65 536 rows.
            ///
            /// # Panics
            /// If `index` does not fit.
            #[must_use]
            pub fn at(index: usize) -> Self {
                Self(u16::try_from(index).expect("a spec table has fewer than 65536 rows"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A storage system.
    TargetId, "target#");
id!(
    /// One route from this host to a target.
    PathId, "path#");
id!(
    /// A data storage unit in a target.
    UnitId, "unit#");
id!(
    /// A virtual machine.
    VmId, "vm#");
id!(
    /// Several VMs under one allocation.
    GroupId, "group#");
id!(
    /// A virtual disk of a VM, backed by one unit.
    DiskId, "disk#");
id!(
    /// A data-plane worker: one thread.
    WorkerId, "worker#");

/// Everything from one failure to its repair; every decision in it carries this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IncidentId(pub u64);

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "INC-{}", self.0)
    }
}
