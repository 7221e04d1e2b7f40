//! What the bytes mean: vmpath's wire protocols as session machines without I/O.
//!
//! A machine is fed bytes as they come and answers with at most one event a call; what it wants to send is taken
//! from it. It holds no socket, no clock and no thread, so the same code runs in the daemon, in the lab's array and
//! under a fuzzer. Invariant: no input panics, no announced length is allocated before its bytes have arrived, and
//! every violation is a typed error that says what was wrong.
//! Rejected: async readers and writers per protocol, which tie the codec to one runtime and hide the partial reads.
//! It does not know: paths, VMs, retries, time.
#![forbid(unsafe_code)]

pub mod nbd;
pub mod qmp;
pub mod virtio_blk;

/// What one call of a machine's `feed` did.
///
/// The contract of every machine here: call `feed` with the bytes not yet consumed until `event` is `None`; an
/// event may come from an empty input too (the end of a payload completes a reply). With `None`, either the whole
/// input was consumed and more is needed, or the machine waits for its owner (a payload to be taken, an answer to
/// be given, a session that is over) and consumes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Fed<E> {
    /// Bytes of the input that the machine has taken; never more than were given.
    pub consumed: usize,
    /// What they mean, if they completed something.
    pub event: Option<E>,
}
