//! What is known about one name in the stream of members.

use std::collections::VecDeque;

use weir_broker::Millis;

use super::{DUPLICATE_AFTER, DUPLICATE_TIMEOUT, HEARTBEAT_INTERVAL, Member, MemberEvent, Refusal, SuspectReason};
use crate::Incarnation;
use crate::wire::{Heartbeat, WireVersions};

/// Whether a peer is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// Its record is from before this node started, and has not moved yet.
    Unconfirmed,
    /// It takes part.
    In,
    /// It takes part, shuts down, and should own no slots.
    Leaving,
    /// It takes part, serves no clients, and should own no slots.
    Evacuating,
    /// It does not move.
    Out,
    /// It has left as it announced.
    Left,
    /// It cannot take part.
    Refused(Refusal),
}

/// An incarnation that another one replaced.
#[derive(Debug)]
struct Replaced {
    incarnation: Incarnation,
    sequence: u64,
    /// When it moved for the first time since, and the last time.
    moved: Option<(Millis, Millis)>,
}

impl Replaced {
    const fn of(heartbeat: &Heartbeat) -> Self {
        Self { incarnation: heartbeat.incarnation, sequence: heartbeat.sequence, moved: None }
    }
}

#[derive(Debug)]
pub(super) struct Peer {
    heartbeat: Heartbeat,
    moved_at: Millis,
    state: PeerState,
    /// The incarnation that was in last, of which the caller knows.
    known: Option<Incarnation>,
    replaced: Option<Replaced>,
    is_duplicate: bool,
}

type Events = VecDeque<MemberEvent>;

impl Peer {
    pub(super) const fn first_seen(heartbeat: Heartbeat, now: Millis) -> Self {
        let state = if heartbeat.gone { PeerState::Left } else { PeerState::Unconfirmed };
        Self { heartbeat, moved_at: now, state, known: None, replaced: None, is_duplicate: false }
    }

    /// Another process with the name of this node, whose incarnation is `own`.
    pub(super) fn namesake(own: Incarnation, heartbeat: Heartbeat, now: Millis) -> Self {
        let replaced = Replaced::of(&heartbeat);
        let mut peer = Self::first_seen(Heartbeat { incarnation: own, ..heartbeat }, now);
        peer.replaced = Some(replaced);
        peer
    }

    pub(super) const fn moved_at(&self) -> Millis {
        self.moved_at
    }

