//! What is measured: one entry of a table per scenario.

mod table;

use crate::{envoy, roles::floor::Accept};
use std::{fmt::Write, net::SocketAddr, path::PathBuf};
pub(crate) use table::SCENARIOS;

/// Who is measured with what.
pub(crate) struct Scenario {
    /// Its name on the command line and in reports.
    pub(crate) name: &'static str,
    /// One line for readers.
    pub(crate) about: &'static str,
    /// The proxy under test.
    pub(crate) subject: Subject,
    /// What the client sends.
    pub(crate) request: Request,
    /// Whether it runs when no scenarios are named.
    pub(crate) by_default: bool,
    /// Left out with a word, not with an error, when its agents do not start.
    pub(crate) optional: bool,
    /// What it is compared with, if that runs too.
    pub(crate) comparisons: &'static [Comparison],
}

/// The proxy under test.
pub(crate) enum Subject {
    /// Bare Pingora.
    Floor(Accept),
    /// This project's proxy, in front of the same origin.
    Ours {
        /// The inside of the route's `filters` block; empty: no block.
        filters: &'static str,
        /// The agents that the configuration names.
        agents: &'static [Agent],
    },
    /// The same without agents, with so many routes, of which one is asked for.
    Routes(usize),
    /// Envoy in front of the same origin; with the same agent, if it has one.
    Envoy(envoy::Filter),
}

/// An agent that is a process of its own.
pub(crate) struct Agent {
    /// Its id in the configuration.
    pub(crate) id: &'static str,
    /// What starts it.
    pub(crate) start: Start,
    /// More lines for its block in the configuration.
    pub(crate) settings: &'static str,
}

/// What starts an agent, and how it is reached then.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    /// Our proxy's program with these arguments; `--socket PATH` is added.
    Program(&'static [&'static str]),
    /// This program in the role that these arguments name; `--socket PATH` is added.
    Role(&'static [&'static str]),
    /// This program in the role of an agent as Envoy knows them, and the dialect that is spoken with it.
    AsEnvoyKnows(&'static str),
    /// Nothing: it is not there.
    Absent,
}

/// What the client speaks to the proxy. To the origin it is always HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    /// HTTP/2 without TLS, with prior knowledge.
    H2c,
    /// HTTP/2 over TLS.
    H2,
}

/// What listeners with TLS show, and clients believe.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// What the client sends, on all connections alike.
pub(crate) struct Request {
    pub(crate) protocol: Protocol,
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// Header lines, `name: value`.
    pub(crate) headers: &'static [&'static str],
    pub(crate) body_bytes: usize,
}

/// How a scenario is judged against another of the same round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison {
    /// The other scenario.
    pub(crate) base: &'static str,
    /// The figure.
    pub(crate) kind: Kind,
    /// The bar: met when the upper end of the interval is at most this.
    pub(crate) at_most: Option<f64>,
}

/// The figure of a comparison, made of CPU time per request of the proxy process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// This one divided by the base.
    Ratio,
    /// This one less the base, in microseconds.
    DifferenceUs,
    /// The same, less the difference of two others.
    MoreThanUs {
        /// What adds that difference.
        other: &'static str,
        /// To what.
        other_base: &'static str,
    },
}

/// The scenarios of these names, in the order of the table; those that run by default if there are no names.
///
/// # Errors
/// The first name that is not in the table.
pub(crate) fn choose(names: &[String]) -> Result<Vec<&'static Scenario>, String> {
    let unknown = names
        .iter()
        .find(|name| !SCENARIOS.iter().any(|scenario| scenario.name == **name));
    if let Some(name) = unknown {
        return Err(name.clone());
    }
    let chosen = SCENARIOS.iter().filter(|scenario| {
        if names.is_empty() {
            scenario.by_default
        } else {
            names.iter().any(|name| name == scenario.name)
        }
    });
    Ok(chosen.collect())
}

/// Where the parts of one scenario are.
pub(crate) struct Places {
    pub(crate) listener: SocketAddr,
    pub(crate) origin: SocketAddr,
    pub(crate) probes: SocketAddr,
    pub(crate) access_log: PathBuf,
    pub(crate) tls: TlsFiles,
    /// Where the agents are, in the order of the scenario.
    pub(crate) agents: Vec<Place>,
}

/// Where an agent is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Socket(PathBuf),
    /// With the dialect that it speaks.
    Grpc(SocketAddr, &'static str),
}

impl Place {
    fn lines(&self) -> String {
        match self {
            Self::Socket(path) => format!("        unix-socket \"{}\"\n", path.display()),
            Self::Grpc(address, dialect) => {
                format!("        grpc \"http://{address}\"\n        dialect \"{dialect}\"\n")
            }
        }
    }
}

/// A route for the paths below `prefix`. `filters` is the inside of its block; empty: no block.
pub(crate) fn route(name: &str, prefix: &str, filters: &str) -> String {
    let filters = if filters.is_empty() {
        String::new()
    } else {
        format!("        filters {{ {filters} }}\n")
    };
    format!(
        r#"    route "{name}" {{
        match {{ path-prefix "{prefix}" }}
{filters}        upstream "origin"
    }}
"#
    )
}

/// So many routes as operators write them: by host, by path, by both, and with further conditions. Requests for
/// [`ROUTED_PATH`] take one in the middle.
pub(crate) fn many_routes(count: usize) -> String {
    let mut text = String::new();
    let middle = count / 2;
    for number in 0..count {
        let conditions = match number % 4 {
            _ if number == middle => format!("path-prefix \"{ROUTED_PREFIX}\""),
            0 => format!("host \"host-{number}.example.com\""),
            1 => format!("path-prefix \"/service-{number}/api\""),
            2 => format!("host \"*.zone-{number}.example.com\"; path \"/exact/{number}\""),
            _ => format!(
                "path-prefix \"/service-{number}\"; method \"GET\" \"POST\"; header \"x-tenant\" \"tenant-{number}\""
            ),
        };
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "    route \"route-{number}\" {{\n        match {{ {conditions} }}\n        upstream \"origin\"\n    }}\n"
        );
    }
    text
}

