//! Who has this host's name: the process whose mark is under `alive/HOST` in etcd, for as long as its lease lives.
//!
//! Invariant: two processes that do not know of each other's death never have a session under one name. A mark is put only where
//! there is none, or one of a process that is dead for certain; by comparing revisions, so that of two that come at once one gets it.
//! It does not know what a session is used for.

use super::Revision;
use super::call::{Fault, bounded};
use super::process::Process;
use crate::peer;
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use serde::{Deserialize, Serialize};
use vmpath_core::time::{Duration, Instant};

/// How each refusal for somebody else's mark begins.
const IN_USE: &str = "another vmpath has this host's name";

/// Over the time in which a dead process's lease runs out: etcd's own clocks, and an election, which prolongs it.
const RUNS_OUT_WITHIN: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
struct Wire {
    /// Hexadecimal.
    process: String,
    boot: String,
    since: u64,
}

fn mark(process: &Process) -> Vec<u8> {
    let wire =
        Wire { process: format!("{:x}", process.id), boot: process.boot.clone(), since: process.since };
    serde_json::to_vec(&wire).unwrap_or_default()
}

/// Since when the mark that may be replaced is there; 0: there is none.
///
/// # Errors
/// The name is somebody else's, or nobody knows.
pub(super) async fn look(client: &Client, key: &str, process: &Process) -> Result<Revision, String> {
    let found = bounded(client.kv_client().get(key, None)).await.map_err(Fault::words)?;
    let Some(kv) = found.kvs().first() else { return Ok(0) };
    judge(kv.value(), process).map(|()| kv.mod_revision())
}

/// Puts this process's mark where `look` has looked.
///
/// # Errors
/// Somebody was faster, or it is not known.
pub(super) async fn take(
    client: &Client,
    key: &str,
    process: &Process,
    (lease, seen): (i64, Revision),
) -> Result<(), String> {
    let options = PutOptions::new().with_lease(lease);
    let txn = Txn::new().when([Compare::mod_revision(key, CompareOp::Equal, seen)]).and_then([TxnOp::put(
        key,
        mark(process),
        Some(options),
    )]);
    let done = bounded(client.kv_client().txn(txn)).await.map_err(Fault::words)?;
    if done.succeeded() { Ok(()) } else { Err("who has this host's name has changed just now".into()) }
}

/// Whether this one may take the place of whose mark it is.
fn judge(value: &[u8], process: &Process) -> Result<(), String> {
    let Ok(wire) = serde_json::from_slice::<Wire>(value) else {
        return Err(format!("{IN_USE}: its mark cannot be read"));
    };
    let id = u64::from_str_radix(&wire.process, 16).ok();
    if id.is_some_and(|id| id == process.id || process.former.contains(&id)) {
        return Ok(());
    }
    Err(format!("{IN_USE} (boot id {}, since {})", wire.boot, peer::date(wire.since)))
}

pub(super) fn is_in_use(why: &str) -> bool {
    why.contains(IN_USE)
}

/// Since when this process has been told that somebody else has its name.
#[derive(Debug, Default)]
pub(super) struct Rival {
    seen: Option<Instant>,
}

impl Rival {
    /// What is to be told.
    ///
    /// # Errors
    /// That one lives, in words: whoever has had no session yet gets none, not even when it is silent. It may be cut off from etcd,
    /// and write.
    pub(super) fn words(
        &mut self,
        now: Instant,
        lease: Duration,
        (host, why): (&str, &str),
    ) -> Result<String, String> {
        let seen = *self.seen.get_or_insert(now);
        if now.since(seen) < lease + RUNS_OUT_WITHIN {
            return Ok(format!("{why}; if it has ended, its lease runs out within {} s", lease.as_secs()));
        }
        Err(format!(
            "another machine uses the name {host}: {why}, and it lives. Give one of the two another name, then restart vmpath here"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: u64, former: &[u64]) -> Process {
        Process::of_test(id, former, "m")
    }

    #[test]
    fn only_a_process_that_is_dead_is_replaced() {
        let theirs = mark(&process(7, &[]));
        assert_eq!(judge(&theirs, &process(7, &[])), Ok(()), "its own");
        assert_eq!(judge(&theirs, &process(8, &[5, 7])), Ok(()), "the one before");
        let why = judge(&theirs, &process(8, &[5])).expect_err("it may live");
        assert!(is_in_use(&why) && why.contains("since 1970-01-01 00:00:00 UTC"), "{why}");
        for broken in ["", "{}", "{\"process\":\"x\",\"boot\":\"\",\"since\":1}"] {
            assert!(is_in_use(&judge(broken.as_bytes(), &process(8, &[])).expect_err(broken)), "{broken}");
        }
    }

    #[test]
    fn one_that_outlives_its_lease_is_no_process_of_before() {
        let (mut rival, lease) = (Rival::default(), Duration::from_secs(2));
        let mut at = |seconds: u64| rival.words(Instant::from_millis(seconds * 1000), lease, ("kvm1", "why"));
        assert!(at(100).is_ok() && at(111).is_ok());
        assert!(at(112).expect_err("it lives").contains("another machine uses the name kvm1: why"));
    }
}
