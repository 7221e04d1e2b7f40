//! The others, for the control owner: performs what its controller asks of etcd, of other hosts and of the data plane for a
//! move, and brings the answers back as events.
//!
//! Invariant: nothing here waits and nothing is decided; each question of a machine is answered by an event, if only to say that
//! nothing is known; what cannot be sent is answered at once. The one thing that it keeps of its own is who owns which unit,
//! as [`Keeper`]s say, and whether the data plane has been told.
//! It does not know why a VM moves.

mod arrive;
mod calls;
mod late;
mod leave;
mod left;
mod owners;
mod place;
mod post;
mod takeover;

pub use post::{News, Post};

use super::hosts_view::{HostRow, HostsView};
use crate::cluster::{Cluster, ClusterOrder, ClusterReport, Others, Outcome, Process, Refusal, Ticket};
use crate::dataplane::{Dataplane, OrderError, OrderReport, WorkerOrder};
use crate::hypervisor::{Hypervisors, Order};
use crate::peer::agent::{self, Agent, AgentReport, Places};
use crate::peer::{Channel, PeerOrder, PeerReport, PeerRequest, Settings};
use crate::sys::clock::unix_micros;
use calls::{Calls, Question};
use late::Late;
use owners::Owners;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc;
use vmpath_core::cluster::{Ask, Heard};
use vmpath_core::controller::Controller;
use vmpath_core::effect::Wanted;
use vmpath_core::event::{Event, HypervisorReport};
use vmpath_core::ids::{UnitId, VmId};
use vmpath_core::migration::{Answer, MoveId, destination, source};
use vmpath_core::ownership::Found;
use vmpath_core::placement::{ClusterView, HostSummary};
use vmpath_core::spec::Spec;
use vmpath_core::time::Instant;
use vmpath_core::whatif;

/// What acts here are performed on.
#[derive(Debug)]
pub struct Hands<'a> {
    pub dataplane: &'a Dataplane,
    pub hypervisors: &'a mut Hypervisors,
    pub now: Instant,
}

/// Who waits for an answer.
#[derive(Debug)]
enum Asked {
    Leaving {
        vm: VmId,
        move_id: MoveId,
        what: Leaving,
    },
    Arriving {
        vm: VmId,
        move_id: MoveId,
        what: Arriving,
    },
    /// The units of a VM that is not on its way.
    Kept(VmId),
    Call(calls::Pending),
    /// A claim of room that nobody wants any more: what it has got is dropped.
    Unclaimed(MoveId),
    TakeOver(takeover::TakeOver),
    /// Hypervisors that a daemon before this one has launched, and of whose moves nothing is known any more.
    Orphans(Vec<MoveId>),
}

impl Asked {
    /// Whose move it is about, if it is about one.
    fn vm(&self) -> Option<VmId> {
        match self {
            Self::Leaving { vm, .. } | Self::Arriving { vm, .. } => Some(*vm),
            Self::Kept(_) | Self::Call(_) | Self::Unclaimed(_) | Self::TakeOver(_) | Self::Orphans(_) => None,
        }
    }
}

#[derive(Clone, Debug)]
enum Leaving {
    Probe,
    Claim(place::Claiming),
    Prepare,
    Settle,
    HandOver,
    Commit,
    Owners,
    Bump,
    Discard,
}

#[derive(Clone, Copy, Debug)]
enum Arriving {
    Expect,
    Store,
    Withdraw,
    Owners,
    GiveBack,
    Bar,
    Bump,
}

/// See the module.
#[derive(Debug)]
pub struct Hosts {
    spec: Arc<Spec>,
    cluster: Cluster,
    reports: mpsc::Sender<ClusterReport>,
    channel: Channel,
    agent: Agent,
    fenced: mpsc::UnboundedSender<takeover::Fenced>,
    /// Of this process.
    nonce: u64,
    process: Process,
    last_ticket: Ticket,
    asked: HashMap<Ticket, Asked>,
    calls: Calls,
    owners: Owners,
    others: Arc<Others>,
    /// The same, as it is shown.
    rows: Arc<[HostRow]>,
    /// Shared with forecasts.
    view: Arc<ClusterView>,
    /// Also of hosts of which nothing is heard now.
    addresses: BTreeMap<String, SocketAddr>,
    /// Claims that have met another one, to be decided again on the next view.
    crowded: Vec<(VmId, MoveId, place::Claiming)>,
    /// For the data plane, which had no room for them.
    late: Late,
    /// The hypervisor processes that are connected.
    instances: HashMap<VmId, u64>,
    /// By `UnitId`, as the data plane has seen them.
    sizes: Vec<Option<u64>>,
    published: Option<HostSummary>,
}

