//! The links of all VMs: one connection for each VM and path, and what each carries.
//!
//! Invariant: a request is on one link at most; a link that is dead carries nothing.
//! It does not know: the router, time.

use vmpath_core::router::ConnectionKey;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    Up,
    Closing,
    Down,
}

#[derive(Clone, Debug)]
struct Link {
    state: LinkState,
    key: ConnectionKey,
    carries: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct Links {
    paths: usize,
    links: Vec<Link>,
    /// By connection key, which a later connection may have again: VM and path.
    owners: Vec<(usize, usize)>,
    /// By token: the link that carries it.
    carriers: Vec<Option<usize>>,
    /// By path: how often it was lost; replies from before are not sent.
    epochs: Vec<u32>,
    lost: Vec<bool>,
}

impl Links {
    pub(super) fn new(vms: usize, paths: usize) -> Self {
        let down = Link { state: LinkState::Down, key: ConnectionKey(u32::MAX), carries: Vec::new() };
        Self {
            paths,
            links: vec![down; vms * paths],
            owners: Vec::new(),
            carriers: Vec::new(),
            epochs: vec![0; paths],
            lost: vec![false; paths],
        }
    }

    pub(super) fn up(&mut self, vm: usize, path: usize, key: ConnectionKey) {
        let at = key.0 as usize;
        self.owners.resize(self.owners.len().max(at + 1), (0, 0));
        self.owners[at] = (vm, path);
        let link = &mut self.links[vm * self.paths + path];
        (link.state, link.key) = (LinkState::Up, key);
        self.lost[path] = false;
    }

    pub(super) fn lose(&mut self, path: usize) {
        self.lost[path] = true;
        self.epochs[path] += 1;
    }

    /// It is seen to be lost; returns its key.
    pub(super) fn closing(&mut self, vm: usize, path: usize) -> Option<ConnectionKey> {
        let link = &mut self.links[vm * self.paths + path];
        (link.state == LinkState::Up).then(|| {
            link.state = LinkState::Closing;
            link.key
        })
    }

    /// It is closed and reaped; returns its key and what it carried.
    pub(super) fn dead(&mut self, vm: usize, path: usize) -> Option<(ConnectionKey, Vec<u32>)> {
        let link = &mut self.links[vm * self.paths + path];
        (link.state == LinkState::Closing).then(|| {
            link.state = LinkState::Down;
            let carried = std::mem::take(&mut link.carries);
            carried.iter().for_each(|token| self.carriers[*token as usize] = None);
            (link.key, carried)
        })
    }

    pub(super) fn owner(&self, key: ConnectionKey) -> (usize, usize) {
        self.owners[key.0 as usize]
    }

    /// A request is on the link now; returns the link's state.
    pub(super) fn flies(&mut self, token: u32, (vm, path): (usize, usize)) -> LinkState {
        let at = vm * self.paths + path;
        let token_at = token as usize;
        self.carriers.resize(self.carriers.len().max(token_at + 1), None);
        self.carriers[token_at] = Some(at);
        self.links[at].carries.push(token);
        self.links[at].state
    }

    /// It has been answered.
    pub(super) fn landed(&mut self, token: u32) {
        let carrier = self.carriers.get_mut(token as usize).and_then(Option::take);
        if let Some(at) = carrier {
            self.links[at].carries.retain(|other| *other != token);
        }
    }

    pub(super) fn is_lost(&self, path: usize) -> bool {
        self.lost[path]
    }

    pub(super) fn is_up(&self, path: usize) -> bool {
        !self.lost[path]
    }

    pub(super) fn epoch(&self, path: usize) -> u32 {
        self.epochs[path]
    }
}
