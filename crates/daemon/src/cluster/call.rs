//! Single calls to etcd, each with a deadline.
//!
//! Invariant: *refused* is what etcd has said, or what was never sent; a change whose reply did not come is *unknown*, whatever the
//! reason looks like. A change reads first and compares revisions, which never repeat, so it fails against anything that came between.
//! Rejected: comparing values; an operator who restores a key by hand would make an old change fit again.
//! It does not know sessions.

use super::change::Change;
use super::connect::words;
use super::keys::Keys;
use super::record::{Record, write_room};
use super::slice::Slice;
use super::{Others, Outcome, Refusal, Revision, Room, UNITS_MAX};
use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, GetResponse, PutOptions, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};
use std::future::Future;
use std::sync::Arc;
use vmpath_core::ownership::Found;
use vmpath_core::time::Duration;

/// An election of etcd's takes one to two seconds; a call that outlives it has gone to a member that is lost.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// A call that failed, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// etcd has declined it: it has had no effect.
    Declined(String),
    /// No answer, or one that says nothing of the effect.
    Unclear(String),
}

impl Fault {
    pub(super) fn words(self) -> String {
        match self {
            Self::Declined(why) | Self::Unclear(why) => why,
        }
    }
}

/// What a unit's key holds, and since when; revision 0 for a key that was never there.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) unit: String,
    pub(super) record: Record,
    pub(super) revision: Revision,
}

/// What a call has found of its units, all of it at one revision.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub(super) as_of: Revision,
    pub(super) entries: Vec<Entry>,
}

impl Reading {
    fn found(&self) -> Vec<Found> {
        self.entries.iter().map(|entry| entry.record.found(&entry.unit)).collect()
    }
}

pub(super) async fn bounded<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Fault> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(fault(&error)),
        Err(_) => Err(Fault::Unclear(format!("etcd has not answered for {} s", CALL_TIMEOUT.as_secs()))),
    }
}

/// Only what etcd itself says before or instead of applying a request is a refusal. `Unavailable` is not: it also comes when a
/// leader is lost with the request in its hands.
fn fault(error: &Error) -> Fault {
    let text = words(error);
    let Error::GRpcStatus(status) = error else { return Fault::Unclear(text) };
    // The code's own type belongs to a crate that is not ours to name.
    let declined = [
        "InvalidArgument",
        "PermissionDenied",
        "Unauthenticated",
        "FailedPrecondition",
        "ResourceExhausted",
        "NotFound",
    ];
    // A client's own checks use the same codes; etcd's words begin like this.
    let by_etcd = status.message().starts_with("etcdserver:");
    if by_etcd && declined.contains(&format!("{:?}", status.code()).as_str()) {
        Fault::Declined(text)
    } else {
        Fault::Unclear(text)
    }
}

/// etcd does not know this host's user any more, or not by this password; in etcd's own words, whose codes it shares with much else.
pub(super) fn is_shut_out(why: &str) -> bool {
    let words = [
        "etcdserver: authentication failed",
        "etcdserver: invalid auth token",
        "etcdserver: revision of auth store is old",
    ];
    words.iter().any(|words| why.contains(words))
}

/// What the units' keys hold, at one revision, as the majority knows it.
pub(super) async fn look(client: &Client, keys: &Keys, units: &[String]) -> Result<TxnResponse, Fault> {
    let gets: Vec<_> = units.iter().map(|unit| TxnOp::get(keys.owner(unit), None)).collect();
    bounded(client.kv_client().txn(Txn::new().and_then(gets))).await
}

/// Who owns the units; the same.
async fn read(client: &Client, keys: &Keys, units: &[String]) -> Result<Reading, Fault> {
    reading(units, &look(client, keys, units).await?)
}

fn reading(units: &[String], response: &TxnResponse) -> Result<Reading, Fault> {
    let as_of = response.header().map_or(0, etcd_client::ResponseHeader::revision);
    let responses = response.op_responses();
    let mut entries = vec![];
    for (unit, response) in units.iter().zip(&responses) {
        let TxnOpResponse::Get(get) = response else {
            return Err(Fault::Unclear("etcd has answered something else".into()));
        };
        entries.push(entry(unit, get)?);
    }
    if entries.len() == units.len() {
        Ok(Reading { as_of, entries })
    } else {
        Err(Fault::Unclear("etcd has answered too little".into()))
    }
}

