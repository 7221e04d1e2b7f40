//! What has truly happened to each request, and the rules of the data path held against it.
//!
//! It shares no code with what it checks. A guest's request (an *op*) has a value of its own, its number; it goes to a router
//! as a *token*, again after a crash or after an error that its hypervisor keeps from it; and to a target as *attempts*.
//! Two checks of values: at each read, none that was overwritten before (`stale-read`), none of another unit
//! (`unit-crossed`); and at the end, for guests that do not race with themselves, each block's history as an atomic
//! register (`registers`). It does not know how the world makes things happen.

use super::registers::{Cluster, History};
use super::scene::BLOCKS_PER_REQUEST_MAX;
use super::storage::Storage;
use super::violation::Violation;
use std::ops::Range;
use vmpath_core::plan::Gate;
use vmpath_core::router::{Operation, Origin, RequestKey};
use vmpath_core::time::Instant;
use vmpath_core::volume::verdict::TargetError;

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
pub(super) enum Outcome {
    Open,
    Done,
    /// The guest was told of an error: it may take effect until it is overwritten.
    Failed,
    /// The guest is gone.
    Abandoned,
}

#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) vm: usize,
    pub(super) disk: usize,
    pub(super) unit: usize,
    pub(super) operation: Operation,
    pub(super) first: usize,
    pub(super) count: usize,
    /// FUA.
    pub(super) stable: bool,
    /// Positions in the order of submissions and ends.
    submitted: u64,
    ended: Option<u64>,
    pub(super) outcome: Outcome,
    /// Under which a router has it.
    pub(super) token: Option<u32>,
    /// A result that the guest will see when its ring runs again.
    pub(super) parked: Option<Result<(), TargetError>>,
    /// A read's: what each block may not be older than, and what was read.
    floors: [u64; BLOCKS_PER_REQUEST_MAX],
    values: [u32; BLOCKS_PER_REQUEST_MAX],
}

impl Op {
    pub(super) fn blocks(&self) -> Range<usize> {
        self.first..self.first + self.count
    }

    pub(super) fn is_write(&self) -> bool {
        self.operation.changes_data()
    }

    fn meets(&self, unit: usize, blocks: &Range<usize>) -> bool {
        self.unit == unit && meet(&self.blocks(), blocks)
    }
}

fn meet(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) op: u32,
    pub(super) key: RequestKey,
    /// The attempt in flight.
    pub(super) attempt: Option<u32>,
    /// The router was told that another process may have sent it.
    replayed: bool,
    /// The target has answered the operation itself with success.
    pub(super) answered: bool,
    completed: bool,
    pub(super) abandoned: bool,
    errors: Vec<TargetError>,
    /// Its VM's gate has answered what waited since it came.
    excused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not one byte has been given to the socket.
    Unsent,
    /// In the host's kernel.
    Buffered,
    /// In the network, or at the target and not executed.
    Away,
    Executed(Result<(), TargetError>),
    Answered,
    Lost,
}

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) op: u32,
    pub(super) token: u32,
    pub(super) conn: u32,
    pub(super) cookie: u64,
    pub(super) operation: Operation,
    pub(super) fua: bool,
    pub(super) progress: Progress,
    pub(super) values: [u32; BLOCKS_PER_REQUEST_MAX],
}

/// Stands for a request where none was lost.
const NOBODY: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct LostWrite {
    op: u32,
    /// The write that was taken for it.
    stand_in: Option<u32>,
    unit: usize,
    blocks: Range<usize>,
    fence: Instant,
    /// A process that was started meanwhile knows only that it was lost before, and takes it for one that still may come.
    believed: Instant,
    /// The present process was started with a record that calls its range open, and does not know whose it is.
    is_recorded: bool,
    /// It has been sent again, or has ended: nothing else may be chosen for its range.
    decided: bool,
}

