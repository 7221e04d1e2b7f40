//! What has truly happened, and the rules held against it. It shares no code with what it checks.
//!
//! Values are judged as in a regular register: a read may return what the last acknowledged write left, or a write that
//! was outstanding meanwhile or has failed. A failed or abandoned write may take effect until it is overwritten by one
//! that was submitted after its end. So a value is legal for a read that began at `t` unless a write acknowledged before
//! `t` was submitted after the value's own write had ended.

use super::storage::Storage;
use crate::plan::Gate;
use crate::router::{ConnectionKey, Durability, Operation, Origin, Request, RequestKey};
use crate::time::Instant;
use crate::volume::verdict::TargetError;
use std::ops::Range;

pub(super) const BLOCKS_PER_REQUEST_MAX: usize = 8;

/// Whether a gate answers what waits for the unit.
pub(super) fn answers(gate: &Gate, unit: usize) -> bool {
    match gate {
        Gate::Bounce(_) => true,
        Gate::Fail(_, failing) => failing.cut_off.iter().any(|u| u.index() == unit),
        Gate::Open | Gate::Hold(_) => false,
    }
}

/// Whether it lets the guest hear what the unit's target puts off.
fn passes(gate: &Gate, unit: usize) -> bool {
    match gate {
        Gate::Fail(_, failing) => failing.refused.iter().any(|u| u.index() == unit),
        Gate::Open | Gate::Hold(_) | Gate::Bounce(_) => false,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// A request completes once, after its last attempt is over.
    ExactlyOnce,
    /// `Ok` means that the target has said so.
    Executed,
    /// An error has a cause that the guest may be told of.
    Blame,
    /// Nothing is sent again before what carried it is dead.
    DeadFirst,
    /// No different write over a lost one before the fence.
    Fence,
    StaleRead,
    FinalValue,
    Durable,
    Limit,
    Gate,
    /// The best ranked path, none that is disabled or avoided.
    Ranking,
    OneConnection,
    Sampling,
    Counters,
    Liveness,
    Wake,
    FailedOver,
    /// A write is remembered before it leaves, and what is over is forgotten.
    Record,
    /// On a disk with several writers the end of a lost write is told after its fence.
    Unfenced,
}

/// An assertion that is noted in the ledger, so that the run ends with its seed and mutants can be told apart.
macro_rules! require {
    ($ledger:expr, $holds:expr, $rule:expr, $text:expr $(,)?) => {
        if !$holds {
            $ledger.violated($rule, $text);
        }
    };
}
pub(super) use require;

#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) rule: Rule,
    pub(super) text: String,
}

/// One request of a guest; its index is its token.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) request: Request,
    pub(super) key: RequestKey,
    pub(super) vm: usize,
    pub(super) unit: usize,
    pub(super) blocks: Range<usize>,
    /// Positions in the order of submissions and ends.
    pub(super) submitted: u64,
    /// When the guest stopped waiting: completed or abandoned.
    pub(super) ended: Option<u64>,
    pub(super) completed: bool,
    pub(super) abandoned: bool,
    /// It may be held for a fence with its end known: what excused that may be over.
    pub(super) may_be_late: bool,
    /// The process that has it was told that another may have sent it.
    pub(super) replayed: bool,
    pub(super) dispatched: bool,
    /// The attempt in flight.
    pub(super) attempt: Option<usize>,
    /// The target has answered the operation itself, or a flush after it, with success.
    pub(super) answered: bool,
    errors: Vec<TargetError>,
    /// A read's: what each block may not be older than, and what was read.
    floors: [u64; BLOCKS_PER_REQUEST_MAX],
    values: [u32; BLOCKS_PER_REQUEST_MAX],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not one byte has been given to the socket.
    Unsent,
    OnWire,
    Executed(Result<(), TargetError>),
    Answered,
    /// The connection died; it may yet be executed, if it was sent.
    Lost,
}

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) request: Request,
    pub(super) cookie: u64,
    pub(super) link: usize,
    pub(super) progress: Progress,
    pub(super) values: [u32; BLOCKS_PER_REQUEST_MAX],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LinkState {
    Open,
    /// Cut; replies on their way may still come. `Told`: the router knows.
    Cut,
    Told,
    Dead,
}

/// A connection. Its index is never used again, unlike its key.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) key: ConnectionKey,
    pub(super) path: usize,
    pub(super) unit: usize,
    pub(super) state: LinkState,
    /// The target executes nothing of it any more, before its death.
    pub(super) frozen: bool,
    pub(super) in_flight: Vec<usize>,
}

