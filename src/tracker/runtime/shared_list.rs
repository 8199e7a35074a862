//! A list that threads share.

use std::sync::Mutex;

use super::lock::lock;

/// A list that threads share. Its lock is held only within a method, so it is always the last one
/// that is taken.
#[derive(Debug)]
pub(in crate::tracker) struct SharedList<T>(Mutex<Vec<T>>);

impl<T> Default for SharedList<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> SharedList<T> {
    pub(in crate::tracker) fn push(&self, item: T) {
        lock(&self.0).push(item);
    }

    pub(in crate::tracker) fn extend(&self, items: impl IntoIterator<Item = T>) {
        // Evaluated before the lock is taken.
        let mut items: Vec<T> = items.into_iter().collect();
        lock(&self.0).append(&mut items);
    }

    /// Removes and returns all items.
    pub(in crate::tracker) fn take(&self) -> Vec<T> {
        std::mem::take(&mut lock(&self.0))
    }

    pub(in crate::tracker) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// Returns the result of `pick` for each item.
    pub(in crate::tracker) fn map<U>(&self, pick: impl Fn(&T) -> U) -> Vec<U> {
        lock(&self.0).iter().map(pick).collect()
    }
}
