//! One check for each thing that an agent can be asked, alone and in the order of a request.

use super::{
    super::sample::Sample,
    line::{Checked, Done, Line, Speaks, Talk, Tester},
};
use bytes::Bytes;
use portcullis_agent_protocol::EventKind;

/// The size of a body that is no burden to anybody.
const BODY_BYTES: usize = 1000;

/// What is said when the agent ends the request before it comes to what is checked.
const REFUSED: &str = "the agent does not let the request come so far; give one that passes (--method, --path, --header)";
/// What is said of phases that the agent does not want.
pub(super) const NOT_ANNOUNCED: &str = "the agent has not announced it";

pub(super) async fn handshake(tester: &Tester) -> Checked {
    let line = tester.open(Speaks::Extended).await?;
    let mut capabilities = line.connection.capabilities().clone();
    let extensions = line.extensions();
    let agreed = match extensions.names().as_slice() {
        [] if tester.target.is_v1() => {
            // It says nothing of itself, and this is what we call it.
            capabilities.agent_id.clear();
            "version 1 has none; it takes connections".to_owned()
        }
        [] => "without extensions".to_owned(),
        names => format!("with {}", names.join(", ")),
    };
    if tester.agent.set((capabilities, extensions)).is_err() {
        return Err("it was done before".to_owned());
    }
    line.settle().await;
    match tester.first_kind() {
        Some(_) => Ok(Done::Passed(agreed)),
        None => Err("the agent announces no event that a proxy sends".to_owned()),
    }
}

pub(super) async fn handshake_legacy(tester: &Tester) -> Checked {
    let line = tester.open(Speaks::Legacy).await?;
    line.settle().await;
    let same = tester.agent.get().is_some_and(|(capabilities, _)| {
        capabilities.supported_events == line.connection.capabilities().supported_events
    });
    match same {
        true => Ok(Done::passed()),
        false => Ok(Done::Passed("it announces other events then".to_owned())),
    }
}

/// Every connection has been given the configuration already; here it is given again.
pub(super) async fn configuration(tester: &Tester) -> Checked {
    let Some(config) = &tester.config else {
        return Ok(Done::Skipped("there is none; give --config".to_owned()));
    };
    let line = tester.open(Speaks::Extended).await?;
    let takes_more = line.connection.capabilities().features.config_push;
    let Some(connection) = line.connection.as_v2().filter(|_| takes_more) else {
        line.settle().await;
        let remark = "at the start; the agent takes none later";
        return Ok(Done::Passed(remark.to_owned()));
    };
    let again = connection.configure(config, Some("check"));
    let answered = tokio::time::timeout(tester.timeout, again).await;
    line.settle().await;
    match answered {
        Err(_) => Err(format!("no answer within {:?}", tester.timeout)),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(())) => Ok(Done::Passed("at the start and later".to_owned())),
    }
}

fn skipped(why: &str) -> Checked {
    Ok(Done::Skipped(why.to_owned()))
}

/// Ends a request that was asked about as far as it goes.
async fn over(talk: Talk<'_, '_>) -> Checked {
    let is_refused = talk.is_refused;
    talk.complete().await?;
    match is_refused {
        true => Ok(Done::Passed("it does not let it pass".to_owned())),
        false => Ok(Done::passed()),
    }
}

pub(super) async fn request_headers(tester: &Tester) -> Checked {
    if !tester.supports(EventKind::RequestHeaders) {
        return skipped(NOT_ANNOUNCED);
    }
    let ask = async |line: &Line<'_>| {
        let mut remark = Done::passed();
        for number in 0..3 {
            let mut talk = line.talk(Sample::new(&tester.sample, number, None));
            talk.head().await?;
            remark = over(talk).await?;
        }
        Ok(remark)
    };
    tester.in_both(ask).await
}

/// So many pieces of about the same size.
pub(super) fn cut(body: &Bytes, pieces: usize) -> Vec<Bytes> {
    let size = body.len().div_ceil(pieces).max(1);
    (0..pieces)
        .map(|piece| {
            let from = (piece * size).min(body.len());
            body.slice(from..(from + size).min(body.len()))
        })
        .collect()
}

