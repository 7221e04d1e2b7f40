//! The validated configuration: what the operator asked for, in types that cannot hold nonsense.
//!
//! Tables are flat and indexed by id (`spec.paths[path_id.index()]`); cross references are ids that exist. A raw text
//! becomes a [`Spec`] or a list of [`Fault`]s, each with its line; nothing else accepts raw text.

mod build;
mod check;
mod check_affinity;
mod check_allocation;
mod check_capacity;
mod check_places;
mod check_via;
mod cluster;
mod fault;
mod limits;
mod quantity;
mod raw;
mod read;
mod rebase;
mod syntax;
mod table;
mod types;
mod url;
mod words;

#[cfg(test)]
mod tests;

pub use cluster::{ClusterSpec, Endpoint, EtcdSpec, EtcdTls, EtcdUser, Identity, MigrationSpec, PeerSpec};
pub use fault::{Fault, Problem, Source};
pub use limits::{
    DISKS_MAX, GROUPS_MAX, HOLD_DEFAULT, OWNED_TOGETHER_MAX, PATHS_MAX, PATHS_PER_TARGET_MAX, TARGETS_MAX,
    VMS_MAX,
};
pub use quantity::{duration_text, parse_duration, parse_rate, parse_size, rate_text, size_text};
pub use types::*;

use fault::{At, Place, Report};
use raw::RawConfig;
use toml::Spanned;
use toml::de::DeTable;

/// A good configuration, and what in it is suspicious.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub spec: Spec,
    /// Sorted like faults. Nothing in them keeps the daemon from starting.
    pub warnings: Vec<Fault>,
}

/// Reads the main file and the files of `conf.d` as one configuration: lists of tables are joined in the order given,
/// `[host]` and `[cluster]` may stand in one of them.
///
/// # Errors
/// Everything that is wrong, sorted by source, line and column. When a source is so broken that it is not clear what
/// belongs where, its tables are compared only after that has been mended.
pub fn parse(sources: &[Source<'_>]) -> Result<Parsed, Vec<Fault>> {
    let mut report = Report::new(sources);
    let roots: Vec<Spanned<DeTable<'_>>> = sources
        .iter()
        .enumerate()
        .map(|(index, source)| syntax::root(&mut report, index, source.text))
        .collect();
    let mut config = RawConfig::default();
    for (source, root) in roots.iter().enumerate() {
        let found = At { at: Place { source, offset: root.span().start }, it: root.get_ref() };
        read::source(&mut report, &found, &mut config);
    }
    if report.knows_structure() && check::all(&mut report, &config) {
        check_places::all(&mut report, &config);
    }
    if !report.is_good() {
        return Err(report.close().err().unwrap_or_default());
    }
    let spec = build::spec(&config);
    check_capacity::all(&mut report, &config, &spec);
    Ok(Parsed { spec, warnings: report.close()? })
}
