//! Two data planes and a guest that moves from one to the other, with requests open, under a load that checks every block.

use super::super::{Dataplane, OrderReport, ProbedUnit, WorkerOrder, WorkerReport};
use super::plan_of;
use crate::sys::clock;
use load::Load;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use vmpath_core::ids::{UnitId, VmId};
use vmpath_core::migration::destination::Withdrawn;
use vmpath_core::migration::{DiskHandOver, HandOver, MoveId, Open, OpenRequest, VmCarry};
use vmpath_core::plan::RoutePlan;
use vmpath_lab::array::control::ArrayControl;
use vmpath_lab::array::{Array, ArrayArgs};

mod left;
mod load;

const VM: VmId = VmId(0);
const UNITS: [UnitId; 2] = [UnitId(0), UnitId(1)];
const DISKS: [&str; 2] = ["d0", "d1"];
/// Writes that hang on the wire are executed so long after their connection was cut: well before the quiesce bound of 3 s.
const GHOST: &str = "hang ghost 1200";
const REPORTS_MAX: usize = 400;
const SHORT: Duration = Duration::from_millis(150);

/// An array with two portals for each host.
struct Ground {
    _runtime: tokio::runtime::Runtime,
    _array: Array,
    control: ArrayControl,
    folder: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let at = folder.path().display();
        let portal =
            |name: &str| format!("{name}=unix:{at}/{name}.sock,host={}", &name[..1]).parse().unwrap();
        let socket = folder.path().join("control.sock");
        let args = ArrayArgs {
            unit: vec!["u0=8MiB".parse().unwrap(), "u1=8MiB".parse().unwrap()],
            portal: ["a1", "a2", "b1", "b2"].map(portal).into(),
            control: Some(socket.clone()),
            prefill: true,
        };
        let array = runtime.block_on(args.open()).unwrap();
        let control = ArrayControl::connect(&socket).unwrap();
        Self { _runtime: runtime, _array: array, control, folder }
    }

    fn host(&self, name: &str) -> Host {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Host::start(&folder, plan_of(&self.config(name, &folder)))
    }

    fn config(&self, name: &str, folder: &Path) -> String {
        let at = self.folder.path().display();
        config(folder, &[1, 2].map(|number| format!("nbd+unix:///?socket={at}/{name}{number}.sock")))
    }

    /// How often the writing host has changed, and how often one has written over another's newer data.
    fn writers(&mut self) -> (u64, u64) {
        let units = self.control.writers().unwrap();
        let turns = units.iter().map(|unit| unit.turns_total).max().unwrap();
        (turns, units.iter().map(|unit| unit.violations_total).sum())
    }

    fn fault(&mut self, portals: [&str; 2], faults: &str) {
        for portal in portals {
            self.control.fault(portal, faults).unwrap();
        }
    }

    fn clear(&mut self, portals: [&str; 2]) {
        for portal in portals {
            self.control.clear(portal).unwrap();
        }
    }
}

fn config(folder: &Path, urls: &[String]) -> String {
    let at = folder.display();
    let disk = |name: &str| {
        let unit = name.replace('d', "u");
        format!(
            "[[vm.disk]]\nname = \"{name}\"\nunit = \"t/{unit}\"\nqueues = 2\nvhost_user = \"{at}/{name}.sock\"\n"
        )
    };
    let path = |(number, url)| format!("[[target.path]]\nname = \"p{number}\"\nurl = \"{url}\"\n");
    let paths: String = urls.iter().enumerate().map(path).collect();
    format!(
        "[host]\nname = \"h\"\napi_socket = \"{at}/api.sock\"\nstate_dir = \"{at}\"\nrun_dir = \"{at}/run\"\n\
         [[target]]\nname = \"t\"\nquiesce = \"3s\"\n{paths}\n[[vm]]\nname = \"v\"\n{}{}",
        disk("d0"),
        disk("d1"),
    )
}

struct Host {
    folder: PathBuf,
    plan: Arc<RoutePlan>,
    plane: Option<Dataplane>,
    reports: UnboundedReceiver<WorkerReport>,
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(plane) = self.plane.take() {
            plane.stop();
        }
    }
}

impl Host {
    fn start(folder: &Path, plan: Arc<RoutePlan>) -> Self {
        let (report, reports) = unbounded_channel();
        let plane = Dataplane::start(&plan, crate::dataplane::Former::None, &report).unwrap();
        let mut host = Self { folder: folder.to_owned(), plan, plane: Some(plane), reports };
        host.await_sockets();
        host
    }

