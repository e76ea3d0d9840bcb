//! What the server itself answers, when it cannot or will not understand what a peer sent. A refusal ends the connection: behind
//! a message that was not understood nobody knows where the next one begins.

use std::borrow::Cow;

use super::response::Status;

/// As much of what was found as a reason quotes.
const QUOTED_BYTES_MAX: usize = 40;

/// A status and one line that says what was found, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: Status,
    pub reason: Cow<'static, str>,
}

impl Refusal {
    pub fn new(status: Status, reason: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { status, reason: reason.into() }
    }

    /// 400.
    pub fn bad(reason: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(Status::BAD_REQUEST, reason)
    }
}

/// What was found, fit to be shown: escaped and cut.
pub(super) fn quoted(found: &[u8]) -> String {
    let shown = &found[..found.len().min(QUOTED_BYTES_MAX)];
    let cut = if shown.len() < found.len() { "…" } else { "" };
    format!("\"{}{cut}\"", shown.escape_ascii())
}
