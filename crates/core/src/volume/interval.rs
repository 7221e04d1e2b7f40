//! A set of byte ranges that answers "does anything overlap this?" in O(log n), however many there are.
//!
//! Invariant: a treap, ordered by start and item, heaped by priorities that are a hash of a counter; each node knows the
//! greatest end below it. Its nodes live in a slab, so that a warm set allocates nothing. Rejected: a list that is
//! scanned, since a path with a deep queue is lost with thousands of writes at once, and each write that follows would
//! pass them all; a balanced tree, which is longer for no better bound here. It does not know what the ranges are of.

use super::Extent;
use slab::Slab;

const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Node {
    range: Extent,
    item: u32,
    priority: u64,
    end_max: u64,
    left: u32,
    right: u32,
}

impl Node {
    fn order(&self) -> (u64, u32) {
        (self.range.start, self.item)
    }
}

#[derive(Clone, Debug)]
pub(super) struct IntervalSet {
    nodes: Slab<Node>,
    root: u32,
    inserted: u64,
    #[cfg(test)]
    steps: std::cell::Cell<u64>,
}

impl Default for IntervalSet {
    fn default() -> Self {
        Self {
            nodes: Slab::new(),
            root: NONE,
            inserted: 0,
            #[cfg(test)]
            steps: std::cell::Cell::new(0),
        }
    }
}

pub(super) fn overlap(a: &Extent, b: &Extent) -> bool {
    a.start < b.end && b.start < a.end
}

impl IntervalSet {
    pub(super) fn is_empty(&self) -> bool {
        self.root == NONE
    }

    /// The pair must not be in it yet.
    pub(super) fn insert(&mut self, range: &Extent, item: u32) {
        self.inserted += 1;
        let priority = mix(self.inserted);
        let (range, end_max) = (range.clone(), range.end);
        let node = self.nodes.insert(Node { range, item, priority, end_max, left: NONE, right: NONE });
        self.root = self.insert_below(self.root, node as u32);
    }

    /// # Panics
    /// If the pair is not in it.
    pub(super) fn remove(&mut self, range: &Extent, item: u32) {
        self.root = self.remove_below(self.root, (range.start, item));
    }

    pub(super) fn clear(&mut self) {
        self.nodes.clear();
        self.root = NONE;
    }

    /// Whether any range of the set shares a byte with this one.
    pub(super) fn overlaps(&self, range: &Extent) -> bool {
        let mut at = self.root;
        while at != NONE {
            self.step();
            let node = &self.nodes[at as usize];
            if overlap(&node.range, range) {
                return true;
            }
            // If something on the left ends late enough and does not overlap, it begins too late; then so does all on the right.
            let reaches = node.left != NONE && self.nodes[node.left as usize].end_max > range.start;
            at = if reaches { node.left } else { node.right };
        }
        false
    }

    /// Whether any but this item does. (Of those that overlap, two are looked at.)
    pub(super) fn overlaps_other(&self, range: &Extent, item: u32) -> bool {
        self.other_below(self.root, range, item)
    }

    fn other_below(&self, tree: u32, range: &Extent, item: u32) -> bool {
        if tree == NONE || self.nodes[tree as usize].end_max <= range.start {
            return false;
        }
        self.step();
        let node = &self.nodes[tree as usize];
        self.other_below(node.left, range, item)
            || (node.item != item && overlap(&node.range, range))
            || (node.range.start < range.end && self.other_below(node.right, range, item))
    }

    fn node(&mut self, at: u32) -> &mut Node {
        self.step();
        &mut self.nodes[at as usize]
    }

    fn insert_below(&mut self, tree: u32, node: u32) -> u32 {
        if tree == NONE {
            return node;
        }
        let (order, priority) = (self.nodes[node as usize].order(), self.nodes[node as usize].priority);
        if priority > self.node(tree).priority {
            let (left, right) = self.split(tree, order);
            let top = self.node(node);
            (top.left, top.right) = (left, right);
            self.renew(node);
            return node;
        }
        if order < self.node(tree).order() {
            let left = self.insert_below(self.nodes[tree as usize].left, node);
            self.node(tree).left = left;
        } else {
            let right = self.insert_below(self.nodes[tree as usize].right, node);
            self.node(tree).right = right;
        }
        self.renew(tree);
        tree
    }

    fn remove_below(&mut self, tree: u32, order: (u64, u32)) -> u32 {
        assert!(tree != NONE, "what is removed is there: {order:?}");
        let here = self.node(tree).order();
        if here == order {
            let gone = self.nodes.remove(tree as usize);
            return self.merge(gone.left, gone.right);
        }
        if order < here {
            let left = self.remove_below(self.nodes[tree as usize].left, order);
            self.node(tree).left = left;
        } else {
            let right = self.remove_below(self.nodes[tree as usize].right, order);
            self.node(tree).right = right;
        }
        self.renew(tree);
        tree
    }

