//! What one host's controller hears of the others, and what it asks of them: one closed enum each way.
//!
//! The controller decides whether a VM should leave, and each move is a machine of its own ([`crate::migration`]); the daemon
//! knows the store, the other daemons and the data plane, and says what became of what was asked.
//! It does not know who the other hosts are: a host is looked for by placement, on being asked.

use crate::ids::{DiskId, UnitId, VmId};
use crate::migration::{Move, MoveId, destination, source};
use crate::ownership::Ownership;

/// As [`crate::event::Event::Cluster`].
#[derive(Clone, Debug)]
pub enum Heard {
    /// The store that hosts share answers. `nonce` tells this process of vmpath from every other: it is part of each move's name.
    Up { nonce: u64 },
    /// It does not; in words. What is known of owners stays known.
    Down { why: String },
    /// Who owns a unit, as this host knows it now.
    Owner { unit: UnitId, ownership: Ownership },
    /// The answer to [`Ask::Place`]: the best host, or why none will do.
    Placed { vm: VmId, result: Result<Chosen, String> },
    /// Another host wants to move one of its VMs here. Answered with an [`source::Input::Prepared`] at that host.
    Invited(Box<Move>),
    /// How far a unit has been taken over from a host that is dead, in words, and what ends that state.
    TakeOver { unit: UnitId, reason: String, until: Option<String> },
    /// A disk has come with other requests than were handed over, in words: what it wants is held. None: it has begun since, or its
    /// front end has gone.
    Misfit { disk: DiskId, why: Option<String> },
    /// What became of an [`Ask::Leave`]. What its hypervisor says comes as [`crate::event::Event::Hypervisor`].
    Leaving { vm: VmId, move_id: MoveId, input: source::Input },
    /// What became of an [`Ask::Arrive`], or what the source wants.
    Arriving { vm: VmId, move_id: MoveId, input: destination::Input },
}

/// Where a VM is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    pub host: String,
    /// What it is better in than the others that would do, in words; empty where nobody chose.
    pub why: String,
}

/// Named by whoever asked: nobody chose.
impl From<&str> for Chosen {
    fn from(host: &str) -> Self {
        Self { host: host.to_owned(), why: String::new() }
    }
}

/// As [`crate::effect::Effect::Cluster`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Look for a host. Answered with [`Heard::Placed`], soon.
    Place { vm: VmId, whereto: Whereto },
    /// A step of a move of a VM that leaves.
    Leave { vm: VmId, move_id: MoveId, act: source::Act },
    /// A step of a move of a VM that comes.
    Arrive { vm: VmId, move_id: MoveId, act: destination::Act },
    /// End the hypervisor process that a VM has left, if that is what it is: it holds memory, and the monitor's socket.
    EndLeft { vm: VmId, instance: u64 },
    /// An invitation is refused; in words.
    Decline { move_id: MoveId, why: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereto {
    Best,
    /// The operator has named it.
    Named(String),
    /// Where it came from, if that host has its paths back for long enough.
    Home(String),
}
