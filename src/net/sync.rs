//! What the mailbox is built of. The model check (`tests/it/mailbox_model.rs`) compiles the mailbox with loom's in their place.

pub(super) use std::sync::atomic::{AtomicBool, Ordering};
pub(super) use std::sync::{Mutex, PoisonError};

pub(super) use mio::Waker;
