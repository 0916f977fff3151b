//! Recordings: what agents are told and what they answer, written down for a while because the operator asked for it
//! (`portcullis agent record`), without secrets.
//!
//! There is one recording at a time. Workers put entries into a queue that is bounded in bytes; the operator takes them out
//! over `admin`. What finds no room is dropped and counted. A recording ends by itself: when its time is over, when it has as
//! many requests as were wanted and nothing more has come of them for a while, or when nobody has taken anything for long.
//! As long as there is none, a question costs one relaxed load.

mod entry;
mod redact;

use entry::Entry;
use portcullis_agent_manager::{AgentObserver, FailureReason, Granted, Record};
use portcullis_agent_protocol::{ConfigChange, Decision, Event};
use portcullis_config::AgentId;
use redact::Redaction;
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashSet, VecDeque},
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Entries that wait to be taken, in bytes.
const MOST_BYTES: usize = 16 << 20;
/// What is taken at once, in bytes; at least one entry.
const MOST_TAKEN_BYTES: usize = 4 << 20;
/// Nobody has taken anything for so long: nobody is there.
const ABANDONED: Duration = Duration::from_secs(15);
/// After the last of so many requests has begun, this long nothing comes of any of them: they are over.
const QUIET: Duration = Duration::from_secs(1);

/// What is recorded. Everything has a bound, see [`Settings::checked`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Of this agent alone; `None`: of all.
    pub(crate) agent: Option<String>,
    /// This share of all requests, from 0 to 1.
    pub(crate) sample: f64,
    /// No more requests than these.
    pub(crate) requests: u32,
    /// No longer than this.
    pub(crate) duration_ms: u64,
    /// Names of headers, of parameters of queries and of challenges whose values are replaced, beside the usual ones.
    pub(crate) redact: Vec<String>,
    /// Pieces of bodies and frames up to this size are recorded; 0: none.
    pub(crate) body_bytes: u32,
}

impl Settings {
    pub(crate) const MOST_REQUESTS: u32 = 100_000;
    pub(crate) const MOST_DURATION: Duration = Duration::from_secs(600);
    pub(crate) const MOST_BODY_BYTES: u32 = 1 << 20;
    const MOST_NAMES: usize = 64;
    const MOST_NAME_BYTES: usize = 128;

    /// The settings, when they are within their bounds.
    ///
    /// # Errors
    /// What is not.
    pub(crate) fn checked(self) -> Result<Self, String> {
        let wrong = |what: &str| Err(what.to_owned());
        if !(self.sample > 0.0 && self.sample <= 1.0) {
            return wrong("`sample` is more than 0 and at most 1");
        }
        if self.requests == 0 || self.requests > Self::MOST_REQUESTS {
            return wrong("`requests` is from 1 to 100000");
        }
        let duration = Duration::from_millis(self.duration_ms);
        if duration.is_zero() || duration > Self::MOST_DURATION {
            return wrong("`duration_ms` is from 1 to 600000");
        }
        if self.body_bytes > Self::MOST_BODY_BYTES {
            return wrong("`body_bytes` is at most 1048576");
        }
        let is_long = |name: &String| name.is_empty() || name.len() > Self::MOST_NAME_BYTES;
        if self.redact.len() > Self::MOST_NAMES || self.redact.iter().any(is_long) {
            return wrong("`redact` has at most 64 names of 1 to 128 bytes");
        }
        Ok(self)
    }
}

/// The recording of the process, if there is one.
#[derive(Default)]
pub(crate) struct Recordings {
    /// Entries are wanted.
    is_on: AtomicBool,
    current: Mutex<Option<Recording>>,
}

/// A recording.
struct Recording {
    id: String,
    settings: Settings,
    redaction: Arc<Redaction>,
    /// Chooses requests; nobody outside can know which.
    chance: RandomState,
    ends: Instant,
    /// When somebody last took something.
    taken: Instant,
    /// When something last came of a request.
    heard: Instant,
    /// By correlation id.
    requests: HashSet<String>,
    entries: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Numbers the entries.
    recorded: u64,
    dropped: u64,
    is_over: bool,
}

