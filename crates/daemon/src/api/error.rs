//! Every refusal: a status, what is wrong, and what to do about it.

use super::show;
use super::wire;
use crate::control::config::ConfigError;
use crate::control::handle::Unanswered;
use crate::control::reload::ReloadError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use vmpath_core::effect::CommandError;

#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    body: wire::Error,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, help: impl Into<String>) -> Self {
        Self { status, body: wire::Error { error: error.into(), help: help.into(), faults: Vec::new() } }
    }

    pub(super) fn bad_request(error: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, help)
    }

    pub(super) fn not_found(error: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error, help)
    }

    pub(super) fn forbidden(admin_group: &str) -> Self {
        let help = format!(
            "changes are for root and for members of the group `{admin_group}`: use sudo, or ask root for `adduser YOU {admin_group}`"
        );
        Self::new(StatusCode::FORBIDDEN, "you may look, but not change anything", help)
    }

    /// What is wrong, and what to do about it.
    pub(super) fn into_words(self) -> (String, String) {
        (self.body.error, self.body.help)
    }

    fn with_faults(mut self, faults: Vec<wire::Fault>) -> Self {
        self.body.faults = faults;
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<Unanswered> for ApiError {
    fn from(error: Unanswered) -> Self {
        let help = "what was asked may still happen: look at `vmpath show events`, and at the daemon's log";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), help)
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        let help =
            "`vmpath show vms`, `vmpath show paths` and `vmpath explain vm NAME` show the present state";
        match error {
            CommandError::Conflict(why) => Self::new(StatusCode::CONFLICT, why, help),
            CommandError::Unsupported(why) => Self::new(StatusCode::NOT_IMPLEMENTED, why, help),
        }
    }
}

impl From<ReloadError> for ApiError {
    fn from(error: ReloadError) -> Self {
        let refused = |what: &str, faults: Vec<wire::Fault>| {
            let error = format!("{what}; the old configuration stays in force");
            Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                error,
                "mend it, try it with `vmpath check`, and reload again",
            )
            .with_faults(faults)
        };
        let plain = |messages: Vec<String>| messages.into_iter().map(show::plain_fault).collect();
        match error {
            ReloadError::Config(ConfigError::Unreadable(files)) => {
                refused("the configuration cannot be read", plain(files))
            }
            ReloadError::Config(ConfigError::Faults(faults)) => {
                refused("the configuration has faults", faults.into_iter().map(show::fault).collect())
            }
            ReloadError::NotWhileRunning(why) => refused("this needs a restart of the daemon", plain(why)),
            ReloadError::ShuttingDown => Unanswered.into(),
        }
    }
}
