//! What the lines of QMP say, read tolerantly.
//!
//! Invariant: every JSON object is some message ([`QmpMessage::Other`] if need be), so a newer QEMU cannot break the
//! connection by a new kind; text that is no JSON object does, because framing is then in doubt. A command reader
//! never fails on content: QEMU answers such a line with an error and goes on, and so must a stand-in.
//! Rejected: serde structs with `deny_unknown_fields`. It does not know: replies' shapes (callers read the `Value`).

use serde_json::{Map, Value};

use super::QmpError;
use super::line::{LineBuffer, excerpt};
use crate::Fed;

/// A message from QEMU.
#[derive(Debug, Clone, PartialEq)]
pub enum QmpMessage {
    Greeting(QemuVersion),
    /// `id` as we sent it; `None` if absent or not ours (not an unsigned number).
    Return {
        id: Option<u64>,
        value: Value,
    },
    Error {
        id: Option<u64>,
        class: String,
        desc: String,
    },
    Event {
        name: String,
        time: EventTime,
        data: Value,
    },
    /// An object of no known kind.
    Other(Value),
}

/// Whose monitor it is; zeroes and "" where QEMU did not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QemuVersion {
    pub major: u64,
    pub minor: u64,
    pub micro: u64,
    /// The packager's suffix.
    pub package: String,
}

impl QemuVersion {
    /// Reads the value of a `query-version` return; what is not there is zero or "".
    pub fn from_return(value: &Value) -> QemuVersion {
        let number = |name: &str| value["qemu"][name].as_u64().unwrap_or(0);
        QemuVersion {
            major: number("major"),
            minor: number("minor"),
            micro: number("micro"),
            package: text(value, "package"),
        }
    }
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}{}", self.major, self.minor, self.micro, self.package)
    }
}

/// When QEMU's host clock says that an event happened; QEMU sends -1 if it could not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventTime {
    pub seconds: i64,
    pub microseconds: i64,
}

/// Reads what QEMU sends.
#[derive(Debug, Default)]
pub struct QmpReader {
    lines: LineBuffer,
}

impl QmpReader {
    pub fn new() -> QmpReader {
        QmpReader::default()
    }

    /// One message a call. After an error the stream is out of step: drop the connection.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed<QmpMessage>, QmpError> {
        let mut rest = input;
        let event = match self.lines.next(&mut rest)? {
            Some(line) => Some(read_message(parse_object(&line)?)),
            None => None,
        };
        Ok(Fed { consumed: input.len() - rest.len(), event })
    }
}

fn parse_object(line: &[u8]) -> Result<Map<String, Value>, QmpError> {
    let why = match serde_json::from_slice(line) {
        Ok(Value::Object(object)) => return Ok(object),
        Ok(_) => "another JSON value".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(QmpError::NotJson { why, start: excerpt(line) })
}

fn read_message(mut object: Map<String, Value>) -> QmpMessage {
    let id = object.get("id").and_then(Value::as_u64);
    if let Some(greeting) = object.get("QMP") {
        return QmpMessage::Greeting(QemuVersion::from_return(&greeting["version"]));
    }
    if let Some(value) = object.remove("return") {
        return QmpMessage::Return { id, value };
    }
    if let Some(error) = object.get("error") {
        return QmpMessage::Error { id, class: text(error, "class"), desc: text(error, "desc") };
    }
    match object.get("event").and_then(Value::as_str).map(str::to_owned) {
        Some(name) => QmpMessage::Event {
            name,
            time: read_time(&object),
            data: object.remove("data").unwrap_or_default(),
        },
        None => QmpMessage::Other(Value::Object(object)),
    }
}

fn read_time(object: &Map<String, Value>) -> EventTime {
    let part = |name: &str| object.get("timestamp").and_then(|t| t[name].as_i64()).unwrap_or(-1);
    EventTime { seconds: part("seconds"), microseconds: part("microseconds") }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

/// A command as a stand-in guest reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct QmpCommand {
    pub name: String,
    /// `Null` if absent.
    pub arguments: Value,
    /// Any JSON, to be echoed; `None` if absent.
    pub id: Option<Value>,
}

/// A line from a QMP client.
#[derive(Debug, Clone, PartialEq)]
pub enum QmpRequest {
    Command(QmpCommand),
    /// Not a command; to be answered with an error of class `GenericError` and this text.
    Malformed {
        id: Option<Value>,
        desc: String,
    },
}

/// Reads what a QMP client sends.
#[derive(Debug, Default)]
pub struct QmpCommandReader {
    lines: LineBuffer,
}

impl QmpCommandReader {
    pub fn new() -> QmpCommandReader {
        QmpCommandReader::default()
    }

    /// One line a call. The only error is a line above [`super::LINE_LEN_MAX`]; drop the connection then.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed<QmpRequest>, QmpError> {
        let mut rest = input;
        let event = self.lines.next(&mut rest)?.map(|line| match parse_object(&line) {
            Ok(object) => read_command(object),
            Err(error) => QmpRequest::Malformed { id: None, desc: error.to_string() },
        });
        Ok(Fed { consumed: input.len() - rest.len(), event })
    }
}

fn read_command(mut object: Map<String, Value>) -> QmpRequest {
    let id = object.remove("id");
    let name = object.remove("execute").or_else(|| object.remove("exec-oob"));
    match name {
        Some(Value::String(name)) => {
            let arguments = object.remove("arguments").unwrap_or_default();
            QmpRequest::Command(QmpCommand { name, arguments, id })
        }
        _ => QmpRequest::Malformed {
            id,
            desc: "the object has no member \"execute\" with a command's name".to_owned(),
        },
    }
}
