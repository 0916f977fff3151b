//! Pipes without a proxy: agents are a table of what they say to a piece.

use super::*;
use crate::exchange::plan::Member;
use futures::FutureExt;
use portcullis_config::{OnOversize, Share};
use proptest::prelude::*;
use std::sync::Mutex;

const WHOLE: Share = Share::of_hundredths(Share::WHOLE);

/// What an agent makes of a piece: nothing, other bytes, or an end.
type Says = Box<dyn Fn(usize, &Piece) -> Result<Option<Bytes>, u16> + Sync + Send>;

struct Scripted {
    chunk: usize,
    says: Says,
    /// The place of the step in the chain, and the piece.
    seen: Mutex<Vec<(usize, Piece)>>,
    unshown: Mutex<Vec<String>>,
}

impl Scripted {
    fn new(
        chunk: usize,
        says: impl Fn(usize, &Piece) -> Result<Option<Bytes>, u16> + Sync + Send + 'static,
    ) -> Self {
        Self {
            chunk,
            says: Box::new(says),
            seen: Mutex::default(),
            unshown: Mutex::default(),
        }
    }

    fn allowing(chunk: usize) -> Self {
        Self::new(chunk, |_, _| Ok(None))
    }

    fn seen_by(&self, step: usize, member: usize) -> Vec<Piece> {
        let seen = self.seen.lock().unwrap();
        let of = seen
            .iter()
            .filter(|(at, piece)| (*at, piece.member) == (step, member));
        of.map(|(_, piece)| piece.clone()).collect()
    }
}

impl Agents for Scripted {
    fn chunk(&self, _step: &Step, _member: usize) -> usize {
        self.chunk
    }

    async fn show(&self, step: &Step, pieces: &[Piece]) -> Result<Vec<(usize, Bytes)>, Reply> {
        let mut replaced = Vec::new();
        for piece in pieces {
            self.seen.lock().unwrap().push((step.filter, piece.clone()));
            match (self.says)(step.filter, piece) {
                Ok(other) => replaced.extend(other.map(|data| (piece.member, data))),
                Err(status) => return Err(Reply::status(status)),
            }
        }
        Ok(replaced)
    }

    fn refuse(&self, _step: &Step, _member: usize, why: Unshown) -> Reply {
        self.unshown.lock().unwrap().push(format!("{why:?}"));
        Reply::status(413)
    }

    fn skip(&self, _step: &Step, member: usize) {
        self.unshown.lock().unwrap().push(format!("skip {member}"));
    }
}

fn step(filter: usize, holds: bool, members: &[(u64, OnOversize)]) -> Step {
    Step {
        filter,
        holds,
        members: members
            .iter()
            .enumerate()
            .map(|(agent, (limit, on_oversize))| Member {
                agent,
                limit: *limit,
                on_oversize: *on_oversize,
                decoded: None,
                read_only: false,
            })
            .collect(),
    }
}

const UNLIMITED: [(u64, OnOversize); 1] = [(u64::MAX, OnOversize::Fail)];

/// What comes out while it goes in, piece by piece, and the form at the end.
fn run(
    agents: &Scripted,
    steps: &[Step],
    pieces: &[Bytes],
    length: Option<u64>,
) -> Result<(Vec<Vec<u8>>, Form), Reply> {
    let memory = Arc::new(BufferMemory::new(1 << 20, WHOLE));
    let body = Body {
        coding: Coding::Identity,
        length,
    };
    let mut pipe = Pipe::new(agents, steps, &body, &memory)?;
    let mut out = Vec::new();
    for (number, piece) in pieces.iter().enumerate() {
        let end = (number + 1 == pieces.len()).then(End::default);
        // Nobody here waits.
        let passed = pipe.push(piece.clone(), end).now_or_never().unwrap()?;
        out.push(passed.concat());
    }
    let form = pipe.changes();
    drop(pipe);
    assert_eq!(memory.used(), 0);
    Ok((out, form))
}

