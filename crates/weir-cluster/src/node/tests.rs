//! Whole nodes over a model of the engine.
