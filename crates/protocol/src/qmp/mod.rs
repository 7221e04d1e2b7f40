//! QMP, QEMU's monitor protocol: a small tolerant codec for both sides.
//!
//! Source: QEMU's `docs/interop/qmp-spec.rst` and, for the names, its `qapi/*.json`. Messages are JSON objects, one a
//! line. Invariant: a field or message that we do not know is never an error; a line is bounded by
//! [`LINE_LEN_MAX`] before it is parsed. Rejected: types generated from QEMU's schema, which fail on the replies of
//! any other version. It does not know: sockets, time, which reply belongs to which caller, or what a VM is.

mod block;
mod encode;
mod line;
mod message;
mod migration;
mod run_state;

pub use block::{ERROR_POLICIES, disks_that_count, is_stop, qom_get, query_block};
pub use encode::{
    cont, encode_error, encode_event, encode_greeting, encode_return, execute, qmp_capabilities,
    query_status, query_version, quit, stop,
};
pub use message::{EventTime, QemuVersion, QmpCommand, QmpCommandReader, QmpMessage, QmpReader, QmpRequest};
pub use migration::{
    DOWNTIME_LIMIT_MAX_MS, MIGRATION_CAPABILITIES, MigrationInfo, MigrationLimits, MigrationState, RamInfo,
    memory_of_backends, memory_size, migrate, migrate_cancel, migrate_continue, migrate_incoming,
    migrate_set_capabilities, migrate_set_parameters, query_memdev, query_memory_size_summary, query_migrate,
};
pub use run_state::{RunState, StatusInfo};

/// What a command returned: any JSON, to be given to the reader that the command names.
pub type Returned = serde_json::Value;

/// The longest line accepted, in bytes: QEMU's largest replies (query-qmp-schema aside) are far below.
pub const LINE_LEN_MAX: usize = 1 << 20;

/// Why a QMP stream or reply cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    #[error("a line is longer than {LINE_LEN_MAX} bytes")]
    LineTooLong,
    #[error("a line is no JSON object: {why}; it begins with {start:?}")]
    NotJson { why: String, start: String },
    #[error("the reply to query-status has no status: {0}")]
    NoStatus(String),
    #[error("the reply to query-migrate is of no known shape: {0}")]
    NoMigration(String),
}