impl Hosts {
    /// Starts all of it for a host with `[cluster]`; none without. Needs a tokio runtime.
    ///
    /// # Errors
    /// No hypervisor could ever be launched here, in words.
    pub fn start(spec: &Arc<Spec>, nonce: u64, now: Instant) -> Result<Option<(Self, Post)>, String> {
        let (Some(cluster), Some(settings), Some(places)) =
            (&spec.cluster, Settings::of(spec), Places::of(spec))
        else {
            return Ok(None);
        };
        let since = unix_micros(now) / 1_000_000;
        let process = Process::open(&spec.host.run_dir, nonce, since)?;
        let (links, post) = post::channels();
        let agent = Agent::start(&places, links.agent)?;
        let hosts = Self {
            spec: Arc::clone(spec),
            cluster: Cluster::start(spec, cluster, &process, links.cluster.clone()),
            reports: links.cluster,
            channel: Channel::start(settings, links.calls, links.peer),
            agent,
            fenced: links.fenced,
            nonce,
            process,
            last_ticket: 0,
            asked: HashMap::new(),
            calls: Calls::default(),
            owners: Owners::new(spec, now),
            others: Arc::default(),
            rows: Arc::default(),
            view: Arc::default(),
            addresses: BTreeMap::new(),
            crowded: vec![],
            late: Late::default(),
            instances: HashMap::new(),
            sizes: vec![],
            published: None,
        };
        Ok(Some((hosts, post)))
    }

    /// Performs what the controller asks. Returns what is known of it at once.
    pub fn perform(&mut self, ask: Ask, hands: &mut Hands<'_>) -> Vec<Event> {
        match ask {
            Ask::Place { vm, whereto } => vec![self.placed(vm, &whereto)],
            Ask::Leave { vm, move_id, act } => self.leave(vm, move_id, act, hands),
            Ask::Arrive { vm, move_id, act } => self.arrive(vm, move_id, act, hands),
            Ask::EndLeft { vm, instance } => self.end_left(vm, instance, hands),
            Ask::Decline { move_id, why } => {
                self.calls.answer(&move_id, Question::Prepare, &Answer::Refused(why));
                vec![]
            }
        }
    }

    /// Takes in what others say.
    pub fn hear(&mut self, news: News, controller: &Controller, hands: &mut Hands<'_>) -> Vec<Event> {
        match news {
            News::Cluster(ClusterReport::Up) => {
                self.owners.up();
                self.sort_orphans(controller);
                vec![Event::Cluster(Heard::Up { nonce: self.nonce })]
            }
            News::Cluster(ClusterReport::Down { why }) => {
                self.owners.down(&why);
                vec![Event::Cluster(Heard::Down { why })]
            }
            News::Cluster(ClusterReport::NameInUse { why }) => {
                self.owners.usurped(&why);
                let mut events = vec![Event::Cluster(Heard::Down { why })];
                events.extend(self.tell_owners(hands));
                events
            }
            News::Cluster(ClusterReport::Owner(found)) => self.found(&found, controller, hands),
            News::Cluster(ClusterReport::Others(others)) => self.learn(others),
            News::Cluster(ClusterReport::Answer { ticket, outcome }) => {
                self.cluster_answer(ticket, outcome, hands)
            }
            News::Peer(PeerReport { ticket, outcome }) => self.peer_answer(ticket, outcome),
            News::Call(call) => self.called(*call, controller, hands),
            News::Fenced(fenced) => self.fenced(fenced),
            News::Agent(AgentReport { move_id, event }) => {
                self.hypervisor_is(&move_id, event, controller, hands)
            }
        }
    }

    /// Takes in what the data plane says of orders.
    pub fn hear_order(
        &mut self,
        report: OrderReport,
        controller: &Controller,
        hands: &mut Hands<'_>,
    ) -> Vec<Event> {
        match report {
            OrderReport::Probed { ticket, units } => {
                self.probed(ticket, units);
                vec![]
            }
            OrderReport::Settled { ticket, disks } => {
                self.leaving_answer(ticket, |_| source::Input::Settled(disks))
            }
            OrderReport::Expected { ticket, result } => self.expected(ticket, result, controller, hands),
            OrderReport::Stored { ticket, result } => {
                self.arriving_answer(ticket, destination::Input::Stored(result))
            }
            OrderReport::Withdrawn { ticket, withdrawn } => {
                self.arriving_answer(ticket, destination::Input::Withdrawn(withdrawn))
            }
            OrderReport::Taken { vm, move_id } => {
                vec![arriving(vm, &move_id, destination::Input::Taken)]
            }
            OrderReport::Revoked { vm } => {
                tracing::debug!("VM {}: its requests go on here", self.vm_name(vm));
                vec![]
            }
            OrderReport::Arrived { vm, move_id } => {
                tracing::debug!("VM {}: all that was handed over is taken ({move_id})", self.vm_name(vm));
                vec![]
            }
            // Told whether there are other hosts or not.
            OrderReport::Misfit { .. } | OrderReport::Fits { .. } => vec![],
        }
    }

