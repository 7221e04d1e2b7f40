//! What is asked of every contestant alike.

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) pattern: Pattern,
    /// Bytes of each request.
    pub(super) block: u32,
    /// Requests that are open at a time.
    pub(super) depth: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    RandomRead,
    RandomWrite,
    SequentialRead,
    SequentialWrite,
}

impl Pattern {
    /// The same words in fio and in the lab's client.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::RandomRead => "randread",
            Self::RandomWrite => "randwrite",
            Self::SequentialRead => "read",
            Self::SequentialWrite => "write",
        }
    }
}

const fn load(name: &'static str, about: &'static str, pattern: Pattern, block: u32, depth: u32) -> Workload {
    Workload { name, about, pattern, block, depth }
}

pub(super) const READ_32: &str = "4k-read-32";
pub(super) const READ_1: &str = "4k-read-1";
pub(super) const READ_128K: &str = "128k-read-8";
pub(super) const WRITE_128K: &str = "128k-write-8";

pub(super) const ALL: &[Workload] = &[
    load(READ_1, "4 KiB random read, depth 1", Pattern::RandomRead, 4096, 1),
    load("4k-write-1", "4 KiB random write, depth 1", Pattern::RandomWrite, 4096, 1),
    load(READ_32, "4 KiB random read, depth 32", Pattern::RandomRead, 4096, 32),
    load("4k-write-32", "4 KiB random write, depth 32", Pattern::RandomWrite, 4096, 32),
    load(READ_128K, "128 KiB sequential read, depth 8", Pattern::SequentialRead, 128 << 10, 8),
    load(WRITE_128K, "128 KiB sequential write, depth 8", Pattern::SequentialWrite, 128 << 10, 8),
];
