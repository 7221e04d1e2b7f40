//! Sessions with a real etcd: what they say when it is well, and what they never say when it is not.
//!
//! They wait for reports, never for time. Where there is no etcd they say so and pass, unless `VMPATH_TESTS=all`.

mod away;
mod gone_back;
mod known;
mod lost;
mod names;
mod owners;

use super::slice::tests::host;
use super::*;
use crate::sys::clock;
use std::collections::VecDeque;
use std::net::SocketAddr;
use tempfile::TempDir;
use vmpath_core::spec::{Source, parse};
use vmpath_lab::etcd::Etcd;

/// For whatever is awaited: elections on a machine that is busy compiling.
const PATIENCE: Duration = Duration::from_secs(60);

/// That many members; none where no etcd is installed.
fn etcd(members: usize) -> Option<Etcd> {
    if !Etcd::is_installed() {
        let all = std::env::var("VMPATH_TESTS").is_ok_and(|word| word == "all");
        assert!(!all, "etcd is not installed: apt-get install etcd-server");
        eprintln!("SKIPPED: etcd is not installed (apt-get install etcd-server)");
        return None;
    }
    Some(Etcd::on_loopback(members).expect("etcd starts"))
}

/// One daemon's session, and what it has said.
struct Host {
    name: String,
    cluster: Cluster,
    reports: mpsc::Receiver<ClusterReport>,
    /// Said and not asked for yet.
    said: VecDeque<ClusterReport>,
    ticket: Ticket,
    state: TempDir,
}

/// `units` are of san0. More lines go into `[cluster]`.
fn spec(name: &str, members: &[String], units: &[&str], more: &str) -> Spec {
    let vm = |unit: &&str| {
        format!(
            "[[vm]]\nname = 'vm-{unit}'\n[[vm.disk]]\nname = 'vda'\nunit = 'san0/{unit}'\nnbd = '/run/{unit}'\n"
        )
    };
    let text = format!(
        "[host]\nname = '{name}'\n[cluster]\netcd = [{}]\nlease = '2s'\npeer_listen = '127.0.0.1:7443'\npeer_ca = '/x'\n\
         peer_cert = '/x'\npeer_key = '/x'\n{more}\n[[target]]\nname = 'san0'\n[[target.path]]\nname = 'a'\nurl = 'nbd://10.0.0.1'\n{}",
        members.join(", "),
        units.iter().map(vm).collect::<String>()
    );
    let source = Source { name: "test", text: &text };
    parse(&[source]).unwrap_or_else(|faults| panic!("{faults:?}\n{text}")).spec
}

impl Host {
    fn start(name: &str, members: &[SocketAddr], units: &[&str]) -> Self {
        Self::with(name, members, units, "")
    }

    fn with(name: &str, members: &[SocketAddr], units: &[&str], more: &str) -> Self {
        let members: Vec<String> = members.iter().map(|member| format!("'http://{member}'")).collect();
        Self::of(&spec(name, &members, units, more))
    }

    fn of(spec: &Spec) -> Self {
        Self::as_process(spec, &Process::of_test(1, &[], &format!("machine of {}", spec.host.name)))
    }

    fn as_process(spec: &Spec, process: &Process) -> Self {
        Self::kept_in(tempfile::tempdir().expect("a directory"), spec, process)
    }

    /// With a `state_dir`.
    fn kept_in(state: TempDir, spec: &Spec, process: &Process) -> Self {
        let mut spec = spec.clone();
        spec.host.state_dir = state.path().to_owned();
        // Small: the session has to get along with an owner that is busy.
        let (sender, reports) = mpsc::channel(2);
        let cluster = Cluster::start(&spec, spec.cluster.as_ref().expect("there"), process, sender);
        Self { name: spec.host.name.clone(), cluster, reports, said: VecDeque::new(), ticket: 0, state }
    }

    /// The first report that `pick` takes, of what was said and what will be.
    async fn hear<T>(&mut self, what: &str, mut pick: impl FnMut(&ClusterReport) -> Option<T>) -> T {
        let mut passed = VecDeque::new();
        let end = clock::now() + PATIENCE;
        loop {
            let report = match self.said.pop_front() {
                Some(report) => report,
                None => match tokio::time::timeout(end.since(clock::now()), self.reports.recv()).await {
                    Ok(Some(report)) => report,
                    Ok(None) => panic!("{}: the session has ended", self.name),
                    Err(_) => {
                        panic!("{}: no {what} in {} s; said: {passed:?}", self.name, PATIENCE.as_secs())
                    }
                },
            };
            if let Some(picked) = pick(&report) {
                passed.append(&mut self.said);
                self.said = passed;
                return picked;
            }
            passed.push_back(report);
        }
    }

