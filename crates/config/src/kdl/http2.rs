//! `http2 { … }` of a listener.

use super::cursor::Node;
use crate::{
    diagnostic::{Diagnostic, code},
    model::Http2,
    source::Spanned,
};

pub(super) fn http2(node: &mut Node<'_>) -> Spanned<Http2> {
    let default = Http2::default();
    let settings = node.block(|block| {
        let streams = block.one("max-concurrent-streams", |node| {
            node.argument("a number of streams")?
                .integer(1..=Http2::MAX_STREAMS)
        });
        let mut window = |name| {
            block.one(name, |node: &mut Node<'_>| {
                node.argument("a size, such as \"256KiB\"")?
                    .size(Http2::MIN_WINDOW..=Http2::MAX_WINDOW)
            })
        };
        let stream = window("initial-stream-window");
        let connection = window("initial-connection-window");
        Http2 {
            max_concurrent_streams: streams.unwrap_or(default.max_concurrent_streams),
            // A default gives way to what is written.
            initial_stream_window: stream.unwrap_or_else(|| {
                default
                    .initial_stream_window
                    .min(connection.unwrap_or(Http2::MAX_WINDOW))
            }),
            initial_connection_window: connection.unwrap_or_else(|| {
                default
                    .initial_connection_window
                    .max(stream.unwrap_or(Http2::MIN_WINDOW))
            }),
        }
    });
    if settings.initial_stream_window > settings.initial_connection_window {
        let (stream, connection) = (
            settings.initial_stream_window,
            settings.initial_connection_window,
        );
        node.report(
            Diagnostic::error(
                code::CONTRADICTION,
                node.span(),
                format!("a stream may have {stream} on their way, and its connection {connection}"),
            )
            .help("make `initial-connection-window` at least as large as `initial-stream-window`"),
        );
    }
    Spanned {
        value: settings,
        span: node.span(),
    }
}
