//! What the machine at the source is told, and what it asks for.

use crate::migration::{Answer, DiskHandOver, HandOver, MigrationStatus, MoveId, VmCarry};
use crate::ownership::{Found, UnitEpoch};
use crate::time::Duration;

/// One move, as it is decided. It is plain data, and kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub id: MoveId,
    pub vm: String,
    /// Host names.
    pub from: String,
    pub to: String,
    /// The host at which the VM began.
    pub home: String,
    /// The hosts that it will have fled from once it is there: see [`crate::policy::Travel`].
    pub fled: Vec<String>,
    /// All disks of the VM that have an owner, with the epochs under which this host owns them.
    pub disks: Vec<DiskEpoch>,
    /// The hypervisor process that it is about.
    pub instance: u64,
    /// Bytes of its guest's memory, if known: the destination's must be the same.
    pub memory: Option<u64>,
    /// What the VM's reservation needs at the destination, by target.
    pub room: Vec<RoomNeed>,
    /// How long its requests may finish over live paths once it stands still.
    pub settle: Duration,
    /// `INC-7`; none for a move that the operator asked for.
    pub incident: Option<String>,
    /// How the VM stands when the move begins, and is to stand when it has arrived.
    pub vm_state: VmCarry,
    /// The rule that applied, in words.
    pub rule: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskEpoch {
    /// The disk's name within the VM.
    pub disk: String,
    pub unit: UnitEpoch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomNeed {
    pub target: String,
    /// Bytes per second.
    pub rate: u64,
}

/// Each belongs to one move, which is told beside it; answers say nothing of which question of that move they belong to,
/// because the state does: what does not fit it is late or repeated, and ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The destination has read each unit itself, after it was asked; or why it does not qualify.
    Probed(Answer),
    /// The room for its reservation is claimed for it.
    Claimed(Answer),
    /// The destination is ready to receive; where QEMU is to send to, as `migrate` takes it: `tcp:ADDRESS:PORT`.
    Prepared(Answer<String>),
    /// From the process that the move is about, asked after the last order to it was answered.
    Hypervisor(MigrationStatus),
    /// That process's monitor is gone or deaf; in words. It may come back.
    MonitorLost(String),
    /// Another hypervisor process is there, or none any more: the one that the move is about has ended.
    Replaced,
    /// The order to migrate was answered with an error, before anything was sent.
    MigrateRefused(String),
    /// Nothing of the VM is in flight; what each disk hands over.
    Settled(Result<Vec<DiskHandOver>, String>),
    /// The destination has stored the hand-over.
    HandedOver(Answer),
    Committed(Answer),
    /// The commit was not sent, and will not be; in words why.
    NotCommitted(String),
    /// A linearizable read of the owners that began after [`Act::ReadOwners`]; none: nothing could be read, in words why.
    Owners(Result<Vec<Found>, String>),
    /// The answer to [`Act::Bump`].
    Bumped(Answer),
    /// The answer to [`Act::Discard`]; refused: the VM has landed there.
    Discarded(Answer),
    /// The store is not heard any more; in words why. It was, when the move began.
    StoreAway(String),
    /// It is heard again.
    StoreHeard,
    /// The operator, or the policy, wants it ended; in words. Ignored once it may be committed.
    Cancel(String),
    /// The deadline has passed.
    Elapsed,
}

/// To be performed in this order. None of them waits: the answer is an [`Input`]. An order to a hypervisor process that is
/// not there any more is answered with [`Input::Replaced`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Ask the destination to read each unit.
    Probe {
        to: String,
        units: Vec<String>,
    },
    /// Claim room, under the lease of this host.
    Claim {
        to: String,
        room: Vec<RoomNeed>,
    },
    /// Give the claim up.
    Unclaim,
    /// Ask the destination to start a hypervisor that waits for the VM.
    Prepare(Box<Move>),
    /// QMP: `pause-before-switchover` on, then `migrate`.
    Migrate {
        instance: u64,
        uri: String,
    },
    /// The rings are stopped, or will be in a moment: let finish what can within `by`, cut off the rest, tell all of it.
    /// From then on the data plane holds the VM's requests until [`Act::Revoke`] or until its front ends are gone.
    Settle {
        by: Duration,
    },
    /// Give this to the destination, which answers when it is stored.
    HandOver(Box<HandOver>),
    /// One transaction: if every unit belongs to this host under its epoch, they all belong to `to` under the next, by this
    /// move. Sent once; the answer is [`Input::Committed`].
    Commit {
        to: String,
        units: Vec<UnitEpoch>,
    },
    ReadOwners {
        units: Vec<String>,
    },
    /// One transaction: if every unit belongs to this host under its epoch, they all do under the next: whatever was sent
    /// under the old one has no effect any more.
    Bump {
        units: Vec<UnitEpoch>,
    },
    /// This host owns the units under these epochs (after a bump, or because they were given back).
    Own {
        units: Vec<UnitEpoch>,
    },
    /// They belong to somebody else: nothing more is dispatched for them.
    Disown {
        units: Vec<String>,
    },
    /// QMP `migrate-continue`.
    Continue {
        instance: u64,
    },
    /// QMP `migrate_cancel`.
    Cancel {
        instance: u64,
    },
    /// QMP `query-migrate`, answered with [`Input::Hypervisor`].
    Query {
        instance: u64,
    },
    /// QMP `stop`: its units belong to the destination, and it must not be seen twice.
    Stop {
        instance: u64,
    },
    /// QMP `cont`: we have stopped it, and it belongs here again.
    Resume {
        instance: u64,
    },
    /// The destination is to end what it has begun, if the VM has not landed there; what it owns of it by then it gives back.
    Discard {
        to: String,
        why: String,
    },
    /// The data plane goes on with the VM's requests when its rings run.
    Revoke,
}
