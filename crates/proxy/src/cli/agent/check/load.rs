//! Checks of what happens when much is asked at once, or nobody waits any longer.

use super::{
    super::sample::Sample,
    line::{Checked, Done, Line, Speaks, Tester},
    questions::{NOT_ANNOUNCED, cut},
    raw::RawLine,
};
use bytes::Bytes;
use futures::future::join_all;
use portcullis_agent_protocol::{
    CallError, CallGuard, CancelReason, EventKind, codec::frame::MessageType,
};
use std::{collections::HashSet, time::Duration};
use tokio::time::timeout;

/// More requests are not under way at once.
const MOST_AT_ONCE: u32 = 32;
/// The events of [`slow_reader`]: their answers are more than a socket holds.
const MANY: usize = 2048;
/// How long nothing is read, so that the answers pile up.
const ASLEEP: Duration = Duration::from_millis(250);
/// The largest body and the largest piece that an agent is shown here. Two of these pieces fit into what may be queued for a
/// connection, also when they are written as text.
const LARGEST_BODY: u64 = 8 << 20;
const LARGEST_PIECE: u64 = 4 << 20;

/// Many requests at once on one connection. Each is asked alone first, twice, so that it is known which answers belong to
/// it; what is another answer each time cannot be told from that of another request.
pub(super) async fn concurrency(tester: &Tester) -> Checked {
    tester
        .in_both(async |line| interleaved(tester, line).await)
        .await
}

/// All answers to the events of one request.
type Answers = Vec<String>;

async fn interleaved(tester: &Tester, line: &Line<'_>) -> Checked {
    let count = tester.at_once(MOST_AT_ONCE);
    let samples: Vec<Sample> = (1..=count as u16)
        .map(|number| {
            let sample = Sample::new(&tester.sample, number, Some(64));
            // The paths take turns with the usual one.
            let turn = usize::from(number) % (tester.also.len() + 1);
            match tester.also.get(turn) {
                Some(path) => sample.with_path(path),
                None => sample,
            }
        })
        .collect();
    let mut alone: [Vec<Answers>; 2] = Default::default();
    for round in &mut alone {
        for sample in &samples {
            round.push(whole(line, sample).await?);
        }
    }
    let at_once = join_all(samples.iter().map(|sample| whole(line, sample))).await;
    let at_once = at_once.into_iter().collect::<Result<Vec<_>, _>>();
    let at_once = at_once.map_err(|error| format!("{count} requests at once: {error}"))?;
    let [first, second] = &alone;
    let stable = |at: usize| first[at] == second[at];
    for (at, answers) in at_once.iter().enumerate() {
        if !stable(at) || *answers == first[at] {
            continue;
        }
        let other = first.iter().position(|other| other == answers);
        let line = samples[at].line();
        return Err(match other {
            Some(other) => format!(
                "{line} was answered as {} is when it is asked alone",
                samples[other].line()
            ),
            None => format!("{line} was answered otherwise than when it is asked alone"),
        });
    }
    let is_telling = (0..count).any(|at| stable(at) && first[at] != first[0]);
    Ok(Done::Passed(match is_telling {
        true => format!("{count} at once"),
        false => format!(
            "{count} at once, all answered alike: answers that change places are not seen (--also PATH, for one that is judged otherwise)"
        ),
    }))
}

/// Asks everything about a request that the agent wants to be asked.
async fn whole(line: &Line<'_>, sample: &Sample) -> Result<Answers, String> {
    let mut talk = line.talk(sample.clone());
    talk.head().await?;
    let body = sample.text(64);
    talk.body(EventKind::RequestBodyChunk, &cut(&body, 2))
        .await?;
    talk.response_head().await?;
    talk.body(EventKind::ResponseBodyChunk, &cut(&body, 2))
        .await?;
    talk.complete().await
}

