//! What the ground carries without any hop: fio on each portal, which must come to the capacity that it was given.
//!
//! With as little open as a window later holds, so that a portal whose replies are late is found out here.

use super::load::{self, CAPACITY, GOLD, REQUEST};
use super::turn::Storage;
use crate::bench::client::{Client, Extent, Poll};
use crate::bench::workload::{Pattern, Workload};
use anyhow::Result;
use serde::Serialize;
use std::time::Duration;

/// Two milliseconds of the capacity.
const DEPTH: u32 = 16;
const SPAN: Duration = Duration::from_secs(2);

/// Bytes a second.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Ground {
    pub(super) portal: String,
    pub(super) capacity: f64,
    pub(super) measured: f64,
}

/// # Errors
/// fio is not installed, or a request of its failed.
pub(super) fn measure(storage: &Storage) -> Result<Vec<Ground>> {
    let workload = Workload {
        name: "ground",
        about: "8 KiB random read, 16 open",
        pattern: Pattern::RandomRead,
        block: REQUEST,
        depth: DEPTH,
    };
    let extent = Extent { bytes: load::UNIT, span: SPAN, poll: Poll::Event };
    let one = |(portal, url): (&&str, &String)| {
        let seen = Client::Fio { uri: format!("{url}/{GOLD}") }.run(&workload, extent, None)?;
        let measured = seen.iops * f64::from(REQUEST);
        Ok(Ground { portal: (*portal).to_owned(), capacity: CAPACITY as f64, measured })
    };
    load::PATHS.iter().zip(&storage.urls).map(one).collect()
}
