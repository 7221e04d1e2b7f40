//! Which hypervisor process is at the other end of a socket.
//!
//! Invariant: two processes never have the same number, even when they use the same pid one after the other. Known by
//! the kernel (SO_PEERCRED), not by what the peer says. The peer is the process that called `listen`.

use std::fs;
use tokio::net::UnixStream;

/// Bits of a pid: the kernel's PID_MAX_LIMIT is 2^22.
const PID_BITS: u32 = 22;

/// Marks numbers given to peers that cannot be told apart.
const UNKNOWN: u64 = 1 << 63;

/// Numbers for peers; `attempt` makes each connection to an unknown one a new instance, which is the safe guess.
pub(super) fn of(stream: &UnixStream, attempt: u64) -> u64 {
    let pid = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
    let known = pid.and_then(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(number(u64::try_from(pid).ok()?, start_ticks(&stat)?))
    });
    known.unwrap_or(UNKNOWN | attempt)
}

const fn number(pid: u64, start_ticks: u64) -> u64 {
    (start_ticks << PID_BITS | pid) & !UNKNOWN
}

/// Field 22 of proc(5)'s stat. The command's name may hold blanks and brackets, so count from its end.
fn start_ticks(stat: &str) -> Option<u64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20";
        for name in ["qemu", "a b", "x) (y", ""] {
            assert_eq!(start_ticks(&format!("77 ({name}) {fields}")), Some(424_242), "{name}");
        }
        assert_eq!(start_ticks("77 (cut) S 1 2"), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_instance() {
        assert_ne!(number(77, 1), number(77, 2));
        assert_ne!(number(77, 1), number(78, 1));
        assert_eq!(number((1 << 22) - 1, u64::MAX) & UNKNOWN, 0);
    }
}