impl LostWrite {
    fn is_of(&self, op: u32) -> bool {
        self.op == op || self.stand_in == Some(op)
    }
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) ops: Vec<Op>,
    pub(super) tokens: Vec<Token>,
    pub(super) attempts: Vec<Attempt>,
    /// Ops that have not ended.
    pub(super) open: Vec<u32>,
    /// Tokens without a client and with an attempt in flight.
    orphans: Vec<u32>,
    lost: Vec<LostWrite>,
    /// By unit and block: when the youngest acknowledged write was submitted.
    floors: Vec<Vec<u64>>,
    histories: Vec<Vec<History>>,
    /// Acknowledged writes that a flush has still to cover, by unit.
    unflushed: Vec<Vec<u32>>,
    order: u64,
    violation: Option<Violation>,
    /// Rules that are not checked, to show that others catch the same fault.
    pub(super) blind: Vec<&'static str>,
}

/// An assertion that is noted in the ledger, so that the run ends with its seed.
macro_rules! require {
    ($ledger:expr, $holds:expr, $rule:expr, $($text:tt)*) => {
        if !$holds {
            $ledger.violated($rule, || format!($($text)*));
        }
    };
}
pub(super) use require;

impl Ledger {
    pub(super) fn new(units: usize, blocks: usize) -> Self {
        let mut ledger = Self {
            floors: vec![vec![0; blocks]; units],
            histories: vec![vec![History::default(); blocks]; units],
            unflushed: vec![Vec::new(); units],
            ..Self::default()
        };
        for unit in 0..units {
            // What was there at first, in all its blocks.
            let mut origin = Op::new((usize::MAX, usize::MAX, unit), Operation::Write, (0, blocks));
            (origin.ended, origin.outcome) = (Some(0), Outcome::Done);
            ledger.ops.push(origin);
        }
        ledger
    }

    /// Notes the first violation.
    pub(super) fn violated(&mut self, rule: &'static str, text: impl FnOnce() -> String) {
        if self.violation.is_none() && !self.blind.contains(&rule) {
            self.violation = Some(Violation { rule, text: text() });
        }
    }