    /// The configuration has changed; ids stay what they are.
    pub fn reload(&mut self, spec: &Arc<Spec>, now: Instant) -> Vec<Event> {
        let same_units = self.spec.units == spec.units;
        self.spec = Arc::clone(spec);
        self.owners.reload(spec, now);
        let Some(cluster) = spec.cluster.as_ref().filter(|_| !same_units) else { return vec![] };
        // The session watches the units that it was started with.
        self.cluster = Cluster::start(spec, cluster, &self.process, self.reports.clone());
        self.published = None;
        let of_cluster = |asked: &Asked| match asked {
            Asked::Leaving { what, .. } => match what {
                Leaving::Claim(_) | Leaving::Commit | Leaving::Owners | Leaving::Bump => true,
                Leaving::Probe
                | Leaving::Prepare
                | Leaving::Settle
                | Leaving::HandOver
                | Leaving::Discard => false,
            },
            Asked::Arriving { what, .. } => match what {
                Arriving::Owners | Arriving::GiveBack | Arriving::Bar | Arriving::Bump => true,
                Arriving::Expect | Arriving::Store | Arriving::Withdraw => false,
            },
            Asked::Kept(_) | Asked::Unclaimed(_) | Asked::Orphans(_) | Asked::TakeOver(_) => true,
            Asked::Call(pending) => pending.is_of_cluster(),
        };
        let lost: Vec<Ticket> =
            self.asked.iter().filter(|(_, asked)| of_cluster(asked)).map(|(ticket, _)| *ticket).collect();
        let why = "the configuration was changed meanwhile".to_owned();
        lost.into_iter()
            .flat_map(|ticket| self.cluster_said(ticket, Outcome::Unknown { why: why.clone() }))
            .collect()
    }

    fn learn(&mut self, others: Arc<Others>) -> Vec<Event> {
        others.update(&self.others, Arc::make_mut(&mut self.view));
        for host in &others.hosts {
            self.addresses.insert(host.host.clone(), host.peer);
        }
        self.rows = HostsView::rows(&others, &self.spec.host.name);
        self.others = others;
        self.claim_again()
    }

    /// What a VM's hypervisor says passes by here.
    pub fn see(&mut self, vm: VmId, report: &HypervisorReport) {
        match report {
            HypervisorReport::Connected { instance, .. } => drop(self.instances.insert(vm, *instance)),
            HypervisorReport::Lost { .. } => drop(self.instances.remove(&vm)),
            HypervisorReport::State(_)
            | HypervisorReport::Refused { .. }
            | HypervisorReport::Machine(_)
            | HypervisorReport::Migration(_)
            | HypervisorReport::MigrationRefused { .. }
            | HypervisorReport::Deaf { .. } => {}
        }
    }

    /// What a forecast may suppose of the others.
    #[must_use]
    pub fn forecast(&self) -> whatif::Others {
        whatif::Others { view: Arc::clone(&self.view), sizes: self.sizes.clone() }
    }

    /// What can be shown of the others, and of who owns what.
    #[must_use]
    pub fn view(&self) -> HostsView {
        HostsView {
            store: self.owners.store_state(),
            channel_trouble: self.channel.trouble(),
            hosts: Arc::clone(&self.rows),
            owners: self.owners.rows(&self.spec.host.name),
        }
    }

    /// What the others shall know, if it is news to them.
    pub fn publish(&mut self, controller: &Controller) {
        let Some(cluster) = &self.spec.cluster else { return };
        let size = |unit: UnitId| self.sizes.get(unit.index()).copied().flatten();
        let summary = controller.summary(cluster, size);
        if self.published.as_ref() != Some(&summary) {
            let order = ClusterOrder::Publish(Box::new(summary.clone()));
            self.published = self.cluster.order(order).is_ok().then_some(summary);
        }
    }

    fn ticket(&mut self, asked: Asked) -> Ticket {
        self.last_ticket += 1;
        self.asked.insert(self.last_ticket, asked);
        self.last_ticket
    }

