//! `vmpath top`: who gets what, over which path, as it changes; `--once`: the same as plain text.
//!
//! Invariant: what is drawn is a pure function of the looks at the API and the keys pressed ([`board`], [`draw`]), so
//! frames are tested without a terminal; the terminal, the threads and the clock are in [`live`] alone. Nothing can be
//! changed from here: it is safe to leave open, and needs no rights.

mod board;
mod cells;
mod columns;
mod draw;
mod flow;
mod live;
mod look;
mod tables;
#[cfg(test)]
mod tests;

use super::output;
use crate::api::client::Client;
use board::Board;
use clap::Args;
use look::Look;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;
use vmpath_core::spec::{duration_text, parse_duration};

/// The data plane counts five times a second: more looks than twice that would see the same again.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Columns of a plain frame that goes into a file or a pipe: all that there is to show.
const PLAIN_WIDTH: u16 = 120;

const AFTER_HELP: &str = "\
Keys:
  q, Esc, Ctrl-C       quit
  Tab                  to the paths and back; shows the marked path's share by VM
  up, down, j, k       mark another row, scroll; Page Up, Page Down, Home, End
  p s n                sort the VMs by priority, by MiB/s served, by name
  i h u                by IO/s, by requests held, by unmet reservation
  r                    reverse the order
  /                    only VMs whose name holds what is typed; Enter keeps it,
                       Esc clears it
  space                pause, and go on

Columns:
  PENDING/WINDOW       bytes in flight on the path, and how many may be now
  MAX                  how many may ever be
  SERVICE              a request's time on the path, from dispatch to reply
  MiB/s CAN CAP        carried; what the path can carry as seen; its capacity
  ENTITLED             MiB/s it would get now if it asked for all; -: no limit
  UNMET                `met`, or the MiB/s by which its reservation is missed
  OPEN HELD WHY        requests in flight, held, and the commonest reason

Colours are off if NO_COLOR is set. If the daemon goes away, its last numbers
stay, with a warning, until it is back.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct TopArgs {
    /// How often to look: 100ms to 1h
    #[arg(short, long, default_value = "1s", value_name = "TIME", value_parser = interval)]
    interval: Duration,
    /// Print one frame as plain text, of two looks one interval apart
    ///
    /// It does so too when stdout is no terminal.
    #[arg(long)]
    once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|problem| problem.to_string())?;
    if (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
        Ok(interval)
    } else {
        Err(format!("it is from {} to {}", duration_text(INTERVAL_MIN), duration_text(INTERVAL_MAX)))
    }
}

pub(super) fn run(client: Client, args: &TopArgs) -> anyhow::Result<ExitCode> {
    if args.once || !io::stdout().is_terminal() {
        return output::print(&once(&client, args.interval)?);
    }
    live::run(client, args.interval)
}

/// Rates need two looks.
fn once(client: &Client, interval: Duration) -> anyhow::Result<String> {
    let mut board = Board::default();
    board.looked(Ok(Look::take(client)?));
    std::thread::sleep(interval);
    board.looked(Ok(Look::take(client)?));
    let width = output::width().and_then(|width| u16::try_from(width).ok());
    Ok(draw::plain(&mut board, width.unwrap_or(PLAIN_WIDTH)))
}