/// How a recording stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// What it is asked for by.
    pub(crate) id: String,
    /// Nothing more comes but what is still waiting.
    pub(crate) over: bool,
    /// Entries that are still waiting.
    pub(crate) waiting: usize,
    /// Requests of which there are entries.
    pub(crate) requests: usize,
    /// Entries so far, those that were dropped included.
    pub(crate) recorded: u64,
    /// Entries for which there was no room.
    pub(crate) dropped: u64,
}

impl Recordings {
    /// Begins a recording of this id. Settings must have been [checked](Settings::checked).
    ///
    /// # Errors
    /// There is one already.
    pub(crate) fn begin(&self, id: String, settings: Settings, now: Instant) -> Result<Status, ()> {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|it| !it.is_abandoned(now)) {
            return Err(());
        }
        let recording = Recording {
            id,
            redaction: Arc::new(Redaction::new(&settings.redact, settings.body_bytes)),
            chance: RandomState::new(),
            ends: now + Duration::from_millis(settings.duration_ms),
            taken: now,
            heard: now,
            requests: HashSet::new(),
            entries: VecDeque::new(),
            bytes: 0,
            recorded: 0,
            dropped: 0,
            is_over: false,
            settings,
        };
        let status = recording.status();
        tracing::info!(recording = %status.id, agent = recording.settings.agent, "recording of agents began");
        *current = Some(recording);
        self.is_on.store(true, Relaxed);
        Ok(status)
    }

    /// Takes entries out of the recording of this id, each a line; `None` when there is no such recording.
    pub(crate) fn take(&self, id: &str, now: Instant) -> Option<(Status, Vec<u8>)> {
        let mut current = self.lock();
        let recording = current.as_mut().filter(|recording| recording.id == id)?;
        recording.taken = now;
        self.end_if_due(recording, now);
        let mut lines = Vec::new();
        while let Some(entry) = recording.entries.front()
            && (lines.is_empty() || lines.len() + entry.len() < MOST_TAKEN_BYTES)
        {
            lines.extend_from_slice(entry);
            lines.push(b'\n');
            recording.bytes -= entry.len();
            recording.entries.pop_front();
        }
        Some((recording.status(), lines))
    }

    /// Ends the recording of this id and throws away what is left of it; whether there was one.
    pub(crate) fn end(&self, id: &str) -> bool {
        let mut current = self.lock();
        if current.as_ref().is_none_or(|recording| recording.id != id) {
            return false;
        }
        self.forget(&mut current);
        true
    }

    /// Throws the recording of this id away when nobody asks for it any longer. Returns when to look again; `None`: it is gone.
    pub(crate) fn look_after(&self, id: &str, now: Instant) -> Option<Duration> {
        let mut current = self.lock();
        let recording = current.as_mut().filter(|recording| recording.id == id)?;
        self.end_if_due(recording, now);
        if recording.is_abandoned(now) {
            self.forget(&mut current);
            return None;
        }
        Some(QUIET)
    }

    fn forget(&self, current: &mut Option<Recording>) {
        self.is_on.store(false, Relaxed);
        if let Some(recording) = current.take() {
            tracing::info!(recording = %recording.id, requests = recording.requests.len(), entries = recording.recorded,
                dropped = recording.dropped, "recording of agents ended");
        }
    }

    fn end_if_due(&self, recording: &mut Recording, now: Instant) {
        if !recording.is_over && recording.is_due(now) {
            recording.is_over = true;
            self.is_on.store(false, Relaxed);
        }
    }

    /// Whether this is to be recorded. A request is chosen when it is first heard of.
    fn follows(&self, agent: &AgentId, correlation_id: &str) -> bool {
        if !self.is_on.load(Relaxed) {
            return false;
        }
        let now = Instant::now();
        let mut current = self.lock();
        let Some(recording) = current.as_mut() else {
            return false;
        };
        self.end_if_due(recording, now);
        !recording.is_over && recording.follows(agent.as_str(), correlation_id, now)
    }

    /// Writes an entry and puts it where it is taken from.
    fn add(&self, mut entry: Entry<'_>) {
        let now = Instant::now();
        let (agent, id) = (entry.agent, entry.told.correlation_id());
        let next = |recording: &mut Recording| {
            // It may be another one than that which wanted to follow the request.
            let is_meant = !recording.is_over && recording.follows(agent, id, now);
            is_meant.then(|| recording.next())
        };
        let Some((redaction, number)) = self.lock().as_mut().and_then(next) else {
            return;
        };
        entry.number = number;
        // Not under the lock, for which other workers wait.
        let line = entry.written(&redaction);
        if let Some(recording) = self.lock().as_mut()
            && Arc::ptr_eq(&recording.redaction, &redaction)
        {
            recording.push(line);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Recording>> {
        // Whatever was interrupted, the counts and the queue are each whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recordings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recordings")
            .field("is_on", &self.is_on)
            .finish_non_exhaustive()
    }
}

impl Recording {
    fn is_due(&self, now: Instant) -> bool {
        let is_full = self.requests.len() >= self.settings.requests as usize;
        let is_quiet = now.saturating_duration_since(self.heard) >= QUIET;
        now >= self.ends || is_full && is_quiet
    }

    fn is_abandoned(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.taken) >= ABANDONED
    }

    fn follows(&mut self, agent: &str, correlation_id: &str, now: Instant) -> bool {
        let is_meant = self.settings.agent.as_deref().is_none_or(|it| it == agent);
        if !is_meant {
            return false;
        }
        if self.requests.contains(correlation_id) {
            self.heard = now;
            return true;
        }
        if self.requests.len() >= self.settings.requests as usize || !self.is_chosen(correlation_id)
        {
            return false;
        }
        self.heard = now;
        self.requests.insert(correlation_id.to_owned());
        true
    }

    /// The same for all events of a request.
    fn is_chosen(&self, correlation_id: &str) -> bool {
        let hash = self.chance.hash_one(correlation_id);
        (hash as f64) < self.settings.sample * u64::MAX as f64 || self.settings.sample >= 1.0
    }

    fn next(&mut self) -> (Arc<Redaction>, u64) {
        self.recorded += 1;
        (self.redaction.clone(), self.recorded)
    }

    fn push(&mut self, line: Vec<u8>) {
        if self.bytes + line.len() > MOST_BYTES {
            self.dropped += 1;
            return;
        }
        self.bytes += line.len();
        self.entries.push_back(line);
    }

    fn status(&self) -> Status {
        Status {
            id: self.id.clone(),
            over: self.is_over,
            waiting: self.entries.len(),
            requests: self.requests.len(),
            recorded: self.recorded,
            dropped: self.dropped,
        }
    }
}