    /// Orders something of etcd, whose answer is awaited.
    fn ask_cluster(&mut self, asked: Asked, order: impl FnOnce(Ticket) -> ClusterOrder) -> Vec<Event> {
        let ticket = self.ticket(asked);
        if self.cluster.order(order(ticket)).is_ok() {
            return vec![];
        }
        let why = "too many questions to etcd wait already".to_owned();
        self.cluster_said(ticket, Outcome::Refused(Refusal::NotAsked(why)))
    }

    fn cluster_answer(&mut self, ticket: Ticket, outcome: Outcome, hands: &mut Hands<'_>) -> Vec<Event> {
        let mut events = self.cluster_said(ticket, outcome);
        events.extend(self.tell_owners(hands));
        events
    }

    fn cluster_said(&mut self, ticket: Ticket, outcome: Outcome) -> Vec<Event> {
        let Some(asked) = self.asked.remove(&ticket) else { return vec![] };
        match asked {
            Asked::Leaving { vm, move_id, what } => {
                let input = match what {
                    Leaving::Commit => match outcome {
                        Outcome::Refused(Refusal::NotAsked(why)) => source::Input::NotCommitted(why),
                        outcome => source::Input::Committed(answer(outcome)),
                    },
                    Leaving::Bump => source::Input::Bumped(answer(outcome)),
                    Leaving::Owners => source::Input::Owners(read(outcome)),
                    Leaving::Claim(claiming) => match self.claim_outcome(vm, &move_id, claiming, outcome) {
                        Some(answer) => source::Input::Claimed(answer),
                        None => return vec![],
                    },
                    Leaving::Probe
                    | Leaving::Prepare
                    | Leaving::Settle
                    | Leaving::HandOver
                    | Leaving::Discard => return vec![],
                };
                vec![leaving(vm, &move_id, input)]
            }
            Asked::Arriving { vm, move_id, what } => {
                let input = match what {
                    Arriving::Owners => destination::Input::Owners(read(outcome)),
                    Arriving::GiveBack => destination::Input::GaveBack(answer(outcome)),
                    Arriving::Bar => destination::Input::Barred(answer(outcome)),
                    Arriving::Bump => destination::Input::Bumped(answer(outcome)),
                    Arriving::Expect | Arriving::Store | Arriving::Withdraw => return vec![],
                };
                vec![arriving(vm, &move_id, input)]
            }
            Asked::Kept(vm) => {
                self.owners.answered(vm, outcome);
                vec![]
            }
            Asked::TakeOver(take) => self.taken_over(&take, outcome),
            Asked::Orphans(orphans) => {
                self.judge_orphans(orphans, read(outcome));
                vec![]
            }
            Asked::Unclaimed(id) => {
                self.drop_room(&id);
                vec![]
            }
            Asked::Call(pending) => {
                pending.conclude_read(read(outcome), &self.spec.host.name);
                vec![]
            }
        }
    }

    /// Orders something of another host, whose answer is awaited.
    fn ask_peer(
        &mut self,
        vm: VmId,
        move_id: MoveId,
        what: Leaving,
        to: &str,
        request: PeerRequest,
    ) -> Vec<Event> {
        let ticket = self.ticket(Asked::Leaving { vm, move_id, what });
        let Some(address) = self.addresses.get(to) else {
            let why = format!("where to reach {to} is not known: nothing was heard of it yet");
            return self.peer_answer(ticket, Answer::Refused(why));
        };
        let address = address.to_string();
        self.channel.order(PeerOrder { ticket, to: to.to_owned(), address, request });
        vec![]
    }

    /// Orders something of the data plane. What cannot be ordered is answered by `failed`.
    fn order(
        &mut self,
        asked: Asked,
        hands: &Hands<'_>,
        order: impl FnOnce(Ticket) -> WorkerOrder,
        failed: impl FnOnce(String) -> Event,
    ) -> Vec<Event> {
        self.give_late(hands);
        if asked.vm().is_some_and(|vm| self.late.concerns(vm)) {
            return vec![failed(OrderError::Full.to_string())];
        }
        let ticket = self.ticket(asked);
        match hands.dataplane.order(order(ticket)) {
            Ok(_) => vec![],
            Err(error) => {
                self.asked.remove(&ticket);
                vec![failed(error.to_string())]
            }
        }
    }

    /// Orders something of the data plane that has no answer: it is given sooner or later, or can never be.
    fn insist(&mut self, vm: VmId, order: WorkerOrder, hands: &Hands<'_>) {
        self.late.add(vm, order);
        self.give_late(hands);
    }

