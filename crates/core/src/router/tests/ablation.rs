//! Ablation: each input of a decision, changed alone, changes it.
//!
//! A row is a situation and one change of one input; that it is one is checked, not promised. The decisions are compared
//! with the text below, so that a changed behaviour shows up in review as a changed line. The scenes say *which* path,
//! *whether* a request goes, and *when*, by whose turn it is. What the priority does to the choice of a path (who spills to a
//! worse one, who waits for a fast one) is in the tables of `select`.

use super::bench::{A, B, Bench};
use crate::ids::PathId;
use crate::plan::{Health, RoutePlan};
use crate::spec::{Access, ByteRate, VmSpec};
use crate::testing::vm;
use crate::time::Duration;
use crate::view::HoldReason;
use std::collections::VecDeque;
use std::fmt::Write as _;

/// Which path, how many and why not more, or whose turns. In the last row both have reserved 80 of 100 MiB/s.
const EXPECTED: &str = "\
scene    input              base       changed        decision before              decision after
which    pending load of a  0 KiB      768 KiB        over a                       over b
which    service time of a  1 ms       20 ms          over a                       over b
which    access state of a  optimized  non-optimized  over a                       over b
which    affinity           any        not a          over a                       over b
whether  pending load of a  0 KiB      512 KiB        14 of 20 go, 6 held: window  6 of 20 go, 14 held: window
whether  priority           100        50             14 of 20 go, 6 held: window  12 of 20 go, 8 held: headroom
whether  limit              none       1.0 MiB/s      14 of 20 go, 6 held: window  1 of 20 go, 19 held: limit, next in 57 ms
whether  limit on requests  none       10 a second    14 of 20 go, 6 held: window  1 of 20 go, 19 held: limit, next in 95 ms
whether  affinity           any        not a          14 of 20 go, 6 held: window  0 of 20 go, 20 held: no-path
when     reservation        none       80.0 MiB/s     rvrvrvrvrvrvrvrv             vrvvvvrvvvvrvvvv
when     limit              none       10.0 MiB/s     rvrvrvrvrvrvrvrv             rrrrrvrrrrrrrrrv
when     shares             1000       3000           rvrvrvrvrvrvrvrv             vvvrvvvrvvvrvvvr
when     priority           200        50             vrvvvvrvvvvrvvvv             rvrrrrvrrrrvrrrr";

/// What is decided by. The VM in question is `v`; `r` is its rival.
#[derive(Clone, Debug, PartialEq)]
struct Situation {
    /// KiB in flight on path a.
    pending: u64,
    /// Milliseconds that path a has lately taken for a request; b has taken 2.
    service_time: u64,
    access: Access,
    vm: VmSpec,
    rival: VmSpec,
}

impl Situation {
    fn base() -> Self {
        Self { pending: 0, service_time: 1, access: Access::Optimized, vm: vm("v"), rival: vm("r") }
    }

