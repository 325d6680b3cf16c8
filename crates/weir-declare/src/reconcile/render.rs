//! Renders plans for a terminal, as JSON and as Markdown. The output is deterministic to the byte.

pub use super::render_human::{HumanPlan, human};
pub use super::render_json::json;
pub use super::render_markdown::markdown;
pub use super::render_text::summary;
