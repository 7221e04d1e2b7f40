//! A tournament over a fixed row of places: who has the least key, in all or in a range, without a search.
//!
//! A node holds the lesser of its two children, the left one if they are equal; the root is node 1, the children of `i` are `2i`
//! and `2i + 1`. Setting a key walks up once, and stops where nothing changes. Rejected: a heap, whose entries move, so that
//! each place would have to be found before it can change, and which knows nothing of ranges.
//! It does not know what a key means.

use std::ops::Range;

/// The key of a place that is out of the tournament.
pub(super) const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) key: u64,
    /// The place that the key is of.
    pub(super) who: u32,
}

const NOBODY: Node = Node { key: NEVER, who: u32::MAX };

#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// Where the leaves begin: a power of two.
    leaves: usize,
}

impl Tree {
    pub(super) fn new(places: usize) -> Self {
        let leaves = places.max(1).next_power_of_two();
        let mut nodes = vec![NOBODY; 2 * leaves];
        for (who, node) in nodes[leaves..].iter_mut().enumerate() {
            node.who = who as u32;
        }
        for i in (1..leaves).rev() {
            nodes[i] = nodes[2 * i];
        }
        Self { nodes, leaves }
    }

    pub(super) fn key(&self, place: usize) -> u64 {
        self.nodes[self.leaves + place].key
    }

    /// The least of all.
    pub(super) fn winner(&self) -> Node {
        self.nodes[1]
    }

    pub(super) fn set(&mut self, place: usize, key: u64) {
        let mut at = self.leaves + place;
        if self.nodes[at].key == key {
            return;
        }
        let mut node = Node { key, who: place as u32 };
        self.nodes[at] = node;
        while at > 1 {
            visit();
            let other = self.nodes[at ^ 1];
            let other_wins = (other.key < node.key) | ((other.key == node.key) & (at & 1 == 1));
            if other_wins {
                node = other;
            }
            at /= 2;
            if self.nodes[at] == node {
                return;
            }
            self.nodes[at] = node;
        }
    }

    /// The least within a range of places.
    pub(super) fn least(&self, range: Range<usize>) -> Node {
        if range.start == 0 && range.end == self.leaves {
            return self.winner();
        }
        let (mut low, mut high) = (self.leaves + range.start, self.leaves + range.end);
        // Two winners, so that the left one of equals wins: of what lies left of the middle, and of what lies right.
        let (mut left, mut right) = (NOBODY, NOBODY);
        while low < high {
            visit();
            if low & 1 == 1 {
                left = lesser(left, self.nodes[low]);
                low += 1;
            }
            if high & 1 == 1 {
                high -= 1;
                right = lesser(self.nodes[high], right);
            }
            low /= 2;
            high /= 2;
        }
        lesser(left, right)
    }

    /// The first place whose key is not above `key`.
    pub(super) fn first_up_to(&self, key: u64) -> Option<usize> {
        if self.nodes[1].key > key {
            return None;
        }
        let mut at = 1;
        while at < self.leaves {
            visit();
            at *= 2;
            at += usize::from(self.nodes[at].key > key);
        }
        Some(at - self.leaves)
    }
}

fn lesser(left: Node, right: Node) -> Node {
    if right.key < left.key { right } else { left }
}

#[cfg(test)]
thread_local! {
    static VISITS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How many nodes were looked at by this thread.
#[cfg(test)]
pub(super) fn visits() -> u64 {
    VISITS.get()
}

#[cfg(test)]
fn visit() {
    VISITS.set(VISITS.get() + 1);
}

#[cfg(not(test))]
#[inline(always)]
fn visit() {}
