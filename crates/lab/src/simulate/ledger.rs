//! What became of each request, and what each VM got: kept beside the router, from what goes in and comes out of it alone.
//!
//! Invariant: nothing here is taken from the router's own accounts, which are what is being checked. Bytes are kept as
//! running sums at each tenth of a second, so that any second of the run can be looked at afterwards.
//! It does not know: what is good or bad; `checks` judges.

use super::scene::{Guest, Tier};
use crate::workload::stats::Histogram;
use std::collections::VecDeque;
use vmpath_core::spec::{Spec, VmSpec};
use vmpath_core::time::{Duration, Instant};
use vmpath_core::volume::verdict::TargetError;

/// Sums are kept at multiples of this.
pub(super) const STEP: Duration = Duration::from_millis(100);
/// What comes so shortly before the end of a second need not be done within it.
pub(super) const GRACE: Duration = Duration::from_millis(20);
/// Details kept of what must not happen; beyond these only the count grows.
const DETAILS_KEPT: usize = 5;
const SECOND: Duration = Duration::from_secs(1);

/// What must never happen, counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) count: u64,
    pub(super) details: Vec<String>,
}

impl Faults {
    fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.details.len() < DETAILS_KEPT {
            self.details.push(what());
        }
    }
}

/// A part of the run that is judged by itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) from: Instant,
    pub(super) until: Instant,
    pub(super) paths: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// With the router, and not sent.
    Waiting,
    Flying,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    state: State,
    vm: usize,
    bytes: u32,
    submitted: Instant,
    /// Sent at least once: its limit has been paid.
    paid: bool,
}

/// One VM's account.
#[derive(Clone, Debug)]
pub(super) struct Account {
    /// Bytes at the end of each step: asked for; of these, in the step's last moments; completed.
    pub(super) asked: Vec<u64>,
    pub(super) late: Vec<u64>,
    pub(super) done: Vec<u64>,
    /// Times that nothing waited any more.
    pub(super) dry: Vec<u64>,
    waiting: u32,
    /// Since when requests have been waiting without one being sent.
    hungry_since: Instant,
    bytes_limit: Option<Window>,
    requests_limit: Option<Window>,
}

/// What went out in the last second, against a limit.
#[derive(Clone, Debug)]
struct Window {
    most: u64,
    sum: u64,
    sent: VecDeque<(Instant, u64)>,
}

impl Window {
    fn new(per_second: u64, burst: Duration, largest: u64) -> Self {
        let burst = u128::from(per_second) * burst.as_nanos() / 1_000_000_000;
        Self { most: per_second + burst as u64 + largest, sum: 0, sent: VecDeque::new() }
    }

    /// How far over the limit the second that ends now is.
    fn add(&mut self, now: Instant, amount: u64) -> u64 {
        self.sent.push_back((now, amount));
        self.sum += amount;
        while let Some((_, old)) = self.sent.front().filter(|(at, _)| now.since(*at) >= SECOND).copied() {
            self.sum -= old;
            self.sent.pop_front();
        }
        self.sum.saturating_sub(self.most)
    }
}

/// What is kept for each phase.
#[derive(Clone, Debug, Default)]
pub(super) struct PhaseAccount {
    /// By `Tier`.
    pub(super) latency: [Histogram; Tier::ALL.len()],
    /// The longest wait without progress, by `VmId`.
    pub(super) hunger: Vec<Duration>,
    /// The longest time for which a path had nothing to do while requests that it could carry waited.
    pub(super) idle: Duration,
}

#[derive(Debug)]
pub(super) struct Ledger {
    guests: Vec<Guest>,
    rows: Vec<Row>,
    free: Vec<u32>,
    open: usize,
    pub(super) accounts: Vec<Account>,
    pub(super) phases: Vec<(Phase, PhaseAccount)>,
    /// Of the VMs that may go anywhere, requests that wait.
    anywhere: u64,
    pub(super) completed: u64,
    pub(super) attempts: u64,
    pub(super) once: Faults,
    pub(super) errors: Faults,
    pub(super) strays: Faults,
    pub(super) over_limit: Faults,
}

