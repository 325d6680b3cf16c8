//! Bytes that requests hold, bounded in all and by source: bodies before they are read, answers until they are sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderMap;
use hyper::{StatusCode, header};

use super::connections::Source;
use super::counters::Refused;
use super::http::Problem;
use super::router::App;

/// A body that is this many times as long as it may be is not read to its end.
const DISCARD_FACTOR: usize = 4;
/// A body of unknown length is charged in steps of so many bytes.
const STEP_BYTES: usize = 16 << 10;

/// An account of bytes.
#[derive(Debug)]
pub(super) struct ByteBudget {
    max: usize,
    max_per_source: usize,
    held: Mutex<(usize, HashMap<Source, usize>)>,
}

impl ByteBudget {
    /// A source may hold a quarter of `max`.
    pub(super) fn new(max: usize) -> Self {
        Self { max, max_per_source: max / 4, held: Mutex::default() }
    }

    /// A charge of no bytes for `source`, to be [extended](Charge::extend).
    pub(super) fn open(self: &Arc<Self>, source: Source) -> Charge {
        Charge { budget: Arc::clone(self), source, bytes: 0 }
    }

    #[cfg(test)]
    fn held(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Bytes charged to a source until this is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Arc<ByteBudget>,
    source: Source,
    bytes: usize,
}

impl Charge {
    /// Charges more; `false`: that is more than the source or all may hold. A first charge may exceed the source's share,
    /// so that a single large answer is possible.
    pub(super) fn extend(&mut self, bytes: usize) -> bool {
        let mut held = self.budget.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_source) = &mut *held;
        let own = by_source.get(&self.source).copied().unwrap_or(0);
        let (all_then, own_then) = (all.saturating_add(bytes), own.saturating_add(bytes));
        let fits_all = all_then <= self.budget.max || *all == 0;
        let fits_share = own_then <= self.budget.max_per_source || own == 0;
        if !(fits_all && fits_share) {
            return false;
        }
        *all = all_then;
        if bytes > 0 {
            by_source.insert(self.source, own_then);
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut held = self.budget.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_source) = &mut *held;
        *all = all.saturating_sub(self.bytes);
        if let Some(own) = by_source.get_mut(&self.source) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                by_source.remove(&self.source);
            }
        }
    }
}

/// A body, charged until it is dropped.
#[derive(Debug)]
pub(super) struct ChargedBody {
    pub(super) bytes: Bytes,
    _charge: Charge,
}

/// Reads a whole body, within the server's bounds of bytes and time. It is charged before it is read.
pub(super) async fn receive(
    app: &App,
    source: Source,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<ChargedBody, Problem> {
    let refuse = |why: Refused, status: StatusCode, message: String| {
        app.counters.count(why);
        Problem::new(status, message)
    };
    let most = app.options.max_body_bytes;
    let too_large = || {
        let message = format!("the body is larger than {most} bytes; use `weir validate` for sets of that size");
        refuse(Refused::BodySize, StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let over_budget = || {
        let message = "the memory for request bodies is used up; retry later".to_owned();
        refuse(Refused::BodyBudget, StatusCode::SERVICE_UNAVAILABLE, message)
    };
    let declared = declared_length(headers, &body);
    if declared.is_some_and(|length| length > most.saturating_mul(DISCARD_FACTOR)) {
        return Err(too_large());
    }
    let mut charge = app.bodies.open(source);
    // A longer body is read only to be discarded.
    if let Some(length) = declared.filter(|length| *length <= most)
        && !charge.extend(length)
    {
        return Err(over_budget());
    }
    match tokio::time::timeout(app.options.request_timeout, collect(body, most, &mut charge)).await {
        Err(_) => {
            let message = "the body did not arrive in time".to_owned();
            Err(refuse(Refused::BodyTimeout, StatusCode::REQUEST_TIMEOUT, message))
        }
        Ok(Ok(Collected::Whole(bytes))) => Ok(ChargedBody { bytes, _charge: charge }),
        Ok(Ok(Collected::TooLarge)) => Err(too_large()),
        Ok(Ok(Collected::OverBudget)) => Err(over_budget()),
        Ok(Err(error)) => Err(Problem::bad_request(format!("the body could not be read: {error}"))),
    }
}

fn declared_length(headers: &HeaderMap, body: &Incoming) -> Option<usize> {
    let exact = body.size_hint().exact();
    let exact = exact.or_else(|| headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok());
    exact.map(|length| usize::try_from(length).unwrap_or(usize::MAX))
}

enum Collected {
    Whole(Bytes),
    TooLarge,
    OverBudget,
}

/// The rest of a body that is too large is discarded up to a limit: over HTTP/2, a server that stops reading cancels its
/// own answer.
async fn collect(mut body: Incoming, most: usize, charge: &mut Charge) -> Result<Collected, hyper::Error> {
    let (mut kept, mut seen) = (BytesMut::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen > most {
            kept = BytesMut::new();
            if seen > most.saturating_mul(DISCARD_FACTOR) {
                break;
            }
            continue;
        }
        if seen > charge.bytes && !charge.extend((seen - charge.bytes).next_multiple_of(STEP_BYTES)) {
            return Ok(Collected::OverBudget);
        }
        kept.extend_from_slice(&data);
    }
    Ok(if seen > most { Collected::TooLarge } else { Collected::Whole(kept.freeze()) })
}

/// `bytes`, charged until the connection has written them.
pub(super) fn charged(bytes: Bytes, charge: Charge) -> Bytes {
    struct Owner(Bytes, #[expect(dead_code, reason = "dropped with the bytes")] Charge);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Owner(bytes, charge))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_bounded_in_all_and_by_source_and_end_with_their_owner() {
        let budget = Arc::new(ByteBudget::new(100));
        let source = |n: u8| Source::from_address([192, 0, 2, n].into());
        let mut first = budget.open(source(1));
        assert!(first.extend(20) && !first.extend(6) && first.extend(5), "a quarter for one source");
        let others: Vec<Charge> = (2..=4)
            .map(|n| {
                let mut charge = budget.open(source(n));
                assert!(charge.extend(25));
                charge
            })
            .collect();
        assert!(!budget.open(source(9)).extend(1), "all is held");
        drop(others);
        assert_eq!(budget.held(), 25);
        let answer = charged(Bytes::from_static(b"x"), first);
        assert_eq!((budget.held(), &*answer), (25, &b"x"[..]));
        drop(answer);
        assert_eq!(budget.held(), 0);
    }
}
