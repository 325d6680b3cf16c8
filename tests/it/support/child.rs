//! A child process that ends with its value.

use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};

use super::until;

/// A child process. Dropping it kills the process by its id and reaps it.
pub struct ChildGuard(Child);

impl ChildGuard {
    /// Starts `command`.
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}")))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal. A process that is stopped has stopped with all its threads when this returns: until then it goes on.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        if signal == Signal::STOP {
            until("the process is stopped", String::new, || self.is_stopped());
        }
    }

    fn is_stopped(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.id())) else { return false };
        threads.flatten().all(|thread| {
            // The name of a thread, in parentheses, is before its state.
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
        })
    }

    /// The piped standard input, once.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.0.stdin.take().expect("a piped standard input")
    }

    /// The piped standard output, once.
    pub fn take_stdout(&mut self) -> ChildStdout {
        self.0.stdout.take().expect("a piped standard output")
    }

    /// The exit status; `None`: the process runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Resident memory of a process in bytes; `None`: it has ended.
pub fn resident_bytes(id: u32) -> Option<usize> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kib| kib * 1024)
}