const ROUTED_PREFIX: &str = "/routed";
/// What is asked for where there are many routes.
pub(crate) const ROUTED_PATH: &str = "/routed/hello";

/// The configuration of our proxy with these routes: one worker, everything on that a real one would have on.
pub(crate) fn configuration(
    protocol: Protocol,
    routes: &str,
    agents: &[Agent],
    places: &Places,
) -> String {
    let protocol = match protocol {
        Protocol::Http1 => String::new(),
        Protocol::H2c => "        h2c\n".to_owned(),
        Protocol::H2 => {
            let TlsFiles { certificate, key } = &places.tls;
            let (certificate, key) = (certificate.display(), key.display());
            format!("        tls {{ certificate \"{certificate}\" key=\"{key}\" }}\n")
        }
    };
    let mut agent_blocks = String::new();
    for (agent, place) in agents.iter().zip(&places.agents) {
        // The timeout is as in production in what it costs, and long enough for a machine that is shared.
        let _ = write!(
            agent_blocks,
            "    agent \"{}\" {{\n{}        timeout \"1s\"\n{}    }}\n",
            agent.id,
            place.lines(),
            agent.settings
        );
    }
    let agents = if agent_blocks.is_empty() {
        String::new()
    } else {
        format!("agents {{\n{agent_blocks}}}\n")
    };
    format!(
        r#"schema-version "1"
system {{ worker-threads 1 }}
probes {{ address "{probes}" }}
listeners {{
    listener "http" {{
        address "{listener}"
{protocol}        timeouts {{ request-header "10s"; keepalive "75s"; request-body-idle "30s"; response-write "30s" }}
        limits {{ header-bytes "32KiB"; header-count 100; uri-bytes "8KiB"; body-bytes "100MiB"; connections-per-client 10000; requests-per-connection 1000000 }}
    }}
}}
routes {{
{routes}}}
upstreams {{
    upstream "origin" {{
        target "{origin}"
        timeouts {{ connect "2s"; response-header "30s"; idle "60s" }}
    }}
}}
{agents}observability {{
    access-log "{access_log}" format="json"
}}
"#,
        probes = places.probes,
        listener = places.listener,
        origin = places.origin,
        access_log = places.access_log.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn names_are_unique_and_bases_exist() {
        for (index, scenario) in SCENARIOS.iter().enumerate() {
            assert!(
                SCENARIOS[..index]
                    .iter()
                    .all(|other| other.name != scenario.name)
            );
            for comparison in scenario.comparisons {
                let base = SCENARIOS[..index]
                    .iter()
                    .any(|other| other.name == comparison.base);
                assert!(
                    base,
                    "{} is compared with {}",
                    scenario.name, comparison.base
                );
            }
        }
    }

    #[test]
    fn choosing() {
        let names = |chosen: Vec<&'static Scenario>| -> Vec<&str> {
            chosen.iter().map(|scenario| scenario.name).collect()
        };
        for (wanted, expected) in [
            (
                vec![],
                Ok(vec!["floor", "plain", "agent", "parallel", "legacy"]),
            ),
            (vec!["plain", "floor"], Ok(vec!["floor", "plain"])),
            (vec!["floor-loop"], Ok(vec!["floor-loop"])),
            (vec!["floor", "flor"], Err("flor".to_owned())),
        ] {
            let wanted: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
            assert_eq!(choose(&wanted).map(names), expected, "{wanted:?}");
        }
    }

    #[test]
    fn every_configuration_loads_without_a_warning() {
        for scenario in SCENARIOS {
            let (routes, agents) = match &scenario.subject {
                Subject::Ours { filters, agents } => (route("all", "/", filters), *agents),
                Subject::Routes(count) => (many_routes(*count), &[][..]),
                Subject::Floor(_) | Subject::Envoy(_) => continue,
            };
            let places = Places {
                listener: "127.0.0.1:1".parse().unwrap(),
                origin: "127.0.0.1:2".parse().unwrap(),
                probes: "127.0.0.1:3".parse().unwrap(),
                access_log: "/l".into(),
                tls: TlsFiles {
                    certificate: "/c".into(),
                    key: "/k".into(),
                },
                agents: agents
                    .iter()
                    .map(|agent| match agent.start {
                        Start::AsEnvoyKnows(dialect) => {
                            Place::Grpc("127.0.0.1:4".parse().unwrap(), dialect)
                        }
                        _ => Place::Socket(format!("/{}", agent.id).into()),
                    })
                    .collect(),
            };
            let protocol = scenario.request.protocol;
            let text = configuration(protocol, &routes, agents, &places);
            let loaded =
                portcullis_config::load_str(scenario.name, &text, Path::new("/"), &|_| None);
            let loaded = loaded.unwrap_or_else(|errors| panic!("{errors:?} in\n{text}"));
            assert!(
                loaded.warnings.is_empty(),
                "{:?} in\n{text}",
                loaded.warnings
            );
            assert_eq!(loaded.config.agents.len(), agents.len(), "{text}");
            let has_filters =
                matches!(scenario.subject, Subject::Ours { filters, .. } if !filters.is_empty());
            assert_eq!(text.contains("filters"), has_filters, "{text}");
            if let Subject::Routes(count) = scenario.subject {
                assert_eq!(loaded.config.routes.len(), count);
            }
            let h2c = loaded.config.listeners[0].h2c;
            assert_eq!(h2c, protocol == Protocol::H2c, "{text}");
        }
    }
}
