//! Records a reconcile pass as spans: the pass, its steps, their actions.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::queue::SpanQueue;
use crate::random;

/// Spans of one pass. A fleet's first pass has an action for each endpoint; more than this are not useful to read.
pub(super) const PASS_SPANS_MAX: usize = 1024;

/// One span.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    /// `None`: the root span.
    pub parent_id: Option<[u8; 8]>,
    pub name: String,
    /// Nanoseconds since the Unix epoch.
    pub begin_ns: u64,
    pub end_ns: u64,
    pub attributes: Vec<(&'static str, Attribute)>,
    /// The error message of a failed span.
    pub error: Option<String>,
}

/// An attribute's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    Text(String),
    Count(u64),
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<usize> for Attribute {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

/// A span of the current pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanHandle(usize);

/// The pass itself.
pub const PASS: SpanHandle = SpanHandle(0);

impl SpanHandle {
    /// A span that is not recorded.
    pub const NONE: Self = Self(usize::MAX);
}

/// Records passes, one after the other. The default tracer records nothing.
#[derive(Debug, Default)]
pub struct SpanRecorder {
    queue: Option<Arc<SpanQueue>>,
    ids: Ids,
    pass: Option<RecordedPass>,
}

/// The current pass.
#[derive(Debug)]
struct RecordedPass {
    begun: Instant,
    /// The wall clock's time at `begun`.
    begun_ns: u64,
    spans: Vec<Span>,
    /// Whether each of them has ended.
    ended: Vec<bool>,
    left_out: u64,
}

impl SpanRecorder {
    pub(super) fn new(queue: Arc<SpanQueue>) -> Self {
        Self { queue: Some(queue), ..Self::default() }
    }

    /// Whether a pass is being recorded. Otherwise attributes need not be computed.
    pub fn is_on(&self) -> bool {
        self.pass.is_some()
    }

    /// Begins a pass. A current pass is discarded.
    pub fn begin(&mut self, name: &str) {
        if self.queue.is_none() {
            return;
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let begun_ns = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
        let span = Span {
            trace_id: self.ids.trace(),
            span_id: self.ids.span(),
            parent_id: None,
            name: name.to_owned(),
            begin_ns: begun_ns,
            end_ns: begun_ns,
            attributes: Vec::new(),
            error: None,
        };
        self.pass =
            Some(RecordedPass { begun: Instant::now(), begun_ns, spans: vec![span], ended: vec![false], left_out: 0 });
    }

    /// Begins a span within another.
    pub fn step(&mut self, within: SpanHandle, name: impl Into<String>) -> SpanHandle {
        let Some(pass) = &mut self.pass else { return SpanHandle::NONE };
        let Some(parent) = pass.spans.get(within.0) else { return SpanHandle::NONE };
        if pass.spans.len() >= PASS_SPANS_MAX {
            pass.left_out += 1;
            return SpanHandle::NONE;
        }
        let begin_ns = pass.at(Instant::now());
        let span = Span {
            trace_id: parent.trace_id,
            span_id: self.ids.span(),
            parent_id: Some(parent.span_id),
            name: name.into(),
            begin_ns,
            end_ns: begin_ns,
            attributes: Vec::new(),
            error: None,
        };
        pass.spans.push(span);
        pass.ended.push(false);
        SpanHandle(pass.spans.len() - 1)
    }

    /// Adds a span that ended before the pass began (its cause): the pass is extended back to it.
    pub fn done(&mut self, name: &str, from: Instant, to: Instant) {
        let step = self.step(PASS, name);
        let Some(pass) = &mut self.pass else { return };
        let (from_ns, to_ns) = (pass.at(from), pass.at(to));
        if let Some(span) = pass.spans.get_mut(step.0) {
            (span.begin_ns, span.end_ns) = (from_ns, to_ns.max(from_ns));
            pass.ended[step.0] = true;
        }
        pass.spans[0].begin_ns = pass.spans[0].begin_ns.min(from_ns);
    }

    /// Sets an attribute.
    pub fn set(&mut self, step: SpanHandle, key: &'static str, value: impl Into<Attribute>) {
        if let Some(span) = self.span(step) {
            span.attributes.push((key, value.into()));
        }
    }

    /// Marks a span as failed.
    pub fn fail(&mut self, step: SpanHandle, message: impl Into<String>) {
        if let Some(span) = self.span(step) {
            span.error = Some(message.into());
        }
    }

    /// Ends a span.
    pub fn end(&mut self, step: SpanHandle) {
        let Some(pass) = &mut self.pass else { return };
        let now = pass.at(Instant::now());
        if let (Some(span), Some(ended)) = (pass.spans.get_mut(step.0), pass.ended.get_mut(step.0)) {
            (span.end_ns, *ended) = (now, true);
        }
    }

    /// Ends the pass and its open spans, and queues it for export.
    pub fn finish(&mut self) {
        let (Some(mut pass), Some(queue)) = (self.pass.take(), &self.queue) else { return };
        let now = pass.at(Instant::now());
        for (span, _) in pass.spans.iter_mut().zip(&pass.ended).filter(|(_, ended)| !**ended) {
            span.end_ns = now;
        }
        queue.push(pass.spans, pass.left_out);
    }

    fn span(&mut self, step: SpanHandle) -> Option<&mut Span> {
        self.pass.as_mut()?.spans.get_mut(step.0)
    }
}

impl RecordedPass {
    /// Nanoseconds since the Unix epoch, by one monotonic clock: the wall clock may be set during the pass.
    fn at(&self, instant: Instant) -> u64 {
        let ns = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        match instant.checked_duration_since(self.begun) {
            Some(after) => self.begun_ns.saturating_add(ns(after)),
            None => self.begun_ns.saturating_sub(ns(self.begun.duration_since(instant))),
        }
    }
}

/// Random ids, never zero.
#[derive(Debug, Default)]
struct Ids {
    given: u64,
}

impl Ids {
    fn span(&mut self) -> [u8; 8] {
        self.given += 1;
        // Without randomness, ids are unique in this process.
        random::number().unwrap_or(self.given).max(1).to_be_bytes()
    }

    fn trace(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.span());
        id[8..].copy_from_slice(&self.span());
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn tracer() -> (SpanRecorder, Arc<SpanQueue>) {
        let queue = Arc::new(SpanQueue::default());
        (SpanRecorder::new(Arc::clone(&queue)), queue)
    }

    #[test]
    fn spans_of_a_pass_form_a_tree() {
        let (mut tracer, queue) = tracer();
        let before = Instant::now();
        tracer.begin("reconcile");
        tracer.done("read", before.checked_sub(Duration::from_millis(5)).unwrap(), before);
        let apply = tracer.step(PASS, "apply");
        let action = tracer.step(apply, "endpoint add");
        tracer.set(action, "weir.endpoint", "a");
        tracer.fail(action, "in use");
        tracer.end(action);
        tracer.finish();
        let spans = queue.pop().unwrap();
        let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["reconcile", "read", "apply", "endpoint add"]);
        let parents: Vec<_> = spans.iter().map(|span| span.parent_id).collect();
        assert_eq!(parents, [None, Some(spans[0].span_id), Some(spans[0].span_id), Some(spans[2].span_id)]);
        for span in &spans {
            assert_eq!(span.trace_id, spans[0].trace_id);
            assert!(spans[0].begin_ns <= span.begin_ns && span.begin_ns <= span.end_ns, "{span:?}");
            assert!(span.end_ns <= spans[0].end_ns, "{span:?}");
        }
        assert_eq!(spans[3].error.as_deref(), Some("in use"));
        assert_eq!(spans[3].attributes, [("weir.endpoint", Attribute::Text("a".into()))]);
    }

    #[test]
    fn without_an_exporter_nothing_is_recorded() {
        let mut tracer = SpanRecorder::default();
        tracer.begin("reconcile");
        let step = tracer.step(PASS, "plan");
        tracer.set(step, "weir.actions", 3_usize);
        tracer.end(step);
        tracer.finish();
        assert!(tracer.pass.is_none());
    }

    #[test]
    fn a_pass_has_a_bounded_number_of_spans() {
        let (mut tracer, queue) = tracer();
        tracer.begin("reconcile");
        for _ in 0..PASS_SPANS_MAX + 10 {
            let step = tracer.step(PASS, "endpoint add");
            tracer.set(step, "weir.endpoint", "a");
            tracer.end(step);
        }
        tracer.finish();
        assert_eq!(queue.pop().unwrap().len(), PASS_SPANS_MAX);
        assert_eq!(queue.stats.dropped(), [("pass_limit", 11), ("queue_full", 0), ("refused", 0)]);
    }
}
