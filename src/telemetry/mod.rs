//! Traces of reconcile passes, told to an OpenTelemetry collector over OTLP/HTTP, where one is named.
//!
//! A [`Tracer`] takes down what a pass does; [`Exporter`] holds whole passes in a bounded queue and sends them from a task
//! of its own. What does not fit is dropped and counted: nothing here can slow a pass down or make it fail.

mod export;
mod otlp;
mod post;
mod span;

pub use export::{EXPORT_TIMEOUT, Exporter, ExporterOptions, TelemetryStats};
pub use otlp::traces;
pub use span::{Attribute, PASS, Span, Step, Tracer};