    /// Another process takes this one's place; what it had on the wire is of unknown outcome.
    fn restart(mut self) -> Self {
        self.plane.take().unwrap().stop();
        Self::start(&self.folder, Arc::clone(&self.plan))
    }

    /// As [`Self::restart`], and its portals, which had hung, work for the next one.
    fn restart_with(mut self, ground: &mut Ground) -> Self {
        self.plane.take().unwrap().stop();
        // Their ghosts come all the same.
        ground.clear(["b1", "b2"]);
        ground.fault(["b1", "b2"], "ghost 1200");
        Self::start(&self.folder, Arc::clone(&self.plan))
    }

    fn sockets(&self) -> [PathBuf; 2] {
        DISKS.map(|disk| self.folder.join(format!("{disk}.sock")))
    }

    fn await_sockets(&mut self) {
        for _ in 0..REPORTS_MAX {
            if self.sockets().iter().all(|socket| socket.exists()) {
                return;
            }
            self.reports.blocking_recv().expect("the worker lives");
        }
        panic!("its disks are not listened for");
    }

    fn order(&self, order: WorkerOrder) {
        assert_eq!(self.plane.as_ref().unwrap().order(order), Ok(1));
    }

    /// The first report that is picked out.
    fn report<T>(&mut self, pick: impl Fn(OrderReport) -> Option<T>) -> T {
        for _ in 0..REPORTS_MAX {
            if let WorkerReport::Order(report) = self.reports.blocking_recv().expect("the worker lives")
                && let Some(picked) = pick(report)
            {
                return picked;
            }
        }
        panic!("it is not reported");
    }

    fn settle(&mut self, within: Duration) -> Result<Vec<DiskHandOver>, String> {
        self.order(WorkerOrder::Settle { ticket: 7, vm: VM, by: clock::now() + within });
        self.report(|report| match report {
            OrderReport::Settled { ticket: 7, disks } => Some(disks),
            _ => None,
        })
    }

    fn expect_vm(&mut self, number: u64) -> Result<(), String> {
        self.order(WorkerOrder::Expect { ticket: 8, vm: VM, move_id: move_id(number) });
        self.report(|report| match report {
            OrderReport::Expected { ticket: 8, result } => Some(result),
            _ => None,
        })
    }

    fn offer(&mut self, hand_over: HandOver) -> Result<(), String> {
        self.order(WorkerOrder::Offer { ticket: 9, hand_over: Arc::new(hand_over) });
        self.report(|report| match report {
            OrderReport::Stored { ticket: 9, result } => Some(result),
            _ => None,
        })
    }

    fn withdraw(&mut self, number: u64) -> Withdrawn {
        self.order(WorkerOrder::Withdraw { ticket: 10, vm: VM, move_id: move_id(number) });
        self.report(|report| match report {
            OrderReport::Withdrawn { ticket: 10, withdrawn } => Some(withdrawn),
            _ => None,
        })
    }

    fn own(&self) {
        self.order(WorkerOrder::Own { units: UNITS.into() });
    }

    fn disown(&self) {
        self.order(WorkerOrder::Disown { units: UNITS.into() });
    }

    fn await_arrival(&mut self) {
        self.report(|report| matches!(report, OrderReport::Taken { vm: VM, .. }).then_some(()));
        self.report(|report| matches!(report, OrderReport::Arrived { vm: VM, .. }).then_some(()));
    }

    fn files(&self) -> usize {
        let all = std::fs::read_dir(self.folder.join("run")).unwrap().flatten();
        all.filter(|file| file.file_name().to_string_lossy().starts_with("handover-")).count()
    }
}

fn move_id(number: u64) -> MoveId {
    MoveId { host: "a".into(), nonce: 0xabc, number }
}

fn hand_over(number: u64, disks: Vec<DiskHandOver>) -> HandOver {
    HandOver {
        move_id: move_id(number),
        vm: "v".into(),
        from: "a".into(),
        to: "b".into(),
        disks,
        incident: None,
        vm_state: VmCarry::Running,
    }
}

fn open(disks: &[DiskHandOver]) -> impl Iterator<Item = &OpenRequest> {
    disks.iter().flat_map(|disk| &disk.queues).flat_map(|queue| &queue.open)
}