    pub(super) const fn member(&self) -> Member<'_> {
        Member { heartbeat: &self.heartbeat, state: self.state, moved_at: self.moved_at }
    }

    pub(super) fn on_heartbeat(
        &mut self,
        heartbeat: Heartbeat,
        refusal: Option<Refusal>,
        own: WireVersions,
        now: Millis,
        events: &mut Events,
    ) {
        if heartbeat.incarnation != self.heartbeat.incarnation {
            let is_late = |replaced: &Replaced| {
                replaced.incarnation == heartbeat.incarnation
                    && (heartbeat.sequence <= replaced.sequence
                        || !matches!(self.state, PeerState::Out | PeerState::Left))
            };
            if self.replaced.as_ref().is_some_and(is_late) {
                return self.on_replaced_moved(&heartbeat, now, events);
            }
            // A new one; or one whose successor does not move: an append of an older process was stored late.
            self.replaced = Some(Replaced::of(&self.heartbeat));
        } else if heartbeat.sequence <= self.heartbeat.sequence {
            return; // read again
        }
        self.heartbeat = heartbeat;
        self.moved_at = now;
        self.on_moved(refusal, own, events);
    }

    /// A record with this node's name, of another process.
    pub(super) fn on_namesake(&mut self, heartbeat: Heartbeat, now: Millis, events: &mut Events) {
        if self.replaced.as_ref().is_none_or(|replaced| replaced.incarnation != heartbeat.incarnation) {
            self.is_duplicate = false;
            self.replaced = Some(Replaced::of(&heartbeat));
        } else {
            self.on_replaced_moved(&heartbeat, now, events);
        }
    }

    /// The older of two incarnations moves. Appends that were under way when its process ended may come at once, after an
    /// election; a process that runs moves for longer.
    fn on_replaced_moved(&mut self, heartbeat: &Heartbeat, now: Millis, events: &mut Events) {
        let Some(replaced) = &mut self.replaced else { return };
        if heartbeat.sequence <= replaced.sequence {
            return;
        }
        replaced.sequence = heartbeat.sequence;
        let first = replaced.moved.map_or(now, |(first, _)| first);
        replaced.moved = Some((first, now));
        if now >= first + DUPLICATE_AFTER && !self.is_duplicate {
            self.is_duplicate = true;
            let incarnations = [replaced.incarnation, self.heartbeat.incarnation];
            events.push_back(MemberEvent::DuplicateName { node: self.heartbeat.node.clone(), incarnations });
        }
    }

    /// The current incarnation has proved that it runs.
    pub(super) fn on_moved(&mut self, refusal: Option<Refusal>, own: WireVersions, events: &mut Events) {
        if let Some(reason) = refusal {
            return self.refuse(reason, events);
        }
        let Some(wire) = own.common(self.heartbeat.wire) else { return };
        let (node, incarnation) = (self.heartbeat.node.clone(), self.heartbeat.incarnation);
        match (self.known, self.state) {
            (Some(old), _) if old != incarnation => {
                events.push_back(MemberEvent::Restarted { node, old, incarnation, wire });
            }
            (Some(_), PeerState::In | PeerState::Leaving | PeerState::Evacuating) => {}
            (Some(_), PeerState::Out) => events.push_back(MemberEvent::BackIn { node, incarnation }),
            _ => events.push_back(MemberEvent::Joined { node, incarnation, wire }),
        }
        let was_leaving = self.state == PeerState::Leaving && self.known == Some(incarnation);
        self.known = Some(incarnation);
        self.state = match &self.heartbeat {
            Heartbeat { leaving: true, .. } => PeerState::Leaving,
            Heartbeat { evacuating: true, .. } => PeerState::Evacuating,
            _ => PeerState::In,
        };
        if self.heartbeat.leaving && !was_leaving {
            events.push_back(MemberEvent::Leaving { node: self.heartbeat.node.clone(), incarnation });
        }
        if self.heartbeat.gone {
            self.on_silent(events);
        }
    }

    /// It has not moved for the time in which it should have.
    pub(super) fn on_silent(&mut self, events: &mut Events) {
        let (node, incarnation) = (self.heartbeat.node.clone(), self.heartbeat.incarnation);
        match self.state {
            PeerState::Unconfirmed => self.state = PeerState::Out,
            PeerState::In | PeerState::Evacuating => {
                self.state = PeerState::Out;
                events.push_back(MemberEvent::Out { node, incarnation });
            }
            PeerState::Leaving => {
                self.state = PeerState::Left;
                self.known = None;
                events.push_back(MemberEvent::Left { node, incarnation });
            }
            PeerState::Out | PeerState::Left | PeerState::Refused(_) => {}
        }
    }

    /// Its record was removed.
    pub(super) fn on_removed(self, events: &mut Events) {
        let is_known =
            matches!(self.state, PeerState::In | PeerState::Leaving | PeerState::Evacuating | PeerState::Out)
                && self.known.is_some();
        if is_known {
            let Heartbeat { node, incarnation, .. } = self.heartbeat;
            events.push_back(MemberEvent::Left { node, incarnation });
        }
    }

    pub(super) fn refuse(&mut self, reason: Refusal, events: &mut Events) {
        if self.state != PeerState::Refused(reason) {
            self.state = PeerState::Refused(reason);
            let (node, incarnation) = (self.heartbeat.node.clone(), self.heartbeat.incarnation);
            events.push_back(MemberEvent::Refused { node, incarnation, reason });
        }
    }

    pub(super) fn update_duplicate(&mut self, now: Millis, events: &mut Events) {
        let Some(replaced) = &mut self.replaced else { return };
        if replaced.moved.is_none_or(|(_, last)| now <= last + DUPLICATE_TIMEOUT) {
            return;
        }
        replaced.moved = None;
        if std::mem::take(&mut self.is_duplicate) {
            events.push_back(MemberEvent::DuplicateNameResolved { node: self.heartbeat.node.clone() });
        }
    }

    /// Both incarnations of a name that two processes have.
    pub(super) fn duplicate(&self) -> Option<[Incarnation; 2]> {
        let replaced = self.replaced.as_ref().filter(|_| self.is_duplicate)?;
        Some([replaced.incarnation, self.heartbeat.incarnation])
    }

    pub(super) fn suspect_reasons(&self, now: Millis) -> impl Iterator<Item = SuspectReason> {
        let ms = now.saturating_sub(self.moved_at);
        let reason = match self.state {
            PeerState::Unconfirmed => Some(SuspectReason::Unconfirmed),
            PeerState::In | PeerState::Leaving | PeerState::Evacuating => {
                (ms > HEARTBEAT_INTERVAL * 3 / 2).then_some(SuspectReason::Late { ms })
            }
            PeerState::Out => Some(SuspectReason::Out { ms }),
            PeerState::Left => None,
            PeerState::Refused(refusal) => Some(SuspectReason::Refused(refusal)),
        };
        [reason, self.duplicate().map(SuspectReason::DuplicateName)].into_iter().flatten()
    }
}
