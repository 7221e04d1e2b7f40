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

/// Whether the process of that number is surely gone. One that cannot be told apart is never surely gone, and a number that
/// no process has, as after a boot, always is.
#[cfg(any(test, feature = "cluster"))]
pub fn has_ended(instance: u64) -> bool {
    if instance & UNKNOWN != 0 {
        return false;
    }
    let pid = instance & ((1 << PID_BITS) - 1);
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => is_dead(&stat) || start_ticks(&stat).is_some_and(|start| number(pid, start) != instance),
        // Where nothing can be seen, nothing is known.
        Err(error) => error.kind() == std::io::ErrorKind::NotFound && fs::metadata("/proc/self/stat").is_ok(),
    }
}

/// Its parent has not looked after it yet, perhaps never will.
#[cfg(any(test, feature = "cluster"))]
fn is_dead(stat: &str) -> bool {
    let state = stat.rfind(')').and_then(|end| stat[end + 1..].split_ascii_whitespace().next());
    matches!(state, Some("Z" | "X" | "x"))
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
    fn who_is_gone_is_known_and_who_is_not_known_is_not_gone() {
        let own = u64::from(std::process::id());
        let stat = fs::read_to_string("/proc/self/stat").expect("this is Linux");
        let start = start_ticks(&stat).expect("a start");
        assert!(!has_ended(number(own, start)));
        assert!(has_ended(number(own, start + 1)), "another process had that pid");
        assert!(has_ended(0), "there is none since the boot");
        assert!(!has_ended(UNKNOWN | 7));
        let mut child = std::process::Command::new("/bin/true").spawn().expect("a process");
        let pid = u64::from(child.id());
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("nobody has waited for it");
        let instance = number(pid, start_ticks(&stat).expect("a start"));
        child.wait().expect("it ends");
        assert!(has_ended(instance));
        for (line, dead) in [("7 (a) b) Z 1", true), ("7 (Z) S 1", false), ("7 (q) X", true), ("7", false)] {
            assert_eq!(is_dead(line), dead, "{line}");
        }
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_instance() {
        assert_ne!(number(77, 1), number(77, 2));
        assert_ne!(number(77, 1), number(78, 1));
        assert_eq!(number((1 << 22) - 1, u64::MAX) & UNKNOWN, 0);
    }
}
