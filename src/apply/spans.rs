//! What a pass tells a trace: `reconcile`, and in it `read`, `validate`, `plan`, `apply` with a span for each action.

use super::files::ReadFiles;
use super::plane::Plane;
use super::reconciler::{Next, Reconciler};
use crate::source::Reading;
use crate::telemetry::{PASS, SpanHandle, Tracer};
use weir_declare::config::Loaded;
use weir_declare::reconcile::{Action, ActionKind, BridgeAction, Plan, render};

impl<P: Plane, F: ReadFiles> Reconciler<P, F> {
    /// Has passes traced from now on.
    pub fn trace_with(&mut self, tracer: Tracer) {
        self.tracer = tracer;
    }

    /// `why`: `reading`, `trouble` or `retry`.
    pub(super) fn begin_pass(&mut self, why: &str, reading: Option<&Reading>) {
        self.tracer.begin("reconcile");
        if !self.tracer.is_on() {
            return;
        }
        if let Some((from, to)) = reading.and_then(|reading| reading.read) {
            self.tracer.done("read", from, to);
        }
        self.tracer.set(PASS, "weir.cause", why);
        self.tracer.set(PASS, "weir.source.kind", self.source.kind);
        self.tracer.set(PASS, "weir.source.location", self.source.location.as_str());
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

    /// The plan is made; what it names is being done from now on.
    pub(super) fn planned(&mut self, planning: SpanHandle, plan: &Plan) -> SpanHandle {
        if !self.tracer.is_on() {
            return SpanHandle::NONE;
        }
        self.tracer.set(planning, "weir.plan", render::summary(plan));
        self.tracer.set(planning, "weir.actions", plan.due().count() + plan.due_bridges().count());
        self.tracer.end(planning);
        self.tracer.step(PASS, "apply")
    }

    pub(super) fn begin_action(&mut self, applying: SpanHandle, action: &Action) -> SpanHandle {
        if !self.tracer.is_on() {
            return SpanHandle::NONE;
        }
        let step = self.tracer.step(applying, format!("endpoint {}", action.kind.as_str()));
        self.tracer.set(step, "weir.endpoint", action.name.as_str());
        if let Some(address) = action.to.as_ref().or(action.from.as_ref()) {
            self.tracer.set(step, "weir.address", address.to_string());
        }
        // Which fields, and never what they are: some refer to secrets.
        let changed: Vec<&str> = action.changes.iter().map(|change| change.path.as_str()).collect();
        if !changed.is_empty() {
            self.tracer.set(step, "weir.changed", changed.join(", "));
        }
        step
    }

    pub(super) fn begin_bridge_action(&mut self, applying: SpanHandle, action: &BridgeAction) -> SpanHandle {
        if action.kind == ActionKind::None || !self.tracer.is_on() {
            return SpanHandle::NONE;
        }
        let step = self.tracer.step(applying, format!("bridge {}", action.kind.as_str()));
        self.tracer.set(step, "weir.bridge", action.name.as_str());
        step
    }

    /// Says what came of the pass, and hands it over.
    pub(super) fn end_pass(&mut self, next: Next) {
        if !self.tracer.is_on() {
            return;
        }
        let (outcome, error) = self.outcome(next);
        let revision = self.source.attempted_revision.clone().unwrap_or_default();
        let applied = self.source.applied_revision.clone().unwrap_or_default();
        self.tracer.set(PASS, "weir.revision", revision);
        self.tracer.set(PASS, "weir.revision.applied", applied);
        self.tracer.set(PASS, "weir.digest", self.declaration_digest.as_str());
        self.tracer.set(PASS, "weir.outcome", outcome);
        if let Some(error) = error {
            self.tracer.fail(PASS, error);
        }
        self.tracer.finish();
    }

    /// In the history's words where it has them, and what is wrong.
    fn outcome(&self, next: Next) -> (&'static str, Option<String>) {
        if let Some(trouble) = &self.source.trouble {
            return ("sourceTrouble", Some(trouble.message.clone()));
        }
        if next == Next::LookAgain {
            return ("lookAgain", None);
        }
        let errors = self.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        if self.options.atomic && errors > 0 {
            return ("refused", Some(format!("refused whole: {errors} errors")));
        }
        let failures = self.failures.values().map(|failure| failure.message.clone());
        let refusals = self.refusals.values().map(|refusal| refusal.message.clone());
        let held = self.held.iter().map(|(identity, held)| format!("{identity}: {}", held.why));
        let wrong: Vec<String> = failures.chain(refusals).chain(held).collect();
        if let Some(first) = wrong.first() {
            let more = if wrong.len() > 1 { format!(" (and {} more)", wrong.len() - 1) } else { String::new() };
            return ("appliedWithRefusals", Some(format!("{first}{more}")));
        }
        let acted = self.plan.due().next().is_some() || self.plan.due_bridges().next().is_some();
        match (self.suspended, acted) {
            (true, _) => ("suspended", None),
            (false, true) => ("applied", None),
            (false, false) => ("unchanged", None),
        }
    }
}