/// A proxy that does not read for a while: the agent has to go on with others, and every answer has to come in the end.
pub(super) async fn slow_reader(tester: &Tester) -> Checked {
    let Some(kind) = tester.first_kind() else {
        return Ok(Done::Skipped(NOT_ANNOUNCED.to_owned()));
    };
    let bystander = tester.open(Speaks::Extended).await?;
    let slow = RawLine::open(tester).await?;
    let sample = Sample::new(&tester.sample, 0, None);
    let text = sample.text(64);
    let mut waiting = HashSet::new();
    let mut questions = Vec::new();
    for _ in 0..MANY {
        let id = tester.id();
        questions.extend(RawLine::event(&sample.single(kind, &id, &text)));
        waiting.insert(id);
    }
    let (mut reader, mut writer) = slow.split();
    let write = async {
        // The agent may stop reading until it is read from.
        let written = writer.write(&questions).await;
        written.map_err(|error| format!("it does not take {MANY} events: {error}"))
    };
    let read = async {
        tokio::time::sleep(ASLEEP).await;
        let others = bystander.is_answered().await;
        others.map_err(|error| format!("on another connection meanwhile: {error}"))?;
        reader.is_slow = true;
        while !waiting.is_empty() {
            let left = waiting.len();
            let missing = || format!("{left} of {MANY} answers have not come");
            let message = timeout(tester.timeout, reader.next()).await;
            let message = message.map_err(|_| missing())?;
            let message = message.map_err(|error| format!("{}: {error}", missing()))?;
            let Some((MessageType::AgentResponse, payload)) = message else {
                match message {
                    Some(_) => continue,
                    None => return Err(format!("it closed, and {}", missing())),
                }
            };
            let id = RawLine::id_of(&payload).ok_or("an answer that does not say to what")?;
            if !waiting.remove(&id) {
                let note = format!("a second answer to {id}, or one to nothing");
                tester.ledger.borrow_mut().stray.push(note.clone());
                return Err(note);
            }
        }
        Ok::<(), String>(())
    };
    let (written, read) = tokio::join!(write, read);
    read?;
    written.map(|()| Done::Passed(format!("{MANY} answers")))
}

/// Questions that are taken back while they are under way.
pub(super) async fn cancelled(tester: &Tester) -> Checked {
    let cancel = async |line: &Line<'_>| {
        let Some(kind) = tester.first_kind() else {
            return Ok(Done::Skipped(NOT_ANNOUNCED.to_owned()));
        };
        let connection = &line.connection;
        let is_told = connection.capabilities().features.cancellation;
        let sample = Sample::new(&tester.sample, 0, None);
        let text = sample.text(64);
        let mut kept = Vec::new();
        let mut taken_back = Vec::new();
        for number in 0..tester.at_once(MOST_AT_ONCE) {
            let id = tester.id();
            let event = sample.single(kind, &id, &text);
            let pending = connection.send(&event, CallGuard::none());
            let pending = pending.map_err(|error| error.to_string())?;
            match number % 2 {
                0 => taken_back.push(pending),
                _ => kept.push(pending),
            }
        }
        // They are on their way, or at the agent already.
        tokio::task::yield_now().await;
        for pending in taken_back {
            pending.cancel(CancelReason::Timeout);
        }
        let answered = timeout(tester.timeout, join_all(kept)).await;
        let answered = answered.map_err(|_| {
            format!(
                "events beside those have no answer within {:?}",
                tester.timeout
            )
        })?;
        for answer in answered {
            match answer {
                // It works on as many events as it says.
                Ok(_) | Err(CallError::Overloaded { .. }) => {}
                Err(error) => return Err(format!("an event beside those: {error}")),
            }
        }
        // Of a legacy agent a late answer could be taken for another, so the connection is used no more.
        let afterwards = match connection.is_open() {
            true => line.is_answered().await,
            false => tester.open(Speaks::Legacy).await?.is_answered().await,
        };
        afterwards.map_err(|error| format!("afterwards: {error}"))?;
        Ok(match is_told {
            true => Done::passed(),
            false => Done::Passed("the agent has not announced that it is to be told".to_owned()),
        })
    };
    tester.in_both(cancel).await
}

