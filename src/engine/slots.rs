//! Places with short numbers for things that come and go.
//!
//! ```text
//! insert(a) -> 0.0    insert(b) -> 1.0    remove(0.0)    insert(c) -> 0.1
//!                                                        get(0.0) -> None: that was a
//! ```
//!
//! A key is an index and a generation: what was removed is not mistaken for what came after it.
//!
//! What this module deliberately does not do: it keeps no order.

use std::marker::PhantomData;
use std::{fmt, hash};

/// A thing's place in its [`Slots`].
pub(crate) struct Key<T> {
    idx: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

/// Things by key.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slots<T> {
    /// Puts a thing into a free place.
    pub(crate) fn insert(&mut self, value: T) -> Key<T> {
        let idx = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            // As many as sequences, which are counted in 31 bits.
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[idx as usize];
        slot.value = Some(value);
        Key { idx, generation: slot.generation, of: PhantomData }
    }

    /// Takes a thing out.
    pub(crate) fn remove(&mut self, key: Key<T>) -> Option<T> {
        let slot = self.slots.get_mut(key.idx as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.idx);
        Some(value)
    }

    /// The thing, if it is still there.
    pub(crate) fn get(&self, key: Key<T>) -> Option<&T> {
        let slot = self.slots.get(key.idx as usize)?;
        slot.value.as_ref().filter(|_| slot.generation == key.generation)
    }

    /// The thing, if it is still there.
    pub(crate) fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.idx as usize)?;
        slot.value.as_mut().filter(|_| slot.generation == key.generation)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key<T>> {
        let keyed = (0..).zip(&self.slots).filter(|(_, slot)| slot.value.is_some());
        keyed.map(|(idx, slot)| Key { idx, generation: slot.generation, of: PhantomData })
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> std::ops::Index<Key<T>> for Slots<T> {
    type Output = T;

    fn index(&self, key: Key<T>) -> &T {
        self.get(key).expect("invariant: whoever holds this key knows that it is in use")
    }
}

impl<T> std::ops::IndexMut<Key<T>> for Slots<T> {
    fn index_mut(&mut self, key: Key<T>) -> &mut T {
        self.get_mut(key).expect("invariant: whoever holds this key knows that it is in use")
    }
}

impl<T> Key<T> {
    /// Its index: below the most that were ever there at once.
    pub(crate) fn idx(self) -> usize {
        self.idx as usize
    }

    /// A key as it would be handed out, for tests of what only passes keys on.
    #[cfg(test)]
    pub(crate) fn test(idx: u32) -> Self {
        Self { idx, generation: 0, of: PhantomData }
    }

    /// The key of whatever comes to the same place next.
    #[cfg(test)]
    pub(crate) fn next(self) -> Self {
        Self { generation: self.generation + 1, ..self }
    }
}

// By hand, for `T` need not be any of these.
impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.idx, self.generation) == (other.idx, other.generation)
    }
}

impl<T> Eq for Key<T> {}

impl<T> hash::Hash for Key<T> {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        (self.idx, self.generation).hash(state);
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.idx, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_find_what_came_after() {
        let mut slots = Slots::default();
        let (first, second) = (slots.insert('a'), slots.insert('b'));
        assert_eq!(slots.remove(first), Some('a'));
        assert_eq!(slots.remove(first), None);
        let third = slots.insert('c');
        assert_eq!(third.idx(), first.idx());
        assert_eq!((slots.get(first), slots.get(third)), (None, Some(&'c')));
        assert_eq!(slots.len(), 2);
        assert_eq!(slots.keys().collect::<Vec<_>>(), [third, second]);
        slots[second] = 'd';
        assert_eq!(slots[second], 'd');
    }
}
