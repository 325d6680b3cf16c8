//! Exports traces of reconcile passes to an OpenTelemetry collector over OTLP/HTTP.
//!
//! A [`SpanRecorder`] records the spans of a pass; the [`Exporter`] owns a bounded queue of recorded passes and sends them from a
//! task of its own. Passes that do not fit are dropped and counted: nothing here slows a pass down or makes it fail.

mod export;
mod otlp;
mod post;
mod span;

pub use export::{EXPORT_TIMEOUT, Exporter, ExporterOptions, TelemetryStats};
pub use otlp::traces;
pub use span::{Attribute, PASS, Span, SpanHandle, SpanRecorder};
