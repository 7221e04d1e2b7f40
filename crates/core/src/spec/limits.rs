//! How much a configuration may ask for. Each bound with its reason.

use super::types::ByteRate;
use crate::time::Duration;

/// Far above any real configuration; keeps a wrong file (a disk image, say) from filling memory.
pub(super) const SOURCE_BYTES_MAX: usize = 4 << 20;

/// Ids are 16 bits wide, and the plan that workers swap in is copied as a whole: tables stay small.
pub const TARGETS_MAX: usize = 256;
pub const PATHS_MAX: usize = 1024;
/// Components (`via`) of one path: more is no help to who reads it.
pub(super) const COMPONENTS_MAX: usize = 16;
/// A unit's paths are looked through for every request.
pub const PATHS_PER_TARGET_MAX: usize = 32;
/// Every unit has one disk and one front end with threads and buffers of its own.
pub const DISKS_MAX: usize = 4096;
pub const VMS_MAX: usize = 1024;
/// Disks of a VM under `[cluster]`: etcd takes so many comparisons in one transaction, by default.
pub const OWNED_TOGETHER_MAX: usize = 128;
/// A group without members does nothing, so there are never more of use.
pub const GROUPS_MAX: usize = VMS_MAX;
/// Options of units that no disk uses count too.
pub(super) const UNIT_OPTIONS_MAX: usize = 4096;

/// A listening socket or port per disk, plus connections of each path and unit: descriptors are finite.
pub(super) const CONNECTIONS_MAX: u64 = 16;
pub(super) const CONNECTIONS_DEFAULT: u8 = 1;

/// More threads than any host has CPUs to spare for its storage.
pub(super) const WORKERS_MAX: u64 = 64;
/// Beyond so many virtqueues a disk gains nothing: all of a VM's queues are served by one thread.
pub(super) const QUEUES_MAX: u64 = 16;

pub(super) const PRIORITY_MAX: u64 = 1_000_000;
pub(super) const PRIORITY_DEFAULT: u32 = 100;
/// The ratio of two shares stays exact in the scheduler's fixed point.
pub(super) const SHARES_MAX: u64 = 100_000;
pub(super) const SHARES_LOW: u32 = 500;
pub(super) const SHARES_NORMAL: u32 = 1000;
pub(super) const SHARES_HIGH: u32 = 2000;

/// Below this not even one request of a file system's block size would pass in a second.
pub(super) const LIMIT_MIN: ByteRate = ByteRate(4 << 10);
/// Above any device; keeps sums of rates far from overflow.
pub(super) const RATE_MAX: ByteRate = ByteRate(1 << 40);
pub(super) const IOPS_MAX: u64 = 100_000_000;

/// Smaller, and an ordinary request would not fit at all.
pub(super) const WINDOW_MIN: u64 = 64 << 10;
pub(super) const WINDOW_MAX: u64 = 1 << 30;
pub(super) const WINDOW_WITHOUT_CAPACITY: u64 = 64 << 20;
/// What a path may ever owe of its capacity: the round trip of the farthest array that guests could live with.
pub(super) const WINDOW_OF_CAPACITY: Duration = Duration::from_millis(200);

/// Shorter than this, and an answer that is merely late counts as lost.
pub(super) const REACTION_MIN: Duration = Duration::from_millis(100);
pub(super) const REACTION_MAX: Duration = Duration::from_secs(600);
pub(super) const PATIENCE_MAX: Duration = Duration::from_secs(3600);
pub(super) const QUIESCE_DEFAULT: Duration = Duration::from_secs(5);
pub(super) const PING_BUDGET_DEFAULT: Duration = Duration::from_secs(5);
pub(super) const REPAIR_AFTER_DEFAULT: Duration = Duration::from_secs(1);
pub(super) const SHED_AFTER_DEFAULT: Duration = Duration::from_secs(1);
/// Of `on_no_path`, and of what should be suspended and cannot be.
pub const HOLD_DEFAULT: Duration = Duration::from_secs(60);
/// A VM that was moved is let be for so long, so that two sick hosts do not throw it to and fro.
pub(super) const DWELL_DEFAULT: Duration = Duration::from_secs(600);
pub(super) const DWELL_MAX: Duration = Duration::from_secs(24 * 3600);
/// As many members as any etcd has, and a few that are being replaced.
pub(super) const ENDPOINTS_MAX: usize = 16;
/// Each key has it in front, and there are thousands.
pub(super) const PREFIX_BYTES_MAX: usize = 128;
/// etcd grants no less: one and a half of its elections.
pub(super) const LEASE_MIN: Duration = Duration::from_secs(2);
/// A host that has been dead for longer is no destination.
pub(super) const LEASE_MAX: Duration = Duration::from_secs(120);
/// More streams than a host's network carries.
pub(super) const MIGRATIONS_MAX: u64 = 64;
pub(super) const SETTLE_MIN: Duration = Duration::from_millis(10);
/// The guest stands still meanwhile.
pub(super) const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Hundreds of lines: an incident of a small host.
pub(super) const JOURNAL_BYTES_MIN: u64 = 64 << 10;
/// It lies in memory, too.
pub(super) const JOURNAL_BYTES_MAX: u64 = 256 << 20;
pub(super) const JOURNAL_MAX_DEFAULT: u64 = 32 << 20;
pub(super) const JOURNAL_AGE_MIN: Duration = Duration::from_secs(60);
pub(super) const JOURNAL_AGE_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
pub(super) const JOURNAL_AGE_DEFAULT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Enough for a clock's and a thread's unevenness; a second's excess stays below one percent.
pub(super) const LIMIT_BURST_DEFAULT: Duration = Duration::from_millis(5);
/// A longer one is no limit any more, but a credit.
pub(super) const LIMIT_BURST_MAX: Duration = Duration::from_secs(10);
