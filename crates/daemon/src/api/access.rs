//! Who may change things: a pure rule, and what it needs from the system.
//!
//! Invariant: the caller's identity comes from the kernel (SO_PEERCRED), the groups from the caller's `/proc` entry as
//! it is now, checked to be still that user's. Every user of the host may read.

use std::fs;

/// Who is at the other end of an API connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: Option<i32>,
}

/// A caller with all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub groups: Vec<u32>,
}

/// Who may change things, besides root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub daemon_uid: u32,
    /// None when the host has no group of the configured name.
    pub admin_gid: Option<u32>,
}

impl Rule {
    #[must_use]
    pub fn allows(&self, identity: &Identity) -> bool {
        identity.uid == 0
            || identity.uid == self.daemon_uid
            || self.admin_gid.is_some_and(|gid| identity.groups.contains(&gid))
    }
}

impl Caller {
    /// The caller's groups. Reads a file of `/proc`.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let status = self.pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let mut groups = status.map(|status| groups_of(&status, self.uid)).unwrap_or_default();
        groups.push(self.gid);
        Identity { uid: self.uid, groups }
    }
}

/// Supplementary groups in proc(5)'s status; none if the process is another user's by now.
fn groups_of(status: &str, uid: u32) -> Vec<u32> {
    let numbers = |key: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
    };
    // Real, effective, saved, file system: the effective one was the caller's when it connected.
    if numbers("Uid:").get(1) == Some(&uid) { numbers("Groups:") } else { Vec::new() }
}

/// The group's number in the host's group file. Reads a file; directories behind other name services are not asked.
#[must_use]
pub fn group_id(name: &str) -> Option<u32> {
    group_in(&fs::read_to_string("/etc/group").ok()?, name)
}

fn group_in(file: &str, name: &str) -> Option<u32> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uid: u32, groups: &[u32], admin_gid: Option<u32>, expect: bool) {
        let rule = Rule { daemon_uid: 998, admin_gid };
        let identity = Identity { uid, groups: groups.to_vec() };
        assert_eq!(rule.allows(&identity), expect, "{identity:?} under {rule:?}");
    }

    #[test]
    fn changes_are_for_root_the_daemons_user_and_the_group() {
        check(0, &[], None, true);
        check(998, &[998], None, true);
        check(1000, &[1000], None, false);
        check(1000, &[1000, 42], Some(42), true);
        check(1000, &[42], Some(42), true);
        check(1000, &[1000, 41], Some(42), false);
        // A missing group lets nobody in, the root group least of all.
        check(1000, &[0], None, false);
    }

    #[test]
    fn groups_are_read_only_from_the_same_users_process() {
        let status = "Name:\tcurl\nUid:\t1000\t1000\t1000\t1000\nGid:\t5\t5\t5\t5\nGroups:\t4 24 1000 \n";
        assert_eq!(groups_of(status, 1000), [4, 24, 1000]);
        assert_eq!(groups_of(status, 1001), [0; 0]);
        assert_eq!(groups_of("", 0), [0; 0]);
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let file = "root:x:0:\nvmpath-x:x:7:\nvmpath:x:42:eve,adam\nbroken\nvmpaths:x:no:\n";
        assert_eq!(group_in(file, "vmpath"), Some(42));
        assert_eq!(group_in(file, "vm"), None);
        assert_eq!(group_in(file, "broken"), None);
        assert_eq!(group_in(file, "vmpaths"), None);
    }
}
