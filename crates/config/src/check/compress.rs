//! Compression that is said twice.

use super::uses::Chains;
use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedOwn},
};

/// A response is compressed once; two lines could not both hold.
pub(super) fn twice(parsed: &Parsed, report: &Report) {
    let chains = Chains::new(parsed);
    for route in &parsed.routes {
        let uses = chains.uses(&route.filters);
        let mut lines = uses.own.iter().filter_map(|own| match own {
            ParsedOwn::Compress(compress) => Some(compress.span),
            _ => None,
        });
        let (Some(first), Some(second)) = (lines.next(), lines.next()) else {
            continue;
        };
        let message = format!(
            "the route `{}` says twice how responses are compressed",
            route.id.value
        );
        report.add(
            Diagnostic::error(code::CONTRADICTION, second, message)
                .label("the second")
                .also(first, "the first")
                .also(route.span, "the route")
                .help("keep one of them, or put what differs into chains of their own"),
        );
    }
}
