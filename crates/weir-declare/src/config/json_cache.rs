//! Caches the JSON text of declarations. Of a thousand documents mostly one changes at a time: only that is serialized.

use std::sync::Arc;

use super::DocumentIdentity;
use super::item::Item;

/// The JSON text of each declaration. A declaration that is the same allocation as last time keeps its text.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonCache {
    known: Vec<(DocumentIdentity, Item, Arc<str>)>,
}

impl JsonCache {
    /// The texts of `items`, which are sorted by identity; `make` serializes those that changed. Drops all other texts.
    pub(super) fn texts_of(
        &mut self,
        items: impl Iterator<Item = (DocumentIdentity, Item)>,
        make: impl Fn(&DocumentIdentity, &Item) -> String,
    ) -> impl Iterator<Item = &Arc<str>> + Clone {
        let mut before = std::mem::take(&mut self.known).into_iter().peekable();
        self.known.reserve(before.len() + 1);
        for (identity, item) in items {
            while before.next_if(|(known, ..)| *known < identity).is_some() {}
            let text = match before.next_if(|(known, ..)| *known == identity) {
                Some((_, known, text)) if known.is_same(&item) => text,
                _ => Arc::from(make(&identity, &item)),
            };
            self.known.push((identity, item, text));
        }
        self.known.iter().map(|(_, _, text)| text)
    }
}
