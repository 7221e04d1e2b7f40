//! One move, at the host that the VM leaves.

mod speech;

pub use speech::{Act, DiskEpoch, Input, Move, RoomNeed};