    fn give_late(&mut self, hands: &Hands<'_>) {
        for (vm, error) in self.late.give(|order| hands.dataplane.order(order)) {
            tracing::error!("VM {}: the data plane cannot be told: {error}", self.vm_name(vm));
        }
    }

    fn vm_name(&self, vm: VmId) -> &str {
        &self.spec.vm(vm).name
    }

    fn unit_by_name(&self, name: &str) -> Option<UnitId> {
        let (target, unit) = name.split_once('/')?;
        let target = self.spec.target_by_name(target)?;
        self.spec.unit_ids().find(|id| {
            let its = self.spec.unit(*id);
            its.target == target && its.name == unit
        })
    }

    /// A hypervisor that was launched here.
    fn hypervisor_is(
        &mut self,
        move_id: &MoveId,
        event: agent::Event,
        controller: &Controller,
        hands: &mut Hands<'_>,
    ) -> Vec<Event> {
        let Some(vm) = controller.arriving(move_id) else { return vec![] };
        let input = match event {
            agent::Event::Ready { incoming } => {
                hands.hypervisors.set(&self.spec, vm, Wanted::Yes);
                destination::Input::Launched(Ok(incoming))
            }
            agent::Event::Failed(why) => {
                hands.hypervisors.set(&self.spec, vm, Wanted::Yes);
                destination::Input::Launched(Err(why))
            }
            agent::Event::Ended(how) => destination::Input::Ended(how),
        };
        vec![arriving(vm, move_id, input)]
    }

    /// Hypervisors that a daemon before this one has launched: those of known moves are the moves' business.
    fn sort_orphans(&mut self, controller: &Controller) {
        let of_nobody = |id: &MoveId| controller.arriving(id).is_none();
        let orphans: Vec<MoveId> = self.agent.waiting().into_iter().filter(of_nobody).collect();
        let units: Vec<String> = self.spec.unit_ids().map(|unit| self.spec.unit_name(unit)).collect();
        if !orphans.is_empty() && !units.is_empty() {
            self.ask_cluster(Asked::Orphans(orphans), |ticket| ClusterOrder::ReadOwners { ticket, units });
        }
    }

    /// The VM of one whose units came here by its move runs in it.
    fn judge_orphans(&mut self, orphans: Vec<MoveId>, found: Result<Vec<Found>, String>) {
        // They are asked for again when etcd is up the next time.
        let Ok(found) = found else { return };
        for id in orphans {
            if found.iter().any(|found| came_by(found, &id, &self.spec.host.name)) {
                self.agent.keep(&id);
            } else {
                tracing::warn!(
                    "the hypervisor that was launched for the move {id} is ended: nothing came by it"
                );
                let _ = self.agent.end(&id);
            }
        }
    }

    /// An order to a VM's hypervisor.
    fn tell_hypervisor(&self, vm: VmId, order: &Order, hands: &Hands<'_>) -> Vec<Event> {
        match hands.hypervisors.send(vm, order.clone()) {
            Ok(()) => vec![],
            Err(why) => vec![Event::Hypervisor { vm, report: order.refused(why) }],
        }
    }
}

fn came_by(found: &Found, id: &MoveId, host: &str) -> bool {
    found.owner.as_ref().is_some_and(|owner| owner.host == host && owner.move_id.as_ref() == Some(id))
}

fn leaving(vm: VmId, move_id: &MoveId, input: source::Input) -> Event {
    Event::Cluster(Heard::Leaving { vm, move_id: move_id.clone(), input })
}

fn arriving(vm: VmId, move_id: &MoveId, input: destination::Input) -> Event {
    Event::Cluster(Heard::Arriving { vm, move_id: move_id.clone(), input })
}

/// What a change of owners has come to.
fn answer(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Done { .. } => Answer::Done(()),
        Outcome::Refused(refusal) => Answer::Refused(refused(refusal)),
        Outcome::Unknown { why } => Answer::Unknown(why),
    }
}

fn read(outcome: Outcome) -> Result<Vec<Found>, String> {
    match outcome {
        Outcome::Done { owners, .. } => Ok(owners),
        Outcome::Refused(refusal) => Err(refused(refusal)),
        Outcome::Unknown { why } => Err(why),
    }
}

fn refused(refusal: Refusal) -> String {
    match refusal {
        Refusal::There(found) => {
            let words = found.iter().map(|found| match &found.owner {
                Some(owner) => format!("{} is owned by {owner}", found.unit),
                None => format!("{} has no owner", found.unit),
            });
            words.collect::<Vec<_>>().join(", ")
        }
        Refusal::Crowded => "others have claimed room there".into(),
        Refusal::NotAsked(why) => why,
    }
}
