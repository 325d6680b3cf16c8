//! The open connections, bounded in all and by source. A new connection is never refused: where there is no place, the
//! connection that has been idle longest, of the source with most connections, is closed for it. So a probe is answered
//! however many connections others hold open.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::counters::{Refused, StatusCounters};

/// Where connections come from: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl Source {
    pub(super) fn from_address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => Self(IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into())),
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }
}

/// One connection: who made it, and what it is doing.
#[derive(Debug)]
pub(super) struct Activity {
    pub(super) source: Source,
    /// The address that the connection was made to.
    pub(super) local: Option<IpAddr>,
    /// Both ends are loopback addresses.
    pub(super) over_loopback: bool,
    /// The caller showed a certificate.
    identified: AtomicBool,
    opened: Instant,
    /// Microseconds after `opened` of the last request.
    last_request_us: AtomicU64,
    /// Requests that are being answered.
    requests: AtomicUsize,
    /// Event streams open on it.
    pub(super) streams: AtomicUsize,
    /// Its place was given to another connection.
    evicted: Notify,
}

impl Activity {
    pub(super) fn new(peer: SocketAddr, local: Option<SocketAddr>) -> Self {
        let local = local.map(|local| local.ip().to_canonical());
        let over_loopback = peer.ip().to_canonical().is_loopback() && local.is_some_and(|local| local.is_loopback());
        Self {
            source: Source::from_address(peer.ip()),
            local,
            over_loopback,
            identified: AtomicBool::new(false),
            opened: Instant::now(),
            last_request_us: AtomicU64::new(0),
            requests: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            evicted: Notify::new(),
        }
    }

    pub(super) fn set_identified(&self) {
        self.identified.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_identified(&self) -> bool {
        self.identified.load(Ordering::Relaxed)
    }

    /// Begins a request; it ends when the guard is dropped.
    pub(super) fn begin_request(self: &Arc<Self>) -> OpenRequest {
        self.touch();
        self.requests.fetch_add(1, Ordering::Relaxed);
        OpenRequest(Arc::clone(self))
    }

    fn touch(&self) {
        let elapsed_us = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_request_us.store(elapsed_us, Ordering::Relaxed);
    }

    /// Time since the last request, or since the connection was opened; zero while an event stream is open.
    pub(super) fn idle(&self) -> Duration {
        if self.streams.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        self.last_request().elapsed()
    }

    /// The time of the last request, or at which the connection was opened.
    fn last_request(&self) -> Instant {
        self.opened + Duration::from_micros(self.last_request_us.load(Ordering::Relaxed))
    }

    fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Relaxed) + self.streams.load(Ordering::Relaxed) > 0
    }

    /// Returns once the connection's place was given to another.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct OpenRequest(Arc<Activity>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.touch();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The table of open connections.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    max_per_source: usize,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Activity>>>,
    counters: Arc<StatusCounters>,
}

/// A connection's place, free when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    table: Arc<Connections>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().remove(&self.number);
    }
}

impl Connections {
    pub(super) fn new(max: usize, max_per_source: usize, counters: Arc<StatusCounters>) -> Self {
        Self { max, max_per_source, next: AtomicU64::new(0), open: Mutex::default(), counters }
    }

    /// Adds a connection; closes another one where there is no place for it.
    pub(super) fn admit(self: &Arc<Self>, activity: &Arc<Activity>) -> Place {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.lock();
        if let Some(victim) = self.victim(&open, activity.source)
            && let Some(closed) = open.remove(&victim)
        {
            closed.evicted.notify_one();
            self.counters.count(Refused::ConnectionLimit);
        }
        open.insert(number, Arc::clone(activity));
        drop(open);
        Place { table: Arc::clone(self), number }
    }

    /// The connection to close for a new one of `source`.
    fn victim(&self, open: &HashMap<u64, Arc<Activity>>, source: Source) -> Option<u64> {
        let mut by_source: HashMap<Source, usize> = HashMap::new();
        for each in open.values() {
            *by_source.entry(each.source).or_default() += 1;
        }
        let from = if by_source.get(&source).is_some_and(|count| *count >= self.max_per_source) {
            source
        } else if open.len() >= self.max {
            let most = by_source.values().max().copied()?;
            let largest = open.iter().filter(|(_, each)| by_source.get(&each.source) == Some(&most));
            longest_idle(largest)?.1.source
        } else {
            return None;
        };
        longest_idle(open.iter().filter(|(_, each)| each.source == from)).map(|(number, _)| *number)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection counts as busy for so long after it was opened or had a request: a probe that has just connected is not
/// closed before its request arrives.
const NEW_FOR: Duration = Duration::from_secs(1);

/// The connection whose last request is longest ago; a busy one only where all are. Of two that are equal, the one that was
/// opened first.
fn longest_idle<'a>(
    connections: impl Iterator<Item = (&'a u64, &'a Arc<Activity>)>,
) -> Option<(&'a u64, &'a Arc<Activity>)> {
    connections.min_by_key(|(number, each)| {
        let last_request = each.last_request();
        (each.is_busy() || last_request.elapsed() < NEW_FOR, last_request, **number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Arc<Activity> {
        Arc::new(Activity::new(address.parse().unwrap(), None))
    }

    fn table(max: usize, max_per_source: usize) -> Arc<Connections> {
        Arc::new(Connections::new(max, max_per_source, Arc::default()))
    }

    #[test]
    fn the_longest_idle_connection_of_the_largest_source_is_closed() {
        let table = table(4, 3);
        let many: Vec<_> = (1..=3).map(|port| from(&format!("192.0.2.1:{port}"))).collect();
        let places: Vec<_> = many.iter().map(|each| table.admit(each)).collect();
        let _busy = many[0].begin_request();
        let other = from("192.0.2.2:1");
        let _other = table.admit(&other);
        let _third = table.admit(&from("192.0.2.3:1"));
        let open: Vec<bool> = places.iter().map(|place| table.lock().contains_key(&place.number)).collect();
        assert_eq!(open, [true, false, true], "the first is answering, the second has been idle longest");
        assert_eq!(table.lock().len(), 4);
    }

    #[test]
    fn a_connection_that_has_just_been_opened_is_not_closed_for_another_one() {
        let table = table(100, 2);
        let upload = from("192.0.2.1:1");
        let uploading = table.admit(&upload);
        let _body = upload.begin_request();
        let probe = table.admit(&from("192.0.2.1:2"));
        let _third = table.admit(&from("192.0.2.1:3"));
        let open: Vec<bool> = [&uploading, &probe].map(|place| table.lock().contains_key(&place.number)).to_vec();
        assert_eq!(open, [false, true], "the upload has gone on for longer");
    }

    #[test]
    fn a_source_has_at_most_its_share_even_where_there_are_places() {
        let table = table(100, 2);
        let places: Vec<_> = (1..=5).map(|port| table.admit(&from(&format!("[2001:db8::{port}]:1")))).collect();
        assert_eq!(table.lock().len(), 2, "one /64 is one source");
        let _elsewhere = table.admit(&from("[2001:db8:0:1::1]:1"));
        assert_eq!(table.lock().len(), 3);
        assert_eq!(table.counters.get(Refused::ConnectionLimit), 3);
        drop(places);
        assert_eq!(table.lock().len(), 1);
    }
}