fn entry(unit: &str, get: &GetResponse) -> Result<Entry, Fault> {
    let unit = unit.to_owned();
    let Some(kv) = get.kvs().first() else { return Ok(Entry { unit, record: Record::ABSENT, revision: 0 }) };
    let record = Record::read(kv.value())
        .map_err(|why| Fault::Declined(format!("the owner of {unit} cannot be read in etcd: {why}")))?;
    Ok(Entry { unit, record, revision: kv.mod_revision() })
}

fn not_asked(why: impl Into<String>) -> Outcome {
    Outcome::Refused(Refusal::NotAsked(why.into()))
}

pub(super) async fn read_owners(client: Client, keys: Keys, units: Vec<String>) -> (Outcome, Reading) {
    let mut all: Option<Reading> = None;
    for some in units.chunks(UNITS_MAX) {
        let reading = match read(&client, &keys, some).await {
            Ok(reading) => reading,
            Err(fault) => return (not_asked(fault.words()), Reading::default()),
        };
        match &mut all {
            // What was read later was true at the first revision or after it.
            Some(all) => all.entries.extend(reading.entries),
            None => all = Some(reading),
        }
    }
    match all {
        Some(all) => (Outcome::Done { revision: all.as_of, owners: all.found() }, all),
        None => (not_asked("no unit was named"), Reading::default()),
    }
}

/// All units or none. Also returns what is known of them now.
pub(super) async fn change(client: Client, keys: Keys, me: String, change: Change) -> (Outcome, Reading) {
    let units = &change.units;
    if units.is_empty() || units.len() > UNITS_MAX {
        return (not_asked(format!("an order is for 1 to {UNITS_MAX} units")), Reading::default());
    }
    let before = match read(&client, &keys, units).await {
        Ok(before) => before,
        Err(fault) => return (not_asked(fault.words()), Reading::default()),
    };
    let next = |(at, entry): (usize, &Entry)| change.next(&me, at, &entry.record);
    let Some(after) = before.entries.iter().enumerate().map(next).collect::<Option<Vec<Record>>>() else {
        return (Outcome::Refused(Refusal::There(before.found())), before);
    };
    let same =
        |entry: &Entry| Compare::mod_revision(keys.owner(&entry.unit), CompareOp::Equal, entry.revision);
    let put = |(unit, record): (&String, &Record)| TxnOp::put(keys.owner(unit), record.write(), None);
    let txn = Txn::new()
        .when(before.entries.iter().map(same).collect::<Vec<_>>())
        .and_then(units.iter().zip(&after).map(put).collect::<Vec<_>>())
        .or_else(units.iter().map(|unit| TxnOp::get(keys.owner(unit), None)).collect::<Vec<_>>());
    match bounded(client.kv_client().txn(txn)).await {
        Ok(response) => told(units, after, &response),
        // Whoever commits goes on by himself if it was not asked: so that is said only of what was never sent.
        Err(Fault::Declined(why)) if !change.is_commit() => (not_asked(why), before),
        Err(Fault::Declined(why)) => (Outcome::Unknown { why }, Reading::default()),
        Err(Fault::Unclear(why)) => (Outcome::Unknown { why }, Reading::default()),
    }
}

/// What etcd has answered to a change.
fn told(units: &[String], after: Vec<Record>, response: &TxnResponse) -> (Outcome, Reading) {
    let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
    if !response.succeeded() {
        return match reading(units, response) {
            Ok(there) => (Outcome::Refused(Refusal::There(there.found())), there),
            Err(fault) => (Outcome::Unknown { why: fault.words() }, Reading::default()),
        };
    }
    let entry = |(unit, record): (&String, Record)| Entry { unit: unit.clone(), record, revision };
    let reading = Reading { as_of: revision, entries: units.iter().zip(after).map(entry).collect() };
    (Outcome::Done { revision, owners: reading.found() }, reading)
}

