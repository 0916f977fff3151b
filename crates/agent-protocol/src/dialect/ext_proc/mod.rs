//! Envoy's external processing, `envoy.service.ext_proc.v3`, of which we are the client.
//!
//! Each request has a stream of its own. It opens with the first event of the request, and every message on it is answered
//! by one of the same kind before the next is sent. It ends when nothing more can come about the request, and at the latest
//! with the request.

mod answered;
pub mod messages;
mod options;
mod progress;
mod talk;
#[cfg(test)]
mod tests;
mod told;

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::fmt;
use std::future::ready;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::uri::PathAndQuery;
use tonic::Request;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

pub use options::{BodyMode, ExtProcOptions, Parts};

use super::channel::{self, GrpcEndpoint};
use super::exchanges::{Dialect, Exchange, MoreTime};
use crate::{
    AgentLimits, CallError, Capabilities, ConnectError, ConnectOptions, Decision, Event, Features,
};
use answered::Outcome;
use messages::Metadata;
use progress::Progress;
use talk::{Counted, Observed, Talk, failed};

/// Requests that one connection knows of, those included whose streams are being closed.
const MOST_STREAMS: usize = 65_536;
/// The most bytes of a streamed body in one message, as in Envoy.
const PIECE_BYTES: u64 = 32 << 10;
/// Any answer to it is a sign of life.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// What an agent of this dialect is counted for; shared by all of its connections.
#[derive(Debug, Clone, Default)]
pub struct StreamCounters {
    /// Requests that the agent was told of and that are not over, and streams
    /// that are being closed.
    pub open: Arc<AtomicUsize>,
    /// Things that the agent asked for and that were not done: see docs/agents.md.
    pub refused: Arc<AtomicU64>,
}

/// A connection to an agent of this dialect.
pub(crate) struct ExtProc {
    channel: Channel,
    shared: Arc<Shared>,
}

struct Shared {
    options: ExtProcOptions,
    agent: String,
    /// Streams of this connection.
    own: Arc<AtomicUsize>,
    counters: StreamCounters,
    requests: Mutex<HashMap<String, Known>>,
}

/// A request.
struct Known {
    entry: Entry,
    _counted: Arc<Counted>,
}

/// What is known of a request.
enum Entry {
    /// The agent is being asked, or was and did not answer in time.
    Asked,
    /// It is asked nothing at the moment.
    Idle(Box<Talk>),
    /// Nobody waits for its answers.
    Observed(Observed),
    /// It is asked nothing any more, and lets pass what comes.
    Passing,
    /// It is asked nothing any more but what it wants to be left out.
    Over(Box<Progress>),
    /// It has failed.
    Failed,
}

/// What is done about an event.
enum Taken {
    Talk(Box<Talk>),
    Known(Box<Decision>),
}

impl ExtProc {
    /// # Errors
    /// Nobody answers there within the time that a handshake may take.
    pub(crate) async fn connect(
        endpoint: &GrpcEndpoint,
        options: &ExtProcOptions,
        connect: &ConnectOptions,
    ) -> Result<(Self, Capabilities), ConnectError> {
        let limit = connect.handshake_timeout;
        let connecting = async {
            let channel = channel::connect(endpoint, limit).await?;
            // That somebody listens does not mean that it is an agent.
            let alive = sign_of_life(channel.clone()).await;
            alive.map_err(|error| ConnectError::Unreachable(std::io::Error::other(error)))?;
            Ok::<_, ConnectError>(channel)
        };
        let channel = tokio::time::timeout(limit, connecting)
            .await
            .map_err(|_| ConnectError::Timeout)??;
        let capabilities = Capabilities {
            features: Features {
                streaming_body: true,
                ..Features::default()
            },
            limits: AgentLimits {
                preferred_chunk_size: PIECE_BYTES,
                ..AgentLimits::default()
            },
            ..Capabilities::new("ext-proc", "v3").with_events(&options.events())
        };
        let shared = Shared {
            options: options.clone(),
            agent: connect.agent_name.clone(),
            own: Arc::default(),
            counters: connect.streams.clone(),
            requests: Mutex::default(),
        };
        let shared = Arc::new(shared);
        Ok((Self { channel, shared }, capabilities))
    }

    /// Tells an agent that only watches.
    fn observe(&self, event: &Event<'_>) {
        let shared = &self.shared;
        let mut messages = told::messages(event, &shared.options);
        let mut requests = shared.lock();
        let known = match requests.entry(event.correlation_id().to_owned()) {
            MapEntry::Occupied(known) => known.into_mut(),
            MapEntry::Vacant(place) => {
                let Some(counted) = shared.count() else {
                    shared.refuse(1, "too many streams are open");
                    return;
                };
                if let Some(message) = messages.first_mut() {
                    told::first(message, &shared.options);
                }
                let observed = Observed::new(&self.channel, Arc::clone(&counted));
                place.insert(Known {
                    entry: Entry::Observed(observed),
                    _counted: counted,
                })
            }
        };
        let Entry::Observed(observed) = &known.entry else {
            return;
        };
        let mut messages = messages.into_iter();
        if !messages.all(|message| observed.tell(message.request)) {
            known.entry = Entry::Passing;
        }
    }
}

impl Dialect for ExtProc {
    fn ask(&self, event: &Event<'_>) -> Exchange<Decision> {
        self.ask_granting(event, None)
    }