    /// What comes before `order`, and what comes after.
    fn split(&mut self, tree: u32, order: (u64, u32)) -> (u32, u32) {
        if tree == NONE {
            return (NONE, NONE);
        }
        if self.node(tree).order() < order {
            let (before, after) = self.split(self.nodes[tree as usize].right, order);
            self.node(tree).right = before;
            self.renew(tree);
            (tree, after)
        } else {
            let (before, after) = self.split(self.nodes[tree as usize].left, order);
            self.node(tree).left = after;
            self.renew(tree);
            (before, tree)
        }
    }

    /// All of `left` comes before all of `right`.
    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE || right == NONE {
            return if left == NONE { right } else { left };
        }
        if self.node(left).priority > self.node(right).priority {
            let below = self.merge(self.nodes[left as usize].right, right);
            self.node(left).right = below;
            self.renew(left);
            left
        } else {
            let below = self.merge(left, self.nodes[right as usize].left);
            self.node(right).left = below;
            self.renew(right);
            right
        }
    }

    fn renew(&mut self, at: u32) {
        let node = &self.nodes[at as usize];
        let below = [node.left, node.right].into_iter().filter(|child| *child != NONE);
        let end_max = below.map(|child| self.nodes[child as usize].end_max).max().unwrap_or(0);
        let node = self.node(at);
        node.end_max = end_max.max(node.range.end);
    }

    #[cfg(test)]
    fn step(&self) {
        self.steps.set(self.steps.get() + 1);
    }

    #[cfg(not(test))]
    #[inline(always)]
    fn step(&self) {}
}

/// Spreads a counter over the whole word (a round of SplitMix64).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::{Extent, IntervalSet, overlap};
    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Extent),
        Remove(prop::sample::Index),
        Clear,
    }

    fn extent() -> impl Strategy<Value = Extent> {
        (0..60_u64, 0..9_u64).prop_map(|(start, length)| start..start + length)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            30 => extent().prop_map(Step::Insert),
            20 => any::<prop::sample::Index>().prop_map(Step::Remove),
            1 => prop::strategy::Just(Step::Clear),
        ]
    }

    proptest! {
        #[test]
        fn it_answers_as_a_list_does(
            steps in prop::collection::vec(step(), 0..200),
            asked in prop::collection::vec(extent(), 1..20),
        ) {
            let (mut set, mut list) = (IntervalSet::default(), Vec::<(Extent, u32)>::new());
            for (number, step) in (0_u32..).zip(steps) {
                match step {
                    Step::Insert(range) => {
                        set.insert(&range, number);
                        list.push((range, number));
                    }
                    Step::Remove(which) if !list.is_empty() => {
                        let (range, item) = list.swap_remove(which.index(list.len()));
                        set.remove(&range, item);
                    }
                    Step::Remove(_) => {}
                    Step::Clear => {
                        set.clear();
                        list.clear();
                    }
                }
                prop_assert_eq!(set.is_empty(), list.is_empty());
                for range in &asked {
                    let expected = list.iter().any(|(other, _)| overlap(other, range));
                    prop_assert_eq!(set.overlaps(range), expected, "{:?} in {:?}", range, list);
                    let other = |item| list.iter().any(|(other, i)| *i != item && overlap(other, range));
                    for (_, item) in &list {
                        prop_assert_eq!(set.overlaps_other(range, *item), other(*item));
                    }
                }
            }
        }
    }

    /// Steps of one call, at most.
    fn most(set: &mut IntervalSet, calls: u32, call: impl Fn(&mut IntervalSet, u32)) -> u64 {
        (0..calls)
            .map(|number| {
                set.steps.set(0);
                call(set, number);
                set.steps.get()
            })
            .max()
            .expect("calls")
    }

    /// Ranges that begin in order are the worst case of a tree that does not balance itself.
    #[test]
    fn no_call_takes_more_than_a_few_times_log_n_steps() {
        const MANY: u32 = 1 << 16;
        const LOG: u64 = 16;
        let range = |number: u32| u64::from(number) * 8..u64::from(number) * 8 + 4;
        let mut set = IntervalSet::default();
        let inserted = most(&mut set, MANY, |set, number| set.insert(&range(number), number));
        let asked = most(&mut set, MANY, |set, number| {
            assert!(!set.overlaps(&(u64::from(number) * 8 + 4..u64::from(number) * 8 + 8)));
        });
        let removed = most(&mut set, MANY, |set, number| set.remove(&range(number), number));
        assert!(asked <= 4 * LOG, "{asked} steps to ask");
        assert!(inserted.max(removed) <= 16 * LOG, "{inserted} to insert, {removed} to remove");
        assert!(asked >= LOG && set.is_empty(), "they are counted");
    }
}
