//! What happened, in words and as a hash: a run that cannot be repeated proves nothing. It does not know what it means.

use super::world::Event;
use std::collections::VecDeque;
use vmpath_core::time::Instant;

/// Lines of a failing seed that are kept.
const TAIL: usize = 300;

#[derive(Debug)]
enum Words {
    None,
    /// The last ones.
    Tail(VecDeque<String>),
    Print,
}

#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    words: Words,
}

impl Trace {
    pub(super) fn silent() -> Self {
        Self { hash: 0, words: Words::None }
    }

    pub(super) fn tail() -> Self {
        Self { hash: 0, words: Words::Tail(VecDeque::new()) }
    }

    pub(super) fn printed() -> Self {
        Self { hash: 0, words: Words::Print }
    }

    /// An event is taken.
    pub(super) fn note(&mut self, at: Instant, event: &Event) {
        self.mix(at.as_nanos());
        match event {
            Event::Wake { .. }
            | Event::Inspect(_)
            | Event::Load(_)
            | Event::Tick(_)
            | Event::Look
            | Event::Send(_)
            | Event::Execute(_)
            | Event::Reply(_)
            | Event::Guest(_)
            | Event::Committed
            | Event::Plan { .. }
            | Event::Attach { .. } => {}
            Event::Told(told) if matches!(**told, vmpath_core::event::Event::Load(_)) => {}
            other => self.say(at, || format!("{other:?}")),
        }
    }

    pub(super) fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    pub(super) fn say(&mut self, at: Instant, words: impl FnOnce() -> String) {
        match &mut self.words {
            Words::None => {}
            Words::Tail(lines) => {
                if lines.len() == TAIL {
                    lines.pop_front();
                }
                lines.push_back(format!("{at} {}", words()));
            }
            Words::Print => println!("{at} {}", words()),
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn lines(self) -> Vec<String> {
        match self.words {
            Words::Tail(lines) => lines.into(),
            Words::None | Words::Print => Vec::new(),
        }
    }
}