    async fn up(&mut self) {
        self.hear("Up", |report| (*report == ClusterReport::Up).then_some(())).await;
    }

    async fn down(&mut self) -> String {
        let why = |report: &ClusterReport| match report {
            ClusterReport::Down { why } => Some(why.clone()),
            ClusterReport::Up
            | ClusterReport::NameInUse { .. }
            | ClusterReport::Owner(_)
            | ClusterReport::Others(_)
            | ClusterReport::Answer { .. } => None,
        };
        self.hear("Down", why).await
    }

    /// Forgets what was said so far.
    fn forget(&mut self) {
        self.said.clear();
        while self.reports.try_recv().is_ok() {}
    }

    async fn ask(&mut self, order: impl FnOnce(Ticket) -> ClusterOrder) -> Outcome {
        let ticket = self.tell(order);
        self.answer(ticket).await
    }

    /// Asked again while it was not even asked: sessions may change just then.
    async fn settled(&mut self, order: impl Fn(Ticket) -> ClusterOrder) -> Outcome {
        loop {
            let outcome = self.ask(&order).await;
            if !matches!(outcome, Outcome::Refused(Refusal::NotAsked(_))) {
                return outcome;
            }
        }
    }

    /// Without waiting for the answer.
    fn tell(&mut self, order: impl FnOnce(Ticket) -> ClusterOrder) -> Ticket {
        self.ticket += 1;
        self.cluster.order(order(self.ticket)).expect("room for an order");
        self.ticket
    }

    async fn answer(&mut self, asked: Ticket) -> Outcome {
        let answer = |report: &ClusterReport| match report {
            ClusterReport::Answer { ticket, outcome } if *ticket == asked => Some(outcome.clone()),
            ClusterReport::Answer { .. }
            | ClusterReport::Up
            | ClusterReport::Down { .. }
            | ClusterReport::NameInUse { .. }
            | ClusterReport::Owner(_)
            | ClusterReport::Others(_) => None,
        };
        self.hear("answer", answer).await
    }

    /// Who owns a unit, as this host is told.
    async fn owner(&mut self, unit: &str, expected: &str) {
        let told = |report: &ClusterReport| match report {
            ClusterReport::Owner(found) if found.unit == unit && owner_text(found) == expected => Some(()),
            ClusterReport::Owner(_)
            | ClusterReport::Answer { .. }
            | ClusterReport::Up
            | ClusterReport::Down { .. }
            | ClusterReport::NameInUse { .. }
            | ClusterReport::Others(_) => None,
        };
        self.hear(&format!("owner {expected:?} of {unit}"), told).await;
    }

    /// A view that is so. Those before it are forgotten: what was so then is no news.
    async fn view(&mut self, what: &str, is: impl Fn(&Others) -> bool) -> Arc<Others> {
        let view = |report: &ClusterReport| match report {
            ClusterReport::Others(view) => Some(Arc::clone(view)),
            ClusterReport::Owner(_)
            | ClusterReport::Answer { .. }
            | ClusterReport::Up
            | ClusterReport::Down { .. }
            | ClusterReport::NameInUse { .. } => None,
        };
        loop {
            let view = self.hear(what, view).await;
            if is(&view) {
                return view;
            }
        }
    }

    fn publish(&mut self) {
        let summary = host(&self.name, 2);
        self.cluster.order(ClusterOrder::Publish(Box::new(summary))).expect("room for an order");
    }
}

fn owner_text(found: &Found) -> String {
    found.owner.as_ref().map_or_else(|| "nobody".into(), ToString::to_string)
}

/// `done`, `there` or what it is, with the owners in words.
fn text(outcome: &Outcome) -> String {
    let owners = |found: &[Found]| found.iter().map(owner_text).collect::<Vec<_>>().join(", ");
    match outcome {
        Outcome::Done { owners: found, .. } => format!("done: {}", owners(found)),
        Outcome::Refused(Refusal::There(found)) => format!("there: {}", owners(found)),
        Outcome::Refused(Refusal::Crowded) => "crowded".into(),
        Outcome::Refused(Refusal::NotAsked(why)) => format!("not asked: {why}"),
        Outcome::Unknown { why } => format!("unknown: {why}"),
    }
}

fn names(view: &Others) -> Vec<&str> {
    view.hosts.iter().map(|host| host.host.as_str()).collect()
}

fn units(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("san0/{name}")).collect()
}

fn at(names: &[(&str, u64)]) -> Vec<UnitEpoch> {
    names.iter().map(|(name, epoch)| UnitEpoch { unit: format!("san0/{name}"), epoch: *epoch }).collect()
}

fn move_id(number: u64) -> MoveId {
    MoveId { host: "kvm1".into(), nonce: 7, number }
}
