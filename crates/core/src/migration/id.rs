//! The name of one move: which host began it, in which of its processes, and as which of that process's moves.
//!
//! Invariant: no two moves ever have the same name, so that whatever arrives late is known for what it is. The nonce tells
//! a process from the next, the number tells the moves of one process apart.
//! It does not know where a nonce comes from: the daemon draws it at its start, the simulator counts.

use std::fmt;

/// As text `HOST.NONCE.NUMBER`, the nonce in hexadecimal: `kvm1.7f3a.12`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MoveId {
    /// The source: whoever began it.
    pub host: String,
    pub nonce: u64,
    /// From 1.
    pub number: u64,
}

impl MoveId {
    /// Reads what `Display` writes. None for anything else: it comes from other hosts.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.rsplitn(3, '.');
        let (number, nonce, host) = (parts.next()?, parts.next()?, parts.next()?);
        let id = Self {
            host: host.to_owned(),
            nonce: u64::from_str_radix(nonce, 16).ok()?,
            number: number.parse().ok()?,
        };
        // One text for each name: what is compared as text is compared as a name.
        (!host.is_empty() && id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:x}.{}", self.host, self.nonce, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::MoveId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(host in "[a-z0-9.-]{1,20}", nonce: u64, number: u64) {
            let id = MoveId { host, nonce, number };
            prop_assert_eq!(MoveId::parse(&id.to_string()), Some(id));
        }

        #[test]
        fn no_two_texts_are_one_name(text in "[a-z0-9.+]{0,16}") {
            if let Some(id) = MoveId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "kvm1", "kvm1.7f", ".7f.1", "kvm1.7F.1", "kvm1.07f.1", "kvm1.7f.+1", "kvm1.7f.1 "] {
            assert_eq!(MoveId::parse(text), None, "{text:?}");
        }
    }
}
