use super::*;
use http::{HeaderMap, HeaderValue};
use portcullis_config::{HeaderCondition, HeaderConditionKind, QueryCondition};
use proptest::prelude::*;

fn line<'a>(host: &'a str, path: &'a str, headers: &'a HeaderMap) -> RequestLine<'a> {
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    RequestLine {
        host,
        path,
        query,
        method: "GET",
        headers,
    }
}

fn host(pattern: &str) -> HostPattern {
    match pattern.strip_prefix('*') {
        Some(suffix) => HostPattern::Wildcard(suffix.into()),
        None if pattern.starts_with('^') => HostPattern::Regex(pattern.into()),
        None => HostPattern::Exact(pattern.into()),
    }
}

/// `=` exact, `^` regex, else prefix.
fn path(pattern: &str) -> PathPattern {
    match pattern.strip_prefix('=') {
        Some(exact) => PathPattern::Exact(exact.into()),
        None if pattern.starts_with('^') => PathPattern::Regex(pattern.into()),
        None => PathPattern::Prefix(pattern.into()),
    }
}

fn matching(host_pattern: &str, path_pattern: &str) -> Match {
    Match {
        host: (!host_pattern.is_empty()).then(|| host(host_pattern)),
        path: (!path_pattern.is_empty()).then(|| path(path_pattern)),
        ..Match::default()
    }
}

