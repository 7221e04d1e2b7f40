use super::super::{Source, parse};
use super::{check, faults, lines, parsed, small_with};

#[test]
fn quiesce_bounds() {
    check(
        "name = \"san0\"",
        &[
            ("quiesce = 5", &["4:11 quiesce: \"5\" has no unit"]),
            ("quiesce = '5'", &["4:11 quiesce: \"5\" has no unit"]),
            (
                "quiesce = '0s'",
                &[
                    "4:11 quiesce: 0s on target san0, whose path a has no other fence: a write that was lost with it could still be carried out after newer ones, and overwrite them with old data",
                ],
            ),
            ("quiesce = '50ms'", &["4:11 quiesce: \"50ms\" is not from 100ms to 10m"]),
            ("quiesce = '1h'", &["4:11 quiesce: \"1h\" is not from 100ms to 10m"]),
        ],
    );
}

#[test]
fn targets() {
    check(
        "name = \"san0\"",
        &[
            (
                "failback = 'followovr'",
                &[
                    "4:12 failback: \"followovr\" is none of \"immediate\", \"manual\", \"after 30s\", \"followover\"",
                ],
            ),
            ("failback = 30", &["4:12 failback: a string is expected, and this is a whole number"]),
            ("ping_budget = '5 MiB'", &["4:15 ping_budget: \"5 MiB\" is a size, not a duration"]),
            ("repair_after = true", &["4:16 repair_after: a string is expected, and this is true or false"]),
            (
                "write_cache = 'volatle'",
                &["4:15 write_cache: \"volatle\" is none of \"survives-path-loss\", \"volatile\""],
            ),
            ("connections = 0", &["4:15 connections: 0 is not from 1 to 16"]),
            ("connections = 17", &["4:15 connections: 17 is not from 1 to 16"]),
            ("connections = 2.5", &["4:15 connections: a whole number is expected, and this is a fraction"]),
            ("connections = '2'", &["4:15 connections: a whole number is expected, and this is a string"]),
            (
                "path_selector = 'roundrobin'",
                &[
                    "4:17 path_selector: \"roundrobin\" is none of \"vmpath\", \"round-robin\", \"queue-length\", \"service-time\"",
                ],
            ),
            ("conections = 2", &["4:1 [[target]] knows no key \"conections\""]),
            (
                "path = 3",
                &[
                    "2:1 this target has no path",
                    "4:8 path: a list of tables is expected, and this is a whole number",
                    "5:10 \"path\" stands there twice",
                    "8:10 \"path\" stands there twice",
                ],
            ),
            (
                "unit = { name = 'x' }",
                &[
                    "4:8 unit: there may be several, so it is a list of tables",
                    "15:8 target san0 lists its units, and \"root\" is not among them",
                ],
            ),
            ("unit = [1]", &["4:9 unit: a table is expected, and this is a whole number"]),
            (
                "[[target.unit]]\nname = 'x'\nasume_same = true",
                &[
                    "6:1 [[target.unit]] knows no key \"asume_same\"",
                    "17:8 target san0 lists its units, and \"root\" is not among them",
                ],
            ),
            ("[[target.unit]]\nexport = 'x'", &["4:1 [[target.unit]]: name is missing"]),
            (
                "[[target.unit]]\nname = 'root'\nassume_same = 'yes'",
                &["6:15 assume_same: true or false is expected, and this is a string"],
            ),
            (
                "[[target.unit]]\nname = 'rot'",
                &["16:8 target san0 lists its units, and \"root\" is not among them"],
            ),
            (
                "[[target.unit]]\nname = 'root'\n[[target.unit]]\nname = 'root'",
                &["7:8 another unit of this target is named \"root\"; first at line 5"],
            ),
        ],
    );
}

#[test]
fn paths() {
    check(
        "name = \"a\"",
        &[
            ("capacity = 100", &["6:12 capacity: \"100\" has no unit"]),
            ("capacity = '100'", &["6:12 capacity: \"100\" has no unit"]),
            ("capacity = '100 MiB'", &["6:12 capacity: \"100 MiB\" is a size, not a rate"]),
            ("capacity = '0 MiB/s'", &["6:12 capacity: \"0 MiB/s\" is zero: a rate is at least 1 B/s"]),
            ("capacity = '2 TiB/s'", &["6:12 capacity: \"2 TiB/s\" is more than 1 TiB/s"]),
            (
                "access = 'optimised'",
                &["6:10 access: \"optimised\" is none of \"optimized\", \"non-optimized\""],
            ),
            ("window = '1 KiB'", &["6:10 window: \"1 KiB\" is not from 64 KiB to 1 GiB"]),
            ("window = '1 MiB/s'", &["6:10 window: \"1 MiB/s\" is a rate, not a size"]),
            ("window = 65536", &["6:10 window: \"65536\" has no unit"]),
            ("weight = 1", &["6:1 [[target.path]] knows no key \"weight\""]),
        ],
    );
}

