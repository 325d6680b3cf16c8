//! The synchronization primitives of the mailbox. The model check (`tests/it/mailbox_model.rs`) compiles the mailbox
//! with loom's primitives instead.

pub(super) use std::sync::atomic::{AtomicBool, Ordering};
pub(super) use std::sync::{Mutex, PoisonError};

pub(super) use mio::Waker;
