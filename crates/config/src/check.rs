//! What the text of one block cannot say: references, contradictions, and what would never happen.
//!
//! Every check looks at everything that was written and reports all that it finds. Warnings come only when there is no
//! error, because a misspelled name would make half of the file look unused.

mod addresses;
mod agents;
mod authz;
mod chains;
mod compress;
mod conditions;
mod ext_proc;
mod guardrail;
mod http2;
mod identity;
mod inspect;
mod limits;
mod listeners;
mod observability;
mod paths;
mod precedence;
mod references;
mod routes;
mod shadow;
mod unused;
mod upstreams;
mod uses;
mod v1;
mod verdict_cache;
mod websocket;

use crate::{diagnostic::Report, kdl::Parsed};

type Check = fn(&Parsed, &Report);

const ERRORS: &[Check] = &[
    identity::duplicate_ids,
    identity::duplicate_targets,
    references::dangling,
    chains::loops_and_sizes,
    chains::agents_in_parallel,
    shadow::compared,
    agents::owned_headers,
    agents::pools,
    authz::settings,
    agents::reverse_places,
    agents::useless_budgets,
    inspect::limits,
    inspect::encodings,
    inspect::upgrades,
    guardrail::limits,
    guardrail::dialects,
    guardrail::encodings,
    guardrail::useless_settings,
    limits::useless_body_limits,
    limits::keys_without_certificates,
    compress::twice,
    websocket::frames_without_sockets,
    websocket::useless_settings,
    verdict_cache::phases,
    ext_proc::useless_settings,
    ext_proc::observers_that_refuse,
    v1::useless_settings,
    addresses::listeners,
    addresses::unix_sockets,
    listeners::useless_settings,
    listeners::certificates,
    upstreams::protocols,
    upstreams::upgrades,
    http2::useless_settings,
    listeners::proxies,
    routes::actions,
    routes::useless_settings,
    upstreams::only_backups,
    upstreams::useless_slow_start,
    upstreams::grpc_over_http1,
    upstreams::useless_panic_threshold,
    conditions::impossible,
    paths::normal_form,
];

const WARNINGS: &[Check] = &[
    unused::unused,
    routes::no_routes,
    chains::asked_twice,
    inspect::never_asked,
    websocket::frames_never_asked,
    verdict_cache::shared_identities,
    ext_proc::closing_allows,
    precedence::file_order,
    addresses::loops,
    upstreams::unverified,
    observability::nobody_to_ask,
];

pub(crate) fn check(parsed: &Parsed, report: &Report) {
    for check in ERRORS {
        check(parsed, report);
    }
    if !report.has_errors() {
        for check in WARNINGS {
            check(parsed, report);
        }
    }
}
