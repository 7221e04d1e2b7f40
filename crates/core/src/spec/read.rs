//! Which keys there are: from TOML tables to [`RawConfig`].
//!
//! Invariant: one function per table, and each key is named exactly once, here. `docs/config.md` describes the same
//! keys. Rejected: derive macros; the keys are few, and every one deserves its own words when it is wrong.
//! It does not know defaults, and does not compare one value with another.

use super::fault::{At, Problem, Report, shown};
use super::limits::{
    COMPONENTS_MAX, CONNECTIONS_MAX, DWELL_MAX, IOPS_MAX, JOURNAL_AGE_MAX, JOURNAL_AGE_MIN,
    JOURNAL_BYTES_MAX, JOURNAL_BYTES_MIN, LIMIT_BURST_MAX, LIMIT_MIN, PATHS_MAX, PATHS_PER_TARGET_MAX,
    PATIENCE_MAX, PRIORITY_MAX, QUEUES_MAX, RATE_MAX, REACTION_MAX, REACTION_MIN, SHARES_HIGH, SHARES_LOW,
    SHARES_MAX, SHARES_NORMAL, WINDOW_MAX, WINDOW_MIN, WORKERS_MAX,
};
use super::quantity::{parse_rate, rate_text};
use super::raw::{
    NamePair, PathList, PathWord, RawConfig, RawDisk, RawGroup, RawHost, RawPath, RawTarget, RawUnit, RawVm,
};
use super::table::{Found, Table, in_key, one_of};
use super::types::{
    Access, ByteRate, OnPathLoss, PathSelector, ResumeOn, SchedulerKind, ShedWhen, When, WriteCache, Writers,
};
use super::{cluster, url, words};
use crate::time::Duration;
use std::net::{Ipv4Addr, SocketAddr};

/// Adds what one source says.
pub(super) fn source(report: &mut Report<'_>, root: &Found<'_>, config: &mut RawConfig) {
    let mut table = Table::new(report, "the file", root);
    let host = table.table("host");
    let cluster = table.table("cluster");
    let targets = table.tables("target", "[[target]]");
    let groups = table.tables("group", "[[group]]");
    let vms = table.tables("vm", "[[vm]]");
    table.finish();
    if let Some(found) = host {
        let second = self::host(report, &found);
        match &config.host {
            Some(first) => {
                let message =
                    format!("[host] may stand only once; first at {}", report.refer(first.at, second.at));
                report.fault(second.at, Problem::new(message));
            }
            None => config.host = Some(second),
        }
    }
    if let Some(found) = cluster {
        let second = cluster::read::cluster(report, &found);
        match &config.cluster {
            Some(first) => {
                let message =
                    format!("[cluster] may stand only once; first at {}", report.refer(first.at, second.at));
                report.fault(second.at, Problem::new(message));
            }
            None => config.cluster = Some(second),
        }
    }
    config.targets.extend(targets.iter().map(|found| target(report, found)));
    config.groups.extend(groups.iter().map(|found| group(report, found)));
    config.vms.extend(vms.iter().map(|found| vm(report, found)));
}

fn host(report: &mut Report<'_>, found: &Found<'_>) -> RawHost {
    const SCHEDULERS: [(&str, SchedulerKind); 2] =
        [("vmpath", SchedulerKind::Vmpath), ("none", SchedulerKind::None)];
    let mut t = Table::new(report, "[host]", found);
    let host = RawHost {
        at: found.at,
        name: plain(t.parsed("name", words::name)),
        api_socket: t.parsed("api_socket", url::socket_path),
        admin_group: plain(t.parsed("admin_group", words::name)),
        shed_when: plain(
            t.word("shed_when", &[("unmet", ShedWhen::Unmet), ("reserved", ShedWhen::Reserved)]),
        ),
        shed_after: plain(
            t.quantity("shed_after", |s| words::duration_within(s, REACTION_MIN, PATIENCE_MAX)),
        ),
        state_dir: plain(t.parsed("state_dir", url::absolute_path)),
        journal_max: plain(
            t.quantity("journal_max", |s| words::size_within(s, JOURNAL_BYTES_MIN, JOURNAL_BYTES_MAX)),
        ),
        journal_age: plain(
            t.quantity("journal_age", |s| words::duration_within(s, JOURNAL_AGE_MIN, JOURNAL_AGE_MAX)),
        ),
        run_dir: plain(t.parsed("run_dir", url::absolute_path)),
        workers: plain(t.integer("workers", 1..=WORKERS_MAX)).and_then(|n| u16::try_from(n).ok()),
        scheduler: plain(t.word("scheduler", &SCHEDULERS)),
        fence_command: t.parsed("fence_command", words::command),
    };
    t.finish();
    host
}