#[test]
fn d26_what_agents_put_in_place_of_bodies_has_its_place_in_the_memory() {
    let grows = |by: usize| move |_: usize, _: &Piece| Ok(Some(Bytes::from(vec![b'x'; by])));
    let two = [(u64::MAX, OnOversize::Fail); 2];
    for (holds, members, by, fits) in [
        // All of it is there until the last member of a round has answered.
        (true, &UNLIMITED[..], 100, true),
        (true, &UNLIMITED[..], 101, false),
        (true, &two[..], 50, true),
        (true, &two[..], 51, false),
        // What was not held before is not counted, what is made of it is.
        (false, &UNLIMITED[..], 110, true),
        (false, &UNLIMITED[..], 111, false),
        (false, &two[..], 56, false),
    ] {
        let agents = Scripted::new(64, grows(by));
        let memory = Arc::new(BufferMemory::new(100, WHOLE));
        let body = Body {
            coding: Coding::Identity,
            length: None,
        };
        let steps = [step(0, holds, members)];
        let mut pipe = Pipe::new(&agents, &steps, &body, &memory).unwrap_or_else(|_| panic!());
        let end = Some(End::default());
        let piece = Bytes::from_static(b"0123456789");
        let passed = pipe.push(piece, end).now_or_never().unwrap();
        assert_eq!(passed.is_ok(), fits, "{holds} {by}");
        let unshown = agents.unshown.lock().unwrap().clone();
        let expected = if fits {
            vec![]
        } else {
            vec!["BufferFull".to_owned()]
        };
        assert_eq!(unshown, expected, "{holds} {by}");
        let held = if holds { by * members.len() } else { 0 };
        if fits {
            // Until it is on its way.
            assert_eq!(memory.used(), held, "{holds} {by}");
        }
        drop((passed, pipe));
        assert_eq!(memory.used(), 0);
    }
}

fn split(text: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    cuts.sort_unstable();
    for cut in cuts.into_iter().chain([text.len()]) {
        pieces.push(Bytes::copy_from_slice(&text[start..cut]));
        start = cut;
    }
    pieces
}

