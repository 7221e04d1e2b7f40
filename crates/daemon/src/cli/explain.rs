//! `vmpath explain`: the sentences of the API, and what happened.

use super::{Explain, ExplainArgs, Format, output, text};
use crate::api::client::{Ask, Client, Reply, segment};
use crate::api::wire;
use std::process::ExitCode;

pub(super) fn run(client: &Client, args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let at = match &args.what {
        Explain::Vm { name } => format!("/v1/vms/{}/explain", segment(name)),
        Explain::Path { path } => {
            format!("/v1/paths/{}/{}/explain", segment(&path.target), segment(&path.path))
        }
        Explain::Incident { incident } => format!("/v1/incidents/{}/explain", segment(incident)),
    };
    let reply = client.call(&Ask::Get(at))?;
    match args.output {
        Format::Json => output::print(&format!("{}\n", reply.text())),
        Format::Table => output::print(&page(&args.what, &reply)?),
    }
}

fn page(what: &Explain, reply: &Reply) -> anyhow::Result<String> {
    let (sentences, events) = match what {
        Explain::Vm { .. } => {
            let told: wire::Explanation = reply.read()?;
            (told.text, told.events)
        }
        Explain::Path { .. } => {
            let told: wire::PathExplanation = reply.read()?;
            (told.text, told.events)
        }
        Explain::Incident { .. } => {
            let told: wire::IncidentExplanation = reply.read()?;
            (told.text, told.events)
        }
    };
    let width = output::width();
    let mut page: String = sentences.iter().map(|sentence| text::wrap(sentence, "", width)).collect();
    if !events.is_empty() {
        page.push_str("\nWhat happened:\n");
        page.extend(events.iter().map(|event| text::event_line(event) + "\n"));
    }
    Ok(page)
}
