//! Which VMs stay when the paths that are left cannot carry everybody's reservation.
//!
//! A flow: each claim (one unit of one VM) may be spread over the paths that it is allowed to use, each path carries
//! its capacity. The keep set is greedy: in the given order, each VM whose claims still fit beside those kept so far
//! stays, and the others do not; a kept VM's flow may be moved to other paths, never cut.
//! Rejected: comparing sums. Two VMs that avoid each other's path fit where one path's sum says that they do not.
//! It does not know priorities, names or states: the caller sorts.

use std::collections::VecDeque;

/// What one VM asks for on one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Bytes per second.
    pub bytes: u64,
    /// Positions in the capacities.
    pub paths: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Stays,
    Leaves,
}

/// What those who stay have taken of the paths, and what is left.
#[derive(Clone, Debug)]
pub struct Room {
    /// By path.
    free: Vec<u64>,
    /// Claims that may use the same paths are one: there are few such sets, however many VMs there are.
    groups: Vec<Group>,
}

#[derive(Clone, Debug)]
struct Group {
    paths: Vec<usize>,
    /// Bytes per second, beside `paths`.
    on: Vec<u64>,
}

impl Room {
    /// `capacities` are bytes per second.
    #[must_use]
    pub fn new(capacities: Vec<u64>) -> Self {
        Self { free: capacities, groups: vec![] }
    }

    /// Takes in one party beside those that stay already, if it fits. Asked in the order of priority, that is the
    /// greedy keep set.
    pub fn admit(&mut self, claims: &[Claim]) -> Kept {
        let before = self.clone();
        for claim in claims {
            let group = self.group(&claim.paths);
            if !self.place(group, claim.bytes) {
                *self = before;
                return Kept::Leaves;
            }
        }
        Kept::Stays
    }

    /// Takes in as much of the claims as still fits; bytes per second.
    pub fn fill(&mut self, claims: &[Claim]) -> u64 {
        let mut filled = 0;
        for claim in claims {
            let group = self.group(&claim.paths);
            filled += claim.bytes - self.spread(group, claim.bytes);
        }
        filled
    }

    /// What [`Self::admit`] would answer.
    #[must_use]
    pub fn would_admit(&self, claims: &[Claim]) -> Kept {
        self.clone().admit(claims)
    }

    fn group(&mut self, paths: &[usize]) -> usize {
        self.groups.iter().position(|group| group.paths == paths).unwrap_or_else(|| {
            self.groups.push(Group { paths: paths.to_vec(), on: vec![0; paths.len()] });
            self.groups.len() - 1
        })
    }

    /// Spreads `bytes` of a claim of the group at `index`; false if they do not fit.
    fn place(&mut self, index: usize, bytes: u64) -> bool {
        self.spread(index, bytes) == 0
    }

    /// Spreads what it can of them, and returns the rest.
    fn spread(&mut self, index: usize, mut bytes: u64) -> u64 {
        while bytes > 0 {
            let Some(end) = self.search(index) else { break };
            bytes -= self.push(&end, bytes);
        }
        bytes
    }

    /// The shortest way from a group to a path with room: on the way, groups give up one path for the next.
    fn search(&self, index: usize) -> Option<Way> {
        let mut way = Way { via: vec![None; self.free.len()], end: 0 };
        let mut queue = VecDeque::new();
        way.extend(&mut queue, index, None, &self.groups[index].paths);
        while let Some(path) = queue.pop_front() {
            if self.free[path] > 0 {
                way.end = path;
                return Some(way);
            }
            for (index, group) in self.groups.iter().enumerate() {
                if group.carried(path) > 0 {
                    way.extend(&mut queue, index, Some(path), &group.paths);
                }
            }
        }
        None
    }

    /// Moves as much as the way carries, at most `bytes`, and returns how much that was: never zero.
    fn push(&mut self, way: &Way, bytes: u64) -> u64 {
        let mut amount = bytes.min(self.free[way.end]);
        for hop in way.hops() {
            if let Some(given_up) = hop.given_up {
                amount = amount.min(self.groups[hop.group].carried(given_up));
            }
        }
        self.free[way.end] -= amount;
        for hop in way.hops() {
            *self.groups[hop.group].carried_mut(hop.taken) += amount;
            if let Some(given_up) = hop.given_up {
                *self.groups[hop.group].carried_mut(given_up) -= amount;
            }
        }
        amount
    }
}

impl Group {
    fn carried(&self, path: usize) -> u64 {
        self.paths.iter().position(|p| *p == path).map_or(0, |at| self.on[at])
    }

    fn carried_mut(&mut self, path: usize) -> &mut u64 {
        let at = self.paths.iter().position(|p| *p == path);
        &mut self.on[at.expect("a group is moved only between paths that it may use")]
    }
}

