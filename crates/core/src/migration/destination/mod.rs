//! One move, at the host that the VM goes to.

mod speech;

pub use speech::{Act, Input, Withdrawn};