/// A host whose guest stands still with everything that it has asked lost on the wire, and what is told of that.
fn stranded(ground: &mut Ground) -> (Host, Load, Vec<DiskHandOver>) {
    let mut source = ground.host("a");
    let mut load = Load::connect(&source.sockets());
    load.run(Duration::from_millis(300));
    assert!(load.done() > 100, "it works while its paths do");
    ground.fault(["a1", "a2"], GHOST);
    load.run_into_a_wall();
    load.stop();
    let began = clock::now();
    let disks = source.settle(SHORT).unwrap();
    let took = clock::now().since(began);
    assert!(took >= SHORT && took < SHORT * 10, "{took:?}: the rest is cut when the time is up");
    assert_eq!(open(&disks).count(), load.open(), "all that is open is handed over");
    let unknown = open(&disks).filter(|open| open.state == Open::Unknown).count();
    assert!(unknown > 0 && unknown <= load.open_writes(), "{unknown} of {}", load.open_writes());
    let ranges: usize = disks.iter().map(|disk| disk.quarantine.len()).sum();
    assert_eq!(ranges, unknown, "what had no room on its path was never sent");
    (source, load, disks)
}

/// The whole way, with writes that hang on the wire and are executed at the array after the move.
#[test]
fn a_guest_moves_with_all_its_requests_open_and_nothing_is_lost_or_mixed_up() {
    let mut ground = Ground::new();
    let mut target = ground.host("b");
    target.disown();
    target.expect_vm(1).unwrap();
    let (source, mut load, disks) = stranded(&mut ground);
    load.move_to(&target.sockets());
    source.disown();
    load.run(SHORT);
    let before = load.done();
    assert!(target.files() == 0 && load.open() > 0);
    target.offer(hand_over(1, disks)).unwrap();
    assert_eq!(target.files(), 2);
    load.run(SHORT);
    assert_eq!(load.done(), before, "stored, and not owned");
    target.own();
    target.await_arrival();
    assert_eq!(target.files(), 0);
    // Over the ghosts and the fences.
    load.run(Duration::from_millis(3500));
    load.finish();
    assert!(load.done() > before + 1000);
    load.assert_sound();
    assert_eq!(ground.writers(), (2, 0), "one host, and then the other");
}

/// What the test above sees is seen only because the quarantine travels: without it the ghosts are found.
#[test]
fn without_the_quarantine_the_load_finds_the_ghosts() {
    let mut ground = Ground::new();
    let mut target = ground.host("b");
    target.disown();
    target.expect_vm(1).unwrap();
    let (_source, mut load, mut disks) = stranded(&mut ground);
    for disk in &mut disks {
        disk.quarantine.clear();
    }
    load.move_to(&target.sockets());
    target.offer(hand_over(1, disks)).unwrap();
    target.own();
    target.await_arrival();
    load.run(Duration::from_millis(3000));
    load.finish();
    assert!(load.mismatches() > 0);
    assert!(ground.writers().1 > 0);
}

#[test]
fn a_healthy_guest_takes_no_quarantine_with_it_and_comes_back() {
    let mut ground = Ground::new();
    let mut hosts = [ground.host("a"), ground.host("b")];
    hosts[1].disown();
    let mut load = Load::connect(&hosts[0].sockets());
    for number in 1..=4 {
        load.run(Duration::from_millis(200));
        let [source, target] = &mut hosts;
        target.expect_vm(number).unwrap();
        load.stop();
        let disks = source.settle(Duration::from_secs(1)).unwrap();
        assert!(disks.iter().all(|disk| disk.quarantine.is_empty()), "{disks:?}");
        assert!(open(&disks).all(|open| open.state != Open::Unknown), "{disks:?}");
        source.disown();
        target.offer(hand_over(number, disks)).unwrap();
        target.own();
        load.move_to(&target.sockets());
        target.await_arrival();
        source.await_sockets();
        hosts.swap(0, 1);
    }
    load.run(Duration::from_millis(200));
    load.finish();
    load.assert_sound();
    assert_eq!(ground.writers(), (5, 0));
}

