//! The options of the handshake as a server reads them, and its replies (spec: "Option types", "Option reply types").
//!
//! Invariant: an option that is known but malformed gets ERR_INVALID, one that is not known ERR_UNSUP, and haggling
//! goes on; only EXPORT_NAME, which has no error reply, ends it. Rejected: ERR_INVALID by closing, which hides the
//! reason from whoever debugs the client. It does not know: the order of options, or the connection.

use super::gather::{Fields, cut};
use super::server_handshake::{ExportAnswer, ExportQuery, ExportRefusal, RefusalReason};
use super::wire::{
    INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO,
    OPT_LIST, OPT_STRUCTURED_REPLY, OptionReplyHeader, REP_ACK, REP_ERR_INVALID, REP_ERR_POLICY,
    REP_ERR_SHUTDOWN, REP_ERR_UNKNOWN, REP_ERR_UNSUP, REP_INFO, REP_SERVER, STRING_MAX,
};

/// A client's question about an export, while its owner thinks.
#[derive(Debug)]
pub(crate) struct ExportRequest {
    pub(crate) name: String,
    pub(crate) query: ExportQuery,
    wants_name: bool,
    wants_description: bool,
}

impl ExportRequest {
    pub(crate) fn option(&self) -> u32 {
        match self.query {
            ExportQuery::Go => OPT_GO,
            ExportQuery::Info => OPT_INFO,
            ExportQuery::ExportName => OPT_EXPORT_NAME,
        }
    }
}

pub(crate) enum Parsed {
    Export(ExportRequest),
    BadExportName,
    List,
    StructuredReply,
    Abort,
    Invalid(&'static str),
    Unsupported,
}

pub(crate) fn parse(option: u32, data: &[u8]) -> Parsed {
    match option {
        OPT_EXPORT_NAME => match string(data) {
            Some(name) => Parsed::Export(ExportRequest {
                name,
                query: ExportQuery::ExportName,
                wants_name: false,
                wants_description: false,
            }),
            None => Parsed::BadExportName,
        },
        OPT_GO => parse_query(ExportQuery::Go, data),
        OPT_INFO => parse_query(ExportQuery::Info, data),
        OPT_ABORT => Parsed::Abort,
        OPT_LIST | OPT_STRUCTURED_REPLY if !data.is_empty() => Parsed::Invalid("this option takes no data"),
        OPT_LIST => Parsed::List,
        OPT_STRUCTURED_REPLY => Parsed::StructuredReply,
        _ => Parsed::Unsupported,
    }
}

fn parse_query(query: ExportQuery, data: &[u8]) -> Parsed {
    let mut fields = Fields(data);
    let name = fields.u32().and_then(|len| fields.take(len as usize));
    let Some((name, count)) = name.zip(fields.u16()) else {
        return Parsed::Invalid("the name or the count of info requests does not fit the option's length");
    };
    if fields.0.len() != 2 * usize::from(count) {
        return Parsed::Invalid("the count of info requests does not fit the option's length");
    }
    let Some(name) = string(name) else {
        return Parsed::Invalid("the name is not valid UTF-8 of at most 4096 bytes without NUL");
    };
    let wants = |kind: u16| fields.0.chunks_exact(2).any(|asked| asked == kind.to_be_bytes());
    Parsed::Export(ExportRequest {
        name,
        query,
        wants_name: wants(INFO_NAME),
        wants_description: wants(INFO_DESCRIPTION),
    })
}

fn string(bytes: &[u8]) -> Option<String> {
    if bytes.len() > STRING_MAX || bytes.contains(&0) {
        return None;
    }
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Appends the replies to one option.
pub(crate) struct Replies<'a> {
    pub(crate) output: &'a mut Vec<u8>,
    pub(crate) option: u32,
}

impl Replies<'_> {
    fn reply(&mut self, kind: u32, parts: &[&[u8]]) {
        let len = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
        self.output.extend_from_slice(&OptionReplyHeader { option: self.option, kind, len }.encode());
        for part in parts {
            self.output.extend_from_slice(part);
        }
    }

    pub(crate) fn ack(&mut self) {
        self.reply(REP_ACK, &[]);
    }

    pub(crate) fn invalid(&mut self, why: &str) {
        self.reply(REP_ERR_INVALID, &[why.as_bytes()]);
    }

    pub(crate) fn unsupported(&mut self) {
        self.reply(REP_ERR_UNSUP, &[]);
    }

    pub(crate) fn list(&mut self, names: &[String]) {
        for name in names {
            self.reply(REP_SERVER, &[&(name.len() as u32).to_be_bytes(), name.as_bytes()]);
        }
        self.ack();
    }

    pub(crate) fn refuse(&mut self, refusal: &ExportRefusal) {
        let kind = match refusal.reason {
            RefusalReason::Unknown => REP_ERR_UNKNOWN,
            RefusalReason::Policy => REP_ERR_POLICY,
            RefusalReason::Shutdown => REP_ERR_SHUTDOWN,
        };
        self.reply(kind, &[cut(&refusal.message).as_bytes()]);
    }

    /// The infos about an export that was granted, and the acknowledgement. The block sizes are sent unasked too: a
    /// client that did not ask may ignore them, one that reads them profits.
    pub(crate) fn describe(&mut self, request: &ExportRequest, answer: &ExportAnswer) {
        let export = &answer.export;
        self.reply(
            REP_INFO,
            &[&INFO_EXPORT.to_be_bytes(), &export.size.to_be_bytes(), &export.flags.bits().to_be_bytes()],
        );
        let (min, preferred, max) = (export.block.min(), export.block.preferred(), export.block.max());
        self.reply(
            REP_INFO,
            &[
                &INFO_BLOCK_SIZE.to_be_bytes(),
                &min.to_be_bytes(),
                &preferred.to_be_bytes(),
                &max.to_be_bytes(),
            ],
        );
        if request.wants_name {
            self.reply(REP_INFO, &[&INFO_NAME.to_be_bytes(), request.name.as_bytes()]);
        }
        if request.wants_description && !answer.description.is_empty() {
            self.reply(REP_INFO, &[&INFO_DESCRIPTION.to_be_bytes(), cut(&answer.description).as_bytes()]);
        }
        self.ack();
    }
}