fn target(report: &mut Report<'_>, found: &Found<'_>) -> RawTarget {
    const CACHES: [(&str, WriteCache); 2] =
        [("survives-path-loss", WriteCache::SurvivesPathLoss), ("volatile", WriteCache::Volatile)];
    const SELECTORS: [(&str, PathSelector); 4] = [
        ("vmpath", PathSelector::Vmpath),
        ("round-robin", PathSelector::RoundRobin),
        ("queue-length", PathSelector::QueueLength),
        ("service-time", PathSelector::ServiceTime),
    ];
    let reaction = |s: &str| words::duration_within(s, REACTION_MIN, REACTION_MAX);
    let mut t = Table::new(report, "[[target]]", found);
    t.require("name", "write name = \"san0\"");
    let mut target = RawTarget {
        at: found.at,
        name: t.parsed("name", words::name),
        failback: t.parsed("failback", words::failback),
        quiesce: t.quantity("quiesce", words::quiesce),
        ping_budget: plain(t.quantity("ping_budget", reaction)),
        repair_after: plain(
            t.quantity("repair_after", |s| words::duration_within(s, REACTION_MIN, PATIENCE_MAX)),
        ),
        write_cache: plain(t.word("write_cache", &CACHES)),
        connections: plain(t.integer("connections", 1..=CONNECTIONS_MAX)).and_then(|n| u8::try_from(n).ok()),
        path_selector: plain(t.word("path_selector", &SELECTORS)),
        paths: Vec::new(),
        units: Vec::new(),
    };
    let paths = t.tables("path", "[[target.path]]");
    let units = t.tables("unit", "[[target.unit]]");
    t.finish();
    target.paths = paths.iter().map(|found| path(report, found)).collect();
    target.units = units.iter().map(|found| unit(report, found)).collect();
    target
}

fn path(report: &mut Report<'_>, found: &Found<'_>) -> RawPath {
    const ACCESS: [(&str, Access); 2] =
        [("optimized", Access::Optimized), ("non-optimized", Access::NonOptimized)];
    let mut t = Table::new(report, "[[target.path]]", found);
    t.require("name", "write name = \"a\"");
    t.require("url", "write url = \"nbd://10.0.1.5:10809\"");
    let path = RawPath {
        at: found.at,
        name: t.parsed("name", words::name),
        url: t.parsed("url", url::parse),
        capacity: plain(t.quantity("capacity", rate)),
        access: plain(t.word("access", &ACCESS)),
        window_bytes: plain(t.quantity("window", window)),
        via: components(&mut t),
    };
    t.finish();
    path
}

fn unit(report: &mut Report<'_>, found: &Found<'_>) -> RawUnit {
    let mut t = Table::new(report, "[[target.unit]]", found);
    t.require("name", "write name = \"db1-root\"");
    let unit = RawUnit {
        name: t.parsed("name", words::name),
        export: plain(t.parsed("export", url::export_name)),
        assume_same: plain(t.flag("assume_same")),
    };
    t.finish();
    unit
}

fn group(report: &mut Report<'_>, found: &Found<'_>) -> RawGroup {
    let mut t = Table::new(report, "[[group]]", found);
    t.require("name", "write name = \"gold\"");
    let group = RawGroup {
        at: found.at,
        name: t.parsed("name", words::name),
        shares: plain(t.number_or_text("shares", shares_number, shares_word)),
        reservation: t.quantity("reservation", rate),
        limit: t.quantity("limit", limit),
        limit_iops: plain(t.integer("limit_iops", 1..=IOPS_MAX)),
        limit_burst: t.quantity("limit_burst", limit_burst),
    };
    t.finish();
    group
}

