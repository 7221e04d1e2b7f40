//! The links of a host, by path and unit: each found in one step.
//!
//! Invariant: rows are in the order of their keys, and `at` and `begins` say where. They are made anew when rows come or go, which is
//! when the configuration changes; a decision asks for a link of each VM over each path many times. Rejected: a tree, in which each
//! question cost some twenty comparisons, and a square of paths and units, most of which are no links.
//! It does not know what a link is for.

use crate::ids::{PathId, UnitId};
use crate::path::LinkRow;

type Key = (PathId, UnitId);

/// Stands for a link that there is not.
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    rows: Vec<(Key, LinkRow)>,
    /// Where the rows of a path begin, by path; and behind the last, where they end.
    begins: Vec<u32>,
    /// Of each path, by unit, the row.
    at: Vec<u32>,
    units: usize,
}

impl Links {
    /// Adds those of these that are not there.
    pub(super) fn fill(&mut self, keys: impl Iterator<Item = Key>, row: &LinkRow) {
        let missing: Vec<Key> = keys.filter(|key| self.get(*key).is_none()).collect();
        if !missing.is_empty() {
            self.rows.extend(missing.into_iter().map(|key| (key, row.clone())));
            self.rows.sort_unstable_by_key(|(key, _)| *key);
            self.find_all();
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Key) -> bool) {
        self.rows.retain(|(key, _)| keep(*key));
        self.find_all();
    }

    fn find_all(&mut self) {
        let paths = self.rows.iter().map(|((path, _), _)| path.index() + 1).max().unwrap_or(0);
        self.units = self.rows.iter().map(|((_, unit), _)| unit.index() + 1).max().unwrap_or(0);
        self.at = vec![NONE; paths * self.units];
        self.begins = vec![0; paths + 1];
        for (index, ((path, unit), _)) in (0..).zip(&self.rows) {
            self.at[path.index() * self.units + unit.index()] = index;
            self.begins[path.index() + 1] = index + 1;
        }
        // A path without any begins where the one before it ends.
        for path in 0..paths {
            self.begins[path + 1] = self.begins[path + 1].max(self.begins[path]);
        }
    }

    fn place(&self, (path, unit): Key) -> Option<usize> {
        if unit.index() >= self.units {
            return None;
        }
        let row = *self.at.get(path.index() * self.units + unit.index())?;
        (row != NONE).then_some(row as usize)
    }

    fn range(&self, path: PathId) -> std::ops::Range<usize> {
        match self.begins.get(path.index()..path.index() + 2) {
            Some(ends) => ends[0] as usize..ends[1] as usize,
            None => 0..0,
        }
    }

    pub(super) fn get(&self, key: Key) -> Option<&LinkRow> {
        self.place(key).map(|row| &self.rows[row].1)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut LinkRow> {
        self.place(key).map(|row| &mut self.rows[row].1)
    }

    /// Of one path, in the order of its units.
    pub(super) fn of(&self, path: PathId) -> impl Iterator<Item = (UnitId, &LinkRow)> + Clone {
        self.rows[self.range(path)].iter().map(|((_, unit), row)| (*unit, row))
    }

    pub(super) fn of_mut(&mut self, path: PathId) -> impl Iterator<Item = &mut LinkRow> {
        let range = self.range(path);
        self.rows[range].iter_mut().map(|(_, row)| row)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &LinkRow)> {
        self.rows.iter().map(|(key, row)| (*key, row))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut LinkRow)> {
        self.rows.iter_mut().map(|(key, row)| (*key, row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Fault;
    use crate::time::{Duration, Instant};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Change {
        Fill(Vec<(u16, u16)>),
        Drop { path: Option<u16>, unit: Option<u16> },
        Up(u16, u16),
    }

    fn change() -> impl Strategy<Value = Change> {
        let id = || 0..6u16;
        prop_oneof![
            prop::collection::vec((id(), id()), 0..12).prop_map(Change::Fill),
            (prop::option::of(id()), prop::option::of(id()))
                .prop_map(|(path, unit)| Change::Drop { path, unit }),
            (id(), id()).prop_map(|(path, unit)| Change::Up(path, unit)),
        ]
    }

    fn key((path, unit): (u16, u16)) -> Key {
        (PathId(path), UnitId(unit))
    }

    /// Each change, to the table and to a map.
    fn apply(links: &mut Links, map: &mut BTreeMap<Key, LinkRow>, change: Change) {
        let row = LinkRow::new(Instant::ZERO);
        match change {
            Change::Fill(keys) => {
                let mut keys: Vec<Key> = keys.into_iter().map(key).collect();
                keys.sort_unstable();
                keys.dedup();
                links.fill(keys.iter().copied(), &row);
                for key in keys {
                    map.entry(key).or_insert_with(|| row.clone());
                }
            }
            Change::Drop { path, unit } => {
                let goes = |(p, u): Key| Some(p.0) == path || Some(u.0) == unit;
                links.retain(|key| !goes(key));
                map.retain(|key, _| !goes(*key));
            }
            Change::Up(path, unit) => {
                let rows = [links.get_mut(key((path, unit))), map.get_mut(&key((path, unit)))];
                for row in rows.into_iter().flatten() {
                    row.up(Instant::ZERO, Duration::ZERO);
                    row.down(Instant::ZERO, Duration::ZERO, Fault::Reset, u32::from(unit));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_would(changes in prop::collection::vec(change(), 0..20)) {
            let (mut links, mut map) = (Links::default(), BTreeMap::new());
            for change in changes {
                apply(&mut links, &mut map, change);
                for at in (0..8).flat_map(|path| (0..8).map(move |unit| key((path, unit)))) {
                    prop_assert_eq!(links.get(at), map.get(&at));
                }
                for path in (0..8).map(PathId) {
                    let its = map.iter().filter(|((p, _), _)| *p == path).map(|((_, unit), row)| (*unit, row));
                    let count = links.of_mut(path).count();
                    prop_assert!(links.of(path).eq(its.clone()));
                    prop_assert_eq!(count, its.count());
                }
                prop_assert!(links.iter().eq(map.iter().map(|(key, row)| (*key, row))));
            }
        }
    }
}
