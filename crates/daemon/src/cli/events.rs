//! `vmpath show events`: the journal, all of it or what concerns one VM, path or incident; and as it grows.
//!
//! It does not know what events mean.

use super::text::{event_line, utc};
use super::{Format, PathName, output, show};
use crate::api::client::{Ask, Client, segment};
use crate::api::wire;
use crate::sys::clock;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;
use vmpath_core::spec::parse_duration;

pub(super) const EXAMPLES: &str = "\
Examples:
  vmpath show events --vm db1                    what was decided about db1, and all else of its incidents
  vmpath show events --incident INC-3            one failure, from its beginning to its repair
  vmpath show events --path san0/a --since 2h    what happened to a path in the last two hours
  vmpath show events --kind vm-suspended --kind vm-resumed -n 1000
  vmpath show events --follow                    each event as it comes, until Ctrl-C

What is given is all required together; several kinds are each enough.";

/// The journal's pace; an event is seen within this and the daemon's own delay.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Only events of this VM and of the incidents that it is in
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// Only events of this incident
    #[arg(long, value_name = "INC-N")]
    incident: Option<String>,
    /// Only events of this path
    #[arg(long, value_name = "TARGET/PATH")]
    path: Option<PathName>,
    /// Only events of this kind (docs/api.md lists them); may be given again
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// Only events that are not older than this, like 10m or 2h
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Duration>,
    /// Only events above this number
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// At most so many: the newest, or with --after the oldest
    #[arg(short = 'n', long, default_value_t = 100)]
    limit: usize,
    /// Go on with each event as it comes, one on a line, until interrupted
    #[arg(short, long)]
    follow: bool,
}

fn since(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|problem| problem.message)
}

pub(super) fn run(client: &Client, args: &EventsArgs, format: Format) -> anyhow::Result<ExitCode> {
    let from = args.since.map(|since| {
        let since = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        clock::unix_micros(clock::now()).saturating_sub(since)
    });
    if args.follow {
        return follow(client, args, from, format);
    }
    let reply = client.call(&Ask::Get(address(args, args.after, from)))?;
    match format {
        Format::Json => output::print(&format!("{}\n", reply.text())),
        Format::Table => output::print(&table(&reply.read()?)),
    }
}

/// Ends with the process, or with its reader.
fn follow(client: &Client, args: &EventsArgs, from: Option<u64>, format: Format) -> anyhow::Result<ExitCode> {
    let mut after = args.after;
    loop {
        let page: wire::Events = client.get(&address(args, after, from))?;
        for event in &page.events {
            let line = match format {
                Format::Json => wire::event_json(event)?,
                Format::Table => event_line(event),
            };
            if !output::still_read(&format!("{line}\n"))? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        // A daemon with a new state directory counts anew.
        let is_restarted = after.is_some_and(|after| page.last_seq < after);
        after = Some(if is_restarted { 0 } else { page.next_after });
        if page.next_after >= page.last_seq {
            std::thread::sleep(FOLLOW_EVERY);
        }
    }
}

fn address(args: &EventsArgs, after: Option<u64>, since_unix_us: Option<u64>) -> String {
    let path = args.path.as_ref().map(|name| format!("{}/{}", name.target, name.path));
    let mut pairs = vec![
        ("limit", Some(args.limit.to_string())),
        ("after", after.map(|after| after.to_string())),
        ("vm", args.vm.clone()),
        ("incident", args.incident.clone()),
        ("path", path),
        ("since_unix_us", since_unix_us.map(|since| since.to_string())),
    ];
    pairs.extend(args.kind.iter().map(|kind| ("kind", Some(kind.clone()))));
    let pairs = pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", segment(&value?))));
    format!("/v1/events?{}", pairs.collect::<Vec<_>>().join("&"))
}

pub(super) fn table(reply: &wire::Events) -> String {
    let mut table = show::table(&["SEQ", "TIME (UTC)", "INCIDENT", "KIND", "SUBJECT", "REASON"]);
    for event in &reply.events {
        let until = event.until.as_ref().map(|until| format!("; until {until}")).unwrap_or_default();
        table.add_row([
            event.seq.to_string(),
            utc(event.at_unix_us),
            show::or_dash(event.incident.as_ref()),
            event.kind.clone(),
            format!("{} {}", event.subject.kind, event.subject.name),
            format!("{}{until}", event.reason),
        ]);
    }
    show::lines(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_in_the_address() {
        let path = "san0/a".parse().expect("a path");
        let args = EventsArgs {
            vm: Some("db 1".into()),
            incident: Some("INC-3".into()),
            path: Some(path),
            kind: vec!["no-path".into(), "vm-held".into()],
            since: None,
            after: None,
            limit: 5,
            follow: false,
        };
        assert_eq!(
            address(&args, Some(7), Some(9)),
            "/v1/events?limit=5&after=7&vm=db%201&incident=INC-3&path=san0%2Fa&since_unix_us=9&kind=no-path&kind=vm-held"
        );
        assert_eq!(since("10m").unwrap(), Duration::from_secs(600));
        assert!(since("10").unwrap_err().contains("unit"), "{:?}", since("10"));
    }
}
