//! Which disks of a VM stop it on an I/O error, from `query-block` and `qom-get`.
//!
//! Source: `qapi/block-core.json`; seen with QEMU 7.2: `qdev` is the device's id when it has one of its own and a QOM
//! path otherwise; a drive without a medium has no `inserted`; `werror=stop` on `-drive` leaves the device's property
//! at `auto`, so it must be set on `-device`. Invariant: what is unknown or missing is never an error: a disk that
//! cannot be asked does not count as stopping. It does not know: connections, ids, time.

use serde_json::{Value, json};

use super::execute;

/// The device properties that must read `stop`.
pub const ERROR_POLICIES: [&str; 2] = ["werror", "rerror"];

/// Its return is read by [`disks_that_count`].
pub fn query_block(id: u64) -> Vec<u8> {
    execute("query-block", &Value::Null, id)
}

/// Asks for one of [`ERROR_POLICIES`] of a disk; its return is read by [`is_stop`].
pub fn qom_get(id: u64, path: &str, property: &str) -> Vec<u8> {
    execute("qom-get", &json!({ "path": path, "property": property }), id)
}

/// QOM paths of the disks that must stop their VM on an error: those whose file is an NBD one, or all that have a
/// medium when none is seen to be. `None`: one of them cannot be asked.
pub fn disks_that_count(query_block_return: &Value) -> Option<Vec<String>> {
    let devices = query_block_return.as_array()?;
    let inserted = || devices.iter().filter(|device| device["inserted"].is_object());
    let counted: Vec<_> = if inserted().any(is_nbd) {
        inserted().filter(|device| is_nbd(device)).collect()
    } else {
        inserted().collect()
    };
    counted.into_iter().map(qom_path).collect()
}

/// Whether an error policy says that the VM stops.
pub fn is_stop(qom_get_return: &Value) -> bool {
    qom_get_return.as_str() == Some("stop")
}

fn is_nbd(device: &Value) -> bool {
    device["inserted"]["file"].as_str().is_some_and(|file| file.contains("nbd"))
}

fn qom_path(device: &Value) -> Option<String> {
    match device["qdev"].as_str()? {
        "" => None,
        path if path.starts_with('/') => Some(path.to_owned()),
        id => Some(format!("/machine/peripheral/{id}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reply: &Value, expect: Option<&[&str]>) {
        let expect = expect.map(|paths| paths.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(disks_that_count(reply), expect, "{reply}");
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
