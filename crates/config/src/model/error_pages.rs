//! `error-pages`: what the proxy's own answers look like when something is wrong.

use std::sync::Arc;

/// For answers of the proxy's own with a status from 400, where nobody else has chosen a body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorPages {
    /// In the order written; no status is in two of them.
    pub pages: Vec<ErrorPage>,
    /// Whether clients that take it get `application/problem+json` (RFC 9457). None: as outside of the route, else they do
    /// not.
    pub problem_json: Option<bool>,
}

/// A page for some statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPage {
    /// 400 to 599. Empty: all that no other page is for.
    pub statuses: Vec<u16>,
    /// What is in its file, of 1 MiB at most.
    pub html: Arc<[PagePart]>,
}

/// A piece of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PagePart {
    /// As it is.
    Literal(String),
    /// `{status}`.
    Status,
    /// `{status.text}`: what HTTP calls the status.
    StatusText,
    /// `{request.id}`.
    RequestId,
}