proptest! {
    #[test]
    fn a_body_that_nobody_changes_is_seen_whole_and_passes_whole(
        text in proptest::collection::vec(any::<u8>(), 0..300),
        cuts in proptest::collection::vec(any::<usize>(), 0..6),
        chunk in 1usize..80,
        holds in any::<[bool; 2]>(),
    ) {
        let agents = Scripted::allowing(chunk);
        let steps = [step(0, holds[0], &UNLIMITED), step(1, holds[1], &UNLIMITED)];
        let (out, form) = run(&agents, &steps, &split(&text, &cuts), None).unwrap();
        prop_assert_eq!(out.concat(), &text[..]);
        if holds.contains(&true) {
            // Nothing goes on before the end.
            prop_assert!(out[..out.len() - 1].iter().all(Vec::is_empty));
        }
        prop_assert!(!form.changed && form.ended && !form.open);
        for position in 0..2 {
            let seen = agents.seen_by(position, 0);
            let data: Vec<u8> = seen.iter().flat_map(|piece| piece.data.to_vec()).collect();
            prop_assert_eq!(data, &text[..]);
            prop_assert!(seen.iter().all(|piece| piece.data.len() <= chunk));
            let last: Vec<bool> = seen.iter().map(|piece| piece.is_last).collect();
            prop_assert_eq!(last.iter().filter(|last| **last).count(), 1);
            prop_assert_eq!(last.last(), Some(&true));
            let numbers: Vec<u32> = seen.iter().map(|piece| piece.index).collect();
            prop_assert_eq!(numbers, (0..u32::try_from(seen.len()).unwrap()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_one_step_makes_of_it_is_what_the_next_one_sees(
        text in proptest::collection::vec(any::<u8>(), 0..100),
        cuts in proptest::collection::vec(any::<usize>(), 0..4),
        holds in any::<[bool; 2]>(),
    ) {
        let agents = Scripted::new(16, |step, piece| Ok(match step {
            0 => Some([&piece.data[..], b"!"].concat().into()),
            _ => None,
        }));
        let steps = [step(0, holds[0], &UNLIMITED), step(1, holds[1], &UNLIMITED)];
        let (out, form) = run(&agents, &steps, &split(&text, &cuts), None).unwrap();
        let seen: Vec<u8> = agents.seen_by(1, 0).iter().flat_map(|piece| piece.data.to_vec()).collect();
        prop_assert_eq!(&out.concat(), &seen);
        prop_assert!(form.changed);
        let marks = agents.seen_by(0, 0).len();
        prop_assert_eq!(seen.len(), text.len() + marks);
    }
}

#[test]
fn a_step_learns_of_the_end_when_the_one_before_lets_nothing_pass() {
    for holds in [false, true] {
        let agents = Scripted::new(64, |step, _| Ok((step == 0).then(Bytes::new)));
        let steps = [step(0, false, &UNLIMITED), step(1, holds, &UNLIMITED)];
        let (out, _) = run(&agents, &steps, &split(b"abcdef", &[3]), None).unwrap();
        assert_eq!(out.concat(), b"");
        let seen = agents.seen_by(1, 0);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(seen[0].is_last && seen[0].data.is_empty());
    }
}

#[test]
fn a_body_of_a_known_length_ends_with_its_last_byte() {
    let agents = Scripted::allowing(64);
    let steps = [step(0, false, &UNLIMITED)];
    let pieces = [&b"abc"[..], b"def", b""].map(Bytes::from_static);
    run(&agents, &steps, &pieces, Some(6)).unwrap();
    let seen = agents.seen_by(0, 0);
    assert_eq!(seen.len(), 2);
    assert!(seen[1].is_last);
    assert_eq!((seen[1].total, seen[1].transferred), (Some(6), 6));
}

#[test]
fn what_is_too_large_for_an_agent() {
    use OnOversize::{Fail, Skip, Truncate};
    for holds in [true, false] {
        for (on_oversize, shown, status) in [
            (Fail, None, 413),
            (Skip, None, 0),
            (Truncate, Some("abcd"), 0),
        ] {
            let agents = Scripted::allowing(64);
            let steps = [step(0, holds, &[(4, on_oversize)])];
            let pieces = split(b"abcdefgh", &[3, 6]);
            let case = format!("{holds} {on_oversize:?}");
            match run(&agents, &steps, &pieces, None) {
                Ok((out, form)) => {
                    assert_eq!(out.concat(), b"abcdefgh", "{case}");
                    assert!(!form.changed && !form.open, "{case}");
                    assert_eq!(status, 0, "{case}");
                }
                Err(reply) => assert_eq!(reply.status, status, "{case}"),
            }
            let seen = agents.seen_by(0, 0);
            let data: Vec<u8> = seen.iter().flat_map(|piece| piece.data.to_vec()).collect();
            match shown {
                Some(text) => {
                    assert_eq!(data, text.as_bytes(), "{case}");
                    let last = seen.last().unwrap();
                    assert!(last.is_last && last.truncated, "{case}");
                }
                // In a stream the agent has seen what came before that was clear.
                None if holds => assert_eq!(data, b"", "{case}"),
                None => assert_eq!(data, b"abc", "{case}"),
            }
        }
    }
}

#[test]
fn a_step_waits_for_the_member_that_wants_most() {
    let agents = Scripted::allowing(64);
    let members = [(2, OnOversize::Truncate), (6, OnOversize::Truncate)];
    let steps = [step(0, true, &members)];
    let pieces = split(b"abcdefgh", &[3, 7]);
    let (out, _) = run(&agents, &steps, &pieces, None).unwrap();
    assert_eq!(out.concat(), b"abcdefgh");
    assert_eq!(out[0], b"", "one of them has not seen enough");
    assert_eq!(out[1], b"abcdefg");
    let data = |member| agents.seen_by(0, member)[0].data.clone();
    assert_eq!((&data(0)[..], &data(1)[..]), (&b"ab"[..], &b"abcdef"[..]));
}

#[test]
fn of_two_replacements_at_the_same_time_the_later_line_wins() {
    let agents = Scripted::new(64, |_, piece| {
        Ok((piece.member < 2).then(|| Bytes::from(format!("by {}", piece.member))))
    });
    let three = [(100, OnOversize::Fail); 3];
    let (out, _) = run(&agents, &[step(0, true, &three)], &split(b"abc", &[]), None).unwrap();
    assert_eq!(out.concat(), b"by 1");
}

#[test]
fn an_end_stops_everything() {
    for holds in [true, false] {
        let agents = Scripted::new(64, |_, piece| match piece.data.contains(&b'x') {
            true => Err(403),
            false => Ok(None),
        });
        let steps = [step(0, holds, &UNLIMITED), step(1, true, &UNLIMITED)];
        let stopped = run(&agents, &steps, &split(b"abcxde", &[3]), None);
        assert_eq!(stopped.map(|_| ()).unwrap_err().status, 403);
        assert!(agents.seen_by(1, 0).is_empty());
    }
}

#[test]
fn memory_that_is_used_up_refuses() {
    let agents = Scripted::allowing(64);
    let steps = [step(0, true, &UNLIMITED)];
    let large = Bytes::from(vec![0; (1 << 20) + 1]);
    let refused = run(&agents, &steps, &[large], None);
    assert_eq!(refused.map(|_| ()).unwrap_err().status, 413);
    assert_eq!(*agents.unshown.lock().unwrap(), ["BufferFull"]);
}
