//! The table of scenarios.

use super::{Agent, Comparison, Kind, Protocol, ROUTED_PATH, Request, Scenario, Start, Subject};
use crate::{envoy, roles::floor::Accept};

const PLAIN_GET: Request = Request {
    protocol: Protocol::Http1,
    method: "GET",
    path: "/hello",
    headers: &["user-agent: portcullis-bench", "accept: */*"],
    body_bytes: 0,
};

const PLAIN_GET_H2C: Request = Request {
    protocol: Protocol::H2c,
    ..PLAIN_GET
};

const PLAIN_GET_H2: Request = Request {
    protocol: Protocol::H2,
    ..PLAIN_GET
};

const OVER_PLAIN: Comparison = Comparison {
    base: "plain",
    kind: Kind::DifferenceUs,
    at_most: None,
};

const OVER_PLAIN_H2C: Comparison = Comparison {
    base: "plain-h2c",
    ..OVER_PLAIN
};

const UPLOAD: Request = Request {
    protocol: Protocol::Http1,
    method: "POST",
    path: "/upload",
    headers: &["user-agent: portcullis-bench", "accept: */*"],
    body_bytes: 100_000,
};

/// One agent for request headers that is not there.
const ABSENT: Subject = Subject::Ours {
    filters: r#"agent "absent" failure-mode="open""#,
    agents: &[Agent {
        id: "absent",
        start: Start::Absent,
        settings: "",
    }],
};

/// The same for response headers.
const ABSENT_IN_EXCHANGE: Subject = Subject::Ours {
    filters: r#"agent "absent" failure-mode="open""#,
    agents: &[Agent {
        id: "absent",
        start: Start::Absent,
        settings: "        inspect { response-headers }\n",
    }],
};

const OVER_UPLOAD: Comparison = Comparison {
    base: "upload",
    kind: Kind::DifferenceUs,
    at_most: Some(60.0),
};

