//! Exports traces of reconcile passes to an OpenTelemetry collector over OTLP/HTTP.
//!
//! A [`SpanRecorder`] records the spans of a pass into a bounded queue; the `Exporter` (with the feature `http`) sends them
//! from a task of its own. Passes that do not fit are dropped and counted: nothing here slows a pass down or makes it fail.

#[cfg(feature = "http")]
mod export;
#[cfg(feature = "http")]
mod otlp;
#[cfg(feature = "http")]
mod post;
mod queue;
mod span;

#[cfg(feature = "http")]
pub use export::{EXPORT_TIMEOUT, Exporter, ExporterOptions};
#[cfg(feature = "http")]
pub use otlp::traces;
pub use queue::TelemetryStats;
pub use span::{Attribute, PASS, Span, SpanHandle, SpanRecorder};
