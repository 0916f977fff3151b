//! Questions that wait for the body of their request: the service is asked once, with all of it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::{BodyChunk, CallError};

/// What waits, by correlation id. As large as there are requests under way with this connection; each is forgotten at its
/// end.
pub(super) struct Deferred<T>(Mutex<HashMap<String, Waiting<T>>>);

enum Waiting<T> {
    /// The head has not come yet.
    Announced,
    Question(T, BytesMut),
}

/// What there is of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) data: Bytes,
    /// There is more, which the service is not shown.
    pub(super) is_partial: bool,
}

impl<T> Deferred<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting<T>>> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A body follows the head that comes next.
    pub(super) fn announce(&self, id: &str) {
        self.lock().insert(id.to_owned(), Waiting::Announced);
    }

    /// Keeps a question for later, or gives it back when no body follows.
    pub(super) fn keep(&self, id: &str, question: T) -> Option<T> {
        match self.lock().get_mut(id) {
            Some(waiting) => {
                *waiting = Waiting::Question(question, BytesMut::new());
                None
            }
            None => Some(question),
        }
    }

    /// Takes a piece of the body; with the last one comes the question.
    ///
    /// # Errors
    /// There is no question.
    pub(super) fn add(&self, piece: &BodyChunk<'_>) -> Result<Option<(T, Shown)>, CallError> {
        let mut all = self.lock();
        let unknown = || CallError::Unavailable("the head of this request is not known".to_owned());
        if !piece.is_last {
            let Some(Waiting::Question(_, body)) = all.get_mut(piece.correlation_id) else {
                return Err(unknown());
            };
            body.extend_from_slice(&piece.data);
            return Ok(None);
        }
        let Some(Waiting::Question(question, mut body)) = all.remove(piece.correlation_id) else {
            return Err(unknown());
        };
        drop(all);
        let data = match body.is_empty() {
            true => piece.data.clone(),
            false => {
                body.extend_from_slice(&piece.data);
                body.freeze()
            }
        };
        let is_partial = piece.truncated;
        Ok(Some((question, Shown { data, is_partial })))
    }

    /// The request is over.
    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }
}

impl<T> fmt::Debug for Deferred<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waiting", self.lock().len())
    }
}
