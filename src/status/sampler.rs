//! A few minutes of the data plane's counters, for rates and plots.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use super::{EndpointTraffic, Traffic};
use weir_declare::reconcile::Timestamp;

/// Milliseconds between samples.
pub(super) const INTERVAL_MS: u64 = 2000;
/// Samples in memory: five minutes.
const KEPT: usize = 150;
/// Data points in memory over all endpoints, a bound on memory for thousands of endpoints.
const KEPT_POINTS: usize = 60_000;

/// The counters of one endpoint that are plotted, as totals.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Totals {
    connections: u64,
    accepted: u64,
    messages_received: u64,
    messages_sent: u64,
    messages_dropped: u64,
    bytes_received: u64,
    bytes_sent: u64,
    errors: u64,
}

impl From<&EndpointTraffic> for Totals {
    fn from(counted: &EndpointTraffic) -> Self {
        Self {
            connections: counted.connections,
            accepted: counted.accepted,
            messages_received: counted.messages_received,
            messages_sent: counted.messages_sent,
            messages_dropped: counted.messages_dropped.values().sum(),
            bytes_received: counted.bytes_received,
            bytes_sent: counted.bytes_sent,
            errors: counted.errors.values().sum(),
        }
    }
}

/// Per second, over `window_s`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) window_s: f64,
    pub(super) connections: u64,
    pub(super) accepted: f64,
    pub(super) messages_received: f64,
    pub(super) messages_sent: f64,
    pub(super) messages_dropped: f64,
    pub(super) bytes_received: f64,
    pub(super) bytes_sent: f64,
    pub(super) errors: f64,
}

#[derive(Debug)]
struct Sample {
    at: Timestamp,
    endpoints: BTreeMap<String, Totals>,
}

/// Samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct Sampler(Mutex<VecDeque<Sample>>);

impl Sampler {
    /// Takes a sample.
    pub(super) fn add(&self, at: Timestamp, traffic: &Traffic) {
        let endpoints = traffic.endpoints.iter().map(|(name, counted)| (name.clone(), counted.into())).collect();
        let mut samples = self.lock();
        samples.push_back(Sample { at, endpoints });
        let mut points: usize = samples.iter().map(|sample| sample.endpoints.len()).sum();
        while samples.len() > KEPT || (points > KEPT_POINTS && samples.len() > 2) {
            points -= samples.pop_front().map_or(0, |sample| sample.endpoints.len());
        }
    }

    /// Averages of `endpoint` over the last `window_s` seconds, or as far as the samples go. `None` before there are
    /// two.
    pub(super) fn rates(&self, endpoint: &str, window_s: u64) -> Option<Rates> {
        let samples = self.lock();
        let last = samples.back()?;
        let oldest_ms = last.at.unix_ms.saturating_sub(window_s * 1000);
        let first =
            samples.iter().find(|sample| sample.at.unix_ms >= oldest_ms && sample.endpoints.contains_key(endpoint))?;
        between(first, last, endpoint)
    }

    /// The rates between each two samples, of every endpoint that is in both, with the later one's time; those after
    /// `since` only.
    pub(super) fn series(&self, since: Timestamp) -> Vec<(Timestamp, BTreeMap<String, Rates>)> {
        let samples = self.lock();
        let pairs = samples.iter().zip(samples.iter().skip(1)).filter(|(_, last)| last.at > since);
        pairs
            .map(|(first, last)| {
                let rates = |name: &String| Some((name.clone(), between(first, last, name)?));
                (last.at, last.endpoints.keys().filter_map(rates).collect())
            })
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Sample>> {
        // A sample is pushed whole or not at all, so a poisoned queue is a sound one.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// `None` where no time passed, the endpoint is missing from one sample, or its counters were reset.
fn between(first: &Sample, last: &Sample, endpoint: &str) -> Option<Rates> {
    let elapsed_ms = last.at.unix_ms.checked_sub(first.at.unix_ms).filter(|ms| *ms > 0)?;
    let (from, to) = (first.endpoints.get(endpoint)?, last.endpoints.get(endpoint)?);
    if to.accepted < from.accepted || to.bytes_received < from.bytes_received {
        return None;
    }
    let window_s = elapsed_ms as f64 / 1000.0;
    let per_s = |from: u64, to: u64| (to.saturating_sub(from) as f64 / window_s * 1000.0).round() / 1000.0;
    Some(Rates {
        window_s,
        connections: to.connections,
        accepted: per_s(from.accepted, to.accepted),
        messages_received: per_s(from.messages_received, to.messages_received),
        messages_sent: per_s(from.messages_sent, to.messages_sent),
        messages_dropped: per_s(from.messages_dropped, to.messages_dropped),
        bytes_received: per_s(from.bytes_received, to.bytes_received),
        bytes_sent: per_s(from.bytes_sent, to.bytes_sent),
        errors: per_s(from.errors, to.errors),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(messages_received: u64, endpoints: usize) -> Traffic {
        let counted = EndpointTraffic { messages_received, ..EndpointTraffic::NONE };
        let endpoints = (0..endpoints).map(|at| (format!("e{at}"), counted.clone())).collect();
        Traffic { endpoints, ..Traffic::default() }
    }

    #[test]
    fn rates_are_averages_over_the_window() {
        let sampler = Sampler::default();
        assert_eq!(sampler.rates("e0", 60), None);
        for at_s in 0..100 {
            let total = if at_s < 40 { 0 } else { (at_s - 40) * 10 };
            sampler.add(Timestamp::from_unix_ms(at_s * 1000), &traffic(total, 1));
        }
        assert_eq!(sampler.rates("e0", 10).unwrap().messages_received, 10.0);
        let all = sampler.rates("e0", 3600).unwrap();
        assert_eq!((all.window_s, all.messages_received), (99.0, 5.96));
        assert_eq!(sampler.rates("other", 10), None);
    }

    #[test]
    fn rates_of_a_new_endpoint_begin_with_it() {
        let sampler = Sampler::default();
        for (at_s, endpoints) in [(0, 1), (2, 2), (4, 2)] {
            sampler.add(Timestamp::from_unix_ms(at_s * 1000), &traffic(at_s * 10, endpoints));
        }
        let rates = sampler.rates("e1", 60).unwrap();
        assert_eq!((rates.window_s, rates.messages_received), (2.0, 10.0));
    }

    #[test]
    fn memory_is_bounded_whatever_the_number_of_endpoints() {
        let sampler = Sampler::default();
        for at_s in 0..200 {
            sampler.add(Timestamp::from_unix_ms(at_s * 1000), &traffic(0, 2000));
        }
        assert_eq!(sampler.lock().len(), KEPT_POINTS / 2000);
    }
}