impl Ledger {
    pub(super) fn new(guests: Vec<Guest>, spec: &Spec, phases: Vec<Phase>) -> Self {
        let accounts = guests.iter().zip(&spec.vms).map(|(guest, vm)| account(guest, vm)).collect();
        let kept = |_: &Phase| PhaseAccount {
            hunger: vec![Duration::ZERO; guests.len()],
            ..PhaseAccount::default()
        };
        Self {
            rows: Vec::new(),
            free: Vec::new(),
            open: 0,
            accounts,
            phases: phases.into_iter().map(|phase| (phase.clone(), kept(&phase))).collect(),
            anywhere: 0,
            completed: 0,
            attempts: 0,
            once: Faults::default(),
            errors: Faults::default(),
            strays: Faults::default(),
            over_limit: Faults::default(),
            guests,
        }
    }

    pub(super) fn guest(&self, vm: usize) -> &Guest {
        &self.guests[vm]
    }

    pub(super) fn guests(&self) -> &[Guest] {
        &self.guests
    }

    /// Requests that have not been completed.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Whether a request waits that any path could carry.
    pub(super) fn somebody_waits(&self) -> bool {
        self.anywhere > 0
    }

    /// A VM asks; returns the token.
    pub(super) fn submitted(&mut self, vm: usize, now: Instant) -> u32 {
        let bytes = self.guests[vm].size;
        let row = Row { state: State::Waiting, vm, bytes, submitted: now, paid: false };
        let token = self.free.pop().unwrap_or_else(|| {
            self.rows.push(row);
            self.rows.len() as u32 - 1
        });
        self.rows[token as usize] = row;
        self.open += 1;
        self.waits(vm, now);
        let account = &mut self.accounts[vm];
        add(&mut account.asked, now, u64::from(bytes));
        if now.as_nanos() % STEP.as_nanos() as u64 >= (STEP - GRACE).as_nanos() as u64 {
            add(&mut account.late, now, u64::from(bytes));
        }
        token
    }

    fn waits(&mut self, vm: usize, now: Instant) {
        let account = &mut self.accounts[vm];
        if account.waiting == 0 {
            account.hungry_since = now;
        }
        account.waiting += 1;
        self.anywhere += u64::from(self.guests[vm].goes_anywhere());
    }

    /// The router sends it. Returns its size; none if there is no such request to send.
    pub(super) fn sent(&mut self, token: u32, now: Instant) -> Option<u32> {
        let row = self.rows.get_mut(token as usize).filter(|row| row.state == State::Waiting);
        let Some(row) = row else {
            self.once.add(|| format!("{now}: sent request {token}, which does not wait"));
            return None;
        };
        row.state = State::Flying;
        let (vm, bytes, paid) = (row.vm, row.bytes, std::mem::replace(&mut row.paid, true));
        self.attempts += 1;
        self.fed(vm, now);
        let account = &mut self.accounts[vm];
        account.waiting -= 1;
        if account.waiting == 0 {
            add(&mut account.dry, now, 1);
        }
        self.anywhere -= u64::from(self.guests[vm].goes_anywhere());
        if !paid {
            self.count_limits(vm, bytes, now);
        }
        Some(bytes)
    }

    /// One of its requests goes: so long it had been waiting for that.
    fn fed(&mut self, vm: usize, now: Instant) {
        let account = &mut self.accounts[vm];
        let since = std::mem::replace(&mut account.hungry_since, now);
        let waited = now.since(since);
        if let Some((_, kept)) = phase_at(&mut self.phases, now) {
            kept.hunger[vm] = kept.hunger[vm].max(waited);
        }
    }

    fn count_limits(&mut self, vm: usize, bytes: u32, now: Instant) {
        let account = &mut self.accounts[vm];
        let amounts = [(&mut account.bytes_limit, u64::from(bytes)), (&mut account.requests_limit, 1)];
        for (window, amount) in amounts {
            let over = window.as_mut().map_or(0, |window| window.add(now, amount));
            if over > 0 {
                self.over_limit.add(|| format!("{now}: VM {vm} is {over} over its limit and its burst"));
            }
        }
    }

