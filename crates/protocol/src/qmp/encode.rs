//! Writing QMP lines, as a client and as a stand-in guest.
//!
//! Invariant: each result is one line of JSON with CR LF at its end and no other line end in it.
//! Rejected: string templates, which forget to escape. It does not know: which commands a QEMU has.

use serde_json::{Map, Value, json};

use super::message::{EventTime, QemuVersion};

/// A command with an id that comes back in its reply. `arguments` is an object, or `Null` for none.
pub fn execute(name: &str, arguments: &Value, id: u64) -> Vec<u8> {
    let mut object = Map::new();
    object.insert("execute".to_owned(), name.into());
    if !arguments.is_null() {
        object.insert("arguments".to_owned(), arguments.clone());
    }
    object.insert("id".to_owned(), id.into());
    line(&Value::Object(object))
}

/// Leaves negotiation; must be the first command of a connection.
pub fn qmp_capabilities(id: u64) -> Vec<u8> {
    execute("qmp_capabilities", &Value::Null, id)
}

/// Stops the vCPUs.
pub fn stop(id: u64) -> Vec<u8> {
    execute("stop", &Value::Null, id)
}

/// Starts the vCPUs, and repeats the requests that an I/O error had stopped.
pub fn cont(id: u64) -> Vec<u8> {
    execute("cont", &Value::Null, id)
}

/// Ends the process.
pub fn quit(id: u64) -> Vec<u8> {
    execute("quit", &Value::Null, id)
}

/// Its return is read by [`super::StatusInfo::from_return`].
pub fn query_status(id: u64) -> Vec<u8> {
    execute("query-status", &Value::Null, id)
}

/// Its return is read by [`QemuVersion::from_return`].
pub fn query_version(id: u64) -> Vec<u8> {
    execute("query-version", &Value::Null, id)
}

/// What a guest's monitor says first.
pub fn encode_greeting(version: &QemuVersion) -> Vec<u8> {
    let numbers = json!({ "major": version.major, "minor": version.minor, "micro": version.micro });
    line(
        &json!({ "QMP": { "version": { "qemu": numbers, "package": version.package }, "capabilities": [] } }),
    )
}

/// A success; `id` is the command's.
pub fn encode_return(id: Option<&Value>, value: &Value) -> Vec<u8> {
    reply("return", value.clone(), id)
}

/// A failure; the class is `GenericError` or `CommandNotFound`, mostly.
pub fn encode_error(id: Option<&Value>, class: &str, desc: &str) -> Vec<u8> {
    reply("error", json!({ "class": class, "desc": desc }), id)
}

/// `data`: an object, or `Null` for none.
pub fn encode_event(name: &str, time: EventTime, data: &Value) -> Vec<u8> {
    let mut object = json!({
        "event": name,
        "timestamp": { "seconds": time.seconds, "microseconds": time.microseconds },
    });
    if !data.is_null() {
        object["data"] = data.clone();
    }
    line(&object)
}

fn reply(kind: &str, value: Value, id: Option<&Value>) -> Vec<u8> {
    let mut object = Map::new();
    object.insert(kind.to_owned(), value);
    if let Some(id) = id {
        object.insert("id".to_owned(), id.clone());
    }
    line(&Value::Object(object))
}

fn line(value: &Value) -> Vec<u8> {
    let mut out = value.to_string().into_bytes();
    out.extend_from_slice(b"\r\n");
    out
}
