//! What the machine at the destination is told, and what it asks for.

use crate::migration::{Answer, HandOver};
use crate::ownership::{Found, UnitEpoch};

/// Each belongs to one move, which is told beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The hypervisor waits for the VM, where the source's is to send to; or why not.
    Launched(Result<String, String>),
    /// The hypervisor that was launched has ended; in words how.
    Ended(String),
    /// The hypervisor has all of the VM: it runs, or stands as it stood at the source.
    Landed,
    /// The answer to [`Act::Query`] if it has not landed.
    Waiting,
    /// The source hands over.
    HandOver(Box<HandOver>),
    /// The hand-over is in a file, or why not.
    Stored(Result<(), String>),
    /// The source does not move it after all, or cannot go on after the commit; in words.
    Discard(String),
    /// A linearizable read of the owners that began after [`Act::ReadOwners`], or a change that was watched; none: nothing
    /// could be read, in words why.
    Owners(Result<Vec<Found>, String>),
    /// The first ring has taken its part of the hand-over: from now on only this host can go on.
    Taken,
    /// The answer to [`Act::Withdraw`].
    Withdrawn(Withdrawn),
    /// The answer to [`Act::GiveBack`].
    GaveBack(Answer),
    /// The answer to [`Act::Bar`].
    Barred(Answer),
    /// The answer to [`Act::Bump`].
    Bumped(Answer),
    /// The source asks again what it has asked before: an answer was lost.
    PrepareAgain,
    /// The deadline has passed.
    Elapsed,
}

/// Whether the data plane has begun with what was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// No ring has taken anything, and none will.
    Untouched,
    /// One has: it cannot be given back.
    Taken,
}

/// To be performed in this order. None of them waits: the answer is an [`Input`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Run the VM's `launch` command. Its disks are not owned: rings are answered and not executed.
    Launch,
    /// Answer the source: where to send to, or why not.
    AnswerPrepare(Result<String, String>),
    /// Answer the source: it is stored, or why not.
    AnswerHandOver(Result<(), String>),
    /// Answer the source: nothing of the move is left here, or that the VM has landed.
    AnswerDiscard(Result<(), String>),
    /// Keep it in a file, bound to its move, and give it to the data plane for when it is owned.
    Store(Box<HandOver>),
    ReadOwners {
        units: Vec<String>,
    },
    /// This host owns the units under these epochs, by its own read: the rings take the hand-over when they start.
    Own {
        units: Vec<UnitEpoch>,
    },
    /// Nothing is taken from now on; answer whether something was.
    Withdraw,
    /// They do not belong to this host (any more): nothing is dispatched for them.
    Disown {
        units: Vec<String>,
    },
    /// One transaction: if every unit belongs to this host under its epoch, they all belong to `to` under the next, by no
    /// move.
    GiveBack {
        to: String,
        units: Vec<UnitEpoch>,
    },
    /// One transaction: if every unit belongs to `owner` under its epoch, they all do under the next. So a commit that is
    /// still on its way has no effect, and the source learns of it.
    Bar {
        owner: String,
        units: Vec<UnitEpoch>,
    },
    /// One transaction: if every unit belongs to this host under its epoch, they all do under the next, by the same move: so
    /// whatever a process before this one has sent has no effect.
    Bump {
        units: Vec<UnitEpoch>,
    },
    /// Ask the hypervisor whether it has landed.
    Query,
    /// End the hypervisor that was launched, with its process group.
    End,
    /// The VM is here: its hypervisor is nobody's to end any more, and what is left of the hand-over goes with its rings.
    Keep,
    /// The VM does not come: remove what is kept of the move.
    Forget,
}