    /// What carried it is dead.
    pub(super) fn lost(&mut self, token: u32, now: Instant) {
        let row = &mut self.rows[token as usize];
        if row.state == State::Flying {
            row.state = State::Waiting;
            let vm = row.vm;
            self.waits(vm, now);
        }
    }

    /// The router answers it. Returns the VM; none if there is no such request.
    pub(super) fn answered(
        &mut self,
        token: u32,
        result: Result<(), TargetError>,
        now: Instant,
    ) -> Option<usize> {
        let row = self.rows.get_mut(token as usize).filter(|row| row.state != State::Free);
        let Some(row) = row else {
            self.once.add(|| format!("{now}: answered request {token}, which is not open"));
            return None;
        };
        let state = std::mem::replace(&mut row.state, State::Free);
        let (vm, bytes, submitted) = (row.vm, row.bytes, row.submitted);
        self.free.push(token);
        self.open -= 1;
        if state == State::Waiting {
            self.once.add(|| format!("{now}: answered request {token}, which nobody has carried"));
            self.accounts[vm].waiting -= 1;
            self.anywhere -= u64::from(self.guests[vm].goes_anywhere());
        }
        if let Err(error) = result {
            self.errors.add(|| format!("{now}: request {token} of VM {vm} ended in {error:?}"));
            return Some(vm);
        }
        self.completed += 1;
        add(&mut self.accounts[vm].done, now, u64::from(bytes));
        let tier = self.guests[vm].tier as usize;
        if let Some((_, kept)) = phase_at(&mut self.phases, now) {
            kept.latency[tier].add(now.since(submitted));
        }
        Some(vm)
    }

    /// A request went where it must not.
    pub(super) fn stray(&mut self, what: impl FnOnce() -> String) {
        self.strays.add(what);
    }

    /// A path had nothing to do for so long although somebody waited.
    pub(super) fn idled(&mut self, since: Instant, now: Instant) {
        if let Some((phase, kept)) = phase_at(&mut self.phases, now) {
            kept.idle = kept.idle.max(now.since(since.max(phase.from)));
        }
    }

    /// The load ends: who waits still has waited until now. Sums are filled up.
    pub(super) fn close(&mut self, now: Instant) {
        for vm in 0..self.accounts.len() {
            if self.accounts[vm].waiting > 0 {
                self.fed(vm, Instant::from_nanos(now.as_nanos() - 1));
            }
            let account = &mut self.accounts[vm];
            for sums in [&mut account.asked, &mut account.late, &mut account.done, &mut account.dry] {
                add(sums, now, 0);
            }
        }
    }

    /// All that could end has ended; what has not is lost.
    pub(super) fn drained(&mut self, now: Instant) {
        for (token, row) in self.rows.iter().enumerate().filter(|(_, row)| row.state != State::Free) {
            self.once.add(|| format!("{now}: request {token} of VM {} was never answered", row.vm));
        }
    }
}

fn account(guest: &Guest, vm: &VmSpec) -> Account {
    let window = |rate, largest| Window::new(rate, vm.limit_burst, largest);
    Account {
        asked: vec![0],
        late: vec![0],
        done: vec![0],
        dry: vec![0],
        waiting: 0,
        hungry_since: Instant::ZERO,
        bytes_limit: vm.limit.map(|rate| window(rate.0, u64::from(guest.size))),
        requests_limit: vm.limit_iops.map(|rate| window(rate, 1)),
    }
}

/// The phase that a moment is in: none in the first second, and while a change takes effect.
fn phase_at(phases: &mut [(Phase, PhaseAccount)], now: Instant) -> Option<&mut (Phase, PhaseAccount)> {
    phases.iter_mut().find(|(phase, _)| phase.from <= now && now < phase.until)
}

/// The position in the sums that has what was counted before `at`, a multiple of [`STEP`].
pub(super) fn step(at: Instant) -> usize {
    (u128::from(at.as_nanos()) / STEP.as_nanos()) as usize
}

/// Sums stand one step behind: at `n` is what was counted before `n` steps had passed.
fn add(sums: &mut Vec<u64>, now: Instant, amount: u64) {
    let at = step(now) + 1;
    let last = sums.last().copied().unwrap_or(0);
    sums.resize(sums.len().max(at + 1), last);
    sums[at] += amount;
}
