//! Each fault, seen from a client's end of the wire.

use super::*;
use crate::array::control::ArrayControl;
use crate::net::{Address, Inbox, Received, Stream};
use crate::workload::block::{BLOCK, Identity};
use crate::workload::engine::{Action, Engine, Outcome, Request, Step};
use crate::workload::mix::Mix;
use clap::Parser;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::Interest;
use tokio::time::{Instant, timeout};
use vmpath_protocol::nbd::{ClientHandshake, CommandFlags, ReplyStyle, encode_request};
use vmpath_protocol::nbd::{Command, SessionError};

const BOUND: Duration = Duration::from_secs(10);

#[derive(clap::Parser)]
struct ArrayCommand {
    #[command(flatten)]
    args: ArrayArgs,
}
