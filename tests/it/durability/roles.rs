//! What the clients of a run do.

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Publishes numbered messages of a QoS to `t/{id}`, as fast as its window allows.
    Publisher { qos: u8 },
    /// Takes everything below `t/` and `will/`.
    Subscriber,
    /// Sets and clears retained messages, one at a time.
    Retainer,
    /// Subscribes and unsubscribes, and looks after each connect which of the two it is.
    Resubscriber,
    /// Has a will.
    WillClient(WillPlan),
    /// Of a shared subscription to everything below `t/` and `will/`.
    Member(Group),
    /// Reads what is retained below `r/`, in a session of no account.
    Reader,
}

impl Role {
    /// Whether it has to be subscribed before any client publishes.
    pub fn subscribes(self) -> bool {
        matches!(self, Self::Subscriber | Self::Member(_))
    }

    /// Whether it has a will that is due as soon as its connection goes.
    pub fn has_will_at_once(self) -> bool {
        matches!(self, Self::WillClient(WillPlan { delay_s: 0, .. }))
    }

    /// Whether its session must be there whenever it comes back.
    pub fn keeps_session(self) -> bool {
        match self {
            Self::Reader => false,
            Self::WillClient(plan) => plan.expiry_s == u32::MAX,
            Self::Member(group) => !group.leaves,
            _ => true,
        }
    }
}

/// The will of a client, and how long its session lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WillPlan {
    pub qos: u8,
    pub retain: bool,
    /// Where it is not 0, the client stays offline until its will was delivered.
    pub delay_s: u32,
    /// The session ends with it, or before its will would be due.
    pub expiry_s: u32,
}

/// A group of a shared subscription; what its members see counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub name: &'static str,
    pub qos: u8,
    /// Receive Maximum.
    pub window: u32,
    /// The member ends its session now and then.
    pub leaves: bool,
}
