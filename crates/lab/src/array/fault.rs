//! The faults that a portal can have, and the words that switch them on.
//!
//! Faults combine (`reset refuse ghost 1500` in one command is one moment), so they are a set and not one state.
//! Invariant: what a command names takes effect together or, if one word is wrong, not at all.
//! Rejected: a script language for faults: tests already have one.
//! It does not know: sockets, the wall clock; times are told.

use crate::units::parse_duration;
use std::time::Duration;
use tokio::time::Instant;
use vmpath_protocol::nbd::NbdError;

/// One word of a command, with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every connection is reset now. Momentary: nothing stays switched on.
    Reset,
    /// The listening socket is closed. Connections that exist go on.
    Refuse,
    /// Bytes are accepted and nothing is answered, handshakes included; what was received waits.
    Hang,
    /// Replies stop for `length` from now, then flow; again after each `every`.
    Stall {
        length: Duration,
        every: Option<Duration>,
    },
    /// Each request is answered with the error and not executed.
    Error(NbdError),
    /// Each request takes that much longer.
    Slow(Duration),
    /// Each read is executed and answered that much later; everything else goes on.
    LateRead(Duration),
    /// Writes received and not executed when their connection breaks are executed `after` that.
    Ghost {
        after: Duration,
    },
    Misbehave(Misbehaviour),
    /// New connections are told this size, in bytes.
    AnnounceSize(u64),
    /// New connections get the unit that comes after the one they ask for, under its name.
    OtherUnit,
    /// One bit of each block that is read is wrong.
    CorruptReply,
    /// What the portal's cache holds is lost now. Momentary: nothing stays switched on.
    DropCache,
}

/// Ways to break the protocol, in answer to any request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Bytes that are no reply.
    Garbage,
    /// Half of a reply, then the end of the stream.
    CutReply,
    /// A reply to a request that was never sent.
    UnknownCookie,
}

const HELP: &str = "known faults: reset, refuse, hang, stall TIME[/EVERY], error EIO|ENOSPC|ENOMEM|ESHUTDOWN, \
                    slow TIME, late-read TIME, ghost TIME, garbage, cut-reply, unknown-cookie, corrupt-reply, \
                    announce-size BYTES, other-unit, drop-cache (TIME as 1500, 1500ms or 2s)";

impl Fault {
    /// Reads `reset refuse ghost 1500`; `+` and `,` separate as well as blanks do.
    ///
    /// # Errors
    /// In words, with the known faults.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let mut words = text.split([' ', '+', ',', '=']).filter(|word| !word.is_empty());
        let mut faults = Vec::new();
        while let Some(word) = words.next() {
            faults.push(Self::parse_one(word, &mut words)?);
        }
        if faults.is_empty() { Err(format!("no fault named; {HELP}")) } else { Ok(faults) }
    }

    fn parse_one<'a>(word: &str, words: &mut impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value; {HELP}"));
        Ok(match word {
            "reset" => Self::Reset,
            "refuse" => Self::Refuse,
            "hang" => Self::Hang,
            "stall" => parse_stall(value()?)?,
            "error" => Self::Error(parse_error(value()?)?),
            "slow" => Self::Slow(parse_duration(value()?)?),
            "late-read" => Self::LateRead(parse_duration(value()?)?),
            "ghost" => Self::Ghost { after: parse_duration(value()?)? },
            "garbage" => Self::Misbehave(Misbehaviour::Garbage),
            "cut-reply" => Self::Misbehave(Misbehaviour::CutReply),
            "unknown-cookie" => Self::Misbehave(Misbehaviour::UnknownCookie),
            "announce-size" => Self::AnnounceSize(crate::units::parse_size(value()?)?),
            "other-unit" => Self::OtherUnit,
            "corrupt-reply" => Self::CorruptReply,
            "drop-cache" => Self::DropCache,
            _ => return Err(format!("unknown fault {word:?}; {HELP}")),
        })
    }
}

fn parse_stall(value: &str) -> Result<Fault, String> {
    let (length, every) =
        value.split_once('/').map_or((value, None), |(length, every)| (length, Some(every)));
    let (length, every) = (parse_duration(length)?, every.map(parse_duration).transpose()?);
    match every {
        Some(every) if every <= length => {
            Err(format!("stall {value}: the period must be longer than the stall"))
        }
        _ => Ok(Fault::Stall { length, every }),
    }
}

fn parse_error(name: &str) -> Result<NbdError, String> {
    Ok(match name {
        "EIO" => NbdError::Io,
        "ENOSPC" => NbdError::NoSpace,
        "ENOMEM" => NbdError::NoMem,
        "ESHUTDOWN" => NbdError::Shutdown,
        _ => return Err(format!("unknown error {name:?}; {HELP}")),
    })
}

/// Everything that is the matter with a portal now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultSet {
    pub refuse: bool,
    pub hang: bool,
    pub stall: Option<Stall>,
    pub error: Option<NbdError>,
    pub slow: Duration,
    pub late_read: Duration,
    pub ghost: Option<Duration>,
    pub misbehave: Option<Misbehaviour>,
    pub announce_size: Option<u64>,
    pub other_unit: bool,
    pub corrupt_reply: bool,
    /// Connections made before the last reset are to die.
    pub resets: u64,
}

/// Replies stop for `length` at `from`, and then each `every`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    pub from: Instant,
    pub length: Duration,
    pub every: Option<Duration>,
}

/// Whether replies may leave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate {
    Open,
    ShutUntil(Instant),
    /// Until the fault is cleared.
    Shut,
}