#[derive(Clone, Debug)]
struct LostWrite {
    token: u32,
    /// The write that was taken for it.
    stand_in: Option<u32>,
    unit: usize,
    blocks: Range<usize>,
    fence: Instant,
    /// It has been sent again, or has ended: nothing else may be chosen for its range.
    decided: bool,
}

impl LostWrite {
    fn is_of(&self, number: u32) -> bool {
        self.token == number || self.stand_in == Some(number)
    }
}

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) tokens: Vec<Token>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) links: Vec<Link>,
    /// Requests that are not completed.
    pub(super) open: Vec<u32>,
    lost: Vec<LostWrite>,
    /// By unit and block: when the youngest acknowledged write was submitted.
    floors: Vec<Vec<u64>>,
    order: u64,
    /// Acknowledged writes that a flush has still to cover, by unit.
    unflushed: Vec<Vec<u32>>,
    /// Rules that are not checked, to show that others catch the same fault.
    pub(super) ignored: Vec<Rule>,
    pub(super) violation: Option<Violation>,
}

impl Ledger {
    pub(super) fn new(units: usize, blocks: usize) -> Self {
        Self { floors: vec![vec![0; blocks]; units], unflushed: vec![Vec::new(); units], ..Self::default() }
    }

    /// Notes the first violation. Called by [`require`].
    pub(super) fn violated(&mut self, rule: Rule, text: impl FnOnce() -> String) {
        if self.violation.is_none() && !self.ignored.contains(&rule) {
            self.violation = Some(Violation { rule, text: text() });
        }
    }

