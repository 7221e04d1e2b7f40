//! Where things are kept in etcd, below the prefix.
//!
//! ```text
//! machine/HOST              which machine calls itself so; for ever
//! alive/HOST                which of its processes; under its lease
//! owner/TARGET/UNIT         who owns the unit; for ever, so that its epoch never begins again
//! host/TARGET/HOST          what HOST says of itself and TARGET; under its lease
//! room/TARGET/HOST/ID       room that a decision counts on; under a lease of its own
//! ```
//!
//! Invariant: a key reads back as what it was made from. Hosts are listed under each target, so whoever watches one hears of nobody else.

/// Makes and reads keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key<'k> {
    /// `target/unit`.
    Owner {
        unit: &'k str,
    },
    Host {
        target: &'k str,
        host: &'k str,
    },
    Room {
        target: &'k str,
        host: &'k str,
        id: &'k str,
    },
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn machine(&self, host: &str) -> String {
        format!("{}/machine/{host}", self.prefix)
    }

    pub(super) fn alive(&self, host: &str) -> String {
        format!("{}/alive/{host}", self.prefix)
    }

    /// `unit` is `target/unit`.
    pub(super) fn owner(&self, unit: &str) -> String {
        format!("{}/owner/{unit}", self.prefix)
    }

    pub(super) fn owners(&self, target: &str) -> String {
        format!("{}/owner/{target}/", self.prefix)
    }

    pub(super) fn host(&self, target: &str, host: &str) -> String {
        format!("{}/host/{target}/{host}", self.prefix)
    }

    pub(super) fn hosts(&self, target: &str) -> String {
        format!("{}/host/{target}/", self.prefix)
    }

    pub(super) fn room(&self, target: &str, host: &str, id: &str) -> String {
        format!("{}/room/{target}/{host}/{id}", self.prefix)
    }

    pub(super) fn rooms_on(&self, target: &str, host: &str) -> String {
        format!("{}/room/{target}/{host}/", self.prefix)
    }

    pub(super) fn rooms(&self, target: &str) -> String {
        format!("{}/room/{target}/", self.prefix)
    }

    /// None for a key that is not ours, or of a later version.
    pub(super) fn parse<'k>(&self, key: &'k [u8]) -> Option<Key<'k>> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        let (kind, rest) = key.split_once('/')?;
        let parts: Vec<&str> = rest.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return None;
        }
        match (kind, parts.as_slice()) {
            ("owner", [_, _]) => Some(Key::Owner { unit: rest }),
            ("host", [target, host]) => Some(Key::Host { target, host }),
            ("room", [target, host, id]) => Some(Key::Room { target, host, id }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, Keys};
    use proptest::prelude::*;

    const NAME: &str = "[A-Za-z0-9._-]{1,12}";

    proptest! {
        #[test]
        fn keys_read_back(prefix in "(/[a-z.]{1,6}){1,3}", target in NAME, name in NAME, id in NAME) {
            let keys = Keys::new(&prefix);
            let unit = format!("{target}/{name}");
            let owner = keys.owner(&unit);
            prop_assert_eq!(keys.parse(owner.as_bytes()), Some(Key::Owner { unit: &unit }));
            prop_assert!(owner.starts_with(&keys.owners(&target)));
            let host = keys.host(&target, &name);
            prop_assert_eq!(keys.parse(host.as_bytes()), Some(Key::Host { target: &target, host: &name }));
            prop_assert!(host.starts_with(&keys.hosts(&target)));
            let room = keys.room(&target, &name, &id);
            let expected = Key::Room { target: &target, host: &name, id: &id };
            prop_assert_eq!(keys.parse(room.as_bytes()), Some(expected));
            prop_assert!(room.starts_with(&keys.rooms_on(&target, &name)));
            prop_assert!(room.starts_with(&keys.rooms(&target)));
        }

        #[test]
        fn foreign_keys_are_nobodys(key in "\\PC{0,30}") {
            let _ = Keys::new("/vmpath").parse(key.as_bytes());
        }
    }

    #[test]
    fn only_whole_keys_count() {
        let keys = Keys::new("/vmpath");
        for key in [
            "/vmpath/owner/san0",
            "/vmpath/owner/san0/",
            "/vmpath2/owner/a/b",
            "/vmpath/host/a/b/c",
            "/vmpath/x/a/b",
        ] {
            assert_eq!(keys.parse(key.as_bytes()), None, "{key}");
        }
        assert_eq!(keys.parse(&[0xff, 0xfe]), None);
    }
}