fn vm(report: &mut Report<'_>, found: &Found<'_>) -> RawVm {
    const LOSS: [(&str, OnPathLoss); 5] = [
        ("failover", OnPathLoss::Failover),
        ("suspend", OnPathLoss::Suspend),
        ("migrate", OnPathLoss::Migrate),
        ("failover+suspend", OnPathLoss::FailoverSuspend),
        ("failover+migrate", OnPathLoss::FailoverMigrate),
    ];
    let mut t = Table::new(report, "[[vm]]", found);
    t.require("name", "write name = \"db1\"");
    t.not_yet("libvirt", "use qmp = \"/PATH\", the socket of QEMU's -qmp option");
    t.renamed("avoid_paths", "write avoid = […], with \"NAME\" or \"TARGET/NAME\"");
    let (paths, avoid) = (path_list(&mut t, "paths"), path_list(&mut t, "avoid"));
    let mut vm = RawVm {
        at: found.at,
        name: t.parsed("name", words::name),
        priority: plain(t.integer("priority", 0..=PRIORITY_MAX)).and_then(|n| u32::try_from(n).ok()),
        shares: plain(t.number_or_text("shares", shares_number, shares_word)),
        reservation: t.quantity("reservation", rate),
        limit: t.quantity("limit", limit),
        limit_iops: plain(t.integer("limit_iops", 1..=IOPS_MAX)),
        limit_burst: t.quantity("limit_burst", limit_burst),
        group: t.parsed("group", words::name),
        qmp: t.parsed("qmp", url::socket_path),
        on_path_loss: t.word("on_path_loss", &LOSS),
        when: t.word("when", &[("always", When::Always), ("outranked", When::Outranked)]),
        on_no_path: t.parsed("on_no_path", words::on_no_path),
        min_paths: min_paths(&mut t),
        may_suspend: t.flag("may_suspend"),
        may_migrate: t.flag("may_migrate"),
        resume: plain(t.word("resume", &[("repair", ResumeOn::Repair), ("failback", ResumeOn::Failback)])),
        launch: t.parsed("launch", words::command),
        returns: t.flag("return"),
        move_dwell: t.quantity("move_dwell", |s| words::duration_within(s, Duration::ZERO, DWELL_MAX)),
        paths,
        avoid,
        disks: Vec::new(),
    };
    let disks = t.tables("disk", "[[vm.disk]]");
    t.finish();
    vm.disks = disks.iter().map(|found| disk(report, found)).collect();
    vm
}

/// Nothing if one of the words is wrong: what is left of the list would mean something else.
/// `via`: one name, or a list of them.
fn components(t: &mut Table<'_, '_, '_>) -> Vec<At<String>> {
    let Some(texts) = t.text_or_texts("via") else { return Vec::new() };
    if texts.it.len() > COMPONENTS_MAX {
        let message = format!("via: a path goes through at most {COMPONENTS_MAX} components that are told");
        t.report.value_fault(texts.at, Problem::new(message));
        return Vec::new();
    }
    let mut names: Vec<At<String>> = Vec::new();
    for text in texts.it {
        match words::name(&text.it) {
            Ok(name) if names.iter().any(|known| known.it == name) => {
                let message = format!("via: {name} stands there twice");
                t.report.value_fault(text.at, Problem::new(message));
            }
            Ok(name) => names.push(At { at: text.at, it: name }),
            Err(problem) => t.report.value_fault(text.at, in_key("via", problem)),
        }
    }
    names
}

fn path_list(t: &mut Table<'_, '_, '_>, key: &'static str) -> Option<PathList> {
    let texts = t.texts(key)?;
    if texts.it.len() > PATHS_MAX {
        let message = format!("{key}: there are at most {PATHS_MAX} paths");
        t.report.value_fault(texts.at, Problem::new(message));
        return None;
    }
    let (mut words, given) = (Vec::new(), texts.it.len());
    for text in texts.it {
        match words::path_word(&text.it) {
            Ok((target, name)) => words.push(At { at: text.at, it: PathWord { target, name } }),
            Err(problem) => t.report.value_fault(text.at, in_key(key, problem)),
        }
    }
    (words.len() == given).then_some(At { at: texts.at, it: words })
}

