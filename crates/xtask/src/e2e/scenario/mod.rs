//! The scenarios, by name. Each is one story: what is set up, what goes wrong, what must have been seen.

mod by_hand;
mod failover;
mod flow;
mod ghost;
mod hosts;
mod identity;
mod input;
mod link_down;
mod loss;
mod migrate;
mod policy;
mod restart;
mod sick;
mod stall;
mod suspend_open;
mod tools;

use super::stage::Stage;
use anyhow::Result;
use std::time::Duration;
use vmpath_lab::guest::FrontEnd;

pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) bound: Duration,
    pub(super) over: Over,
    /// Whether it plays a second time with a daemon that has a deliberate fault.
    pub(super) naive_too: bool,
    /// Whether it runs only when it is asked for.
    pub(super) by_name: bool,
    pub(super) run: fn(&mut Stage) -> Result<()>,
}

/// The front ends that a scenario makes sense over, and those that it runs over unless it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Either, and both by default.
    Both,
    /// Either; NBD by default: what it is about happens behind the front end.
    NbdByDefault,
    /// Either; vhost-user by default, where guests' requests stay open over anything.
    VhostUserByDefault,
    OnlyNbd,
    OnlyVhostUser,
}

impl Over {
    pub(super) const fn by_default(self) -> &'static [FrontEnd] {
        match self {
            Self::Both => &[FrontEnd::Nbd, FrontEnd::VhostUser],
            Self::NbdByDefault | Self::OnlyNbd => &[FrontEnd::Nbd],
            Self::VhostUserByDefault | Self::OnlyVhostUser => &[FrontEnd::VhostUser],
        }
    }

    pub(super) const fn allows(self, front_end: FrontEnd) -> bool {
        match self {
            Self::Both | Self::NbdByDefault | Self::VhostUserByDefault => true,
            Self::OnlyNbd => matches!(front_end, FrontEnd::Nbd),
            Self::OnlyVhostUser => matches!(front_end, FrontEnd::VhostUser),
        }
    }
}

impl Scenario {
    const fn over(self, over: Over) -> Self {
        Self { over, ..self }
    }

    const fn and_naive(self) -> Self {
        Self { naive_too: true, ..self }
    }

    const fn by_name(self) -> Self {
        Self { by_name: true, ..self }
    }

    const fn within(self, bound: Duration) -> Self {
        Self { bound, ..self }
    }
}

const fn story(name: &'static str, about: &'static str, run: fn(&mut Stage) -> Result<()>) -> Scenario {
    Scenario {
        name,
        about,
        bound: Duration::from_secs(120),
        over: Over::Both,
        naive_too: false,
        by_name: false,
        run,
    }
}

