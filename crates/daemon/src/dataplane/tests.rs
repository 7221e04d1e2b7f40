//! A data plane as it is, over the lab's array: what goes through it, and what that costs.

mod moving;

use super::{Dataplane, WorkerReport};
use crate::sys::{clock, counting};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use vmpath_core::controller::Controller;
use vmpath_core::effect::Effect;
use vmpath_core::plan::RoutePlan;
use vmpath_core::spec::{Source, parse};
use vmpath_lab::array::{Array, ArrayArgs};
use vmpath_lab::hop::{HopArgs, HopReport, Op, Verify};

/// Ten and more come each second.
const REPORTS_MAX: usize = 200;

struct Rig {
    _runtime: tokio::runtime::Runtime,
    _array: Array,
    folder: tempfile::TempDir,
    reports: UnboundedReceiver<WorkerReport>,
    plane: Option<Dataplane>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(plane) = self.plane.take() {
            plane.stop();
        }
    }
}

/// One disk over two portals of an array in this process.
fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let portal = |name: &str| format!("{name}=unix:{}/{name}.sock", folder.path().display()).parse().unwrap();
    let args = ArrayArgs {
        unit: vec!["u=64MiB".parse().unwrap()],
        portal: vec![portal("a"), portal("b")],
        control: None,
        prefill: true,
    };
    let array = runtime.block_on(args.open()).unwrap();
    let urls = ["a", "b"].map(|name| format!("nbd+unix:///?socket={}/{name}.sock", folder.path().display()));
    let (report, reports) = unbounded_channel();
    let plane = Dataplane::start(&plan(folder.path(), &urls), &report).unwrap();
    Rig { _runtime: runtime, _array: array, folder, reports, plane: Some(plane) }
}

/// One disk of one VM, over the paths with these URLs.
fn plan(folder: &Path, urls: &[String]) -> Arc<RoutePlan> {
    let at = folder.display();
    let path = |(number, url)| format!("[[target.path]]\nname = \"p{number}\"\nurl = \"{url}\"\n");
    let paths: String = urls.iter().enumerate().map(path).collect();
    let text = format!(
        r#"
        [host]
        name = "h"
        api_socket = "{at}/api.sock"
        state_dir = "{at}"
        run_dir = "{at}/run"
        [[target]]
        name = "t"
        {paths}
        [[vm]]
        name = "v"
        [[vm.disk]]
        name = "d"
        unit = "t/u"
        vhost_user = "{at}/d.sock"
        "#
    );
    plan_of(&text)
}

fn plan_of(text: &str) -> Arc<RoutePlan> {
    let spec = Arc::new(parse(&[Source { name: "t.toml", text }]).unwrap().spec);
    let (_, effects) = Controller::new(spec, clock::now());
    let plan =
        effects.into_iter().find_map(|e| if let Effect::Publish(plan) = e { Some(plan) } else { None });
    Arc::new(plan.unwrap())
}

impl Rig {
    /// Waits until the disk listens: a path is up, and the next report has gone by.
    fn load(&mut self) -> HopArgs {
        let socket = self.folder.path().join("d.sock");
        for _ in 0..REPORTS_MAX {
            if socket.exists() {
                break;
            }
            self.reports.blocking_recv().expect("the worker lives");
        }
        assert!(socket.exists(), "the disk is not listened for");
        HopArgs {
            seconds: Duration::from_millis(1500),
            warmup: Duration::from_millis(500),
            ..HopArgs::new(vec![self.folder.path().join("d.sock")])
        }
    }

    /// A disk has one front end: the next is refused until the worker has seen the last one go, and tries again.
    fn run(&mut self, load: &HopArgs) -> HopReport {
        loop {
            match load.measure() {
                Err(error) if error.to_string().contains("cannot connect") => {
                    self.reports.blocking_recv().expect("the worker lives");
                }
                done => return done.unwrap(),
            }
        }
    }

    /// Allocations of the worker so far, as of its next report.
    fn allocations(&mut self) -> u64 {
        while self.reports.try_recv().is_ok() {}
        for _ in 0..2 {
            self.reports.blocking_recv().expect("the worker lives");
        }
        counting::published()
    }
}

#[test]
fn nothing_is_allocated_for_a_request() {
    let mut rig = rig();
    let load = rig.load();
    for op in [Op::Randread, Op::Randwrite] {
        // The first run finds room for everything.
        let run = HopArgs { op, ..load.clone() };
        rig.run(&run);
        let before = rig.allocations();
        let requests = rig.run(&run).requests;
        let allocated = rig.allocations() - before;
        // Sessions, reports and inspections do allocate, some hundred times a second.
        assert!(allocated * 10 < requests, "{op:?}: {allocated} allocations for {requests} requests");
    }
}

#[test]
fn what_is_written_is_read() {
    let mut rig = rig();
    let load = HopArgs { verify: Verify::Yes, span: Some(8 << 20), ..rig.load() };
    for (op, block_size) in
        [(Op::Randwrite, 4096), (Op::Randread, 8192), (Op::Write, 128 << 10), (Op::Read, 1 << 20)]
    {
        let done = HopArgs { op, block_size, depth: 8, seconds: Duration::from_millis(300), ..load.clone() };
        let report = rig.run(&done);
        assert_eq!((report.errors, report.mismatches, report.strays), (0, 0, 0), "{op:?}");
        assert!(report.requests > 0);
    }
}

/// What the kernel reaches is a path too: the same load over a file, opened for direct I/O.
#[test]
fn a_file_is_a_path() {
    let mut rig = rig();
    rig.plane.take().unwrap().stop();
    let disk = rig.folder.path().join("disk.img");
    std::fs::write(&disk, vec![7; 16 << 20]).unwrap();
    let plan = plan(rig.folder.path(), &[format!("block://{}", disk.display())]);
    let (report, reports) = unbounded_channel();
    (rig.plane, rig.reports) = (Some(Dataplane::start(&plan, &report).unwrap()), reports);
    let load = HopArgs { verify: Verify::Yes, span: Some(4 << 20), depth: 8, ..rig.load() };
    for op in [Op::Randwrite, Op::Randread] {
        let done = HopArgs { op, seconds: Duration::from_millis(300), ..load.clone() };
        let report = rig.run(&done);
        assert_eq!((report.errors, report.mismatches, report.strays), (0, 0, 0), "{op:?}");
        assert!(report.requests > 0);
    }
    let content = std::fs::read(&disk).unwrap();
    assert!(content[..4 << 20].iter().any(|byte| *byte != 7), "it is the file that was written to");
    assert!(content[4 << 20..].iter().all(|byte| *byte == 7), "and nothing else of it");
}
