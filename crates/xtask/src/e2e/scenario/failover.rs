//! How soon the first request of a lost path completes on the other: resets, blackholes, a dead controller.
//!
//! The clock starts when the fault takes effect, read before the first connection can notice, and stops when the worker has the
//! reply from the other path; the record on tmpfs is written on the way. The guests are stand-ins that always have requests on
//! both paths: a guest with none there would add its own time. Rejected: the one loss of an emulated guest, whose
//! number was mostly the guest's and the firewall's.

use crate::e2e::host::{Host, Wanted};
use crate::e2e::network::{self, Loss};
use crate::e2e::stage::Stage;
use crate::e2e::standin::StandIn;
use crate::e2e::storage::{self, ArrayPlan};
use anyhow::Result;
use std::time::Duration;
use vmpath_lab::array::control::ArrayControl;
use vmpath_lab::report::Bound;

const PORTALS: [(&str, &str); 6] = [
    ("a", "127.0.0.2"),
    ("b", "127.0.0.3"),
    ("c", "127.0.0.4"),
    ("d", "127.0.0.5"),
    ("e", "127.0.0.6"),
    ("f", "127.0.0.7"),
];
/// With the array's latency of 2 ms about eight requests are on each path at any time.
const LOAD: &str = "--sizes 4KiB:4,16KiB:1 --slots 16 --zero 5 --sample-every 100ms";
const RESETS: usize = 10;
const BLACKHOLES: usize = 5;
const HANGS: usize = 3;
const RESET_MS: f64 = 20.0;
const BLACKHOLE_MS: f64 = 700.0;
/// As in `failover.toml`, and what is allowed beyond it.
const HANG_MS: f64 = 2000.0 + 100.0;
/// No single loss may take longer beyond its bound than this, however busy the machine is.
const SLACK_MS: f64 = 1000.0;
const SEEN_MAX: Duration = Duration::from_secs(10);
/// Flapping paths must prove themselves for longer each time.
const UP_MAX: Duration = Duration::from_secs(30);
/// Requests are on both paths again.
const SETTLED: Duration = Duration::from_millis(300);
/// What a lost path carried has been executed or never will be.
const QUIESCE: Duration = Duration::from_millis(500);

/// One kind of loss, several times, by turns over both paths of a target of its own.
struct Series<'a> {
    what: &'a str,
    vm: &'a str,
    target: &'a str,
    paths: [(&'a str, &'a str); 2],
    times: usize,
    bound_ms: f64,
}

pub(super) fn failover(stage: &mut Stage) -> Result<()> {
    let plan = ArrayPlan { portals: &PORTALS, options: ",latency=2ms", units: &["gold", "silver", "bronze"] };
    let (_storage, mut array) = storage::array_with(stage, &plan)?;
    let mut host = Host::start(stage, "failover.toml")?;
    let [a, b, c, d, e, f] = PORTALS;
    let resets = Series {
        what: "reset",
        vm: "gold",
        target: "san0",
        paths: [a, b],
        times: RESETS,
        bound_ms: RESET_MS,
    };
    resets.run(stage, &mut host, &mut array, |array, (portal, _)| array.fault(portal, "reset refuse"))?;
    let blackholes = Series {
        what: "blackhole",
        vm: "silver",
        target: "san1",
        paths: [c, d],
        times: BLACKHOLES,
        bound_ms: BLACKHOLE_MS,
    };
    blackholes
        .run(stage, &mut host, &mut array, |_, (_, address)| network::lose(&[address], Loss::Blackhole))?;
    let hangs = Series {
        what: "dead controller, ping budget 2 s",
        vm: "bronze",
        target: "san2",
        paths: [e, f],
        times: HANGS,
        bound_ms: HANG_MS,
    };
    hangs.run(stage, &mut host, &mut array, |array, (portal, _)| array.fault(portal, "hang"))?;
    host.finish(stage)
}

impl Series<'_> {
    /// `lose` makes one path (portal, address) fail, and says when it did.
    fn run(
        &self,
        stage: &mut Stage,
        host: &mut Host,
        array: &mut ArrayControl,
        lose: impl Fn(&mut ArrayControl, (&str, &str)) -> Result<u64>,
    ) -> Result<()> {
        let mut vm = StandIn::start(stage, self.vm, LOAD)?;
        let mut took = Vec::new();
        for turn in 0..self.times {
            let path = self.paths[turn % 2];
            stage.watch(SETTLED, |_| Ok(()))?;
            vm.wait_progress()?;
            let lost_at = lose(array, path)?;
            let subject = format!("{}/{}", self.target, path.0);
            let wanted =
                Wanted { kind: "failed-over", subject: &subject, since_unix_us: lost_at, bound: SEEN_MAX };
            let event = host.wait_event(stage, &wanted)?;
            took.push(event.at_unix_us.saturating_sub(lost_at) as f64 / 1e3);
            vm.wait_progress()?;
            network::heal_if_lost()?;
            array.clear(path.0)?;
            host.wait_path(stage, &subject, "up", UP_MAX)?;
            host.wait_all_up(stage, UP_MAX)?;
        }
        self.judge(stage, took);
        vm.end(QUIESCE)?.check(stage);
        Ok(())
    }

    fn judge(&self, stage: &mut Stage, mut took: Vec<f64>) {
        took.sort_by(f64::total_cmp);
        let (median, slowest) = (took.get(took.len() / 2).copied(), took.last().copied());
        let words: Vec<_> = took.iter().map(|ms| format!("{ms:.1}")).collect();
        let name = format!("{}: to the first request completed on the other path", self.what);
        stage.report.check(&format!("{name}, median"), median, Bound::AtMost(self.bound_ms), "ms").note =
            words.join(", ");
        let bound = Bound::AtMost(self.bound_ms + SLACK_MS);
        stage.report.check(&format!("{name}, slowest"), slowest, bound, "ms");
        stage.report.attach(self.what, &took);
    }
}