fn disk(report: &mut Report<'_>, found: &Found<'_>) -> RawDisk {
    let mut t = Table::new(report, "[[vm.disk]]", found);
    t.require("name", "write name = \"vda\"");
    t.require("unit", "write unit = \"TARGET/UNIT\": the storage unit that this disk is");
    if !["nbd", "nbd_tcp", "vhost_user"].iter().any(|front_end| t.has(front_end)) {
        t.require(
            "nbd",
            "write nbd = \"/run/vmpath/db1-vda.sock\", where the VM attaches the disk (or vhost_user, or nbd_tcp)",
        );
    }
    let disk = RawDisk {
        at: found.at,
        name: t.parsed("name", words::name),
        unit: t.parsed("unit", pair),
        nbd: t.parsed("nbd", url::socket_path),
        nbd_tcp: t.number_or_text("nbd_tcp", loopback_port, listen_address),
        vhost_user: t.parsed("vhost_user", url::socket_path),
        queues: queues(&mut t),
        read_only: plain(t.flag("read_only")),
        writers: plain(t.word("writers", &[("one", Writers::One), ("many", Writers::Many)])),
    };
    t.finish();
    disk
}

fn queues(t: &mut Table<'_, '_, '_>) -> Option<At<u16>> {
    let At { at, it } = t.integer("queues", 1..=QUEUES_MAX)?;
    Some(At { at, it: u16::try_from(it).ok()? })
}

fn min_paths(t: &mut Table<'_, '_, '_>) -> Option<At<u32>> {
    let At { at, it } = t.integer("min_paths", 1..=PATHS_PER_TARGET_MAX as u64)?;
    Some(At { at, it: u32::try_from(it).ok()? })
}

fn plain<T>(found: Option<At<T>>) -> Option<T> {
    found.map(|f| f.it)
}

fn pair(text: &str) -> Result<NamePair, Problem> {
    words::pair(text).map(|(target, name)| NamePair { target, name })
}

fn rate(text: &str) -> Result<ByteRate, Problem> {
    let rate = parse_rate(text)?;
    if rate > RATE_MAX {
        return Err(Problem::new(format!("{} is more than {}", shown(text), rate_text(RATE_MAX))));
    }
    Ok(rate)
}

fn limit(text: &str) -> Result<ByteRate, Problem> {
    let limit = rate(text)?;
    if limit < LIMIT_MIN {
        let least = rate_text(LIMIT_MIN);
        let message = format!("{} is too little for even one request of 4 KiB a second", shown(text));
        return Err(Problem::new(message).hint(format!("the least is {least}")));
    }
    Ok(limit)
}

fn limit_burst(text: &str) -> Result<Duration, Problem> {
    words::duration_within(text, Duration::ZERO, LIMIT_BURST_MAX)
}

fn window(text: &str) -> Result<u64, Problem> {
    words::size_within(text, WINDOW_MIN, WINDOW_MAX)
}

fn shares_number(number: Option<u64>) -> Result<u32, Problem> {
    let in_range = number.filter(|n| (1..=SHARES_MAX).contains(n)).and_then(|n| u32::try_from(n).ok());
    in_range.ok_or_else(|| Problem::new(format!("this is not from 1 to {SHARES_MAX}")))
}

fn shares_word(word: &str) -> Result<u32, Problem> {
    one_of(word, &[("low", SHARES_LOW), ("normal", SHARES_NORMAL), ("high", SHARES_HIGH)])
}

fn loopback_port(number: Option<u64>) -> Result<SocketAddr, Problem> {
    let port = number.and_then(|n| u16::try_from(n).ok()).filter(|port| *port != 0);
    port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .ok_or_else(|| Problem::new("this is not a port, from 1 to 65535"))
}

fn listen_address(text: &str) -> Result<SocketAddr, Problem> {
    const HINT: &str = "write a port, without quotes, to listen on loopback, or \"ADDRESS:PORT\"";
    url::socket_address(text, None)
        .map_err(|problem| Problem { message: problem.message, hint: None }.hint(HINT))
}