#[test]
fn a_move_that_is_revoked_goes_on_where_it_was_and_not_before() {
    let mut ground = Ground::new();
    let (mut source, mut load, _) = stranded(&mut ground);
    ground.clear(["a1", "a2"]);
    load.resume();
    load.run(Duration::from_millis(600));
    let before = load.done();
    load.run(Duration::from_millis(300));
    assert_eq!(load.done(), before, "its paths are well, and its requests may be another host's");
    source.order(WorkerOrder::Revoke { vm: VM });
    source.report(|report| matches!(report, OrderReport::Revoked { .. }).then_some(()));
    load.run(Duration::from_millis(3500));
    load.finish();
    load.assert_sound();
}

#[test]
fn what_is_not_for_this_vm_and_this_move_is_refused() {
    let mut ground = Ground::new();
    let mut target = ground.host("b");
    target.disown();
    let (_source, mut load, disks) = stranded(&mut ground);
    let good = hand_over(2, disks);
    assert!(target.offer(good.clone()).unwrap_err().contains("expected"), "nobody is expected");
    target.expect_vm(2).unwrap();
    let refused = |change: &dyn Fn(&mut HandOver), word: &str, target: &mut Host| {
        let mut bad = good.clone();
        change(&mut bad);
        let why = target.offer(bad).unwrap_err();
        assert!(why.contains(word), "{why}");
    };
    refused(&|h| h.move_id = move_id(1), "a.abc.2 is expected", &mut target);
    refused(&|h| drop(h.disks.pop()), "1 disks", &mut target);
    refused(&|h| h.disks[0].disk = "d9".into(), "d0 is not handed over", &mut target);
    refused(&|h| h.disks[1].unit = "t/u0".into(), "d1 is t/u0 there", &mut target);
    refused(&|h| h.disks[0].queues[0].queue = 2, "queue 2", &mut target);
    refused(&|h| h.disks[0].queues[1].queue = 0, "queue 0", &mut target);
    refused(
        &|h| h.disks[0].queues[0].open[1].head = h.disks[0].queues[0].open[0].head,
        "cannot be",
        &mut target,
    );
    refused(&|h| h.disks[1].quarantine[0].length = 0, "quarantine", &mut target);
    let mut unknown = good.clone();
    unknown.vm = "w".into();
    let order = WorkerOrder::Offer { ticket: 9, hand_over: Arc::new(unknown) };
    assert_eq!(target.plane.as_ref().unwrap().order(order), Err(super::super::OrderError::NoSuchVm));
    assert_eq!(target.files(), 0);
    // Given up, it is not taken any more; another move of the VM is.
    target.offer(good.clone()).unwrap();
    assert_eq!((target.files(), target.withdraw(2)), (2, Withdrawn::Untouched));
    assert_eq!(target.files(), 0);
    assert!(target.offer(good.clone()).is_err());
    target.order(WorkerOrder::Forget { vm: VM, move_id: move_id(2) });
    target.own();
    target.expect_vm(3).unwrap();
    target.offer(HandOver { move_id: move_id(3), ..good }).unwrap();
    load.move_to(&target.sockets());
    target.await_arrival();
    assert_eq!(target.withdraw(3), Withdrawn::Taken, "it cannot be given back");
    load.run(Duration::from_millis(200));
    load.finish();
    load.assert_sound();
}

/// It is for this VM and this move, and is not what its rings have open.
#[test]
fn a_ring_that_does_not_fit_is_told_and_nothing_of_it_is_executed() {
    let mut ground = Ground::new();
    let mut target = ground.host("b");
    target.disown();
    target.expect_vm(1).unwrap();
    let (_source, mut load, mut disks) = stranded(&mut ground);
    disks[0].queues[1].open.pop();
    load.move_to(&target.sockets());
    target.offer(hand_over(1, disks)).unwrap();
    target.own();
    let (disk, why) = target.report(|report| match report {
        OrderReport::Misfit { disk, why } => Some((disk, why)),
        _ => None,
    });
    assert!(disk.index() == 0 && why.contains("does not fit"), "{why}");
    load.run(Duration::from_millis(500));
    assert!(load.open() > 0 && load.done() > 0);
    assert_eq!(target.files(), 1, "that of the disk that has it all is gone");
    // Its guest is gone: nobody waits any more.
    drop(load);
    let over = target.report(|report| match report {
        OrderReport::Fits { disk } => Some(disk),
        _ => None,
    });
    assert_eq!(over, disk);
}

