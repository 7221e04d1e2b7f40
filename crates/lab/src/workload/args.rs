//! The options of a load, the same wherever it runs.

use super::mix::{Mix, parse_sizes};
use crate::units::parse_rate;

/// What the load consists of.
#[derive(Clone, Debug, clap::Args)]
pub struct MixArgs {
    /// Offered rate of each disk, reads and writes together, as in 60MiB/s; left out: as fast as it goes.
    #[arg(long, value_parser = parse_rate)]
    pub rate: Option<u64>,
    /// Request sizes with weights.
    #[arg(long, default_value = "64KiB:1,128KiB:1")]
    pub sizes: String,
    /// Of 100 requests, how many are reads.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub read: u8,
    /// Of 100 writes, how many write zeroes.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub zero: u8,
    /// A flush after that many writes; 0 for never.
    #[arg(long, default_value_t = 64)]
    pub flush_every: u32,
    /// Requests open at a time.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub slots: u16,
    /// Number of the run, part of every block; left out: made from the clock.
    #[arg(long)]
    pub run: Option<u64>,
    /// Wait for `go` instead of starting at once.
    #[arg(long)]
    pub paused: bool,
}

impl MixArgs {
    /// # Errors
    /// If the sizes make no sense; in words.
    pub fn mix(&self) -> anyhow::Result<Mix> {
        Ok(Mix {
            sizes: parse_sizes(&self.sizes).map_err(anyhow::Error::msg)?,
            read_percent: self.read,
            zero_percent: self.zero,
            flush_every: self.flush_every,
            slots: usize::from(self.slots),
            rate: self.rate,
        })
    }

    /// The number of this run: never 0, so that a zeroed header is nobody's.
    #[must_use]
    pub fn run_number(&self) -> u64 {
        self.run.unwrap_or_else(|| crate::clock::unix_micros() ^ u64::from(std::process::id()) << 40).max(1)
    }
}