/// How a search reached each path.
struct Way {
    /// By path: the group that would take it, and the path that this group would give up for it.
    via: Vec<Option<(usize, Option<usize>)>>,
    end: usize,
}

struct Hop {
    group: usize,
    taken: usize,
    given_up: Option<usize>,
}

impl Way {
    fn extend(
        &mut self,
        queue: &mut VecDeque<usize>,
        group: usize,
        given_up: Option<usize>,
        paths: &[usize],
    ) {
        for path in paths {
            if self.via[*path].is_none() {
                self.via[*path] = Some((group, given_up));
                queue.push_back(*path);
            }
        }
    }

    /// From the end back to the group whose claim is being placed.
    fn hops(&self) -> impl Iterator<Item = Hop> {
        let mut next = Some(self.end);
        std::iter::from_fn(move || {
            let taken = next?;
            let (group, given_up) = self.via[taken]?;
            next = given_up;
            Some(Hop { group, taken, given_up })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep_set(capacities: &[u64], parties: &[Vec<Claim>]) -> Vec<Kept> {
        let mut room = Room::new(capacities.to_vec());
        parties.iter().map(|claims| room.admit(claims)).collect()
    }

    /// Capacities, then each party's claims as (bytes, paths); answers one letter a party.
    fn keep(capacities: &[u64], parties: &[&[(u64, &[usize])]]) -> String {
        let parties: Vec<Vec<Claim>> = parties
            .iter()
            .map(|claims| {
                claims.iter().map(|(bytes, paths)| Claim { bytes: *bytes, paths: paths.to_vec() }).collect()
            })
            .collect();
        let letters = keep_set(capacities, &parties).into_iter().map(|kept| match kept {
            Kept::Stays => 'y',
            Kept::Leaves => 'n',
        });
        letters.collect()
    }

    #[test]
    fn greedy_in_the_given_order_and_a_smaller_one_may_still_fit() {
        assert_eq!(keep(&[100], &[&[(60, &[0])], &[(30, &[0])], &[(30, &[0])]]), "yyn");
        assert_eq!(keep(&[100], &[&[(60, &[0])], &[(50, &[0])], &[(40, &[0])]]), "yny");
        assert_eq!(keep(&[100], &[&[(100, &[0])], &[(1, &[0])], &[(0, &[0])]]), "yny");
    }

    #[test]
    fn a_kept_one_moves_over_for_one_that_may_use_fewer_paths() {
        // The first is placed on path 0, and must move to path 1 for the second.
        assert_eq!(keep(&[100, 100], &[&[(80, &[0, 1])], &[(80, &[0])]]), "yy");
        assert_eq!(keep(&[100, 100], &[&[(80, &[0, 1])], &[(80, &[0])], &[(40, &[0, 1])]]), "yyy");
        assert_eq!(keep(&[100, 100], &[&[(80, &[0, 1])], &[(80, &[0])], &[(41, &[0, 1])]]), "yyn");
        // A chain over three paths.
        assert_eq!(keep(&[10, 10, 10], &[&[(10, &[0, 1])], &[(10, &[1, 2])], &[(10, &[0])]]), "yyy");
    }

    #[test]
    fn sums_that_fit_do_not_help_who_may_not_use_the_room() {
        assert_eq!(keep(&[100, 100], &[&[(80, &[0])], &[(80, &[0])]]), "yn");
        assert_eq!(keep(&[100], &[&[(80, &[])]]), "n");
    }

    #[test]
    fn one_that_leaves_leaves_nothing_behind() {
        // Its first claim fits, its second does not.
        assert_eq!(keep(&[100, 10], &[&[(90, &[0]), (20, &[1])], &[(100, &[0]), (10, &[1])]]), "ny");
    }

    #[test]
    fn the_flow_finds_what_trying_every_split_finds() {
        let mut seed = 7_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            let capacities = [next(6), next(6), next(6)];
            let claims: Vec<Claim> = (0..3)
                .map(|_| {
                    let mask = next(7) + 1;
                    let paths = (0..3).filter(|p| mask >> p & 1 == 1).collect();
                    Claim { bytes: next(6), paths }
                })
                .collect();
            let parties = [claims.clone()];
            let fits = keep_set(&capacities, &parties) == [Kept::Stays];
            assert_eq!(fits, fits_by_trying(capacities, &claims), "{capacities:?} {claims:?}");
        }
    }

    fn fits_by_trying(free: [u64; 3], claims: &[Claim]) -> bool {
        let Some((first, rest)) = claims.split_first() else { return true };
        let room = |p: usize| if first.paths.contains(&p) { free[p] } else { 0 };
        (0..=room(0).min(first.bytes)).any(|a| {
            (0..=room(1).min(first.bytes - a)).any(|b| {
                let c = first.bytes - a - b;
                c <= room(2) && fits_by_trying([free[0] - a, free[1] - b, free[2] - c], rest)
            })
        })
    }
}
