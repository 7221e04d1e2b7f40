//! What a process that the daemon starts inherits, and how it and all of its own are found and ended.
//!
//! Invariant: a child gets its three standard streams and no other descriptor. Those that front ends send (guests' memory)
//! come without CLOEXEC, and a hypervisor must not hold another guest's memory.
//! Rejected: marking each descriptor where it comes in, which one forgotten place would undo.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Gives the child a session, and so a process group, of its own, and nothing else that is open here.
pub fn apart(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure makes two system calls and nothing else: it allocates nothing, takes no
    // lock and touches no memory of other threads.
    unsafe { command.pre_exec(leave) }
}

fn leave() -> io::Result<()> {
    // SAFETY: setsid has no arguments. It fails only for the leader of a group, which a fresh child is not.
    if unsafe { libc::setsid() } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC closes nothing now; it marks descriptors of this process, which is about
    // to be another program. The pipe on which std reports a failed exec is marked already.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOEXEC) };
    if marked == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `CLOSE_RANGE_CLOEXEC` (close_range(2), Linux 5.11).
const CLOEXEC: libc::c_uint = 4;

/// A process group that was started here, by its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    leader: Pid,
    /// When the leader started, in clock ticks since the boot: tells it from a later process with its number.
    started: u64,
}

impl Group {
    /// The group that `leader`, which is not reaped yet, has begun.
    #[must_use]
    pub fn of(leader: u32) -> Option<Self> {
        let leader = Pid::from_raw(i32::try_from(leader).ok()?)?;
        Some(Self { leader, started: Stat::of(leader)?.started })
    }

    /// From [`Group::words`], if there is still something of it.
    #[must_use]
    pub fn find(words: &str) -> Option<Self> {
        let (leader, started) = words.split_once(' ')?;
        let leader = Pid::from_raw(leader.parse().ok()?)?;
        let group = Self { leader, started: started.parse().ok()? };
        group.is_there().then_some(group)
    }

    /// As kept in a file; of use in this boot only.
    #[must_use]
    pub fn words(&self) -> String {
        format!("{} {}", self.leader.as_raw_pid(), self.started)
    }

    /// Whether a process of it runs. Its number is not given to another process while its group is there. Reads all of
    /// /proc if its leader has ended.
    #[must_use]
    pub fn is_there(&self) -> bool {
        match Stat::of(self.leader) {
            Some(leader) if leader.started != self.started => false,
            Some(leader) if leader.runs => true,
            Some(_) | None => {
                let leader = self.leader.as_raw_pid();
                processes().filter_map(Stat::of).any(|stat| stat.group == leader && stat.runs)
            }
        }
    }

    /// Sends a signal to all of it. Gone already is as good.
    pub fn signal(&self, signal: Signal) {
        if self.is_there() {
            let _ = kill_process_group(self.leader, signal);
        }
    }
}

/// Of proc(5)'s `stat` of a process.
struct Stat {
    /// Not merely its remains.
    runs: bool,
    group: i32,
    /// Field 22.
    started: u64,
}

impl Stat {
    fn of(pid: Pid) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
        // The name, in brackets, may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let number = |index: usize| -> Option<i64> { fields.get(index)?.parse().ok() };
        Some(Self {
            runs: !matches!(fields.first(), Some(&("Z" | "X"))),
            group: i32::try_from(number(2)?).ok()?,
            started: u64::try_from(number(19)?).ok()?,
        })
    }
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
}

/// Processes whose environment has `NAME=VALUE`: also those that left their group. Reads all of /proc.
#[must_use]
pub fn with_environment(name: &str, value: &str) -> Vec<Pid> {
    let wanted = format!("{name}={value}");
    let has = |pid: &Pid| {
        let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_pid()));
        environment.is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes()))
    };
    processes().filter(has).collect()
}

/// Sends a signal to one process. Gone already is as good.
pub fn signal(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::process::Stdio;

    #[test]
    fn a_child_inherits_nothing_but_its_streams() {
        let file = File::open("/dev/null").unwrap();
        // SAFETY: the descriptor is open; clearing its flags closes nothing.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) }, 0);
        // A test of the shell itself, which opens nothing that could take the number.
        let look = format!("test -e /proc/self/fd/{}", file.as_raw_fd());
        let inherits = |command: &mut Command| {
            command.args(["-c", &look]).stdin(Stdio::null()).status().unwrap().success()
        };
        assert!(inherits(&mut Command::new("/bin/sh")), "the descriptor would be inherited");
        assert!(!inherits(apart(&mut Command::new("/bin/sh"))));
    }

    #[test]
    fn a_group_is_known_by_its_start_and_ends_with_its_last_process() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec sleep 60"]).env("VMPATH_TEST_CHILD", "a group").stdin(Stdio::null());
        let mut child = apart(&mut command).spawn().unwrap();
        let group = Group::of(child.id()).unwrap();
        assert!(group.is_there());
        assert_eq!(Group::find(&group.words()), Some(group));
        let other = Group { started: group.started + 1, ..group };
        assert!(!other.is_there(), "another process with this number");
        assert_eq!(with_environment("VMPATH_TEST_CHILD", "a group"), [group.leader]);
        assert_eq!(with_environment("VMPATH_TEST_CHILD", "a grou"), []);
        other.signal(Signal::KILL);
        assert!(child.try_wait().unwrap().is_none(), "a foreign signal must not reach it");
        group.signal(Signal::KILL);
        child.wait().unwrap();
        assert!(!group.is_there());
        assert_eq!(Group::find(&group.words()), None);
    }
}
