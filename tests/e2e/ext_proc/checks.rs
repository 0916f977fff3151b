//! What `portcullis check` says about agents of this dialect.

use crate::harness::{Origin, Proxy};

fn check(agent: &str) -> (Option<i32>, String) {
    let origin = Origin::start();
    let (code, _, said) =
        Proxy::builder(r#"routes { route "all" { filters { agent "p" }; upstream "origin" } }"#)
            .origin(&origin)
            .agent_block(
                "p",
                &format!("grpc \"http://127.0.0.1:1\"; dialect \"ext-proc\"; {agent}"),
            )
            .check();
    (code, said)
}

#[test]
fn full_duplex_streaming_is_a_mistake() {
    for written in [
        "full-duplex",
        "FULL_DUPLEX_STREAMED",
        "full-duplex-streamed",
    ] {
        let (code, said) = check(&format!("inspect {{ request-body \"{written}\" }}"));
        assert_ne!(code, Some(0));
        assert!(
            said.contains("full-duplex streaming is not spoken"),
            "{said}"
        );
    }
}

#[test]
fn an_agent_that_may_close_and_must_not_fail_is_worth_a_warning() {
    let closes = r#"ext-proc { on-close "allow" }"#;
    let (code, said) = check(closes);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("passed-by"), "{said}");
    let (_, said) = check(&format!("failure-mode \"open\"; {closes}"));
    assert!(!said.contains("passed-by"), "{said}");
}
