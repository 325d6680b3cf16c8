//! Texts made of declarations, remembered: of a thousand documents one changes at a time, and only that is written anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Identity;
use super::previous::Item;

/// A text for each declaration. One that is the same allocation as the last time keeps its text.
#[derive(Debug, Clone, Default)]
pub(super) struct Texts {
    known: BTreeMap<Identity, (Item, Arc<str>)>,
}

impl Texts {
    /// The texts of all of `items`, in their order. Others are forgotten.
    pub(super) fn of(
        &mut self,
        items: impl Iterator<Item = (Identity, Item)>,
        make: impl Fn(&Identity, &Item) -> String,
    ) -> Vec<Arc<str>> {
        let mut before = std::mem::take(&mut self.known);
        let mut texts = Vec::with_capacity(before.len());
        for (identity, item) in items {
            let text = match before.remove(&identity) {
                Some((known, text)) if known.is(&item) => text,
                _ => Arc::from(make(&identity, &item)),
            };
            texts.push(Arc::clone(&text));
            self.known.insert(identity, (item, text));
        }
        texts
    }
}
