//! Entries of the log of retained messages that have come and are not applied.

use std::collections::VecDeque;

use weir_broker::Millis;
use weir_broker::gateway::Gateway;

use super::compaction::Compaction;
use crate::wire::decode_retained_entry;

/// Entries that are applied in one run.
const ENTRIES_PER_RUN: usize = 1024;

/// A message of the log, as the engine has it.
#[derive(Debug)]
pub struct LogMessage {
    /// Its sequence in the log.
    pub sequence: u64,
    /// The hash of its namespace and topic.
    pub subject: [u8; 16],
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How long ago it was stored, by the engine's clock, in milliseconds.
    pub age_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    waiting: VecDeque<LogMessage>,
    waiting_bytes: usize,
    /// The number of the question for the head, since this node has come in, and the answer.
    request: u64,
    head: Option<u64>,
    /// Entries that could not be decoded: they are of a newer version, or damaged.
    undecodable: u64,
}

impl Log {
    pub(super) fn push(&mut self, message: LogMessage) {
        self.waiting_bytes += message.bytes.len();
        self.waiting.push_back(message);
    }

    /// The node has come in: there may be entries that it has not read.
    pub(super) fn on_in(&mut self) {
        self.request += 1;
        self.head = None;
    }

    pub(super) fn head_wanted(&self) -> Option<u64> {
        (self.request > 0 && self.head.is_none()).then_some(self.request)
    }

    pub(super) fn set_head(&mut self, request: u64, sequence: u64) {
        if request == self.request {
            self.head = Some(sequence);
        }
    }

    pub(super) fn head(&self) -> Option<u64> {
        self.head
    }

    pub(super) fn reset(&mut self) {
        self.waiting.clear();
        (self.waiting_bytes, self.head) = (0, None);
    }

    pub(super) fn undecodable(&self) -> u64 {
        self.undecodable
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Applies entries in order, as far as they need not wait. Returns whether there is more to do at once.
    /// `limit`: a move of slots needs the log as it is at that sequence.
    pub(super) fn apply(
        &mut self,
        gateway: &mut Gateway,
        compaction: &mut Compaction,
        limit: u64,
        now: Millis,
    ) -> bool {
        for _ in 0..ENTRIES_PER_RUN {
            let next = self.waiting.front().filter(|message| message.sequence <= limit && gateway.has_room());
            let Some(message) = next else { return false };
            match decode_retained_entry(&message.bytes) {
                Ok(mut entry) => {
                    if !gateway.may_apply(&entry) {
                        return false;
                    }
                    entry.expires_in = entry.expires_in.map(|left| left.saturating_sub(message.age_ms));
                    compaction.on_entry(message.subject, message.sequence, &entry);
                    gateway.apply(message.sequence, &entry, now);
                }
                Err(_) => {
                    self.undecodable += 1;
                    gateway.skip(message.sequence);
                }
            }
            self.waiting_bytes -= message.bytes.len();
            self.waiting.pop_front();
        }
        true
    }
}
