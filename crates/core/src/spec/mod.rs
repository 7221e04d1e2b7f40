//! The validated configuration: what the operator asked for, in types that cannot hold nonsense.
//!
//! Tables are flat and indexed by id (`spec.paths[path_id.index()]`); cross references are ids that exist. A raw text
//! becomes a [`Spec`] or a list of [`Fault`]s, each with its line; nothing else accepts raw text.

mod types;

pub use types::*;