/// A process that ends with it in a file, and one that ends with it in the inflight buffers and on the wire.
#[test]
fn the_destination_may_die_before_it_has_taken_it_and_after() {
    let mut ground = Ground::new();
    let mut target = ground.host("b");
    target.disown();
    target.expect_vm(1).unwrap();
    let (source, mut load, disks) = stranded(&mut ground);
    load.move_to(&target.sockets());
    source.disown();
    target.offer(hand_over(1, disks)).unwrap();
    let mut target = target.restart();
    target.disown();
    load.reconnect();
    load.run(SHORT);
    assert_eq!(target.files(), 2, "it is there still");
    assert!(target.offer(hand_over(2, Vec::new())).is_err(), "another move's");
    ground.fault(["b1", "b2"], GHOST);
    target.own();
    target.await_arrival();
    assert_eq!(target.files(), 0);
    let target = target.restart_with(&mut ground);
    load.reconnect();
    load.run(Duration::from_millis(4000));
    load.finish();
    load.assert_sound();
    drop(target);
}

#[test]
fn a_vm_that_cannot_be_known_does_not_leave() {
    let ground = Ground::new();
    let mut source = ground.host("a");
    let why = source.settle(SHORT).unwrap_err();
    assert!(why.contains("no front end"), "{why}");
    let mut load = Load::connect(&source.sockets());
    load.run(SHORT);
    let why = source.settle(SHORT).unwrap_err();
    assert!(why.contains("still runs"), "{why}");
    load.run(SHORT);
    load.stop();
    // Its process dies while the guest is stopped: what it had open is not known to the next one.
    let mut source = source.restart();
    load.reconnect();
    let why = source.settle(Duration::from_millis(500)).unwrap_err();
    assert!(why.contains("has run here") || why.contains("no front end"), "{why}");
    load.resume();
    load.run(SHORT);
    load.finish();
    load.assert_sound();
    drop(ground);
}

/// Among several hosts a process begins without owning anything: it serves handshakes, and executes nothing.
#[test]
fn in_a_cluster_nothing_is_executed_before_control_says_whose_it_is() {
    let ground = Ground::new();
    let folder = ground.folder.path().join("a");
    std::fs::create_dir_all(&folder).unwrap();
    let cluster = "[cluster]\netcd = [\"http://127.0.0.1:2379\"]\npeer_listen = \"10.0.0.1:7443\"\n\
                   peer_ca = \"/ca\"\npeer_cert = \"/cert\"\npeer_key = \"/key\"\n";
    let host = Host::start(&folder, plan_of(&format!("{}{cluster}", ground.config("a", &folder))));
    let mut load = Load::connect(&host.sockets());
    load.run(Duration::from_millis(300));
    assert_eq!(load.done(), 0);
    host.own();
    load.run(SHORT);
    assert!(load.done() > 0);
    host.disown();
    load.run(SHORT);
    let done = load.done();
    load.run(SHORT);
    assert_eq!(load.done(), done, "and nothing once it is another's");
    host.own();
    load.finish();
    load.assert_sound();
}

#[test]
fn a_probe_tells_which_paths_read_now() {
    let mut ground = Ground::new();
    let mut host = ground.host("b");
    let probe = |host: &mut Host| -> Vec<ProbedUnit> {
        host.order(WorkerOrder::Probe { ticket: 5, units: UNITS.into() });
        host.report(|report| match report {
            OrderReport::Probed { ticket: 5, units } => Some(units),
            _ => None,
        })
    };
    // Both paths of each unit are up soon.
    let mut units = probe(&mut host);
    for _ in 0..50 {
        if units.iter().all(|unit| unit.read.len() == 2) {
            break;
        }
        host.reports.blocking_recv().expect("the worker lives");
        units = probe(&mut host);
    }
    assert!(units.len() == 2 && units.iter().all(|u| u.read.len() == 2 && u.unread.is_empty()), "{units:?}");
    ground.fault(["b1", "b1"], "hang");
    let began = clock::now();
    let units = probe(&mut host);
    let took = clock::now().since(began);
    assert!(took >= Duration::from_millis(1900) && took < Duration::from_secs(4), "{took:?}");
    for unit in units {
        let read: Vec<usize> = unit.read.iter().map(|(path, _)| path.index()).collect();
        let unread: Vec<usize> = unit.unread.iter().map(|path| path.index()).collect();
        assert_eq!((read, unread), (vec![1], vec![0]));
    }
}