impl FaultSet {
    /// Switches a fault on, beside those that are on.
    pub fn add(&mut self, fault: Fault, now: Instant) {
        match fault {
            Fault::Reset => self.resets += 1,
            Fault::Refuse => self.refuse = true,
            Fault::Hang => self.hang = true,
            Fault::Stall { length, every } => self.stall = Some(Stall { from: now, length, every }),
            Fault::Error(error) => self.error = Some(error),
            Fault::Slow(by) => self.slow = by,
            Fault::LateRead(by) => self.late_read = by,
            Fault::Ghost { after } => self.ghost = Some(after),
            Fault::Misbehave(how) => self.misbehave = Some(how),
            Fault::AnnounceSize(bytes) => self.announce_size = Some(bytes),
            Fault::OtherUnit => self.other_unit = true,
            Fault::CorruptReply => self.corrupt_reply = true,
            Fault::DropCache => {} // the units forget; see `Portal::drop_cache`
        }
    }

    /// Switches everything off.
    pub fn clear(&mut self) {
        *self = Self { resets: self.resets, ..Self::default() };
    }

    #[must_use]
    pub fn gate(&self, now: Instant) -> Gate {
        if self.hang {
            return Gate::Shut;
        }
        self.stall.and_then(|stall| stall.ends(now)).map_or(Gate::Open, Gate::ShutUntil)
    }

    /// The words that would switch it on again.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut word = |on: bool, text: String| {
            if on {
                words.push(text);
            }
        };
        word(self.refuse, "refuse".to_owned());
        word(self.hang, "hang".to_owned());
        if let Some(Stall { length, every, .. }) = self.stall {
            let period = every.map_or(String::new(), |every| format!("/{}ms", every.as_millis()));
            word(true, format!("stall {}ms{period}", length.as_millis()));
        }
        word(self.error.is_some(), format!("error {}", self.error.map_or(String::new(), |e| e.to_string())));
        word(!self.slow.is_zero(), format!("slow {}ms", self.slow.as_millis()));
        word(!self.late_read.is_zero(), format!("late-read {}ms", self.late_read.as_millis()));
        word(self.ghost.is_some(), format!("ghost {}ms", self.ghost.unwrap_or_default().as_millis()));
        let how = match self.misbehave {
            None => "",
            Some(Misbehaviour::Garbage) => "garbage",
            Some(Misbehaviour::CutReply) => "cut-reply",
            Some(Misbehaviour::UnknownCookie) => "unknown-cookie",
        };
        word(!how.is_empty(), how.to_owned());
        word(self.announce_size.is_some(), format!("announce-size {}", self.announce_size.unwrap_or(0)));
        word(self.other_unit, "other-unit".to_owned());
        word(self.corrupt_reply, "corrupt-reply".to_owned());
        words
    }
}

impl Stall {
    /// When the stall that is on ends, if one is.
    fn ends(&self, now: Instant) -> Option<Instant> {
        let since = now.checked_duration_since(self.from)?;
        let into = match self.every {
            Some(every) => Duration::from_nanos((since.as_nanos() % every.as_nanos()) as u64),
            None => since,
        };
        self.length.checked_sub(into).filter(|left| !left.is_zero()).map(|left| now + left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn words_combine() {
        let ghost = Fault::Ghost { after: Duration::from_millis(1500) };
        assert_eq!(
            Fault::parse_list("reset refuse ghost 1500"),
            Ok(vec![Fault::Reset, Fault::Refuse, ghost])
        );
        assert_eq!(Fault::parse_list("reset+ghost=1500ms"), Ok(vec![Fault::Reset, ghost]));
        assert_eq!(Fault::parse_list("error EIO"), Ok(vec![Fault::Error(NbdError::Io)]));
    }

    #[test]
    fn a_wrong_word_is_told_the_right_ones() {
        for text in ["", "explode", "stall", "error EPERM", "slow 3 parsecs", "stall 2s/1s"] {
            assert!(Fault::parse_list(text).is_err(), "{text}");
        }
        assert!(Fault::parse_list("explode").unwrap_err().contains("cut-reply"));
    }

    #[test]
    fn a_stall_ends_and_comes_again() {
        let from = Instant::now();
        let mut faults = FaultSet::default();
        let stall = |every| Fault::Stall { length: 2 * SECOND, every };
        faults.add(stall(None), from);
        assert_eq!(faults.gate(from + SECOND), Gate::ShutUntil(from + 2 * SECOND));
        assert_eq!(faults.gate(from + 2 * SECOND), Gate::Open);
        faults.add(stall(Some(5 * SECOND)), from);
        assert_eq!(faults.gate(from + 4 * SECOND), Gate::Open);
        assert_eq!(faults.gate(from + 6 * SECOND), Gate::ShutUntil(from + 7 * SECOND));
        faults.clear();
        assert_eq!(faults.gate(from + 6 * SECOND), Gate::Open);
    }

    #[test]
    fn what_is_on_is_shown_in_the_words_that_switch_it_on() {
        let mut faults = FaultSet::default();
        for fault in
            Fault::parse_list(
                "reset refuse hang stall 2s/5s slow 10 late-read 2s ghost 1500 garbage announce-size 4096 other-unit \
                 corrupt-reply drop-cache",
            )
            .unwrap()
        {
            faults.add(fault, Instant::now());
        }
        let words = [
            "refuse",
            "hang",
            "stall 2000ms/5000ms",
            "slow 10ms",
            "late-read 2000ms",
            "ghost 1500ms",
            "garbage",
            "announce-size 4096",
            "other-unit",
            "corrupt-reply",
        ];
        assert_eq!(faults.words(), words);
    }
}
