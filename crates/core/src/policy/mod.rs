//! What happens to each VM: its run state, and the rules that decide about it. Pure: facts in, words and steps out.
//!
//! Invariant: `cont` goes only to the process that we stopped, and only while it is `paused` or `io-error`. A guest
//! sees EIO only where its hypervisor stops on it, or where its own policy says `fail`.
//! Rejected: one machine for the whole host. A VM's run state is small and testable; what the VMs mean to each other
//! (priorities, capacity, pacing) is the controller's.
//! It does not know how facts arrive, nor how a plan is published.

mod cause;
mod dwell;
pub mod fit;
mod floor;
mod guest;
mod ladder;
pub mod rules;
mod run;
mod travel;

pub use cause::{Cause, Outstanding, Why};
pub use dwell::{Dwell, RESUMES_MAX, RESUMES_WITHIN, SUSPENDED_AT_LEAST};
pub use floor::Floor;
pub use guest::{Guest, Monitor};
pub use ladder::{Lack, Ladder, Loss, Retell};
pub use run::{
    Act, CONT_MAY_BE_LATE, Input, LateStop, Note, RESUME_ATTEMPTS_MAX, Run, STOP_ATTEMPTS_MAX,
    STOP_CONFIRM_WITHIN, Step, StopOrder, StopStage,
};
pub use travel::{ASK_HOME, Carried, PLACE_WITHIN, Place, Reason, Sender, Travel, Tried, fled};