fn router(routes: &[(&'static str, i64, Match)]) -> Router<&'static str> {
    let lists: Vec<Arc<[Match]>> = routes
        .iter()
        .map(|(_, _, matching)| [matching.clone()].into())
        .collect();
    Router::new(
        routes
            .iter()
            .zip(&lists)
            .map(|((name, priority, _), list)| (*name, *priority, list)),
    )
    .unwrap()
}

/// The route alone.
fn route<'a, T>(router: &'a Router<T>, line: &RequestLine<'_>) -> Option<&'a T> {
    router.find(line).map(|found| found.route)
}

fn find(router: &Router<&'static str>, host: &str, path: &str) -> Option<&'static str> {
    route(router, &line(host, path, &HeaderMap::new())).copied()
}

#[test]
fn hosts_take_precedence_over_paths() {
    let router = router(&[
        ("none-exact", 0, matching("", "=/a")),
        ("regex", 0, matching("^.*example.*$", "=/a")),
        ("short", 0, matching("*.com", "=/a")),
        ("long", 0, matching("*.example.com", "=/a")),
        ("exact", 0, matching("www.example.com", "/")),
    ]);
    for (host, path, route) in [
        ("www.example.com", "/a", Some("exact")),
        ("api.example.com", "/a", Some("long")),
        ("a.b.example.com", "/a", Some("long")),
        ("other.com", "/a", Some("short")),
        ("example.org", "/a", Some("regex")),
        ("else.org", "/a", Some("none-exact")),
        ("else.org", "/b", None),
        ("", "/a", Some("none-exact")),
    ] {
        assert_eq!(find(&router, host, path), route, "{host}{path}");
    }
}

#[test]
fn paths_exact_then_longest_prefix_then_regex() {
    let router = router(&[
        ("all", 0, matching("", "")),
        ("regex", 0, matching("", "^/v[0-9]+/")),
        ("root", 0, matching("", "/")),
        ("v1", 0, matching("", "/v1/")),
        ("v1users", 0, matching("", "/v1/users")),
        ("exact", 0, matching("", "=/v1/users/me")),
    ]);
    for (path, route) in [
        ("/v1/users/me", "exact"),
        ("/v1/users/you", "v1users"),
        ("/v1/users", "v1users"),
        ("/v1/usersx", "v1"),
        ("/v1", "v1"),
        ("/v1/", "v1"),
        ("/v1x", "root"),
        ("/v2/x", "root"),
        ("/", "root"),
    ] {
        assert_eq!(find(&router, "h", path), Some(route), "{path}");
    }
}

#[test]
fn a_regex_comes_after_prefixes_and_before_nothing() {
    let router = router(&[
        ("all", 0, matching("", "")),
        ("regex", 0, matching("", "^/v[0-9]+/")),
    ]);
    assert_eq!(find(&router, "h", "/v2/x"), Some("regex"));
    assert_eq!(find(&router, "h", "/x"), Some("all"));
}

#[test]
fn priority_beats_everything_and_the_file_decides_between_equals() {
    let router = router(&[
        ("exact", 0, matching("h", "=/a")),
        ("first", 5, matching("", "/")),
        ("second", 5, matching("", "/")),
    ]);
    assert_eq!(find(&router, "h", "/a"), Some("first"));
}

#[test]
fn more_conditions_come_first_and_fall_through() {
    let with_header = Match {
        headers: vec![HeaderCondition {
            name: "x-tenant".into(),
            kind: HeaderConditionKind::Equals("blue".into()),
        }],
        query: vec![QueryCondition {
            name: "beta".into(),
            value: None,
        }],
        ..matching("", "/v1")
    };
    let router = router(&[("plain", 0, matching("", "/v1")), ("blue", 0, with_header)]);
    let mut headers = HeaderMap::new();
    headers.append("x-tenant", HeaderValue::from_static("red"));
    headers.append("x-tenant", HeaderValue::from_static("blue"));
    assert_eq!(
        route(&router, &line("h", "/v1?beta", &headers)),
        Some(&"blue")
    );
    assert_eq!(
        route(&router, &line("h", "/v1?b%65ta=1", &headers)),
        Some(&"blue")
    );
    assert_eq!(route(&router, &line("h", "/v1", &headers)), Some(&"plain"));
    assert_eq!(find(&router, "h", "/v1?beta"), Some("plain"));
}

#[test]
fn not_takes_back_and_absent_means_absent() {
    let rule = Match {
        headers: vec![HeaderCondition {
            name: "x-old".into(),
            kind: HeaderConditionKind::Absent,
        }],
        not: vec![
            Match {
                methods: vec!["DELETE".into()],
                ..Match::default()
            },
            matching("", "/v1/private"),
        ],
        ..matching("", "/v1")
    };
    let router = router(&[("rule", 0, rule)]);
    assert_eq!(find(&router, "h", "/v1/x"), Some("rule"));
    assert_eq!(find(&router, "h", "/v1/private/x"), None);
    assert_eq!(find(&router, "h", "/v1/privately"), Some("rule"));
    let mut headers = HeaderMap::new();
    let request = RequestLine {
        method: "DELETE",
        ..line("h", "/v1", &headers)
    };
    assert_eq!(route(&router, &request), None);
    headers.insert("x-old", HeaderValue::from_static("1"));
    assert_eq!(route(&router, &line("h", "/v1", &headers)), None);
}

#[test]
fn any_of_several_blocks_may_match() {
    let blocks = [matching("a.example", "/"), matching("b.example", "=/x")];
    let router = Router::new([("route", 0, &Arc::from(blocks))]).unwrap();
    for (host, path, found) in [
        ("a.example", "/y", true),
        ("b.example", "/x", true),
        ("b.example", "/y", false),
    ] {
        assert_eq!(
            route(&router, &line(host, path, &HeaderMap::new())).is_some(),
            found,
            "{host}{path}"
        );
    }
    assert_eq!(router.routes(), ["route"]);
}

#[test]
fn no_match_block_takes_everything() {
    let router = Router::new([("route", 0, &Arc::from([]))]).unwrap();
    assert!(route(&router, &line("h", "/x", &HeaderMap::new())).is_some());
}

proptest! {
    /// The index finds what trying every entry in order of precedence finds.
    #[test]
    fn the_index_agrees_with_trying_all(
        rules in proptest::collection::vec((
            -1i64..2,
            prop_oneof![Just(""), Just("a.b.c"), Just("*.c"), Just("*.b.c"), Just("^a")],
            prop_oneof![Just(""), Just("/"), Just("/x"), Just("/x/y"), Just("=/x"), Just("=/x/y"), Just("^/x")],
            prop_oneof![Just("GET"), Just("POST"), Just("")],
        ), 0..12),
        host in prop_oneof![Just("a.b.c"), Just("b.c"), Just("c"), Just("z.c"), Just("")],
        path in prop_oneof![Just("/"), Just("/x"), Just("/x/"), Just("/x/y"), Just("/x/y/z"), Just("/xx")],
    ) {
        let matches: Vec<(i64, Match)> = rules
            .iter()
            .map(|(priority, host, path, method)| {
                let methods = if method.is_empty() { vec![] } else { vec![(*method).to_owned()] };
                (*priority, Match { methods, ..matching(host, path) })
            })
            .collect();
        let headers = HeaderMap::new();
        let request = line(host, path, &headers);
        let mut expected: Vec<(Precedence, usize)> = Vec::new();
        for (at, (priority, rule)) in matches.iter().enumerate() {
            let whole = Match { not: vec![rule.clone()], ..Match::default() };
            // `not` tests a block piece by piece, without the index.
            let not = condition::compile_not(&whole).unwrap();
            if !condition::hold(&whole, &not, &request) {
                expected.push((precedence(*priority, rule), at));
            }
        }
        let best = expected.into_iter().min().map(|(_, at)| at);
        let lists: Vec<Arc<[Match]>> = matches.iter().map(|(_, rule)| [rule.clone()].into()).collect();
        let router = Router::new(
            matches.iter().zip(&lists).enumerate().map(|(at, ((priority, _), list))| (at, *priority, list)),
        ).unwrap();
        prop_assert_eq!(route(&router, &request).copied(), best);
    }
}