/// All scenarios, in the order of the report.
pub(crate) static SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "floor",
        about: "bare Pingora: upstream_peer and nothing else (F)",
        subject: Subject::Floor(Accept::Service),
        request: PLAIN_GET,
        by_default: true,
        optional: false,
        comparisons: &[],
    },
    Scenario {
        name: "floor-loop",
        about: "bare Pingora behind an accept loop of its own",
        subject: Subject::Floor(Accept::Loop),
        request: PLAIN_GET,
        by_default: false,
        optional: false,
        comparisons: &[Comparison {
            base: "floor",
            kind: Kind::Ratio,
            at_most: None,
        }],
    },
    Scenario {
        name: "plain",
        about: "no agent; access log, metrics, limits and timeouts as in production",
        subject: Subject::Ours {
            filters: "",
            agents: &[],
        },
        request: PLAIN_GET,
        by_default: true,
        optional: false,
        comparisons: &[Comparison {
            base: "floor",
            kind: Kind::Ratio,
            at_most: Some(1.15),
        }],
    },
    Scenario {
        name: "plain-h2c",
        about: "plain for a client that speaks HTTP/2",
        subject: Subject::Ours {
            filters: "",
            agents: &[],
        },
        request: PLAIN_GET_H2C,
        by_default: false,
        optional: false,
        comparisons: &[OVER_PLAIN],
    },
    Scenario {
        name: "floor-h2",
        about: "bare Pingora with rustls, HTTP/2 over TLS",
        subject: Subject::Floor(Accept::Service),
        request: PLAIN_GET_H2,
        by_default: false,
        optional: false,
        comparisons: &[],
    },
    Scenario {
        name: "plain-h2",
        about: "plain for a client that speaks HTTP/2 over TLS",
        subject: Subject::Ours {
            filters: "",
            agents: &[],
        },
        request: PLAIN_GET_H2,
        by_default: false,
        optional: false,
        // At least nine tenths of the requests per second of a processor.
        comparisons: &[Comparison {
            base: "floor-h2",
            kind: Kind::Ratio,
            at_most: Some(1.11),
        }],
    },
    Scenario {
        name: "agent",
        about: "plain and one agent for request headers, with our own encoding",
        subject: Subject::Ours {
            filters: r#"agent "echo""#,
            agents: &[Agent {
                id: "echo",
                start: Start::Program(&["agent", "echo"]),
                settings: "",
            }],
        },
        request: PLAIN_GET,
        by_default: true,
        optional: false,
        comparisons: &[Comparison {
            at_most: Some(8.0),
            ..OVER_PLAIN
        }],
    },
    Scenario {
        name: "allow",
        about: "plain and one agent that lets everything pass and changes nothing",
        subject: Subject::Ours {
            filters: r#"agent "allowing""#,
            agents: &[Agent {
                id: "allowing",
                start: Start::Role(&["agent"]),
                settings: "",
            }],
        },
        request: PLAIN_GET,
        by_default: false,
        optional: false,
        comparisons: &[Comparison {
            at_most: Some(8.0),
            ..OVER_PLAIN
        }],
    },
    Scenario {
        name: "cached",
        about: "the same agent, whose verdict is known from an earlier request",
        subject: Subject::Ours {
            filters: r#"agent "echo""#,
            agents: &[Agent {
                id: "echo",
                start: Start::Program(&["agent", "echo"]),
                settings: "        config { hold-for-ms 3600000 }\n        verdict-cache max-ttl=\"1h\"\n",
            }],
        },
        request: PLAIN_GET,
        by_default: false,
        optional: false,
        comparisons: &[Comparison {
            at_most: Some(1.5),
            ..OVER_PLAIN
        }],
    },
    Scenario {
        name: "cached-allow",
        about: "allow, whose verdict is known from an earlier request",
        subject: Subject::Ours {
            filters: r#"agent "allow""#,
            agents: &[Agent {
                id: "allow",
                start: Start::Role(&["agent", "--hold-for-ms", "3600000"]),
                settings: "        verdict-cache max-ttl=\"1h\"\n",
            }],
        },
        request: PLAIN_GET,
        by_default: false,
        optional: false,
        comparisons: &[Comparison {
            at_most: Some(1.5),
            ..OVER_PLAIN
        }],
    },
    Scenario {
        name: "parallel",
        about: "plain and three agents at once for request headers",
        subject: Subject::Ours {
            filters: r#"parallel { agent "echo"; agent "second"; agent "third" }"#,
            agents: &[
                Agent {
                    id: "echo",
                    start: Start::Program(&["agent", "echo"]),
                    settings: "",
                },
                Agent {
                    id: "second",
                    start: Start::Program(&["agent", "denylist"]),
                    settings: "",
                },
                Agent {
                    id: "third",
                    start: Start::Program(&["agent", "denylist"]),
                    settings: "",
                },
            ],
        },
        request: PLAIN_GET,
        by_default: true,
        optional: false,
        comparisons: &[Comparison {
            at_most: Some(16.0),
            ..OVER_PLAIN
        }],
    },
    Scenario {
        name: "legacy",
        about: "the same agent, which knows no extensions: JSON as published",
        subject: Subject::Ours {
            filters: r#"agent "echo""#,
            agents: &[Agent {
                id: "echo",
                start: Start::Program(&["agent", "echo", "--legacy"]),
                settings: "",
            }],
        },
        request: PLAIN_GET,
        by_default: true,
        optional: true,
        comparisons: &[Comparison {
            at_most: Some(14.0),
            ..OVER_PLAIN
        }],
    },
    Scenario {
        name: "absent",
        about: "plain and one agent for request headers that is absent and open",
        subject: ABSENT,
        request: PLAIN_GET,
        by_default: false,
        optional: false,
        comparisons: &[OVER_PLAIN],
    },
    Scenario {
        name: "absent-h2c",
        about: "absent for a client that speaks HTTP/2",
        subject: ABSENT,
        request: PLAIN_GET_H2C,
        by_default: false,
        optional: false,
        comparisons: &[OVER_PLAIN_H2C],
    },
    Scenario {
        name: "exchange",
        about: "the same for response headers: the way of inspected exchanges",
        subject: ABSENT_IN_EXCHANGE,
        request: PLAIN_GET,
        by_default: false,
        optional: false,
        comparisons: &[
            OVER_PLAIN,
            Comparison {
                base: "absent",
                kind: Kind::DifferenceUs,
                at_most: Some(12.0),
            },
        ],
    },
    Scenario {
        name: "exchange-h2c",
        about: "exchange for a client that speaks HTTP/2",
        subject: ABSENT_IN_EXCHANGE,
        request: PLAIN_GET_H2C,
        by_default: false,
        optional: false,
        comparisons: &[
            OVER_PLAIN_H2C,
            Comparison {
                base: "absent-h2c",
                kind: Kind::DifferenceUs,
                at_most: Some(18.0),
            },
        ],
    },
    Scenario {
        name: "upload",
        about: "no agent, and a body of 100 KB in each request",
        subject: Subject::Ours {
            filters: "",
            agents: &[],
        },
        request: UPLOAD,
        by_default: false,
        optional: false,
        comparisons: &[],
    },
    Scenario {
        name: "buffer",
        about: "upload and one agent that sees the body before the upstream does",
        subject: Subject::Ours {
            filters: r#"agent "echo""#,
            agents: &[Agent {
                id: "echo",
                start: Start::Program(&["agent", "echo"]),
                settings: "        inspect { request-body \"buffer\" }\n",
            }],
        },
        request: UPLOAD,
        by_default: false,
        optional: false,
        comparisons: &[OVER_UPLOAD],
    },
    Scenario {
        name: "stream",
        about: "upload and one agent that sees the body as it passes",
        subject: Subject::Ours {
            filters: r#"agent "echo""#,
            agents: &[Agent {
                id: "echo",
                start: Start::Program(&["agent", "echo"]),
                settings: "        inspect { request-body \"stream\" }\n",
            }],
        },
        request: UPLOAD,
        by_default: false,
        optional: false,
        comparisons: &[OVER_UPLOAD],
    },
    with_routes("routes-10", "plain with 10 routes", 10, &[OVER_PLAIN]),
    with_routes(
        "routes-10000",
        "plain with 10000 routes",
        10_000,
        &[
            OVER_PLAIN,
            Comparison {
                base: "routes-10",
                kind: Kind::DifferenceUs,
                at_most: Some(2.0),
            },
        ],
    ),
    ENVOY,
    with_envoy(
        "envoy-ext-authz",
        "Envoy and an agent that authorizes",
        envoy::Filter::ExtAuthz,
    ),
    with_envoy(
        "envoy-ext-proc",
        "Envoy and an agent that processes the heads of requests",
        envoy::Filter::ExtProc,
    ),
    Scenario {
        name: "ext-authz",
        about: "plain and the agent of envoy-ext-authz",
        subject: Subject::Ours {
            filters: r#"agent "authorizer""#,
            agents: &[Agent {
                id: "authorizer",
                start: Start::AsEnvoyKnows("ext-authz"),
                settings: "",
            }],
        },
        request: PLAIN_GET,
        by_default: false,
        optional: false,
        comparisons: &[
            OVER_PLAIN,
            Comparison {
                kind: Kind::MoreThanUs {
                    other: "envoy-ext-authz",
                    other_base: "envoy",
                },
                at_most: Some(0.0),
                ..OVER_PLAIN
            },
        ],
    },
    Scenario {
        name: "ext-proc",
        about: "plain and the agent of envoy-ext-proc",
        subject: Subject::Ours {
            filters: r#"agent "processor""#,
            agents: &[Agent {
                id: "processor",
                start: Start::AsEnvoyKnows("ext-proc"),
                settings: "",
            }],
        },
        request: PLAIN_GET,
        by_default: false,
        optional: false,
        comparisons: &[
            OVER_PLAIN,
            Comparison {
                kind: Kind::MoreThanUs {
                    other: "envoy-ext-proc",
                    other_base: "envoy",
                },
                at_most: Some(0.0),
                ..OVER_PLAIN
            },
        ],
    },
];

const ENVOY: Scenario = Scenario {
    name: "envoy",
    about: "Envoy without agents, with its access log as JSON",
    subject: Subject::Envoy(envoy::Filter::None),
    request: PLAIN_GET,
    by_default: false,
    optional: false,
    comparisons: &[],
};

const fn with_routes(
    name: &'static str,
    about: &'static str,
    count: usize,
    comparisons: &'static [Comparison],
) -> Scenario {
    Scenario {
        name,
        about,
        subject: Subject::Routes(count),
        request: Request {
            path: ROUTED_PATH,
            ..PLAIN_GET
        },
        by_default: false,
        optional: false,
        comparisons,
    }
}

const fn with_envoy(name: &'static str, about: &'static str, filter: envoy::Filter) -> Scenario {
    Scenario {
        name,
        about,
        subject: Subject::Envoy(filter),
        comparisons: &[Comparison {
            base: "envoy",
            ..OVER_PLAIN
        }],
        ..ENVOY
    }
}