/// Also returns the lease under which the room is kept, unless it surely is not.
pub(super) async fn claim_room(
    mut client: Client,
    keys: Keys,
    room: Room,
    seen: Arc<Others>,
    ttl: Duration,
) -> (Outcome, Option<i64>) {
    if room.targets.is_empty() || room.targets.len() > UNITS_MAX {
        return (not_asked(format!("room is claimed on 1 to {UNITS_MAX} targets")), None);
    }
    let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
    let lease = match bounded(client.lease_grant(seconds, None)).await {
        Ok(granted) => granted.id(),
        Err(fault) => return (not_asked(fault.words()), None),
    };
    let unchanged = |(target, _): &(String, u64)| {
        // Each claim is put once, so whatever is there and is not later than the last one known is known.
        let there =
            seen.rooms.iter().filter(|there| there.claim.host == room.host && there.claim.target == *target);
        let last = there.map(|there| there.revision).max().unwrap_or_default();
        Compare::mod_revision(keys.rooms_on(target, &room.host), CompareOp::Less, last + 1).with_prefix()
    };
    let put = |(target, rate): &(String, u64)| {
        let options = PutOptions::new().with_lease(lease);
        TxnOp::put(keys.room(target, &room.host, &room.id), write_room(&room.vm, *rate), Some(options))
    };
    let txn = Txn::new()
        .when(room.targets.iter().map(unchanged).collect::<Vec<_>>())
        .and_then(room.targets.iter().map(put).collect::<Vec<_>>());
    let outcome = match bounded(client.kv_client().txn(txn)).await {
        Ok(response) => {
            let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
            if response.succeeded() {
                return (Outcome::Done { revision, owners: vec![] }, Some(lease));
            }
            Outcome::Refused(Refusal::Crowded)
        }
        Err(Fault::Declined(why)) => not_asked(why),
        Err(Fault::Unclear(why)) => return (Outcome::Unknown { why }, Some(lease)),
    };
    drop_lease(client, lease).await;
    (outcome, None)
}

/// If this fails, the lease runs out by itself.
pub(super) async fn drop_lease(mut client: Client, lease: i64) {
    let _ = bounded(client.lease_revoke(lease)).await;
}

/// Puts what this host says of itself.
///
/// # Errors
/// Why some of it may not have arrived.
pub(super) async fn publish(
    client: Client,
    keys: Keys,
    me: String,
    lease: i64,
    slices: Vec<(String, Slice)>,
) -> Result<Vec<(String, Slice)>, String> {
    for chunk in slices.chunks(UNITS_MAX) {
        let put = |(target, slice): &(String, Slice)| {
            let options = PutOptions::new().with_lease(lease);
            TxnOp::put(keys.host(target, &me), slice.clone().write(), Some(options))
        };
        let puts: Vec<_> = chunk.iter().map(put).collect();
        bounded(client.kv_client().txn(Txn::new().and_then(puts))).await.map_err(Fault::words)?;
    }
    Ok(slices)
}

/// A whole prefix, and the revision that it is of.
pub(super) async fn list(client: &Client, prefix: String) -> Result<(Revision, GetResponse), Fault> {
    let mut kv = client.kv_client().max_decoding_message_size(LIST_BYTES_MAX);
    let response = bounded(kv.get(prefix, Some(GetOptions::new().with_prefix()))).await?;
    Ok((response.header().map_or(0, etcd_client::ResponseHeader::revision), response))
}

/// A thousand hosts with the largest of summaries.
pub(super) const LIST_BYTES_MAX: usize = 160 << 20;

/// Whether this machine is the one that is known by that name; it is from now on if none was.
///
/// # Errors
/// If another one is, or if that cannot be read.
pub(super) async fn be_known(client: &Client, key: String, machine: String) -> Result<(), String> {
    let txn = Txn::new()
        .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
        .and_then([TxnOp::put(key.clone(), machine.clone(), None)])
        .or_else([TxnOp::get(key.clone(), None)]);
    let response = bounded(client.kv_client().txn(txn)).await.map_err(Fault::words)?;
    let other = response.op_responses().iter().any(|response| match response {
        TxnOpResponse::Get(get) => get.kvs().first().is_some_and(|kv| kv.value() != machine.as_bytes()),
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => false,
    });
    if other {
        return Err(format!(
            "another machine has this host's name: give one of them another, or, if that machine is gone for good, delete {key}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_shut_out;

    #[test]
    fn a_changed_password_ends_a_session_and_a_missing_right_does_not() {
        assert!(is_shut_out("etcdserver: authentication failed, invalid user ID or password"));
        assert!(is_shut_out("etcdserver: invalid auth token"));
        // Whoever logs in anew has no more rights than before.
        assert!(!is_shut_out("etcdserver: permission denied"));
        assert!(!is_shut_out("etcdserver: request timed out"));
    }
}
