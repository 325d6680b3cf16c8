//! A cache of the service's answers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::hmac;
use ring::rand::SystemRandom;
use serde_json::{Map, Value};

use super::ServiceAnswer;

/// Answers kept at most; about 2 MiB.
const ANSWERS_MAX: usize = 10_000;

/// A keyed hash of the request, so that no password stays in memory. `None`: the answer is not cached.
pub(super) type CacheKey = Option<[u8; 32]>;

pub(super) struct AnswerCache {
    ttl: Duration,
    /// Of this process. `None`: caching is off, or the system gives no random bytes.
    secret: Option<hmac::Key>,
    answers: Mutex<HashMap<[u8; 32], (Instant, ServiceAnswer)>>,
}

impl AnswerCache {
    pub(super) fn new(ttl: Duration) -> Self {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok().filter(|_| !ttl.is_zero());
        Self { ttl, secret, answers: Mutex::default() }
    }

    /// Hashes all fields of a request.
    pub(super) fn key(&self, fields: &Map<String, Value>) -> CacheKey {
        let mut context = hmac::Context::with_key(self.secret.as_ref()?);
        for (name, value) in fields {
            let value = value.to_string();
            context.update(&name.len().to_be_bytes());
            context.update(name.as_bytes());
            context.update(&value.len().to_be_bytes());
            context.update(value.as_bytes());
        }
        context.sign().as_ref().try_into().ok()
    }

    pub(super) fn get(&self, key: &CacheKey, now: Instant) -> Option<ServiceAnswer> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(key.as_ref()?).filter(|(until, _)| now < *until).map(|(_, answer)| answer.clone())
    }

    pub(super) fn put(&self, key: CacheKey, answer: ServiceAnswer, now: Instant) {
        let Some(key) = key else { return };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|_, (until, _)| now < *until);
        }
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        answers.insert(key, (now + self.ttl, answer));
    }
}