pub(super) const ALL: &[Scenario] = &[
    story("reset", "a path is reset under load and refuses until the repair", loss::reset),
    story(
        "blackhole",
        "the network swallows a path, both ways, healed before the quiesce ends",
        loss::blackhole,
    ),
    story("blackhole-replies", "the same, but requests still arrive", loss::blackhole_replies)
        .over(Over::NbdByDefault),
    story("link-down", "a cable is pulled, at this end and at the other", link_down::link_down)
        .over(Over::NbdByDefault),
    story("flow", "one member of a path's network dies: its flows are cut, the path goes on", flow::flow)
        .over(Over::VhostUserByDefault),
    story("hang", "a dead controller behind a live network", loss::hang).over(Over::NbdByDefault),
    story(
        "slow-not-dead",
        "a target that stalls for 2 s again and again is not declared dead",
        loss::slow_not_dead,
    )
    .over(Over::NbdByDefault),
    story(
        "failover",
        "how soon requests complete on the other path: resets, blackholes, a dead controller",
        failover::failover,
    )
    .over(Over::VhostUserByDefault)
    .within(Duration::from_secs(240)),
    story("ghost", "writes of a lost path are executed late; a naive build corrupts", ghost::ghost)
        .over(Over::VhostUserByDefault)
        .and_naive()
        .within(Duration::from_secs(240)),
    story("ghost-crash", "the same, and the daemon is killed before the fence", ghost::ghost_crash)
        .over(Over::OnlyVhostUser)
        .and_naive()
        .within(Duration::from_secs(240)),
    story("stall", "both paths stall for 2 s again and again: none is declared dead", stall::stall)
        .over(Over::VhostUserByDefault),
    story(
        "identity",
        "units come back as others: refused, and nobody is resumed onto them",
        identity::identity,
    )
    .over(Over::VhostUserByDefault),
    story(
        "lost-cache",
        "controllers die with their caches: nothing acknowledged is lost",
        identity::lost_cache,
    )
    .over(Over::VhostUserByDefault),
    story("no-path", "all paths lost: held, suspended, resumed by the repair", policy::no_path),
    story("shed", "the reservations no longer fit: the lower guest leaves until the repair", policy::shed),
    story(
        "shed-failback",
        "the same until failback: the repair alone does not resume it",
        policy::shed_failback,
    )
    .over(Over::NbdByDefault),
    story("suspend", "on_path_loss = suspend: not routed, though the other path is up", policy::suspend),
    story("restart", "the daemon is killed twenty times under load, then updated", restart::restart)
        .over(Over::OnlyVhostUser)
        .within(Duration::from_secs(240)),
    story(
        "suspend-open",
        "all paths gone, the guest is stopped with its requests open",
        suspend_open::suspend_open,
    )
    .over(Over::OnlyVhostUser),
    story("bad-input", "wrong configurations, clients and targets", input::bad_input).over(Over::OnlyNbd),
    story(
        "sick-path",
        "paths that are taken out, answer errors or only shake hands; rash clients",
        sick::sick_path,
    )
    .over(Over::OnlyNbd)
    .within(Duration::from_secs(60)),
    story(
        "hosts",
        "three hosts on one array: one loses a path, the others see nothing; two writers are found",
        hosts::hosts,
    )
    .over(Over::OnlyVhostUser),
    story(
        "move-by-hand",
        "a resting guest moves between two hosts by hand; stuck once, and cancelled",
        by_hand::by_hand,
    )
    .over(Over::OnlyVhostUser),
    story(
        "migrate-path-loss",
        "one path of a host is lost: the lower guest moves, the higher stays; after the repair it returns",
        migrate::loss::one_path,
    ),
    story(
        "migrate-no-path",
        "all paths of a host are lost with requests open: they finish at the other host; over NBD the guest stays",
        migrate::loss::no_path,
    ),
    story(
        "migrate-array-fault",
        "the array answers nobody: nobody moves, the guest is suspended",
        migrate::loss::array_fault,
    )
    .over(Over::VhostUserByDefault),
    story(
        "migrate-destination-dies",
        "the destination's QEMU, then its daemon is killed midway: the guest stays, and moves later",
        migrate::midway::destination_dies,
    )
    .over(Over::VhostUserByDefault),
    story(
        "migrate-committed",
        "the source's daemon is killed after the commit, before QEMU has gone on: the move is completed",
        migrate::midway::source_dies_after_commit,
    )
    .over(Over::VhostUserByDefault),
    story(
        "migrate-source-dies",
        "the source's daemon is killed before the commit: the guest stays, and moves later",
        migrate::midway::source_dies,
    )
    .over(Over::VhostUserByDefault)
    .by_name(),
    story(
        "migrate-link-cut",
        "the destination's network swallows everything midway: cancelled within 10 s",
        migrate::midway::link_cut,
    )
    .over(Over::VhostUserByDefault)
    .by_name(),
    story(
        "migrate-etcd-lost",
        "etcd loses its majority midway: the guest stays; with etcd back it moves",
        migrate::midway::etcd_lost,
    )
    .over(Over::VhostUserByDefault)
    .by_name(),
    story(
        "migrate-suspended",
        "a suspended guest whose move is cancelled at the switch-over stays, and is resumed",
        migrate::midway::suspended_stays,
    )
    .over(Over::VhostUserByDefault)
    .by_name(),
    story(
        "migrate-cannot-load",
        "the destination's QEMU cannot load the guest: it is given back after the commit, and moves later",
        migrate::machines::cannot_load,
    )
    .by_name(),
    story(
        "migrate-source-gone",
        "the source's QEMU is killed midway: the move ends, and the guest is started at the other host",
        migrate::machines::source_gone,
    )
    .over(Over::VhostUserByDefault)
    .by_name(),
    story(
        "migrate-operator",
        "`vmpath vm migrate` and `return` of a healthy guest under load, timed",
        migrate::operator::by_command,
    )
    .by_name(),
    story(
        "migrate-refused",
        "hosts and destinations that will not do: refused before the guest notices",
        migrate::refused::refused,
    )
    .over(Over::VhostUserByDefault)
    .by_name(),
    story(
        "migrate-three-hosts",
        "the lower guest makes room by moving to the better of two hosts, and on to the other when that one loses its paths",
        migrate::three::better_then_other,
    )
    .over(Over::OnlyVhostUser),
    story(
        "migrate-takeover",
        "a host that is cut off writes on; fenced, its disks are taken over, and it does not write when it comes back",
        migrate::takeover::takeover,
    )
    .over(Over::OnlyVhostUser),
    story(
        "migrate-skew",
        "a host whose clock is ten minutes ahead: nothing but a certificate's dates minds",
        migrate::skew::skew,
    )
    .over(Over::VhostUserByDefault)
    .by_name(),
    story("tools", "other NBD clients on the front ends", tools::tools).over(Over::OnlyNbd),
];