/// The observer of an agent, with somebody who writes down beside it.
pub(crate) struct Recorder {
    agent: AgentId,
    observer: Arc<dyn AgentObserver>,
    recordings: Arc<Recordings>,
}

impl Recorder {
    pub(crate) fn new(
        agent: &AgentId,
        observer: Arc<dyn AgentObserver>,
        recordings: &Arc<Recordings>,
    ) -> Self {
        Self {
            agent: agent.clone(),
            observer,
            recordings: recordings.clone(),
        }
    }
}

impl AgentObserver for Recorder {
    fn waited(&self, time: Duration) {
        self.observer.waited(time);
    }

    fn completed(&self, record: &Record) {
        self.observer.completed(record);
    }

    fn completion_dropped(&self) {
        self.observer.completion_dropped();
    }

    fn config_update(&self, wanted: &ConfigChange, granted: Granted) {
        self.observer.config_update(wanted, granted);
    }

    fn follows(&self, correlation_id: &str) -> bool {
        self.recordings.follows(&self.agent, correlation_id)
    }

    fn heard(&self, told: &Event<'_>, answer: Result<&Decision, FailureReason>, took: Duration) {
        self.recordings.add(Entry {
            agent: self.agent.as_str(),
            number: 0,
            told,
            answer,
            took,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_agent_protocol::RequestComplete;

    fn settings() -> Settings {
        Settings {
            agent: None,
            sample: 1.0,
            requests: 2,
            duration_ms: 1000,
            redact: Vec::new(),
            body_bytes: 0,
        }
    }

    fn complete(id: &str) -> Event<'_> {
        Event::RequestComplete(RequestComplete {
            correlation_id: id,
            status: 200,
            duration: Duration::ZERO,
            request_body_size: 0,
            response_body_size: 0,
            upstream_attempts: 1,
            error: None,
        })
    }

    fn add(recordings: &Recordings, told: &Event<'_>) {
        recordings.add(Entry {
            agent: "waf",
            number: 0,
            told,
            answer: Err(FailureReason::Timeout),
            took: Duration::ZERO,
        });
    }

    #[test]
    fn bounds_hold_whoever_asks() {
        assert!(settings().checked().is_ok());
        let wrong: [fn(&mut Settings); 8] = [
            |it| it.sample = 0.0,
            |it| it.sample = 1.1,
            |it| it.sample = f64::NAN,
            |it| it.requests = 0,
            |it| it.duration_ms = 0,
            |it| it.duration_ms = 600_001,
            |it| it.body_bytes = 1 + (1 << 20),
            |it| it.redact = vec![String::new()],
        ];
        for (number, change) in wrong.into_iter().enumerate() {
            let mut settings = settings();
            change(&mut settings);
            assert!(settings.checked().is_err(), "{number}");
        }
    }

    #[test]
    fn there_is_one_at_a_time_and_it_ends_by_itself() {
        let recordings = Recordings::default();
        let now = Instant::now();
        let waf = AgentId::from("waf");
        assert!(!recordings.follows(&waf, "1"));
        recordings.begin("a".to_owned(), settings(), now).unwrap();
        assert!(recordings.begin("b".to_owned(), settings(), now).is_err());
        assert!(recordings.follows(&waf, "1"));
        assert!(recordings.follows(&waf, "2"));
        assert!(!recordings.follows(&waf, "3"), "two were wanted");
        assert!(recordings.follows(&waf, "1"), "more of the first");
        add(&recordings, &complete("1"));
        assert_eq!(recordings.take("b", now), None);
        let (status, lines) = recordings.take("a", now).unwrap();
        assert!(!status.over);
        assert_eq!(
            (status.requests, status.recorded, status.dropped),
            (2, 1, 0)
        );
        assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 1);
        let later = now + Duration::from_secs(2);
        let (status, lines) = recordings.take("a", later).unwrap();
        assert!(status.over && lines.is_empty());
        assert!(!recordings.follows(&waf, "1"));
        let waits = |now| recordings.look_after("a", now);
        assert!(waits(later + Duration::from_secs(14)).is_some());
        assert_eq!(waits(later + ABANDONED), None);
        assert_eq!(recordings.take("a", later), None);
        recordings.begin("b".to_owned(), settings(), later).unwrap();
        assert!(!recordings.end("a"));
        assert!(recordings.end("b"));
        assert!(!recordings.follows(&waf, "1"));
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let recordings = Recordings::default();
        let now = Instant::now();
        recordings.begin("a".to_owned(), settings(), now).unwrap();
        recordings
            .lock()
            .as_mut()
            .unwrap()
            .push(vec![b'x'; MOST_BYTES - 10]);
        add(&recordings, &complete("1"));
        let (status, lines) = recordings.take("a", now).unwrap();
        assert_eq!((status.dropped, lines.len()), (1, MOST_BYTES - 9));
        add(&recordings, &complete("1"));
        let (status, lines) = recordings.take("a", now).unwrap();
        assert_eq!((status.dropped, status.waiting), (1, 0));
        assert!(!lines.is_empty());
    }

    #[test]
    fn a_request_is_chosen_as_a_whole_and_about_as_often_as_wanted() {
        let recordings = Recordings::default();
        let settings = Settings {
            sample: 0.1,
            requests: Settings::MOST_REQUESTS,
            agent: Some("waf".to_owned()),
            ..settings()
        };
        let now = Instant::now();
        recordings.begin("a".to_owned(), settings, now).unwrap();
        let (waf, auth) = (AgentId::from("waf"), AgentId::from("auth"));
        let chosen: Vec<String> = (0..10_000)
            .map(|number| number.to_string())
            .filter(|id| recordings.follows(&waf, id))
            .collect();
        assert!((700..1300).contains(&chosen.len()), "{}", chosen.len());
        assert!(chosen.iter().all(|id| recordings.follows(&waf, id)));
        assert!(!chosen.iter().any(|id| recordings.follows(&auth, id)));
    }
}
