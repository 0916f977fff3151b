//! What is wrong with the agent: one entry of a table per trouble.

use crate::scenario::{Agent, Start};

/// Something that befalls the agent of a route, compared with the same load while the agent is well.
pub(crate) struct Trouble {
    /// Its name on the command line and in reports.
    pub(crate) name: &'static str,
    /// One line for readers.
    pub(crate) about: &'static str,
    /// How the route asks the agent.
    pub(crate) filter: &'static str,
    /// The filters of the route that is measured: none, or the agent where no request waits for it.
    pub(crate) measured: &'static str,
    /// The agent that is well.
    pub(crate) well: Agent,
    /// The agent that is not.
    pub(crate) ill: Agent,
    /// Whether the agent is stopped, as by a debugger, when the measured time begins, and goes on at its end.
    pub(crate) stops: bool,
    /// What the route that asks it is sent.
    pub(crate) asked: Asked,
}

/// The traffic of the route that asks the agent: open loop, whatever is answered.
pub(crate) struct Asked {
    /// More than are ever waiting, so that no request is late because the one before it is.
    pub(crate) connections: usize,
    /// Requests per second of all connections together.
    pub(crate) rate: f64,
    /// All at the same moment, every `connections / rate` seconds, instead of one after the other.
    pub(crate) together: bool,
}

/// The agent of a trouble has its breaker out of the way: an agent that is not asked any more troubles nobody.
const NO_BREAKER: &str =
    "        max-concurrent-calls 100 queue=200\n        circuit-breaker failures=1000000\n";

const fn agent(arguments: &'static [&'static str]) -> Agent {
    Agent {
        id: "bench",
        start: Start::Role(arguments),
        settings: NO_BREAKER,
    }
}

/// Each connection asks every two seconds, twice the timeout.
const STEADY: Asked = Asked {
    connections: 800,
    rate: 400.0,
    together: false,
};

/// Each connection asks every five seconds; the timeout is four.
const CROWD: Asked = Asked {
    connections: 5000,
    rate: 1000.0,
    together: false,
};

/// All troubles, in the order of the report.
pub(crate) static TROUBLES: &[Trouble] = &[
    Trouble {
        name: "stopped",
        about: "the agent's process is stopped while it is asked (SIGSTOP)",
        filter: r#"agent "bench""#,
        measured: "",
        well: agent(&["agent"]),
        ill: agent(&["agent"]),
        stops: true,
        asked: STEADY,
    },
    Trouble {
        name: "hanging",
        about: "the agent answers pings, and never a question",
        filter: r#"agent "bench""#,
        measured: "",
        well: agent(&["agent"]),
        ill: agent(&["agent", "--never"]),
        stops: false,
        asked: STEADY,
    },
    Trouble {
        name: "crowd",
        about: "5000 clients, one after the other, and an agent that takes a second for each of 100 at once",
        filter: r#"agent "bench" timeout="4s""#,
        measured: "",
        well: agent(&["agent"]),
        ill: agent(&["agent", "--after-ms", "1000"]),
        stops: false,
        asked: CROWD,
    },
    Trouble {
        name: "burst",
        about: "the same 5000 clients, all at the same moment",
        filter: r#"agent "bench" timeout="4s""#,
        measured: "",
        well: agent(&["agent"]),
        ill: agent(&["agent", "--after-ms", "1000"]),
        stops: false,
        asked: Asked {
            together: true,
            ..CROWD
        },
    },
    Trouble {
        name: "shadow-stopped",
        about: "the agent's process is stopped (SIGSTOP), and the measured route asks it in the shadow",
        filter: SHADOW,
        measured: SHADOW,
        well: agent(&["agent"]),
        ill: agent(&["agent"]),
        stops: true,
        asked: STEADY,
    },
    Trouble {
        name: "shadow-hanging",
        about: "the agent answers pings and never a question, and the measured route asks it in the shadow",
        filter: SHADOW,
        measured: SHADOW,
        well: agent(&["agent"]),
        ill: agent(&["agent", "--never"]),
        stops: false,
        asked: STEADY,
    },
];

/// Asked, and not waited for.
const SHADOW: &str = r#"agent "bench" mode="shadow""#;

/// The troubles of these names, in the order of the table; all if there are no names.
///
/// # Errors
/// The first name that is not in the table.
pub(crate) fn choose(names: &[String]) -> Result<Vec<&'static Trouble>, String> {
    let known = |name: &str| TROUBLES.iter().any(|trouble| trouble.name == name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        return Err(name.clone());
    }
    let chosen = |trouble: &&Trouble| names.is_empty() || names.iter().any(|n| n == trouble.name);
    Ok(TROUBLES.iter().filter(chosen).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choosing() {
        let names = |wanted: &[&str]| -> Result<Vec<&str>, String> {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            Ok(choose(&wanted)?.iter().map(|one| one.name).collect())
        };
        assert_eq!(names(&[]).unwrap().len(), TROUBLES.len());
        assert_eq!(names(&["crowd", "stopped"]), Ok(vec!["stopped", "crowd"]));
        assert_eq!(names(&["crowd", "crowed"]), Err("crowed".to_owned()));
    }

    #[test]
    fn no_connection_is_late_because_of_itself() {
        for Trouble { name, asked, .. } in TROUBLES {
            let seconds = asked.connections as f64 / asked.rate;
            assert!(seconds >= 2.0, "{name}");
        }
    }
}
