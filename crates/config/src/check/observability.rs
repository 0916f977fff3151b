//! What is observed and can be seen by nobody.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::Parsed,
    model::RecentRequests,
};

/// Warning: what is kept of recent requests is asked for at `admin` alone.
pub(super) fn nobody_to_ask(parsed: &Parsed, report: &Report) {
    let Some(observability) = &parsed.observability else {
        return;
    };
    let recent = observability.value.recent_requests;
    let is_written = recent.is_some_and(|recent| recent != RecentRequests::default());
    if is_written && parsed.admin.is_none() {
        report.add(
            Diagnostic::warning(
                code::UNUSED,
                observability.span,
                "nobody can ask for recent requests, so none are kept",
            )
            .help("add `admin { address \"127.0.0.1:9901\" }`, or remove `recent-requests`"),
        );
    }
}
