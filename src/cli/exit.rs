//! Exit codes.

use std::process::ExitCode;

/// The exit codes of every verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0.
    Success,
    /// 1: a negative answer, or a failure.
    Failure,
    /// 2: with reservations; see each verb's help.
    Reserved,
    /// 64: wrong usage.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Reserved => 2,
            Exit::Usage => 64,
        })
    }
}