async fn request_body_in(tester: &Tester, pieces: usize) -> Checked {
    let kind = EventKind::RequestBodyChunk;
    if !tester.supports(kind) {
        return skipped(NOT_ANNOUNCED);
    }
    let ask = async |line: &Line<'_>| {
        let mut talk = line.talk(Sample::new(&tester.sample, 0, Some(BODY_BYTES)));
        talk.head().await?;
        if talk.is_refused {
            talk.complete().await?;
            return skipped(REFUSED);
        }
        let mut body = cut(&talk.sample.text(BODY_BYTES), pieces);
        if pieces > 1 {
            // What is not known in advance to be the last piece is followed by an empty one.
            body.push(Bytes::new());
        }
        talk.body(kind, &body).await?;
        over(talk).await
    };
    tester.in_both(ask).await
}

pub(super) async fn request_body(tester: &Tester) -> Checked {
    request_body_in(tester, 1).await
}

pub(super) async fn request_body_pieces(tester: &Tester) -> Checked {
    request_body_in(tester, 4).await
}

async fn response_in(tester: &Tester, kind: EventKind, pieces: usize) -> Checked {
    if !tester.supports(kind) {
        return skipped(NOT_ANNOUNCED);
    }
    let ask = async |line: &Line<'_>| {
        let mut talk = line.talk(Sample::new(&tester.sample, 0, None));
        talk.head().await?;
        if talk.is_refused {
            talk.complete().await?;
            return skipped(REFUSED);
        }
        talk.response_head().await?;
        if kind == EventKind::ResponseBodyChunk {
            if talk.is_refused {
                talk.complete().await?;
                return skipped(REFUSED);
            }
            let body = cut(&talk.sample.text(BODY_BYTES), pieces);
            talk.body(kind, &body).await?;
        }
        over(talk).await
    };
    tester.in_both(ask).await
}

pub(super) async fn response_headers(tester: &Tester) -> Checked {
    response_in(tester, EventKind::ResponseHeaders, 1).await
}

pub(super) async fn response_body(tester: &Tester) -> Checked {
    response_in(tester, EventKind::ResponseBodyChunk, 1).await
}

pub(super) async fn response_body_pieces(tester: &Tester) -> Checked {
    response_in(tester, EventKind::ResponseBodyChunk, 4).await
}

pub(super) async fn websocket_frames(tester: &Tester) -> Checked {
    if !tester.supports(EventKind::WebSocketFrame) {
        return skipped(NOT_ANNOUNCED);
    }
    let ask = async |line: &Line<'_>| {
        let mut talk = line.talk(Sample::new(&tester.sample, 0, None));
        talk.head().await?;
        if talk.is_refused {
            talk.complete().await?;
            return skipped(REFUSED);
        }
        for index in 0..2 {
            for from_client in [true, false] {
                let text = talk.sample.text(64);
                talk.frame(text, (from_client, index)).await?;
            }
        }
        over(talk).await
    };
    tester.in_both(ask).await
}

pub(super) async fn request_complete(tester: &Tester) -> Checked {
    if !tester.supports(EventKind::RequestComplete) {
        return skipped(NOT_ANNOUNCED);
    }
    let ask = async |line: &Line<'_>| {
        let id = tester.id();
        line.tell(&Sample::complete(&id)).await?;
        Ok(Done::passed())
    };
    tester.in_both(ask).await
}

pub(super) async fn ping(tester: &Tester) -> Checked {
    let ask = async |line: &Line<'_>| {
        for _ in 0..2 {
            match tokio::time::timeout(tester.timeout, line.connection.ping()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err(format!("no pong within {:?}", tester.timeout)),
            }
        }
        Ok(Done::passed())
    };
    tester.in_both(ask).await
}

/// Whether the agent ever keeps the proxy waiting for more when there is nothing more.
pub(super) async fn provisional(tester: &Tester) -> Checked {
    let ledger = tester.ledger.borrow();
    match ledger.provisional.said() {
        Some(said) => Err(said),
        None if ledger.last_pieces == 0 => skipped("it was shown no body"),
        None => Ok(Done::passed()),
    }
}

pub(super) async fn header_rules(tester: &Tester) -> Checked {
    let ledger = tester.ledger.borrow();
    match ledger.forbidden.said() {
        Some(said) => Err(said),
        None => Ok(Done::Passed(format!("{} answers", ledger.decisions))),
    }
}

pub(super) async fn stray_answers(tester: &Tester) -> Checked {
    let ledger = tester.ledger.borrow();
    match ledger.stray.said() {
        Some(said) => Err(said),
        None if ledger.late > 0 => {
            let remark = format!("{} answers to cancelled events, which is fine", ledger.late);
            Ok(Done::Passed(remark))
        }
        None => Ok(Done::passed()),
    }
}