    fn tick(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    pub(super) fn submitted(&mut self, mut token: Token) {
        token.submitted = self.tick();
        for (floor, block) in token.floors.iter_mut().zip(token.blocks.clone()) {
            *floor = self.floors[token.unit][block];
        }
        self.open.push(token.request.token);
        self.tokens.push(token);
    }

    pub(super) fn abandoned(&mut self, token: u32) {
        let at = self.tick();
        let token = &mut self.tokens[token as usize];
        token.abandoned = true;
        token.ended.get_or_insert(at);
    }

    /// An attempt is handed to a link.
    pub(super) fn dispatched(&mut self, attempt: Attempt, now: Instant) -> usize {
        let index = self.attempts.len();
        let (number, link) = (attempt.request.token, attempt.link);
        let token = self.tokens[number as usize].clone();
        let state = self.links[link].state;
        require!(self, matches!(state, LinkState::Open | LinkState::Cut), Rule::DeadFirst, || {
            format!("token {number} sent on a link that is {state:?}")
        });
        require!(self, token.attempt.is_none(), Rule::DeadFirst, || {
            format!("token {number} sent while its attempt {:?} is not over", token.attempt)
        });
        require!(self, !token.completed && !token.abandoned, Rule::ExactlyOnce, || {
            format!("token {number} sent after its end")
        });
        let whole = attempt.request.operation == token.request.operation;
        let legal = whole || (attempt.request.operation == Operation::Flush && token.answered);
        require!(self, legal, Rule::Executed, || format!("token {number} is not what it was: {attempt:?}"));
        if attempt.request.operation.changes_data() {
            self.check_fence(number, &token, now);
        }
        self.tokens[number as usize].attempt = Some(index);
        self.tokens[number as usize].dispatched = true;
        self.links[link].in_flight.push(index);
        self.attempts.push(attempt);
        index
    }

    fn check_fence(&mut self, number: u32, token: &Token, now: Instant) {
        self.lost.retain(|l| l.fence > now);
        let meets =
            |blocks: &Range<usize>| blocks.start < token.blocks.end && token.blocks.start < blocks.end;
        let is_resend = self.lost.iter().any(|l| l.is_of(number) || self.stands_in(token, l));
        let undecided = |l: &LostWrite| is_resend && !l.decided;
        let against = self
            .lost
            .iter()
            .find(|l| !l.is_of(number) && l.unit == token.unit && meets(&l.blocks) && !undecided(l))
            .cloned();
        require!(self, against.is_none(), Rule::Fence, || {
            format!("write {number} on {:?} at {now} against {against:?}", token.blocks)
        });
        let rival = self.open.iter().copied().find(|open| {
            let other = &self.tokens[*open as usize];
            let is_write = other.attempt.is_some_and(|a| self.attempts[a].request.operation.changes_data());
            is_write && other.unit == token.unit && meets(&other.blocks) && (is_resend || other.abandoned)
        });
        require!(self, rival.is_none(), Rule::Fence, || {
            format!("write {number}, a resend: {is_resend}, while {rival:?} over it is in flight")
        });
        let decided: Vec<usize> = (0..self.lost.len())
            .filter(|at| self.lost[*at].is_of(number) || self.stands_in(token, &self.lost[*at]))
            .collect();
        for at in decided {
            self.lost[at].decided = true;
            if self.lost[at].token != number {
                self.lost[at].stand_in = Some(number);
            }
        }
    }

    /// The record tells ranges and no more: of two open writes of the same range either may be taken for the lost one. The
    /// other is not acknowledged before the fence, so its ghost does no harm.
    fn stands_in(&self, token: &Token, lost: &LostWrite) -> bool {
        let is_open = !self.tokens[lost.token as usize].completed;
        let same = (token.unit, &token.blocks) == (lost.unit, &lost.blocks);
        token.replayed && is_open && same && !lost.decided
    }

    /// A lost attempt of the write may yet take effect. (Where another was taken for it, it is not sent before the fence.)
    pub(super) fn is_haunted(&self, number: u32, now: Instant) -> bool {
        self.lost.iter().any(|l| l.fence > now && l.token == number && l.stand_in.is_none())
    }

    /// Requests that are open when the process dies, in the order of their submission.
    pub(super) fn survivors(&self) -> Vec<u32> {
        let mut open = self.open.clone();
        open.sort_by_key(|token| self.tokens[*token as usize].submitted);
        open
    }

    /// Its client had left before the process died: nobody tells of its end.
    pub(super) fn vanished(&mut self, number: u32) {
        self.tokens[number as usize].completed = true;
        self.decide(number, true);
        self.open.retain(|t| *t != number);
    }

    /// The next process has it, and knows nothing of what came of it so far.
    pub(super) fn replayed(&mut self, number: u32, origin: Origin) {
        let token = &mut self.tokens[number as usize];
        token.replayed = origin == Origin::Replayed;
        (token.answered, token.dispatched) = (false, false);
        token.errors.clear();
        self.decide(number, false);
    }

    /// The record calls a write of this range open, besides so many others of the same range: one that is open is meant,
    /// though it may not have been sent.
    pub(super) fn presumed_lost(&mut self, place: &(usize, Range<usize>), twins: usize, fence: Instant) {
        let (unit, blocks) = place.clone();
        let is_known = |l: &&LostWrite| (l.unit, &l.blocks, l.fence) == (unit, &blocks, fence);
        if self.lost.iter().filter(is_known).count() > twins {
            return;
        }
        let meant = |number: &&u32| {
            let token = &self.tokens[**number as usize];
            let is_known = self.lost.iter().any(|l| l.is_of(**number) && l.fence == fence);
            let may_be = token.request.operation.changes_data() && !token.abandoned;
            (token.unit, &token.blocks) == (unit, &blocks) && may_be && !is_known
        };
        if let Some(token) = self.open.iter().find(meant).copied() {
            self.lost.push(LostWrite { token, stand_in: None, unit, blocks, fence, decided: false });
        }
    }

    fn decide(&mut self, number: u32, decided: bool) {
        for lost in self.lost.iter_mut().filter(|l| l.is_of(number)) {
            lost.decided = decided;
        }
    }

    /// Its reply reaches the router.
    pub(super) fn answered(&mut self, index: usize, result: Result<(), TargetError>) {
        let attempt = &mut self.attempts[index];
        attempt.progress = Progress::Answered;
        self.links[attempt.link].in_flight.retain(|a| *a != index);
        let (number, values) = (attempt.request.token, attempt.values);
        let changes_data = attempt.request.operation.changes_data();
        let token = &mut self.tokens[number as usize];
        token.attempt = None;
        match result {
            Ok(()) => (token.answered, token.values) = (true, values),
            Err(error) => token.errors.push(error),
        }
        if changes_data && result.is_err() {
            self.decide(number, false);
        }
    }

    /// Its connection is dead. A write that was sent may take effect until the fence.
    pub(super) fn lost(&mut self, index: usize, fence: Option<Instant>) {
        let attempt = &mut self.attempts[index];
        attempt.progress = Progress::Lost;
        let number = attempt.request.token;
        let is_write = attempt.request.operation.changes_data();
        let token = &mut self.tokens[number as usize];
        token.attempt = None;
        if !is_write {
            return;
        }
        // Sent again, with or without success, it is no longer decided which of several is.
        let decided = token.completed;
        self.decide(number, decided);
        let token = &self.tokens[number as usize];
        if let Some(fence) = fence {
            let (unit, blocks, decided) = (token.unit, token.blocks.clone(), token.completed);
            self.lost.push(LostWrite { token: number, stand_in: None, unit, blocks, fence, decided });
        }
    }

    pub(super) fn completed(&mut self, number: u32, result: Result<(), TargetError>, gate: &Gate) {
        let at = self.tick();
        let token = self.tokens[number as usize].clone();
        let answers = answers(gate, token.unit);
        let put_off = [TargetError::Busy, TargetError::ShuttingDown];
        let refused = passes(gate, token.unit) && token.errors.iter().any(|e| put_off.contains(e));
        require!(self, !token.completed, Rule::ExactlyOnce, || format!("token {number} completed again"));
        require!(self, token.attempt.is_none(), Rule::ExactlyOnce, || {
            format!("token {number} completed while an attempt is in flight")
        });
        match result {
            Ok(()) => {
                require!(self, token.answered, Rule::Executed, || {
                    format!("token {number} is Ok without an answer")
                });
                self.acknowledged(number, &token);
            }
            Err(error) => {
                let excused = match error {
                    TargetError::ShuttingDown => token.abandoned,
                    TargetError::Io => {
                        answers || refused || token.may_be_late || token.errors.contains(&error)
                    }
                    // Not done is no end: the policy alone makes an error of it.
                    TargetError::Busy => false,
                    _ => token.errors.contains(&error),
                };
                require!(self, excused, Rule::Blame, || {
                    format!("token {number} fails with {error:?}, its target said {:?}", token.errors)
                });
            }
        }
        let token = &mut self.tokens[number as usize];
        token.completed = true;
        token.ended.get_or_insert(at);
        self.decide(number, true);
        self.open.retain(|t| *t != number);
    }

    fn acknowledged(&mut self, number: u32, token: &Token) {
        if token.abandoned {
            return;
        }
        if token.request.operation == Operation::Read {
            for (at, block) in token.blocks.clone().enumerate() {
                self.check_value(token.values[at], token.floors[at], Rule::StaleRead, (token.unit, block));
            }
        } else if token.request.operation.changes_data() {
            for block in token.blocks.clone() {
                let floor = &mut self.floors[token.unit][block];
                *floor = token.submitted.max(*floor);
            }
            self.unflushed[token.unit].push(number);
        }
    }

    fn check_value(&mut self, value: u32, floor: u64, rule: Rule, place: (usize, usize)) {
        let ended = self.tokens[value as usize].ended;
        require!(self, ended.is_none_or(|ended| ended >= floor), rule, || {
            format!(
                "unit and block {place:?} hold token {value}, ended at {ended:?}, overwritten by one from {floor}"
            )
        });
    }

    /// After everything: what the target holds is what the guest was told.
    pub(super) fn check_final(&mut self, storage: &Storage) {
        for unit in 0..self.floors.len() {
            for block in 0..self.floors[unit].len() {
                let floor = self.floors[unit][block];
                self.check_value(storage.read(unit, block), floor, Rule::FinalValue, (unit, block));
            }
        }
    }

    /// What the completion of a durable write or a flush promises, where the target can keep a promise.
    pub(super) fn check_durable(&mut self, number: u32, storage: &Storage) {
        let token = &self.tokens[number as usize];
        let (unit, submitted) = (token.unit, token.submitted);
        let is_durable = |n: u32, t: &Token| storage.is_durable(n, t.blocks.len());
        if token.request.operation.changes_data() {
            let holds = is_durable(number, token);
            require!(self, holds, Rule::Durable, || format!("write {number} is acknowledged and not stable"));
        } else if token.request.operation == Operation::Flush {
            let mut unflushed = std::mem::take(&mut self.unflushed[unit]);
            unflushed.retain(|n| !is_durable(*n, &self.tokens[*n as usize]));
            let missed = unflushed
                .iter()
                .copied()
                .find(|n| self.tokens[*n as usize].ended.is_some_and(|ended| ended < submitted));
            self.unflushed[unit] = unflushed;
            require!(self, missed.is_none(), Rule::Durable, || {
                format!("flush {number} misses write {missed:?}")
            });
        }
    }

    pub(super) fn is_untroubled(&self, token: u32) -> bool {
        self.tokens[token as usize].errors.is_empty()
    }
}

impl Token {
    pub(super) fn new(request: Request, place: (usize, usize), blocks: Range<usize>) -> Self {
        let (vm, unit) = place;
        Self {
            request,
            key: 0,
            vm,
            unit,
            blocks,
            submitted: 0,
            ended: None,
            completed: false,
            abandoned: false,
            may_be_late: false,
            replayed: false,
            dispatched: false,
            attempt: None,
            answered: false,
            errors: Vec::new(),
            floors: [0; BLOCKS_PER_REQUEST_MAX],
            values: [0; BLOCKS_PER_REQUEST_MAX],
        }
    }

    /// What was there before any request.
    pub(super) fn origin(request: Request) -> Self {
        Self { ended: Some(0), completed: true, ..Self::new(request, (0, 0), 0..0) }
    }

    pub(super) fn must_be_stable(&self) -> bool {
        self.request.durability == Durability::Stable
    }
}
