//! Reading `query-block`: which disks must stop their VM on an error.
//!
//! Seen with QEMU 7.2: `qdev` is the device's id when it has one of its own and a QOM path otherwise; a drive without
//! a medium has no `inserted`; `werror=stop` on `-drive` leaves the device's property at `auto`, so it must be set on
//! `-device`. Unknown or missing parts are never an error: a disk that cannot be asked does not count as stopping.

use serde_json::{Value, json};
use vmpath_protocol::qmp;

/// The device properties that must say `stop`.
pub(super) const PROPERTIES: [&str; 2] = ["werror", "rerror"];

/// QOM paths of the disks that count: those with an NBD node, or all that have a medium when none is seen to have one.
/// `None`: a disk that counts cannot be asked.
pub(super) fn disks(reply: &Value) -> Option<Vec<String>> {
    let devices = reply.as_array()?;
    let inserted = || devices.iter().filter(|device| device["inserted"].is_object());
    let over_nbd = |device: &&Value| device["inserted"]["file"].as_str().is_some_and(|file| file.contains("nbd"));
    let counted: Vec<_> = if inserted().any(|device| over_nbd(&device)) {
        inserted().filter(over_nbd).collect()
    } else {
        inserted().collect()
    };
    counted.into_iter().map(qom_path).collect()
}

fn qom_path(device: &Value) -> Option<String> {
    match device["qdev"].as_str()? {
        "" => None,
        path if path.starts_with('/') => Some(path.to_owned()),
        id => Some(format!("/machine/peripheral/{id}")),
    }
}

pub(super) fn query_block(id: u64) -> Vec<u8> {
    qmp::execute("query-block", &Value::Null, id)
}

pub(super) fn qom_get(id: u64, path: &str, property: &str) -> Vec<u8> {
    qmp::execute("qom-get", &json!({ "path": path, "property": property }), id)
}

pub(super) fn is_stop(reply: &Value) -> bool {
    reply.as_str() == Some("stop")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reply: &Value, expect: Option<&[&str]>) {
        let expect = expect.map(|paths| paths.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(disks(reply), expect, "{reply}");
    }

    #[test]
    fn nbd_disks_count_and_others_only_when_there_are_none() {
        let nbd = json!({ "qdev": "/machine/peripheral/d0/virtio-backend", "inserted": { "file": "nbd+unix://?socket=/s" } });
        let seed = json!({ "qdev": "cd0", "inserted": { "file": "/seed.iso" } });
        let empty = json!({ "qdev": "cd1" });
        let detached = json!({ "inserted": { "file": "nbd://h" } });
        check(&json!([nbd, seed, empty]), Some(&["/machine/peripheral/d0/virtio-backend"]));
        check(&json!([seed, empty]), Some(&["/machine/peripheral/cd0"]));
        check(&json!([empty]), Some(&[]));
        check(&json!([]), Some(&[]));
        check(&json!([nbd, detached]), None);
        check(&json!({}), None);
    }
}
