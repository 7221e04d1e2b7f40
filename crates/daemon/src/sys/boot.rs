//! Which boot of the host this is: what a monotonic time, a process or a socket of another boot says means nothing now.

use std::fmt;
use std::io;

/// Where the kernel says it, as a UUID in words.
const FILE: &str = "/proc/sys/kernel/random/boot_id";

/// One boot of the host, by the kernel's own number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId([u8; 16]);

impl BootId {
    /// # Errors
    /// The kernel does not say it (no /proc).
    pub fn current() -> io::Result<Self> {
        let text = std::fs::read_to_string(FILE)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot read {FILE}: {error}")))?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{FILE} holds no UUID: {:?}", text.trim()))
        })
    }

    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From its words, as `current` finds them or as it is shown.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(&digits, 16).ok().map(|number| Self(number.to_be_bytes()))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_which_boot_this_is_and_says_the_same_again() {
        assert_eq!(BootId::current().unwrap(), BootId::current().unwrap());
    }

    #[test]
    fn only_a_uuid_is_one() {
        let id = BootId::parse("01234567-89ab-cdef-0123-456789abcdef\n").unwrap();
        assert_eq!(id.to_string(), "0123456789abcdef0123456789abcdef");
        assert_eq!(BootId::from_bytes(*id.as_bytes()), id);
        for text in
            ["", "0123", "+1234567-89ab-cdef-0123-456789abcdef", "01234567-89ab-cdef-0123-456789abcdeg"]
        {
            assert_eq!(BootId::parse(text), None, "{text}");
        }
    }
}