#[test]
fn devices() {
    check(
        "url = \"nbd://10.0.1.5\"",
        &[
            (
                "[[target.path]]\nname = 'c'\nurl = 'block:///dev/sdb'\n[[target.path]]\nname = 'd'\nurl = 'block:///dev/sdb'",
                &["12:7 url: path c leads to the same place; first at line 9"],
            ),
            (
                "[[target.path]]\nname = 'c'\nurl = 'block:///dev/sdb'\n[[target.unit]]\nname = 'root'\n[[target.unit]]\nname='other'",
                &["9:7 url: /dev/sdb is one unit, but target san0 has 2 units"],
            ),
        ],
    );
}

#[test]
fn hosts() {
    let cases: [(&str, &[&str]); 7] = [
        ("journal_max = '1 KiB'", &["2:15 journal_max: \"1 KiB\" is not from 64 KiB to 256 MiB"]),
        ("journal_age = '1s'", &["2:15 journal_age: \"1s\" is not from 60s to 87840h"]),
        ("state_dir = 'var'", &["2:13 state_dir: \"var\" is not absolute"]),
        ("run_dir = ''", &["2:11 run_dir: \"\" is not absolute"]),
        ("workers = 0", &["2:11 workers: 0 is not from 1 to 64"]),
        ("scheduler = 'mclock'", &["2:13 scheduler: \"mclock\" is none of \"vmpath\", \"none\""]),
        ("workers = 65", &["2:11 workers: 65 is not from 1 to 64"]),
    ];
    for (line, expected) in cases {
        assert_eq!(faults(&format!("[host]\n{line}\n")), *expected, "{line}");
    }
}

#[test]
fn urls_and_units() {
    check(
        "url = \"nbd://10.0.1.5\"",
        &[
            (
                "[[target.path]]\nname = 'c'\nurl = 'nbd://10.0.1.5:10809'",
                &["9:7 url: path a leads to the same place; first at line 6"],
            ),
            (
                "[[target.path]]\nname = 'a'\nurl = 'nbd://10.0.3.5/'",
                &["8:8 another path of this target is named \"a\"; first at line 5"],
            ),
            (
                "[[target.path]]\nname = 'c'\nurl = 'nbd://10.0.1.5/root'",
                &["9:7 url: path a leads to the same place; first at line 6"],
            ),
            (
                "[[target.path]]\nname = 'c'\nurl = 5",
                &["9:7 url: a string is expected, and this is a whole number"],
            ),
            ("[[target.path]]\nname = 'c'", &["7:1 [[target.path]]: url is missing"]),
            (
                "[[target.path]]\nname = 'c'\nurl = 'nbd://storage'",
                &["9:7 url: \"storage\" is a host name, not an address"],
            ),
            (
                "[[target.path]]\nname = 'c'\nurl = 'nbd://10.0.1.5/x'\n[[target.unit]]\nname = 'root'\n[[target.unit]]\nname='other'",
                &["9:7 url: it names the export \"x\", but target san0 has 2 units"],
            ),
            (
                "[[target.unit]]\nname = 'root'\n[[target.unit]]\nname='other'\nexport = 'root'",
                &["8:8 units other and root of target san0 are the same export"],
            ),
            (
                "[[target.path]]\nname = 'c'\nurl = 'nbd+unix:///?socket=/run/vmpath/db1-vda.sock'",
                &[
                    "18:7 nbd: /run/vmpath/db1-vda.sock is already the socket of a path of target san0; first at line 9",
                ],
            ),
        ],
    );
}

