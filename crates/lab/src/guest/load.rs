//! The verifying workload inside a guest, as its commander sees it: the newest sample, the read-back, the report.
//!
//! It speaks `workload::talk`'s lines over the guest's serial port. It does not judge what was found.

use super::{Guest, Line};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A guest under load.
#[derive(Debug)]
pub struct Load {
    guest: Guest,
    sample: Value,
    /// Milliseconds, of all samples since it was asked for.
    longest_gap: f64,
    report: Value,
    read_back: Value,
}

/// How a load ended.
#[derive(Clone, Debug)]
pub struct LoadEnd {
    /// 0 if nothing was wrong, lost or failed.
    pub status: i32,
    /// Everything that it counted: `errors`, `lost`, `mismatches`, `blocks_verified`, ….
    pub report: Value,
    /// `{"blocks", "mismatches"}` of the reading back of all that was written.
    pub read_back: Value,
}

impl Load {
    /// Starts `vmpath lab verify` with these arguments in a guest that is ready.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn start(mut guest: Guest, arguments: &str) -> Result<Self> {
        guest.send(&format!("vmpath lab verify {arguments}"))?;
        Ok(Self { guest, sample: Value::Null, longest_gap: 0.0, report: Value::Null, read_back: Value::Null })
    }

    /// Takes what the load has said, waiting at most `bound` for the first line.
    ///
    /// # Errors
    /// The guest is gone, or its load has ended or complains.
    pub fn poll(&mut self, bound: Duration) -> Result<()> {
        let mut wait = bound;
        while let Some(line) = self.guest.next_line(wait)? {
            if let Some(status) = self.take(line)? {
                bail!(
                    "guest {}: its load has ended with status {status}: {}",
                    self.guest.name(),
                    self.report
                );
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// The newest sample line; null before the first.
    #[must_use]
    pub const fn sample(&self) -> &Value {
        &self.sample
    }

    /// The longest time without a completion while requests were open, in milliseconds, by the samples since the last
    /// call.
    pub fn take_gap(&mut self) -> f64 {
        std::mem::take(&mut self.longest_gap)
    }

    /// Requests completed, by the newest sample.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.sample["requests"].as_u64().unwrap_or_default()
    }

    /// Gives the load one of its command lines: `pause`, `go`, `rate 20MiB/s`, ….
    ///
    /// # Errors
    /// The guest is gone.
    pub fn command(&mut self, line: &str) -> Result<()> {
        self.guest.send(line)
    }

    /// Waits until requests complete that had not when this was called. Returns how many have in all.
    ///
    /// # Errors
    /// None does within `bound`, or the guest or its load is gone.
    pub fn wait_progress(&mut self, bound: Duration) -> Result<u64> {
        self.poll(Duration::ZERO)?;
        let (before, end) = (self.completed(), Instant::now() + bound);
        while self.completed() <= before {
            if Instant::now() > end {
                bail!("guest {} has completed nothing for {} s", self.guest.name(), bound.as_secs());
            }
            self.poll(Duration::from_millis(50))?;
        }
        Ok(self.completed())
    }

    /// Everything that the load has counted so far, while it goes on.
    ///
    /// # Errors
    /// It does not answer within `bound`, or it is gone.
    pub fn report(&mut self, bound: Duration) -> Result<Value> {
        let end = Instant::now() + bound;
        self.report = Value::Null;
        self.command("report")?;
        while self.report.is_null() {
            if let Some(status) = self.take_next(end)? {
                bail!("guest {}: its load has ended with status {status}", self.guest.name());
            }
        }
        Ok(self.report.take())
    }

    /// Stops the load, reads back all that was written, and ends it.
    ///
    /// # Errors
    /// It does not end within `bound`, or the guest is gone.
    pub fn finish(&mut self, bound: Duration) -> Result<LoadEnd> {
        let end = Instant::now() + bound;
        self.command("readback")?;
        while self.read_back.is_null() {
            if let Some(status) = self.take_next(end)? {
                bail!(
                    "guest {}: its load has ended with status {status} instead of reading back",
                    self.guest.name()
                );
            }
        }
        self.command("quit")?;
        let status = loop {
            if let Some(status) = self.take_next(end)? {
                break status;
            }
        };
        Ok(LoadEnd { status, report: self.report.take(), read_back: self.read_back.take() })
    }

    #[must_use]
    pub const fn guest(&self) -> &Guest {
        &self.guest
    }

    #[must_use]
    pub const fn guest_mut(&mut self) -> &mut Guest {
        &mut self.guest
    }

    /// The exit status, if the next line is that.
    fn take_next(&mut self, end: Instant) -> Result<Option<i32>> {
        match self.guest.next_line(end.saturating_duration_since(Instant::now()))? {
            Some(line) => self.take(line),
            None => bail!("guest {}: its load does not end; last sample: {}", self.guest.name(), self.sample),
        }
    }

    fn take(&mut self, line: Line) -> Result<Option<i32>> {
        let text = match line {
            Line::Exit(status) => return Ok(Some(status)),
            Line::Ready => bail!("guest {} has booted again", self.guest.name()),
            Line::Output(text) => text,
        };
        let mut line: Value = serde_json::from_str(&text)
            .with_context(|| format!("guest {} says: {text}", self.guest.name()))?;
        let places =
            [("sample", &mut self.sample), ("report", &mut self.report), ("readback", &mut self.read_back)];
        for (key, place) in places {
            if let Some(value) = line.get_mut(key) {
                *place = value.take();
            }
        }
        let gap = self.sample["longest_gap_ms"].as_f64().unwrap_or(0.0);
        self.longest_gap = self.longest_gap.max(gap);
        match line.get("error") {
            Some(why) => bail!("guest {}: its load says {why}", self.guest.name()),
            None => Ok(None),
        }
    }
}