    pub(super) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    fn tick(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    pub(super) fn submitted(&mut self, mut op: Op) -> u32 {
        op.submitted = self.tick();
        for (floor, block) in op.floors.iter_mut().zip(op.first..op.first + op.count) {
            *floor = self.floors[op.unit][block];
        }
        let number = self.ops.len() as u32;
        self.ops.push(op);
        self.open.push(number);
        number
    }

    /// A router is about to get it.
    pub(super) fn token(&mut self, op: u32, origin: Origin) -> u32 {
        let number = self.tokens.len() as u32;
        self.tokens.push(Token {
            op,
            key: 0,
            attempt: None,
            replayed: origin == Origin::Replayed,
            answered: false,
            completed: false,
            abandoned: false,
            errors: Vec::new(),
            excused: false,
        });
        self.ops[op as usize].token = Some(number);
        self.decide(op, false);
        number
    }

    /// An attempt is handed to a connection.
    pub(super) fn dispatched(&mut self, attempt: Attempt, now: Instant) -> u32 {
        let (token, op) = (&self.tokens[attempt.token as usize], &self.ops[attempt.op as usize]);
        let (flying, ended) = (token.attempt, token.completed || token.abandoned);
        let whole = attempt.operation == op.operation;
        let legal = whole || (attempt.operation == Operation::Flush && token.answered);
        let number = attempt.op;
        require!(
            self,
            flying.is_none(),
            "dead-first",
            "op {number} goes while its attempt {flying:?} is not over"
        );
        require!(self, !ended, "exactly-once", "op {number} goes after its end");
        require!(self, legal, "executed", "op {number} is not what it was: {:?}", attempt.operation);
        if attempt.operation.changes_data() {
            self.check_fence(attempt.token, now);
        }
        let index = self.attempts.len() as u32;
        self.tokens[attempt.token as usize].attempt = Some(index);
        self.attempts.push(attempt);
        index
    }

    fn check_fence(&mut self, token: u32, now: Instant) {
        self.lost.retain(|l| l.believed > now);
        let Token { op: number, replayed, .. } = self.tokens[token as usize];
        let (unit, blocks) = (self.ops[number as usize].unit, self.ops[number as usize].blocks());
        let mine = |l: &LostWrite| l.is_of(number) || (replayed && self.stands_in((unit, &blocks), l));
        let is_resend = self.lost.iter().any(|l| l.fence > now && mine(l));
        let seems_resend = self.lost.iter().any(mine);
        let undecided = |l: &LostWrite| seems_resend && !l.decided;
        let against = self.lost.iter().find(|l| {
            l.fence > now && !mine(l) && l.unit == unit && meet(&l.blocks, &blocks) && !undecided(l)
        });
        let against = against.cloned();
        let chosen: Vec<usize> = (0..self.lost.len()).filter(|at| mine(&self.lost[*at])).collect();
        require!(
            self,
            against.is_none(),
            "fence",
            "op {number} on {blocks:?} of unit {unit} goes against {against:?}"
        );
        let writes = |token: &u32| {
            let token = &self.tokens[*token as usize];
            let flies = token.attempt.is_some_and(|a| self.attempts[a as usize].operation.changes_data());
            flies && token.op != number && self.ops[token.op as usize].meets(unit, &blocks)
        };
        let rival = self.orphans.iter().find(|t| writes(t)).copied().or_else(|| {
            let mut open = self.open.iter().filter_map(|op| self.ops[*op as usize].token);
            if is_resend { open.find(writes) } else { None }
        });
        require!(
            self,
            rival.is_none(),
            "fence",
            "op {number} (a resend: {is_resend}) goes while token {rival:?} over it is in flight"
        );
        for at in chosen {
            self.lost[at].decided = true;
            if self.lost[at].op != number {
                self.lost[at].stand_in = Some(number);
            }
        }
    }

    /// The record tells ranges and no more: of two open writes of the same range either may be taken for the lost one. The
    /// other is not acknowledged before the fence, so its ghost does no harm. What a process has lost itself it knows by name.
    fn stands_in(&self, place: (usize, &Range<usize>), lost: &LostWrite) -> bool {
        let is_open = lost.op == NOBODY || self.ops[lost.op as usize].outcome == Outcome::Open;
        is_open && lost.is_recorded && place == (lost.unit, &lost.blocks) && !lost.decided
    }

    fn decide(&mut self, op: u32, decided: bool) {
        for lost in self.lost.iter_mut().filter(|l| l.is_of(op)) {
            lost.decided = decided;
        }
    }

    /// A process starts: by unit, until when it takes for lost what the record calls `open`. Some of that had not left, or had
    /// been answered: to the new process it is as if it were lost.
    pub(super) fn restored(&mut self, until: &[Instant], mut open: Vec<(usize, Range<usize>)>, now: Instant) {
        self.lost.retain(|l| l.op != NOBODY);
        let mut found = Vec::new();
        for lost in &mut self.lost {
            lost.is_recorded = false;
            if self.ops[lost.op as usize].outcome != Outcome::Open {
                continue;
            }
            lost.believed = lost.fence.max(until[lost.unit]);
            let place = open.iter().position(|o| *o == (lost.unit, lost.blocks.clone()));
            // Lost twice, it is written down once.
            if found.contains(&lost.op) {
                lost.is_recorded = true;
            } else if let Some(at) = place {
                open.swap_remove(at);
                found.push(lost.op);
                lost.is_recorded = true;
            }
        }
        self.lost.extend(open.into_iter().map(|(unit, blocks)| LostWrite {
            op: NOBODY,
            stand_in: None,
            unit,
            blocks,
            fence: now,
            believed: until[unit],
            is_recorded: true,
            decided: false,
        }));
    }

    /// Its VM's gate answers what waits.
    pub(super) fn excused(&mut self, vm: usize, gate: &Gate) {
        let its = |op: &&Op| op.vm == vm && answers(gate, op.unit);
        for op in self.open.iter().map(|op| &self.ops[*op as usize]).filter(its) {
            if let Some(token) = op.token {
                self.tokens[token as usize].excused = true;
            }
        }
    }

    /// Its reply reaches the router.
    pub(super) fn answered(&mut self, index: u32, result: Result<(), TargetError>) {
        let attempt = &mut self.attempts[index as usize];
        attempt.progress = Progress::Answered;
        let (number, values, changes) = (attempt.token, attempt.values, attempt.operation.changes_data());
        let token = &mut self.tokens[number as usize];
        token.attempt = None;
        let op = token.op;
        match result {
            Ok(()) => {
                token.answered = true;
                self.ops[op as usize].values = values;
            }
            Err(error) => token.errors.push(error),
        }
        if changes && result.is_err() {
            self.decide(op, false);
        }
        self.orphans.retain(|t| *t != number);
    }

    /// Its connection is dead. A write that was sent may take effect until the fence.
    pub(super) fn lost(&mut self, index: u32, fence: Option<Instant>) {
        let attempt = &mut self.attempts[index as usize];
        attempt.progress = Progress::Lost;
        let (number, number_op, is_write) = (attempt.token, attempt.op, attempt.operation.changes_data());
        self.tokens[number as usize].attempt = None;
        self.orphans.retain(|t| *t != number);
        if !is_write {
            return;
        }
        let decided = self.tokens[number as usize].completed || self.tokens[number as usize].abandoned;
        // Sent again, with or without success, it is no longer decided which of several is.
        self.decide(number_op, decided);
        if let Some(fence) = fence {
            let op = &self.ops[number_op as usize];
            let (unit, blocks) = (op.unit, op.blocks());
            let believed = fence;
            self.lost.push(LostWrite {
                op: number_op,
                stand_in: None,
                unit,
                blocks,
                fence,
                believed,
                is_recorded: false,
                decided,
            });
        }
    }

    /// A router's word on a token, behind that gate.
    pub(super) fn completed(&mut self, number: u32, result: Result<(), TargetError>, gate: &Gate) {
        let token = self.tokens[number as usize].clone();
        let op = token.op;
        let unit = self.ops[op as usize].unit;
        let put_off = [TargetError::Busy, TargetError::ShuttingDown];
        let refused = passes(gate, unit) && token.errors.iter().any(|error| put_off.contains(error));
        require!(self, !token.completed, "exactly-once", "op {op} is completed again");
        require!(
            self,
            token.attempt.is_none(),
            "exactly-once",
            "op {op} is completed while an attempt is in flight"
        );
        match result {
            Ok(()) => require!(self, token.answered, "executed", "op {op} is Ok without an answer"),
            Err(error) => {
                let excused = match error {
                    TargetError::ShuttingDown => token.abandoned || token.errors.contains(&error),
                    TargetError::Io => {
                        answers(gate, unit) || refused || token.excused || token.errors.contains(&error)
                    }
                    // Not done is no end: the policy alone makes an error of it.
                    TargetError::Busy => false,
                    _ => token.errors.contains(&error),
                };
                require!(
                    self,
                    excused,
                    "blame",
                    "op {op} fails with {error:?}, its target said {:?}",
                    token.errors
                );
            }
        }
        self.tokens[number as usize].completed = true;
        if self.ops[op as usize].token == Some(number) {
            self.ops[op as usize].token = None;
        }
        self.decide(op, true);
    }

    /// The guest hears of its end. False if it has heard before.
    pub(super) fn ended(&mut self, number: u32, result: Result<(), TargetError>) {
        let at = self.tick();
        let known = self.ops[number as usize].outcome;
        require!(self, known == Outcome::Open, "exactly-once", "op {number} ends again, it is {known:?}");
        let op = &mut self.ops[number as usize];
        op.ended = Some(at);
        op.outcome = if result.is_ok() { Outcome::Done } else { Outcome::Failed };
        self.open.retain(|o| *o != number);
        self.decide(number, true);
        if result.is_ok() {
            self.acknowledged(number);
        }
    }

    fn acknowledged(&mut self, number: u32) {
        let op = self.ops[number as usize].clone();
        let ended = op.ended.unwrap_or(u64::MAX);
        if op.operation == Operation::Read {
            for (at, block) in op.blocks().enumerate() {
                self.check_value(op.values[at], op.floors[at], (op.unit, block));
                self.histories[op.unit][block].read(op.values[at], (op.submitted, ended));
            }
        } else if op.is_write() {
            for block in op.blocks() {
                let floor = &mut self.floors[op.unit][block];
                *floor = op.submitted.max(*floor);
                self.histories[op.unit][block].wrote(number);
            }
            self.unflushed[op.unit].push(number);
        }
    }

    fn check_value(&mut self, value: u32, floor: u64, (unit, block): (usize, usize)) {
        let writer = &self.ops[value as usize];
        let (of, ended, wrote) = (writer.unit, writer.ended, writer.blocks().contains(&block));
        require!(
            self,
            of == unit,
            "unit-crossed",
            "block {block} of unit {unit} gives op {value}, which belongs to unit {of}"
        );
        require!(
            self,
            wrote,
            "stale-read",
            "block {block} of unit {unit} gives op {value}, which never wrote there"
        );
        require!(
            self,
            ended.is_none_or(|ended| ended >= floor),
            "stale-read",
            "block {block} of unit {unit} gives op {value}, ended at {ended:?}, overwritten by one from {floor}"
        );
    }

    /// The guest is gone with all that it had open.
    pub(super) fn abandoned(&mut self, number: u32) {
        let at = self.tick();
        let op = &mut self.ops[number as usize];
        op.ended = Some(at);
        op.outcome = Outcome::Abandoned;
        op.parked = None;
        self.open.retain(|o| *o != number);
        if let Some(token) = self.ops[number as usize].token {
            self.tokens[token as usize].abandoned = true;
            if self.tokens[token as usize].attempt.is_some() {
                self.orphans.push(token);
            }
        }
    }

    /// No router knows it any more; what it has in flight was told of by [`Self::lost`].
    pub(super) fn forgotten(&mut self, token: u32) {
        self.tokens[token as usize].completed = true;
        let op = self.tokens[token as usize].op;
        if self.ops[op as usize].token == Some(token) {
            self.ops[op as usize].token = None;
        }
        self.orphans.retain(|t| *t != token);
        let decided = self.ops[op as usize].outcome != Outcome::Open;
        self.decide(op, decided);
    }

    /// What the end of a durable write or a flush promises.
    pub(super) fn check_durable(&mut self, number: u32, storage: &Storage) {
        let op = &self.ops[number as usize];
        let (unit, submitted) = (op.unit, op.submitted);
        let is_durable = |n: u32, op: &Op| storage.is_durable(n, op.count);
        if op.is_write() {
            let holds = is_durable(number, op);
            require!(self, holds, "durable", "write {number} is acknowledged and not stable");
        } else if op.operation == Operation::Flush {
            let mut unflushed = std::mem::take(&mut self.unflushed[unit]);
            unflushed.retain(|n| !is_durable(*n, &self.ops[*n as usize]));
            let before = |n: &&u32| self.ops[**n as usize].ended.is_some_and(|ended| ended < submitted);
            let missed = unflushed.iter().find(before).copied();
            self.unflushed[unit] = unflushed;
            require!(self, missed.is_none(), "durable", "flush {number} misses write {missed:?}");
        }
    }

    /// What the targets hold in the end is what the guests were told.
    pub(super) fn check_final(&mut self, storage: &Storage) {
        for unit in 0..self.floors.len() {
            for block in 0..self.floors[unit].len() {
                self.check_value(storage.read(unit, block), self.floors[unit][block], (unit, block));
            }
        }
    }

    /// Each block of the unit was an atomic register.
    pub(super) fn check_registers(&mut self, unit: usize) {
        for block in 0..self.histories[unit].len() {
            let history = std::mem::take(&mut self.histories[unit][block]);
            let write = |value: u32| {
                let op = &self.ops[value as usize];
                let end = if op.outcome == Outcome::Done { op.ended } else { None };
                Cluster { start: op.submitted, end: end.unwrap_or(u64::MAX) }
            };
            if let Err(text) = history.judge(write) {
                self.violated("register", || format!("block {block} of unit {unit}: {text}"));
            }
        }
    }
}

impl Op {
    /// `place`: VM, disk, unit; `blocks`: the first and how many.
    pub(super) fn new(place: (usize, usize, usize), operation: Operation, blocks: (usize, usize)) -> Self {
        Self {
            vm: place.0,
            disk: place.1,
            unit: place.2,
            operation,
            first: blocks.0,
            count: blocks.1,
            stable: false,
            submitted: 0,
            ended: None,
            outcome: Outcome::Open,
            token: None,
            parked: None,
            floors: [0; BLOCKS_PER_REQUEST_MAX],
            values: [0; BLOCKS_PER_REQUEST_MAX],
        }
    }
}

#[cfg(test)]
mod tests;