/// A proxy that is gone in the middle of its questions.
pub(super) async fn disconnected(tester: &Tester) -> Checked {
    let Some(kind) = tester.first_kind() else {
        return Ok(Done::Skipped(NOT_ANNOUNCED.to_owned()));
    };
    let bystander = tester.open(Speaks::Extended).await?;
    let sample = Sample::new(&tester.sample, 0, None);
    let text = sample.text(64);
    for cut_off in [false, true] {
        let mut line = RawLine::open(tester).await?;
        let mut questions = Vec::new();
        for _ in 0..MOST_AT_ONCE {
            let id = tester.id();
            questions.extend(RawLine::event(&sample.single(kind, &id, &text)));
        }
        if cut_off {
            questions.truncate(questions.len() - 7);
        }
        line.write(&questions).await?;
        drop(line);
        let others = bystander.is_answered().await;
        others.map_err(|error| format!("on another connection: {error}"))?;
    }
    let again = tester.open(Speaks::Extended).await;
    let again = again.map_err(|error| format!("on a new connection: {error}"))?;
    again.is_answered().await?;
    bystander.settle().await;
    Ok(Done::passed())
}

/// Bodies as large as the agent says it takes, and one byte more.
pub(super) async fn large_body(tester: &Tester) -> Checked {
    let kinds = [EventKind::RequestBodyChunk, EventKind::ResponseBodyChunk];
    let Some(kind) = kinds.into_iter().find(|kind| tester.supports(*kind)) else {
        return Ok(Done::Skipped(NOT_ANNOUNCED.to_owned()));
    };
    let Some((capabilities, _)) = tester.agent.get() else {
        return Ok(Done::Skipped("no handshake".to_owned()));
    };
    let limits = &capabilities.limits;
    let preferred = limits.preferred_chunk_size.clamp(1 << 10, LARGEST_PIECE) as usize;
    let body = limits.max_body_size.min(LARGEST_BODY) as usize;
    let piece = limits.max_body_size.min(LARGEST_PIECE) as usize;
    let ask = async |line: &Line<'_>| {
        // In pieces of the size that the agent likes, and in a single one.
        for (body, piece) in [(body, preferred), (piece, piece)] {
            if let Some(why) = large(line, kind, body, piece).await? {
                return Ok(Done::Skipped(why));
            }
        }
        if limits.max_body_size >= LARGEST_PIECE {
            return Ok(Done::Passed(format!("{body} bytes")));
        }
        // It may refuse that or say that it cannot, but it has to say something.
        match large(line, kind, body + 1, body + 1).await {
            Err(error) if !line.connection.is_open() || error.contains("no answer") => {
                Err(format!("a body that is one byte too large: {error}"))
            }
            _ => Ok(Done::Passed(format!("{body} bytes, and one more"))),
        }
    };
    tester.in_both(ask).await
}

/// Shows the agent a body. Returns why it could not be shown.
async fn large(
    line: &Line<'_>,
    kind: EventKind,
    bytes: usize,
    piece: usize,
) -> Result<Option<String>, String> {
    let mut talk = line.talk(Sample::new(&line.tester.sample, 0, Some(bytes)));
    talk.head().await?;
    if kind == EventKind::ResponseBodyChunk {
        talk.response_head().await?;
    }
    if talk.is_refused {
        talk.complete().await?;
        return Ok(Some("the agent does not let the head pass".to_owned()));
    }
    let body = talk.sample.text(bytes);
    let pieces: Vec<Bytes> = match body.len() {
        0 => vec![body],
        length => cut(&body, length.div_ceil(piece)),
    };
    let asked = talk.body(kind, &pieces).await;
    asked.map_err(|error| {
        format!(
            "a body of {bytes} bytes in {} pieces: {error}",
            pieces.len()
        )
    })?;
    talk.complete().await?;
    Ok(None)
}
