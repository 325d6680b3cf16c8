//! Nothing lost, nothing doubled, order kept: what each subscriber is owed and what it got.

use std::fmt;

/// What was wrong with the deliveries. A row with any of it is void.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    pub lost: u64,
    pub duplicated: u64,
    pub disordered: u64,
    /// Delivered with another QoS, another length, or in a stream without a subscriber.
    pub wrong: u64,
    /// Acknowledgements in another order than the messages [MQTT-4.6.0-2], or for none of them.
    pub misacknowledged: u64,
}

impl Faults {
    pub fn none(&self) -> bool {
        *self == Faults::default()
    }

    pub fn add(&mut self, other: Faults) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.disordered += other.disordered;
        self.wrong += other.wrong;
        self.misacknowledged += other.misacknowledged;
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            (self.lost, "lost"),
            (self.duplicated, "duplicated"),
            (self.disordered, "out of order"),
            (self.wrong, "wrong"),
            (self.misacknowledged, "acknowledged wrongly"),
        ];
        let parts: Vec<String> =
            named.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        f.write_str(&parts.join(", "))
    }
}

/// How many passed-over sequence numbers a stream remembers, so that a late one is not counted as a duplicate.
const REMEMBERED: usize = 1024;

/// One ordered stream of messages as one subscriber sees it: sequence numbers 0, 1, 2, ...
#[derive(Debug, Clone, Default)]
pub struct Stream {
    next: u32,
    received: u32,
    /// Sequence numbers passed over that may still come, late.
    missing: Vec<u32>,
}

impl Stream {
    /// Records a delivery.
    pub fn record(&mut self, sequence: u32, faults: &mut Faults) {
        if sequence == self.next {
            self.next += 1;
            self.received += 1;
        } else if sequence > self.next {
            let room = REMEMBERED.saturating_sub(self.missing.len());
            self.missing.extend((self.next..sequence).take(room));
            self.next = sequence + 1;
            self.received += 1;
        } else if let Some(at) = self.missing.iter().position(|&late| late == sequence) {
            self.missing.swap_remove(at);
            self.received += 1;
            faults.disordered += 1;
        } else {
            faults.duplicated += 1;
        }
    }

    /// Different messages received, whatever their order.
    pub fn received(&self) -> u32 {
        self.received
    }

    /// Messages that never came, `sent` having been published.
    pub fn lost(&self, sent: u32) -> u64 {
        u64::from(sent.saturating_sub(self.received))
    }
}
