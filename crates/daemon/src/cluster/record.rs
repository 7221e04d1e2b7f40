//! The values of owners' keys and of rooms, as JSON.
//!
//! Invariant: what cannot be read is told as such, never taken for a unit without an owner. Keys that a later version adds
//! are passed over. It does not know whether a change is allowed.

use serde::{Deserialize, Serialize};
use vmpath_core::migration::MoveId;
use vmpath_core::ownership::{Found, Owner};

/// What stands under a unit's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Grows by one with each change, though nobody owns the unit for a while: what was sent under an old one never fits again.
    pub(super) epoch: u64,
    pub(super) held: Option<Held>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) host: String,
    pub(super) move_id: Option<MoveId>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    epoch: u64,
    #[serde(default, rename = "move", skip_serializing_if = "Option::is_none")]
    move_id: Option<String>,
}

impl Record {
    /// Of a unit that has never had an owner.
    pub(super) const ABSENT: Self = Self { epoch: 0, held: None };

    pub(super) fn write(&self) -> Vec<u8> {
        let wire = Wire {
            host: self.held.as_ref().map(|held| held.host.clone()),
            epoch: self.epoch,
            move_id: self.held.as_ref().and_then(|held| held.move_id.as_ref()).map(ToString::to_string),
        };
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn read(value: &[u8]) -> Result<Self, String> {
        let wire: Wire = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        let move_id = match wire.move_id {
            Some(text) => Some(MoveId::parse(&text).ok_or_else(|| format!("{text:?} is no move"))?),
            None => None,
        };
        match wire.host {
            Some(host) if host.is_empty() => Err("the host has no name".into()),
            Some(host) => Ok(Self { epoch: wire.epoch, held: Some(Held { host, move_id }) }),
            None => Ok(Self { epoch: wire.epoch, held: None }),
        }
    }

    pub(super) fn found(&self, unit: &str) -> Found {
        let owner = self.held.as_ref().map(|held| Owner {
            host: held.host.clone(),
            epoch: self.epoch,
            move_id: held.move_id.clone(),
        });
        Found { unit: unit.to_owned(), owner }
    }
}

#[derive(Serialize, Deserialize)]
struct RoomWire {
    vm: String,
    /// Bytes a second.
    rate: u64,
}

pub(super) fn write_room(vm: &str, rate: u64) -> Vec<u8> {
    serde_json::to_vec(&RoomWire { vm: vm.to_owned(), rate }).unwrap_or_default()
}

/// The VM and its rate. None for what cannot be read.
pub(super) fn read_room(value: &[u8]) -> Option<(String, u64)> {
    serde_json::from_slice::<RoomWire>(value).ok().map(|room| (room.vm, room.rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_read_back(host in prop::option::of("[a-z0-9.-]{1,10}"), epoch: u64, number in prop::option::of(1_u64..)) {
            let move_id = |host: &str| number.map(|number| MoveId { host: host.into(), nonce: 9, number });
            let held = host.map(|host| Held { move_id: move_id(&host), host });
            let record = Record { epoch, held };
            prop_assert_eq!(Record::read(&record.write()), Ok(record));
            prop_assert_eq!(read_room(&write_room("db1", epoch)), Some(("db1".into(), epoch)));
        }

        #[test]
        fn no_value_panics(value in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = (Record::read(&value), read_room(&value));
        }
    }

    #[test]
    fn what_operators_see_is_short_and_what_is_broken_is_said() {
        let id = MoveId { host: "kvm1".into(), nonce: 0x7f, number: 2 };
        let record = Record { epoch: 7, held: Some(Held { host: "kvm2".into(), move_id: Some(id) }) };
        let text = String::from_utf8(record.write()).expect("text");
        assert_eq!(text, r#"{"host":"kvm2","epoch":7,"move":"kvm1.7f.2"}"#);
        assert_eq!(
            String::from_utf8(Record { epoch: 8, held: None }.write()).expect("text"),
            r#"{"epoch":8}"#
        );
        assert_eq!(Record::read(br#"{"epoch":8,"later":true}"#), Ok(Record { epoch: 8, held: None }));
        for broken in
            ["", "{}", r#"{"host":"a"}"#, r#"{"host":"","epoch":1}"#, r#"{"epoch":1,"move":"x"}"#, "7"]
        {
            assert!(Record::read(broken.as_bytes()).is_err(), "{broken}");
        }
    }
}
