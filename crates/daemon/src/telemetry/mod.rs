//! What the daemon tells the system that runs it: log lines and readiness.
//!
//! Invariant: no task waits for the log. Lines go through a bounded queue to one thread; when its reader is stuck,
//! lines are dropped and counted. Rejected: writing to stderr where the line is made, because a full pipe would then
//! stop the control owner. It does not know what the lines mean; the journal keeps the events that matter.

pub mod log;
pub mod notify;
