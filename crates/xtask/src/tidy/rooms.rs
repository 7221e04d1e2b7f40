//! Which names may stand in which rooms: `unsafe`, clocks, JSON, HTTP, the hypervisor's handle.
//!
//! The table is the rule. It reads names, not types: a colleague who renames an import to get past it is not the case
//! that it is for.

use super::Violation;
use super::source::Tree;

/// These token sequences may stand, of the files under `within`, only in those under `only`.
struct Room {
    rule: &'static str,
    names: &'static [&'static [&'static str]],
    within: &'static [&'static str],
    only: &'static [&'static str],
    instead: &'static str,
}

const ROOMS: &[Room] = &[
    Room {
        rule: "unsafe",
        names: &[&["unsafe"]],
        within: &["crates/"],
        only: &["crates/daemon/src/sys/"],
        instead: "unsafe lives in sys/, each block with its SAFETY line",
    },
    Room {
        rule: "clock",
        names: &[
            &["Instant", ":", ":", "now"],
            &["SystemTime", ":", ":", "now"],
            &[".", "elapsed", "(", ")"],
            &["UNIX_EPOCH"],
        ],
        within: &["crates/core/", "crates/protocol/", "crates/daemon/src/"],
        only: &["crates/daemon/src/sys/clock"],
        instead: "time is an argument; only sys/clock reads it",
    },
    Room {
        rule: "clock",
        names: &[&["tokio", ":", ":", "time"]],
        within: &["crates/core/", "crates/protocol/", "crates/daemon/src/"],
        only: &[
            "crates/daemon/src/control/",
            "crates/daemon/src/hypervisor/",
            "crates/daemon/src/api/",
            "crates/daemon/src/cli/",
            "crates/daemon/src/cluster/",
            "crates/daemon/src/peer/",
        ],
        instead: "timers belong to control, hypervisor, cluster, peer, api and cli",
    },
    Room {
        rule: "json",
        names: &[&["serde_json"]],
        within: &["crates/daemon/src/"],
        only: &[
            "crates/daemon/src/api/",
            "crates/daemon/src/cli/",
            "crates/daemon/src/cluster/",
            "crates/daemon/src/peer/",
        ],
        instead: "JSON is for whoever speaks to others, api, cli, cluster and peer: hand them plain types",
    },
    Room {
        rule: "http",
        names: &[&["axum"]],
        within: &["crates/daemon/src/"],
        only: &["crates/daemon/src/api/"],
        instead: "HTTP is the api's",
    },
    Room {
        rule: "http",
        names: &[&["hyper"], &["hyper_util"], &["http_body_util"]],
        within: &["crates/daemon/src/"],
        only: &["crates/daemon/src/api/", "crates/daemon/src/cli/", "crates/daemon/src/peer/"],
        instead: "HTTP is the api's, the cli's as its client, and peer's",
    },
    Room {
        rule: "hypervisor",
        names: &[
            &["Order", ":", ":", "Stop"],
            &["Order", ":", ":", "Continue"],
            &["Order", ":", ":", "Migrate"],
            &["Order", ":", ":", "MigrateContinue"],
            &["Order", ":", ":", "MigrateCancel"],
            &["hypervisors", ".", "send"],
        ],
        within: &["crates/daemon/src/"],
        only: &[
            "crates/daemon/src/hypervisor/",
            "crates/daemon/src/control/effects",
            "crates/daemon/src/control/hosts/",
        ],
        instead: "only control/effects and control/hosts order a hypervisor about",
    },
    Room {
        rule: "lab",
        names: &[&["vmpath_lab"]],
        within: &["crates/daemon/"],
        only: &[
            "crates/daemon/src/cli/",
            "crates/daemon/src/dataplane/tests",
            "crates/daemon/src/dataplane/tests.rs",
            "crates/daemon/src/cluster/tests",
            "crates/daemon/src/peer/tests",
            "crates/daemon/tests/",
        ],
        instead: "the daemon does not know the lab; only its subcommands and tests do",
    },
    Room {
        rule: "io",
        names: &[
            &["std", ":", ":", "fs"],
            &["std", ":", ":", "thread"],
            &["std", ":", ":", "process"],
            &["TcpStream"],
            &["UnixStream"],
            &["File", ":", ":", "open"],
        ],
        within: &["crates/core/src/", "crates/protocol/src/"],
        only: &[],
        instead: "core and protocol do no I/O",
    },
];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    ROOMS.iter().flat_map(|room| check_room(room, tree)).collect()
}

fn check_room(room: &Room, tree: &Tree) -> Vec<Violation> {
    let is_under = |path: &str, folders: &[&str]| folders.iter().any(|f| path.starts_with(f));
    let mut found = Vec::new();
    for source in tree.rust().filter(|s| is_under(&s.path, room.within) && !is_under(&s.path, room.only)) {
        for name in room.names {
            for line in source.lines_with(name) {
                let message = format!("`{}`: {}", name.concat(), room.instead);
                found.push(Violation::new(&source.path, line, room.rule, message));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        check(&Tree::of(&[(path, text)])).iter().map(|v| v.rule).collect()
    }

    #[test]
    fn every_name_of_every_room_is_found_outside_and_allowed_inside() {
        for room in ROOMS {
            for name in room.names {
                let text = format!("fn f() {{ {} }}", name.concat());
                for within in room.within {
                    assert!(rules(&format!("{within}elsewhere.rs"), &text).contains(&room.rule), "{name:?}");
                }
                for only in room.only {
                    assert!(!rules(&format!("{only}x.rs"), &text).contains(&room.rule), "{name:?} in {only}");
                }
            }
        }
    }

    #[test]
    fn the_lab_may_read_the_clock_but_not_be_unsafe() {
        assert!(rules("crates/lab/src/a.rs", "fn f() { Instant::now(); }").is_empty());
        assert_eq!(rules("crates/lab/src/a.rs", "fn f() { unsafe { g() } }"), ["unsafe"]);
    }
}
