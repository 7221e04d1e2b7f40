//! Faults put into the production functions on purpose, so that every checker can be shown to see them.
//!
//! Without the feature `mutants` the question is a constant and the compiler drops each of them. With it, one build holds
//! all, and one at a time is switched on for the whole process. Rejected: a copy of the function with the fault in it,
//! which proves something of the copy only. It does not know who checks.

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant { $($(#[doc = $doc])+ $name,)+ }

        impl Mutant {
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name for people and programs.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// What is wrong with it.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

mutants! {
    /// A lost write leaves no quarantine.
    NoQuarantine = "no-quarantine",
    /// The close of a connection counts as its fence.
    CloseIsFence = "close-is-fence",
    /// A lost write is resent without waiting for overlapping writes in flight elsewhere.
    ResendOverWrites = "resend-over-writes",
    /// Of several lost writes that overlap, all are resent.
    ResendAll = "resend-all",
    /// With several writers a write is acknowledged before the fence.
    AcknowledgeEarly = "acknowledge-early",
    /// A write that failed to the guest leaves quarantine.
    FailedWriteForgotten = "failed-write-forgotten",
    /// What was in quarantine is lost in a crash.
    RecordForgotten = "record-forgotten",
    /// Connections linger: what has not left when one is closed is still delivered.
    LingerForgotten = "linger-forgotten",
    /// What a connection carried goes elsewhere before it is dead.
    BuriedAlive = "buried-alive",
    /// A flush does not cover writes that went over other paths, where caches are lost with a path.
    FlushElsewhere = "flush-elsewhere",
    /// Units are taken for the same without a look.
    IdentityUnchecked = "identity-unchecked",
    /// What a unit held is forgotten when its last path is lost.
    SamplesForgotten = "samples-forgotten",
    /// Those of the highest priority are shed first.
    ShedHighest = "shed-highest",
    /// A VM is resumed as soon as a path comes up, though it has not stayed good.
    ResumeAtOnce = "resume-at-once",
    /// VMs are resumed lowest priority first.
    ResumeLowest = "resume-lowest",
    /// What the operator suspended is resumed with the rest.
    OperatorOverruled = "operator-overruled",
    /// A restart forgets who was suspended.
    SuspendForgotten = "suspend-forgotten",
    /// A VM is suspended and resumed as often as its paths come and go.
    NoDwell = "no-dwell",
    /// A hold never ends.
    HoldForever = "hold-forever",
    /// A VM goes on with fewer paths than it wants.
    MinPathsIgnored = "min-paths-ignored",
    /// A VM is suspended for want of paths that it does not ask for.
    MinPathsExceeded = "min-paths-exceeded",
    /// A reload that takes `fail` out of a ladder does not end the errors.
    FailForever = "fail-forever",
    /// A reload forgets who was suspended.
    ReloadForgets = "reload-forgets",
    /// Failures that have a component in common are incidents of their own.
    ComponentIgnored = "component-ignored",
    /// A `cont` of our own that takes effect late is taken for an operator's.
    LateContForeign = "late-cont",
    /// A VM that stopped on an error that it was answered is nobody's.
    ErredForgotten = "erred-forgotten",
    /// What a target refuses for want of resources fails after a few times.
    BusyFails = "busy-fails",
    /// A VM has one clock for the losses of all its units.
    OneLossClock = "one-loss-clock",
    /// A relapse asks for no more proof of health than the first failure.
    NoDamping = "no-damping",
    /// A request that is answered after its path was lost is completed again.
    CompletedTwice = "completed-twice",
    /// A VM's units are given over without what its guest has open.
    HandOverSkipped = "hand-over-skipped",
    /// A VM's units are given over without what is in quarantine.
    QuarantineStays = "quarantine-stays",
    /// The source serves the VM on if its hypervisor fails after the units were given over.
    SourceServesOn = "source-serves-on",
    /// What QEMU has sent counts as landed, before the destination says so.
    SentIsLanded = "sent-is-landed",
    /// A change of owners that was not answered counts as one that never was.
    CommitForgotten = "commit-forgotten",
    /// A change of owners that may still be on its way counts as one that never comes.
    LateCommitIgnored = "late-commit-ignored",
    /// The destination takes the units for its own before it has read whose they are.
    OwnersUnread = "owners-unread",
    /// What a former process has asked of the store is not made void.
    OwnersNotRenewed = "owners-not-renewed",
    /// A host goes on with units that it is just giving up.
    ReleasedInUse = "released-in-use",
    /// A destination that cannot read the units is taken all the same.
    ProbeIgnored = "probe-ignored",
    /// A VM that has just come is moved again.
    MoveDwellForgotten = "move-dwell-forgotten",
    /// As many VMs leave at once as want to.
    MovesUnbounded = "moves-unbounded",
    /// A restart forgets the moves that were under way.
    MovesForgotten = "moves-forgotten",
    /// A host whose lease has run out counts as dead when its units are taken over.
    TakeoverUnfenced = "takeover-unfenced",
    /// What a dead host has sent is not waited for when its units are taken over.
    TakeoverAtOnce = "takeover-at-once",
    /// What a host has sent before its boot is not waited for.
    BootNotWaited = "boot-not-waited",
}

#[cfg(feature = "mutants")]
mod switch {
    use super::Mutant;
    use std::sync::atomic::{AtomicU8, Ordering};

    const NONE: u8 = u8::MAX;
    static ACTIVE: AtomicU8 = AtomicU8::new(NONE);

    /// Switches one on for the process, or all off.
    pub fn set(mutant: Option<Mutant>) {
        ACTIVE.store(mutant.map_or(NONE, |mutant| mutant as u8), Ordering::SeqCst);
    }

    #[must_use]
    pub fn active(mutant: Mutant) -> bool {
        ACTIVE.load(Ordering::Relaxed) == mutant as u8
    }
}

#[cfg(feature = "mutants")]
pub use switch::{active, set};

/// Whether the fault is switched on: never, without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[must_use]
pub const fn active(_: Mutant) -> bool {
    false
}

impl Mutant {
    /// Whether only a world of several hosts can see it.
    #[must_use]
    pub const fn spans_hosts(self) -> bool {
        self as usize >= Self::HandOverSkipped as usize
    }

    /// The mutant that a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.word() == word)
    }
}