    fn ask_granting(&self, event: &Event<'_>, granted: Option<MoreTime>) -> Exchange<Decision> {
        if self.shared.options.observability {
            self.observe(event);
            return Box::pin(ready(Ok(Decision::allow())));
        }
        let id = event.correlation_id().to_owned();
        let mut talk = match self.shared.take(&id, event) {
            Ok(Taken::Talk(talk)) => talk,
            Ok(Taken::Known(decision)) => return Box::pin(ready(Ok(*decision))),
            Err(error) => return Box::pin(ready(Err(error))),
        };
        let (shared, channel) = (Arc::clone(&self.shared), self.channel.clone());
        let messages = told::messages(event, &shared.options);
        Box::pin(async move {
            let asked = talk.ask(&channel, messages, &shared.options, granted.as_ref());
            match asked.await {
                Ok(Some(Outcome {
                    decision,
                    refused,
                    is_final,
                })) => {
                    shared.refuse(refused, "it asked for what is not done");
                    shared.put_back(&id, talk, is_final);
                    Ok(decision)
                }
                Ok(None) if shared.options.close_allows => {
                    shared.end(&id, Entry::Passing);
                    Ok(Decision::allow())
                }
                Ok(None) => {
                    shared.end(&id, Entry::Failed);
                    Err(CallError::Lost)
                }
                Err(error) => {
                    shared.end(&id, Entry::Failed);
                    Err(error)
                }
            }
        })
    }

    fn grants_time(&self) -> bool {
        self.shared.options.max_message_timeout.is_some()
    }

    fn ping(&self) -> Exchange<()> {
        Box::pin(sign_of_life(self.channel.clone()))
    }

    fn binds_requests(&self) -> bool {
        true
    }

    fn forget(&self, correlation_id: &str) {
        let known = self.shared.lock().remove(correlation_id);
        if let Some(Known {
            entry: Entry::Idle(talk),
            ..
        }) = known
        {
            talk.close();
        }
    }
}

impl Shared {
    /// What is to be talked on about an event, or the decision where nobody has to be asked.
    ///
    /// # Errors
    /// Why the agent cannot be asked.
    fn take(&self, id: &str, event: &Event<'_>) -> Result<Taken, CallError> {
        let unavailable = |why: &str| CallError::Unavailable(why.to_owned());
        let is_empty = told::is_empty(event);
        let mut requests = self.lock();
        let Some(Known { entry, .. }) = requests.get_mut(id) else {
            let counted = self.count().ok_or(CallError::OutboundFull)?;
            let mut talk = Box::new(Talk::new(Arc::clone(&counted)));
            // Nothing is left out or replaced before the agent has said so.
            let _ = talk.progress.begin(event, is_empty, &self.options);
            let known = Known {
                entry: Entry::Asked,
                _counted: counted,
            };
            requests.insert(id.to_owned(), known);
            return Ok(Taken::Talk(talk));
        };
        match entry {
            Entry::Idle(talk) => {
                if let Some(decision) = talk.progress.begin(event, is_empty, &self.options) {
                    return Ok(Taken::Known(Box::new(decision)));
                }
            }
            Entry::Over(progress) => {
                let known = progress.begin(event, is_empty, &self.options);
                let known = known.ok_or_else(|| unavailable("its stream is over"))?;
                return Ok(Taken::Known(Box::new(known)));
            }
            Entry::Passing | Entry::Observed(_) => {
                return Ok(Taken::Known(Box::default()));
            }
            Entry::Asked | Entry::Failed => {
                *entry = Entry::Failed;
                return Err(unavailable(
                    "it did not answer an earlier event of this request",
                ));
            }
        }
        match std::mem::replace(entry, Entry::Asked) {
            Entry::Idle(talk) => Ok(Taken::Talk(talk)),
            _ => Err(unavailable("its stream is over")),
        }
    }

    /// Keeps what was talked on until the next event, or closes it when there is none.
    fn put_back(&self, id: &str, mut talk: Box<Talk>, is_final: bool) {
        let expects_more = talk.progress.expects_more(&self.options);
        let mut requests = self.lock();
        // Without an entry the request has ended meanwhile.
        if let Some(Known { entry, .. }) = requests.get_mut(id) {
            *entry = match is_final {
                true => Entry::Passing,
                false if expects_more => {
                    *entry = Entry::Idle(talk);
                    return;
                }
                false => Entry::Over(Box::new(std::mem::take(&mut talk.progress))),
            };
        }
        drop(requests);
        talk.close();
    }

    fn end(&self, id: &str, with: Entry) {
        if let Some(known) = self.lock().get_mut(id) {
            known.entry = with;
        }
    }

    fn count(&self) -> Option<Arc<Counted>> {
        let counters = [&self.own, &self.counters.open];
        Counted::new(&counters, MOST_STREAMS).map(Arc::new)
    }

    fn refuse(&self, count: u64, why: &str) {
        if count > 0 {
            self.counters.refused.fetch_add(count, Relaxed);
            tracing::debug!(agent = self.agent, count, why, "refused to an agent");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks something that any server of gRPC answers, if only that it does not know what that is.
async fn sign_of_life(channel: Channel) -> Result<(), CallError> {
    let mut client = channel::client(channel);
    client.ready().await.map_err(|_| CallError::Closed)?;
    let codec = ProstCodec::<Metadata, Metadata>::default();
    let path = PathAndQuery::from_static(HEALTH);
    match client.unary(Request::new(Metadata {}), path, codec).await {
        Ok(_) => Ok(()),
        Err(status) => match failed(&status) {
            closed @ CallError::Closed => Err(closed),
            _ => Ok(()),
        },
    }
}

impl fmt::Debug for ExtProc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtProc")
            .field("agent", &self.shared.agent)
            .field("streams", &self.shared.own.load(Relaxed))
            .finish_non_exhaustive()
    }
}
