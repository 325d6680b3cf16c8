//! The subscribers of one filter.

use crate::hash::IdMap;
use crate::ids::SessionId;
use weir_mqtt::SubscriptionOptions;

/// A list this long gets an index, so that leaving a popular filter costs no search.
const INDEXED_FROM: usize = 32;

/// One session's subscription at a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscriber {
    pub(crate) session: SessionId,
    /// The index of the node in the session's list.
    pub(crate) position: u32,
    /// Subscription identifier; 0: none.
    pub(crate) identifier: u32,
    pub(crate) options: SubscriptionOptions,
}

#[derive(Debug, Default)]
pub(crate) enum Subscribers {
    #[default]
    None,
    One(Subscriber),
    Many(Box<Many>),
}

#[derive(Debug, Default)]
pub(crate) struct Many {
    list: Vec<Subscriber>,
    /// Session to place in `list`, from [`INDEXED_FROM`] on.
    index: Option<IdMap<SessionId, u32>>,
}

impl Many {
    fn index_of(&self, session: SessionId) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&session).map(|&place| place as usize),
            None => self.list.iter().position(|s| s.session == session),
        }
    }

    fn push(&mut self, subscriber: Subscriber) {
        self.list.push(subscriber);
        if let Some(index) = &mut self.index {
            index.insert(subscriber.session, (self.list.len() - 1) as u32);
        } else if self.list.len() > INDEXED_FROM {
            self.index = Some(self.list.iter().enumerate().map(|(i, s)| (s.session, i as u32)).collect());
        }
    }

    fn remove(&mut self, session: SessionId) -> Option<Subscriber> {
        let place = self.index_of(session)?;
        let removed = self.list.swap_remove(place);
        if let Some(index) = &mut self.index {
            index.remove(&session);
            if let Some(moved) = self.list.get(place) {
                index.insert(moved.session, place as u32);
            }
        }
        Some(removed)
    }
}

impl Subscribers {
    pub(crate) fn as_slice(&self) -> &[Subscriber] {
        match self {
            Subscribers::None => &[],
            Subscribers::One(one) => std::slice::from_ref(one),
            Subscribers::Many(many) => &many.list,
        }
    }

    pub(crate) fn get_mut(&mut self, session: SessionId) -> Option<&mut Subscriber> {
        match self {
            Subscribers::One(one) if one.session == session => Some(one),
            Subscribers::Many(many) => many.index_of(session).and_then(|place| many.list.get_mut(place)),
            _ => None,
        }
    }

    pub(crate) fn push(&mut self, subscriber: Subscriber) {
        match self {
            Subscribers::None => *self = Subscribers::One(subscriber),
            Subscribers::One(one) => {
                *self = Subscribers::Many(Box::new(Many { list: vec![*one, subscriber], index: None }));
            }
            Subscribers::Many(many) => many.push(subscriber),
        }
    }

    pub(crate) fn remove(&mut self, session: SessionId) -> Option<Subscriber> {
        match self {
            Subscribers::One(one) if one.session == session => {
                let one = *one;
                *self = Subscribers::None;
                Some(one)
            }
            Subscribers::Many(many) => {
                let removed = many.remove(session);
                if many.list.is_empty() {
                    *self = Subscribers::None;
                }
                removed
            }
            _ => None,
        }
    }
}
