//! The trace of a pass: span `reconcile` with `read`, `validate`, `plan` and `apply`, and a span per action.

use crate::source::SourceReading;
use crate::state::SourceState;
use crate::telemetry::{PASS, SpanHandle, SpanRecorder};
use weir_declare::config::Loaded;
use weir_declare::reconcile::{ActionKind, BridgeAction, EndpointAction, Plan, render};

/// Records the spans of passes.
#[derive(Default)]
pub(super) struct PassTrace {
    tracer: SpanRecorder,
    planning: Option<SpanHandle>,
    applying: Option<SpanHandle>,
}

/// The result of a pass.
pub(super) struct PassOutcome {
    /// In the words of the history where it has them.
    pub(super) word: &'static str,
    pub(super) error: Option<String>,
}

impl PassTrace {
    /// Traces the next passes with `tracer`.
    pub(super) fn set_tracer(&mut self, tracer: SpanRecorder) {
        self.tracer = tracer;
    }

    /// Begins the trace of a pass. `cause`: `reading`, `trouble` or `retry`.
    pub(super) fn begin(&mut self, cause: &str, reading: Option<&SourceReading>, source: &SourceState) {
        (self.planning, self.applying) = (None, None);
        self.tracer.begin("reconcile");
        if !self.tracer.is_on() {
            return;
        }
        if let Some((from, to)) = reading.and_then(|reading| reading.read) {
            self.tracer.done("read", from, to);
        }
        self.tracer.set(PASS, "weir.cause", cause);
        self.tracer.set(PASS, "weir.source.kind", source.kind);
        self.tracer.set(PASS, "weir.source.location", source.location.as_str());
    }

    /// Records the error of the source that the pass is for.
    pub(super) fn set_source_error(&mut self, kind: &'static str) {
        self.tracer.set(PASS, "weir.source.trouble", kind);
    }

    pub(super) fn begin_validation(&mut self) -> SpanHandle {
        self.tracer.step(PASS, "validate")
    }

    pub(super) fn end_validation(&mut self, step: SpanHandle, documents: usize, loaded: &Loaded) {
        if !self.tracer.is_on() {
            return;
        }
        let mut errors = loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
        let first = errors.next().map(ToString::to_string);
        let count = usize::from(first.is_some()) + errors.count();
        self.tracer.set(step, "weir.files", documents);
        self.tracer.set(step, "weir.diagnostics.errors", count);
        self.tracer.set(step, "weir.diagnostics.warnings", loaded.diagnostics.len() - count);
        if let Some(first) = first {
            let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
            self.tracer.fail(step, format!("{first}{more}"));
        }
        self.tracer.end(step);
    }

    pub(super) fn begin_plan(&mut self) {
        self.planning = Some(self.tracer.step(PASS, "plan"));
    }

    /// Ends the span of the plan and begins the span `apply`, once per pass.
    pub(super) fn end_plan(&mut self, plan: &Plan) {
        if !self.tracer.is_on() || self.applying.is_some() {
            return;
        }
        if let Some(planning) = self.planning {
            self.tracer.set(planning, "weir.plan", render::summary(plan));
            self.tracer.set(
                planning,
                "weir.actions",
                plan.due().count()
                    + plan.due_bridges().count()
                    + usize::from(plan.events.is_some())
                    + usize::from(plan.cluster.is_some()),
            );
            self.tracer.end(planning);
        }
        self.applying = Some(self.tracer.step(PASS, "apply"));
    }

    pub(super) fn end_apply(&mut self) {
        if let Some(applying) = self.applying {
            self.tracer.end(applying);
        }
    }

    pub(super) fn begin_action(&mut self, action: &EndpointAction) -> SpanHandle {
        let Some(applying) = self.applying.filter(|_| self.tracer.is_on()) else { return SpanHandle::NONE };
        let step = self.tracer.step(applying, format!("endpoint {}", action.kind.as_str()));
        self.tracer.set(step, "weir.endpoint", action.name.as_str());
        if let Some(address) = action.to.as_ref().or(action.from.as_ref()) {
            self.tracer.set(step, "weir.address", address.to_string());
        }
        // Names of fields only: some values refer to secrets.
        let changed: Vec<&str> = action.changes.iter().map(|change| change.path.as_str()).collect();
        if !changed.is_empty() {
            self.tracer.set(step, "weir.changed", changed.join(", "));
        }
        step
    }

    pub(super) fn begin_bridge_action(&mut self, action: &BridgeAction) -> SpanHandle {
        let applying = self.applying.filter(|_| self.tracer.is_on() && action.kind != ActionKind::None);
        let Some(applying) = applying else { return SpanHandle::NONE };
        let step = self.tracer.step(applying, format!("bridge {}", action.kind.as_str()));
        self.tracer.set(step, "weir.bridge", action.name.as_str());
        step
    }

    pub(super) fn fail(&mut self, step: SpanHandle, message: &str) {
        self.tracer.fail(step, message);
    }

    pub(super) fn end_action(&mut self, step: SpanHandle) {
        self.tracer.end(step);
    }

    /// Records the outcome of the pass and exports its spans. `outcome` is only called where passes are traced.
    pub(super) fn end(&mut self, source: &SourceState, digest: &str, outcome: impl FnOnce() -> PassOutcome) {
        if !self.tracer.is_on() {
            return;
        }
        let PassOutcome { word, error } = outcome();
        self.tracer.set(PASS, "weir.revision", source.attempted_revision.clone().unwrap_or_default());
        self.tracer.set(PASS, "weir.revision.applied", source.applied_revision.clone().unwrap_or_default());
        self.tracer.set(PASS, "weir.digest", digest);
        self.tracer.set(PASS, "weir.outcome", word);
        if let Some(error) = error {
            self.tracer.fail(PASS, error);
        }
        self.tracer.finish();
    }
}
