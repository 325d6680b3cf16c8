//! The driver's side of a core: what a core asks for, and the loop that carries it out. The server's shards, the tests, the
//! fuzz target and the benches share it.

use crate::Core;
use crate::clients::reauthentication::Reauthentication;
use crate::ids::{ConnId, ShardId};
use crate::links::link::Batch;
use crate::values::record::RecordBatch;

/// The next action of the driver.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a batch is moved once; a box would be one allocation more")]
pub enum Output {
    /// Ask the connection's authenticator; answer with [`Core::continue_authentication`], [`Core::reauthenticated`] or
    /// [`Core::disconnect`].
    Reauthenticate(Reauthentication),
    /// Hand records to the store; answer with [`Core::on_store_ack`] when they are durable.
    Records(RecordBatch),
    /// Send a batch to another shard, which takes it with [`Core::deliver_batch`]; in order.
    Batch(ShardId, Batch),
    /// Write what is ready in the connection's out buffer ([`Core::out`]), then call [`Core::written`].
    Flush(ConnId),
    /// The same, of a connection in the bulk queue: it got a message because that went to many, and can wait for others.
    FlushBulk(ConnId),
    /// Write what waits in the connection's out buffer, close the socket, and call [`Core::connection_closed`].
    Close(ConnId),
    /// Read from the connection again: it was paused.
    Resume(ConnId),
}

/// Which outputs [`Core::poll`] may answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every kind.
    All,
    /// All but the flushes of the bulk queue.
    AllButBulk,
    /// Batches and flushes: while a connection is being read.
    Writes,
    /// Batches and flushes, but not of the bulk queue.
    PriorityWrites,
}

impl Scope {
    fn is_writes(self) -> bool {
        matches!(self, Self::Writes | Self::PriorityWrites)
    }

    fn has_bulk(self) -> bool {
        matches!(self, Self::All | Self::Writes)
    }
}

/// The position of [`Core::poll`] in a pass over the kinds of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum OutputStage {
    #[default]
    Reauthenticate,
    Records,
    Batches,
    Flush,
    Close,
    Resume,
    Bulk,
}

impl OutputStage {
    fn next(self) -> Option<Self> {
        match self {
            Self::Reauthenticate => Some(Self::Records),
            Self::Records => Some(Self::Batches),
            Self::Batches => Some(Self::Flush),
            Self::Flush => Some(Self::Close),
            Self::Close => Some(Self::Resume),
            Self::Resume => Some(Self::Bulk),
            Self::Bulk => None,
        }
    }

    fn is_writes(self) -> bool {
        matches!(self, Self::Batches | Self::Flush | Self::Bulk)
    }
}

/// The state of [`Core::poll`].
#[derive(Debug, Default)]
pub(crate) struct PollState {
    stage: OutputStage,
    /// The next link to look at.
    link: u16,
    /// Whether this pass answered with something.
    progressed: bool,
    is_writes: bool,
}

impl Core {
    /// The next action of the driver; `None`: none until the next input. If the driver stops early, the remaining
    /// actions are returned later.
    ///
    /// Records come before batches, and batches before flushes: a client whose message is acknowledged, and that asks
    /// another shard for it, finds it there.
    pub fn poll(&mut self, scope: Scope) -> Option<Output> {
        if self.poll_state.is_writes != scope.is_writes() {
            self.poll_state = PollState { is_writes: scope.is_writes(), ..PollState::default() };
        }
        loop {
            let stage = self.poll_state.stage;
            if (!self.poll_state.is_writes || stage.is_writes())
                && let Some(output) = self.output_of(stage, scope)
            {
                self.poll_state.progressed = true;
                return Some(output);
            }
            let progressed = self.poll_state.progressed;
            match stage.next() {
                Some(next) => self.poll_state.stage = next,
                None => {
                    self.begin_pass();
                    if !progressed {
                        self.publish_memory();
                        return None;
                    }
                }
            }
        }
    }

    /// The next output is the first kind's again.
    pub(crate) fn begin_pass(&mut self) {
        self.poll_state = PollState { is_writes: self.poll_state.is_writes, ..PollState::default() };
    }

    fn output_of(&mut self, stage: OutputStage, scope: Scope) -> Option<Output> {
        match stage {
            OutputStage::Reauthenticate => self.clients.next_reauthentication().map(Output::Reauthenticate),
            OutputStage::Records => {
                // One batch a pass: what the outputs of this pass lead to is the next one's.
                self.poll_state.stage = OutputStage::Batches;
                self.take_records().map(Output::Records).or_else(|| self.output_of(OutputStage::Batches, scope))
            }
            OutputStage::Batches => {
                while self.poll_state.link < self.links.count() {
                    let to = ShardId(self.poll_state.link);
                    self.poll_state.link += 1;
                    if to != self.config.shard
                        && let Some(batch) = self.take_batch(to)
                    {
                        return Some(Output::Batch(to, batch));
                    }
                }
                None
            }
            OutputStage::Flush => self.next_flush().map(Output::Flush),
            OutputStage::Close => self.next_closing().map(Output::Close),
            OutputStage::Resume => self.clients.next_resumed().map(Output::Resume),
            OutputStage::Bulk => scope.has_bulk().then(|| self.next_bulk_flush()).flatten().map(Output::FlushBulk),
        }
    }
}

/// Carries out a core's outputs.
pub trait Driver {
    /// The core that is driven.
    fn core(&mut self) -> &mut Core;
    /// Which outputs are wanted now; asked before each.
    fn scope(&mut self) -> Scope {
        Scope::All
    }
    /// See [`Output::Reauthenticate`].
    fn reauthenticate(&mut self, request: Reauthentication);
    /// See [`Output::Records`].
    fn store(&mut self, records: RecordBatch);
    /// See [`Output::Batch`].
    fn send(&mut self, to: ShardId, batch: Batch);
    /// See [`Output::Flush`].
    fn flush(&mut self, conn: ConnId);
    /// See [`Output::FlushBulk`].
    fn flush_bulk(&mut self, conn: ConnId) {
        self.flush(conn);
    }
    /// See [`Output::Close`].
    fn close(&mut self, conn: ConnId);
    /// See [`Output::Resume`].
    fn resume(&mut self, conn: ConnId);
}

/// Carries out what a core asks for, until it asks for nothing more.
pub fn drive(driver: &mut impl Driver) {
    loop {
        let scope = driver.scope();
        match driver.core().poll(scope) {
            None => return,
            Some(Output::Reauthenticate(request)) => driver.reauthenticate(request),
            Some(Output::Records(records)) => driver.store(records),
            Some(Output::Batch(to, batch)) => driver.send(to, batch),
            Some(Output::Flush(conn)) => driver.flush(conn),
            Some(Output::FlushBulk(conn)) => driver.flush_bulk(conn),
            Some(Output::Close(conn)) => driver.close(conn),
            Some(Output::Resume(conn)) => driver.resume(conn),
        }
    }
}