    /// Every input, by name.
    fn inputs(&self) -> [(&'static str, String); 9] {
        let rate = |rate: Option<ByteRate>| rate.map_or_else(|| "none".to_owned(), |rate| rate.to_string());
        let avoids = self.vm.avoid_paths.iter().map(|path| if *path == A { "not a" } else { "not b" });
        let affinity = avoids.collect::<Vec<_>>().join(", ");
        [
            ("pending load of a", format!("{} KiB", self.pending)),
            ("service time of a", format!("{} ms", self.service_time)),
            ("access state of a", self.access.to_string()),
            ("priority", self.vm.priority.to_string()),
            ("reservation", rate(self.vm.reservation)),
            ("limit", rate(self.vm.limit)),
            (
                "limit on requests",
                self.vm.limit_iops.map_or_else(|| "none".into(), |n| format!("{n} a second")),
            ),
            ("shares", self.vm.shares.to_string()),
            ("affinity", if affinity.is_empty() { "any".into() } else { affinity }),
        ]
    }
}

/// Two paths, and b carries 128 KiB: which takes one more request of 4 KiB?
fn which(s: &Situation) -> String {
    let mut b = bench(s, 2);
    for (path, millis) in [(A, s.service_time), (B, 2)] {
        load(&mut b, 100 + u32::from(path.0), path, 1);
        let sent = b.drain().remove(0);
        b.pass(millis);
        b.answer(sent.request.token, Ok(()));
    }
    load(&mut b, 102, A, s.pending / 4);
    load(&mut b, 103, B, 32);
    b.drain();
    b.replan(|plan| plan.paths[0].access = s.access);
    b.read(1, 0);
    b.sent().strip_prefix("1r@").map_or_else(|| "held".into(), |path| format!("over {path}"))
}

/// One path: how many of 20 requests of 64 KiB go at once, while a rival has one of 4 KiB there?
fn whether(s: &Situation) -> String {
    let mut b = bench(s, 1);
    load(&mut b, 101, A, 1);
    load(&mut b, 102, A, s.pending / 4);
    b.drain();
    for token in 1..=20 {
        b.submit_for(0, token, (u64::from(token) * 16, 16));
    }
    let mut words = format!("{} of 20 go", b.drain().len());
    for (reason, count) in b.held() {
        let _ = write!(words, ", {count} held: {}", reason.as_str());
        if reason == HoldReason::Limit {
            let _ = write!(words, ", next in {} ms", b.wake().since(b.now).as_millis());
        }
    }
    words
}

/// One path that serves in order at 100 MiB/s, and two VMs that always wait with 128 KiB: whose are the next 16 requests?
fn when(s: &Situation) -> String {
    let mut b = bench(s, 1);
    for number in 0..24 {
        b.submit_for(0, number, (0, 32));
        b.submit_for(1, 100 + number, (0, 32));
    }
    let mut line: VecDeque<_> = b.drain().into();
    let mut turns = String::new();
    for _ in 0..40 {
        // Everybody is served, and the path may stand still for the sake of a limit.
        b.now += Duration::from_micros(1250);
        match line.pop_front() {
            Some(sent) => b.answer(sent.request.token, Ok(())),
            None => b.act(),
        }
        let sent = b.drain();
        turns.extend(sent.iter().map(|sent| if sent.request.disk.index() == 0 { 'v' } else { 'r' }));
        line.extend(sent);
    }
    turns.truncate(16);
    turns
}

fn bench(s: &Situation, paths: u16) -> Bench {
    let mut b = Bench::new(usize::from(paths), vec![s.vm.clone(), s.rival.clone()]);
    (0..paths).for_each(|path| b.up(PathId(path)));
    b
}

/// The rival reads so many blocks of 4 KiB over that path; it stays in flight.
fn load(b: &mut Bench, token: u32, on: PathId, blocks: u64) {
    if blocks == 0 {
        return;
    }
    let only = |health: fn(bool) -> Health| {
        move |plan: &mut RoutePlan| {
            for (at, path) in plan.paths.iter_mut().enumerate() {
                path.health = health(at == on.index());
            }
        }
    };
    b.replan(only(|here| if here { Health::Up } else { Health::Disabled }));
    b.submit_for(1, token, (0, blocks));
    b.replan(only(|_| Health::Up));
}

struct Row {
    scene: (&'static str, fn(&Situation) -> String),
    base: fn(&mut Situation),
    change: fn(&mut Situation),
}

const fn row(scene: (&'static str, fn(&Situation) -> String), change: fn(&mut Situation)) -> Row {
    Row { scene, base: |_| {}, change }
}

const MIB: u64 = 1 << 20;
const WHICH: (&str, fn(&Situation) -> String) = ("which", which);
const WHETHER: (&str, fn(&Situation) -> String) = ("whether", whether);
const WHEN: (&str, fn(&Situation) -> String) = ("when", when);

fn rows() -> Vec<Row> {
    vec![
        row(WHICH, |s| s.pending = 768),
        row(WHICH, |s| s.service_time = 20),
        row(WHICH, |s| s.access = Access::NonOptimized),
        row(WHICH, |s| s.vm.avoid_paths = vec![A]),
        row(WHETHER, |s| s.pending = 512),
        row(WHETHER, |s| s.vm.priority = 50),
        row(WHETHER, |s| s.vm.limit = Some(ByteRate(MIB))),
        row(WHETHER, |s| s.vm.limit_iops = Some(10)),
        row(WHETHER, |s| s.vm.avoid_paths = vec![A]),
        row(WHEN, |s| s.vm.reservation = Some(ByteRate(80 * MIB))),
        row(WHEN, |s| s.vm.limit = Some(ByteRate(10 * MIB))),
        row(WHEN, |s| s.vm.shares = 3000),
        Row {
            base: |s| {
                s.vm.reservation = Some(ByteRate(80 * MIB));
                s.rival.reservation = Some(ByteRate(80 * MIB));
                s.vm.priority = 200;
            },
            ..row(WHEN, |s| s.vm.priority = 50)
        },
    ]
}

#[test]
fn each_input_alone_changes_the_decision() {
    let mut table =
        vec![["scene", "input", "base", "changed", "decision before", "decision after"].map(String::from)];
    for row in rows() {
        let mut before = Situation::base();
        (row.base)(&mut before);
        let mut after = before.clone();
        (row.change)(&mut after);
        assert_eq!(before.rival, after.rival, "the rival is no input");
        let inputs = before.inputs().into_iter().zip(after.inputs());
        let changed: Vec<_> = inputs.filter(|(before, after)| before != after).collect();
        let [((input, from), (_, to))] = changed.as_slice() else {
            panic!("one input is to be changed, not {changed:?}");
        };
        let (name, decide) = row.scene;
        let (then, now) = (decide(&before), decide(&after));
        assert_ne!(then, now, "{name}: {input} from {from} to {to} changes nothing");
        table.push([name.into(), (*input).into(), from.clone(), to.clone(), then, now]);
    }
    let said = aligned(&table);
    assert_eq!(said, EXPECTED, "\n{said}");
}

#[test]
fn every_input_is_in_the_table() {
    let named = Situation::base().inputs();
    for (input, _) in named {
        assert!(EXPECTED.contains(&format!(" {input} ")), "{input} has no row");
    }
}

fn aligned(table: &[[String; 6]]) -> String {
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let line = |row: &[String; 6]| {
        let cells = row.iter().enumerate().map(|(at, cell)| format!("{cell:w$}", w = width(at)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect::<Vec<_>>().join("\n")
}
