//! A data plane as it is, over the lab's array: what goes through it, and what that costs.

mod moving;

use super::{Dataplane, Former, Standing, WorkerReport, recover};
use crate::sys::mark::Marker;
use crate::sys::{clock, counting};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use vmpath_core::controller::Controller;
use vmpath_core::effect::Effect;
use vmpath_core::ids::WorkerId;
use vmpath_core::plan::RoutePlan;
use vmpath_core::spec::{Source, parse};
use vmpath_core::time::Instant;
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
    let plane = Dataplane::start(&plan(folder.path(), &urls), Former::None, &report).unwrap();
    Rig { _runtime: runtime, _array: array, folder, reports, plane: Some(plane) }
}

/// One disk of one VM, over the paths with these URLs.
fn plan(folder: &Path, urls: &[String]) -> Arc<RoutePlan> {
    plan_of(&config(folder, urls))
}

fn config(folder: &Path, urls: &[String]) -> String {
    let at = folder.display();
    let path = |(number, url)| format!("[[target.path]]\nname = \"p{number}\"\nurl = \"{url}\"\n");
    let paths: String = urls.iter().enumerate().map(path).collect();
    format!(
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
    )
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
    (rig.plane, rig.reports) = (Some(Dataplane::start(&plan, Former::Ran, &report).unwrap()), reports);
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

/// A bound counts from the end of what the kernel still carried out for the process before, not from the start.
#[test]
fn what_the_kernel_still_has_is_fenced_from_its_end() {
    const QUIESCE: Duration = Duration::from_millis(300);
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    std::fs::write(&disk, vec![7; 1 << 20]).unwrap();
    let text = config(folder.path(), &[format!("block://{}", disk.display())]);
    let plan = plan_of(&text.replace("name = \"t\"", "name = \"t\"\nquiesce = \"300ms\""));
    // The process before: its record names a write, and the kernel still refers to what it had open.
    let run = plan.spec.host.run_dir.clone();
    let before = Instant::from_nanos(clock::now().as_nanos() - 1_000_000_000);
    std::fs::create_dir_all(&run).unwrap();
    recover::new_record(&plan.spec, WorkerId(0), before).unwrap().remember(0, 0, 0..4096, None);
    let in_kernel = OwnedFd::from(std::fs::File::open(&disk).unwrap());
    Marker::new(&run, before).set(&in_kernel, "t/u").unwrap();

    let (report, mut reports) = unbounded_channel();
    let plane = Dataplane::start(&plan, Former::Ran, &report).unwrap();
    let mut next = |wanted: fn(&WorkerReport) -> bool| {
        (0..REPORTS_MAX).map(|_| reports.blocking_recv().unwrap()).find(wanted).expect("it is told")
    };
    let standing = |report: WorkerReport| {
        let WorkerReport::Undead(report) = report else { panic!("{report:?}") };
        report.standing
    };
    let undead = |report: &WorkerReport| matches!(report, WorkerReport::Undead(_));
    assert_eq!(standing(next(undead)), Standing::Waiting);
    let WorkerReport::View(_, seen) = next(|report| matches!(report, WorkerReport::View(..))) else {
        unreachable!("it is what was asked for")
    };
    let seen = &seen.units[0];
    assert_eq!((seen.quarantined_ranges, seen.quarantined_for), (1, None), "three bounds after the start");
    // The file is open here, too: that is this process's, and fences nothing.
    drop(in_kernel);
    assert_eq!(standing(next(undead)), Standing::Over);
    let over = clock::now();
    next(|report| matches!(report, WorkerReport::View(_, view) if view.units[0].quarantined_ranges == 0));
    // The report may be a moment late, and the bound began before it.
    assert!(clock::now().since(over) + Duration::from_millis(20) >= QUIESCE);
    plane.stop();
}
