//! What takes the place of a question to an agent whose verdicts are kept: a verdict that is known, the answer to the same
//! question of another request, or the question after all.

use super::{End, Entered, Flight, Found, Subject, VerdictCache};
use crate::{
    call::{Called, Limits, call, no_answer},
    chain::Ask,
    clock,
    conversation::Conversation,
    operations,
    pool::Link,
};
use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Instant,
};

/// So often a request waits for others that then have no answer, before it asks whatever they do.
const MOST_FLIGHTS: usize = 3;

/// Asks an agent, unless its verdict is known. Without a subject, or for an agent whose verdicts are not kept, it is asked.
pub(crate) async fn ask(
    link: &Link,
    ask: &Ask<'_>,
    subject: Option<&Subject<'_>>,
    limits: Limits,
    conversation: &Conversation,
    decided: &AtomicBool,
) -> Called {
    let Some((cache, subject)) = link.pool.agent.verdicts.as_ref().zip(subject) else {
        return call(link, ask, limits, conversation, decided).await;
    };
    let asking = Asking {
        cache,
        subject,
        link,
        ask,
        limits,
        conversation,
        decided,
    };
    match cache.find(subject, limits.began()) {
        Some(found) => match asking.known(found) {
            Some(called) => called,
            None => asking.alone(limits).await,
        },
        // Rare, and large: it does not make the state of every request larger.
        None => Box::pin(asking.with_others()).await,
    }
}

/// One request that wants a verdict.
struct Asking<'a> {
    cache: &'a VerdictCache,
    subject: &'a Subject<'a>,
    link: &'a Link,
    ask: &'a Ask<'a>,
    limits: Limits,
    conversation: &'a Conversation,
    decided: &'a AtomicBool,
}

impl Asking<'_> {
    /// What is known as an answer. What the agent may set can have changed with the configuration since.
    fn known(&self, found: Found) -> Option<Called> {
        let Found::Verdict(kept) = found else {
            return None;
        };
        let foreign = &self.link.foreign;
        let valid = std::sync::Arc::ptr_eq(&kept.foreign, foreign)
            || operations::validate_answer(&kept.decision, self.ask.event, foreign).is_ok();
        valid.then(|| Called::known(kept.decision.clone()))
    }

    async fn alone(&self, limits: Limits) -> Called {
        self.cache.misses.fetch_add(1, Relaxed);
        call(
            self.link,
            self.ask,
            limits.beginning_now(),
            self.conversation,
            self.decided,
        )
        .await
    }

    /// Asks for all who want to know the same, or waits for the one who does. Who has waited for a quarter of its time asks
    /// too, so that an answer which is not for all comes in time.
    async fn with_others(&self) -> Called {
        let (began, deadline) = (self.limits.began(), self.limits.deadline());
        let patience = began + deadline.saturating_duration_since(began) / 4;
        let mut limits = self.limits;
        for _ in 0..MOST_FLIGHTS {
            match self.cache.enter(self.subject, Instant::now()) {
                Entered::Found(found) => match self.known(found) {
                    Some(called) => return called,
                    None => break,
                },
                Entered::Alone => break,
                Entered::Lead(lead) => {
                    let called = self.alone(limits).await;
                    lead.ended(self.subject, &called, &self.link.foreign);
                    return called;
                }
                Entered::Join(mut flight) => {
                    limits = self.limits.shortened();
                    match clock::until(Instant::now(), patience, flight.end()).await {
                        Some(Some(End::Alone)) => break,
                        Some(Some(End::Kept) | None) => {}
                        // With what is left of the time the agent was not even quick enough for one who had all of it.
                        Some(Some(End::Failed)) => limits = self.limits,
                        None => return self.too(flight, limits).await,
                    }
                }
            }
        }
        if Instant::now() >= deadline {
            return no_answer(self.limits);
        }
        self.alone(limits).await
    }

    /// Asks although another does, and takes the answer that comes first. That its own question fails, perhaps at once
    /// because the agent has as many as it may have, ends nothing while the other can be answered.
    async fn too(&self, mut flight: Flight, limits: Limits) -> Called {
        let mut own = pin!(self.alone(limits));
        let failed = tokio::select! {
            biased;
            called = &mut own => match called.result {
                Ok(_) => return called,
                Err(_) => Some(called),
            },
            Some(End::Kept) = flight.end() => None,
        };
        let Some(failed) = failed else {
            return match self.shared() {
                Some(called) => called,
                None => own.await,
            };
        };
        let deadline = self.limits.deadline();
        let end = clock::until(Instant::now(), deadline, flight.end()).await;
        let is_kept = matches!(end, Some(Some(End::Kept)));
        match is_kept.then(|| self.shared()).flatten() {
            Some(called) => Called {
                give_up: failed.give_up,
                ..called
            },
            None => Called {
                ended: Instant::now(),
                ..failed
            },
        }
    }

    /// What another has been answered.
    fn shared(&self) -> Option<Called> {
        let found = self.cache.find(self.subject, Instant::now());
        found.and_then(|found| self.known(found))
    }
}
