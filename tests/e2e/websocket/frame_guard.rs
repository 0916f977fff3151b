//! The builtin agent frame-guard as users have it.

use super::peers::{Server, Socket, connect, described};
use crate::harness::Proxy;
use tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

fn guarded(server: &Server, config: &str) -> Proxy {
    let agent = format!(
        "builtin \"frame-guard\"; timeout \"5s\"; inspect {{ websocket-frames; request-complete }}; config {{ {config} }}"
    );
    let proxy = Proxy::builder(
        r#"routes { route "live" { filters { agent "guard" }; upstream "origin"; websocket } }"#,
    )
    .upstream("origin", &server.target())
    .agent_block("guard", &agent)
    .start();
    proxy.wait_ready();
    proxy
}

fn fragments(client: &mut Socket, texts: &[&str]) {
    for (index, text) in texts.iter().enumerate() {
        let code = match index {
            0 => Data::Text,
            _ => Data::Continue,
        };
        let is_last = index + 1 == texts.len();
        let frame = Frame::message(text.as_bytes().to_vec(), OpCode::Data(code), is_last);
        // The socket may be closed before the last of them.
        let _ = client.send(Message::Frame(frame));
    }
}

#[test]
fn what_is_denied_closes_the_socket() {
    let server = Server::echoing();
    let config = r##"
        from-client { deny "secret"; deny "two words" "evil"; ignore-case; json max-depth=3; max-message-bytes 100 }
        from-server { deny-regex #"\bleak\b"# }
    "##;
    let proxy = guarded(&server, config);
    let long = "x".repeat(101);
    for (number, (texts, code, reason)) in [
        (&["a Secret"][..], 1008, "deny:secret"),
        (&["a tw", "o wor", "ds"], 1008, "deny:two words"),
        (&["EV", "", "IL", ""], 1008, "deny:evil"),
        (&["[[[", "[]]]]"], 1008, "json-depth"),
        (&[&long], 1009, "max-message-bytes"),
        // The echo of it.
        (&["a leak"], 1008, r"deny:\bleak\b"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/{number}");
        let mut client = connect(proxy.address_of("http"), &path);
        for fine in ["fine", "[[[]]]", "leaks"] {
            client.send(Message::text(fine)).unwrap();
            assert_eq!(described(&client.read()), format!("text {fine}"));
        }
        fragments(&mut client, texts);
        let text = match code {
            1009 => "message too big",
            _ => "message refused",
        };
        assert_eq!(described(&client.read()), format!("close {code} {text}"));
        let saw = server.saw(&path);
        let messages: Vec<_> = saw
            .iter()
            .filter(|event| event.starts_with("text "))
            .collect();
        let passed = if reason.contains("leak") { 4 } else { 3 };
        assert_eq!(messages.len(), passed, "{saw:?}");
        let line = proxy.access_line(|line| line["path"] == *path);
        assert_eq!(line["reason"], format!("frame:{reason}"));
        assert_eq!(line["blocked_by"], "guard");
    }
}