#[test]
fn syntax() {
    let cases: [(&str, &[&str]); 10] = [
        ("[host]\nname = \n", &["2:8 this is not TOML: string values must be quoted"]),
        ("[host]\nname = 'kvm1\n", &["2:13 this is not TOML: invalid literal string, expected `'`"]),
        (
            "[[vm]]\nlimit = 5 MiB/s\nx = 1\n",
            &[
                "1:1 [[vm]]: name is missing",
                "2:9 this is not TOML: string values must be quoted",
                "3:1 [[vm]] knows no key \"x\"",
            ],
        ),
        (
            "[host\nname = 5\n[[vm]]\nlimit = 5\n",
            &["1:6 this is not TOML: unclosed table, expected `]`", "4:9 limit: \"5\" has no unit"],
        ),
        (
            "[host]\nname = 'a'\nname = 'b'\nx = 1\n",
            &["3:1 \"name\" stands there twice", "4:1 [host] knows no key \"x\""],
        ),
        ("[host]\n[host]\n", &["2:2 \"host\" stands there twice"]),
        ("a b\n= 1\n", &["1:3 this is not TOML: key with no value, expected `=`"]),
        ("[vm]\nname = 'a'\n", &["1:1 vm: there may be several, so it is a list of tables"]),
        (
            "host = 3\ntarget = 'x'\nvm = [3]\n",
            &[
                "1:8 host: a table is expected, and this is a whole number",
                "2:10 target: a list of tables is expected, and this is a string",
                "3:7 vm: a table is expected, and this is a whole number",
            ],
        ),
        ("a.b = 1\n", &["1:1 the file knows no key \"a\""]),
    ];
    for (text, expected) in cases {
        assert_eq!(faults(text), *expected, "{text}");
    }
}

/// A bracket that nobody closed swallows what follows. It is one slip, so it is one fault.
#[test]
fn an_unclosed_list_is_one_fault() {
    let text = small_with("name = \"db1\"", "name = \"db1\"\navoid = [\"san0/a\",\nshares = 5");
    let faults = parsed(&text).expect_err("unclosed");
    assert_eq!(lines(&faults), ["13:1 this is not TOML: string values must be quoted"]);
    assert_eq!(faults[0].hint.as_deref(), Some("a list begins at line 12: perhaps its ']' is missing"));
}

const MANY: &str = "\
[[target]]
name = 'san0'
failbak = 'manual'
quiesce = '5'
[[target.path]]
name = 'a'
url = 'nbd://storage1'
capacity = '100 MiB'
[[target.path]]
name = 'a'
url = 'nbd://10.0.1.5'
[[vm]]
name = 'äöü'
[[vm]]
name = 'db1'; priority = 5
reservation = '2 GiB/s'
limit = '1 GiB/s'
[[vm.disk]]
name = 'vda'
unit = 'san1/root'
[[vm]]
name = 'db2'
on_no_path = 'hold 60s'
[[vm.disk]]
name = 'vda'
unit = 'san0/root'
nbd = '/run/a'
[[vm.disk]]
name = 'vdb'
unit = 'san0/root'
nbd = '/run/a'
";

#[test]
fn all_faults_at_once_in_order() {
    let expected = [
        "3:1 [[target]] knows no key \"failbak\"",
        "4:11 quiesce: \"5\" has no unit",
        "7:7 url: \"storage1\" is a host name, not an address",
        "8:12 capacity: \"100 MiB\" is a size, not a rate",
        "10:8 another path of this target is named \"a\"; first at line 6",
        "13:8 name: \"äöü\": 'ä' cannot be part of a name",
        "15:13 this is not TOML: unexpected key or value, expected newline, `#`",
        "16:15 reservation: 2 GiB/s is above the limit of 1 GiB/s at line 17",
        "18:1 [[vm.disk]]: nbd is missing",
        "20:8 no target is named \"san1\"",
        "23:14 on_no_path: \"hold 60s\": and what then?",
        "30:8 unit san0/root is already disk db2/vda; first at line 26",
        "31:7 nbd: /run/a is already the socket of disk db2/vda; first at line 27",
    ];
    assert_eq!(faults(MANY), expected);
}

#[test]
fn faults_name_their_file_and_the_other_one() {
    let sources = [
        Source { name: "vmpath.toml", text: super::SMALL },
        Source { name: "conf.d/a.toml", text: "[host]\nname = 'a'\n[[vm]]\nname = 'db1'\n" },
        Source { name: "conf.d/b.toml", text: "[host]\nname = 'b'\nx = 1\n" },
    ];
    let said: Vec<_> = parse(&sources).expect_err("two hosts").iter().map(ToString::to_string).collect();
    let expected = [
        "conf.d/a.toml:4:8: another vm is named \"db1\"; first at vmpath.toml line 11",
        "conf.d/b.toml:1:1: [host] may stand only once; first at conf.d/a.toml line 1",
        "conf.d/b.toml:3:1: [host] knows no key \"x\"\n  help: the keys are admin_group, api_socket, fence_command, journal_age, journal_max, name, run_dir, scheduler, shed_after, shed_when, state_dir, workers",
    ];
    assert_eq!(said, expected);
}
