//! Answers that hold for a while.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::hmac;
use ring::rand::SystemRandom;
use serde_json::{Map, Value};

use super::Verdict;

/// Answers kept at most; about 2 MiB.
const ANSWERS_MAX: usize = 10_000;

/// Who asked, with which password: a keyed hash, so that no password lies in memory. `None`: it cannot be kept.
pub(super) type CacheKey = Option<[u8; 32]>;

pub(super) struct Cache {
    ttl: Duration,
    /// Of this process only. `None`: the system gave no randomness, and nothing is kept.
    secret: Option<hmac::Key>,
    answers: Mutex<HashMap<[u8; 32], (Instant, Verdict)>>,
}

impl Cache {
    pub(super) fn new(ttl: Duration) -> Self {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok().filter(|_| !ttl.is_zero());
        Self { ttl, secret, answers: Mutex::default() }
    }

    /// Over everything that the service is told.
    pub(super) fn key(&self, question: &Map<String, Value>) -> CacheKey {
        let mut context = hmac::Context::with_key(self.secret.as_ref()?);
        for (name, value) in question {
            let value = value.to_string();
            context.update(&name.len().to_be_bytes());
            context.update(name.as_bytes());
            context.update(&value.len().to_be_bytes());
            context.update(value.as_bytes());
        }
        context.sign().as_ref().try_into().ok()
    }

    pub(super) fn get(&self, key: &CacheKey, now: Instant) -> Option<Verdict> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(key.as_ref()?).filter(|(until, _)| now < *until).map(|(_, verdict)| verdict.clone())
    }

    pub(super) fn put(&self, key: CacheKey, verdict: Verdict, now: Instant) {
        let Some(key) = key else { return };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|_, (until, _)| now < *until);
        }
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        answers.insert(key, (now + self.ttl, verdict));
    }
}
