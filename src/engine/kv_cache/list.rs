//! Doubly linked lists over indices: many lists, one array of links, no allocation.
//!
//! ```text
//! Links   item:   0      1      2      3      4          List { head: 3, tail: 0 }
//!         prev:   4      -      -      -      3          List { head: 1, tail: 1 }
//!         next:   -      -      -      4      0            3 <-> 4 <-> 0        1
//! ```
//!
//! An item has one link and can therefore be in one list at a time; whoever owns a [`Links`] knows
//! in which. Every operation takes constant time, also taking an item out of the middle.
//!
//! What this module deliberately does not do: it does not check that an item is in the list that
//! it is removed from; the integrity check of the cache walks all lists.

/// No item.
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

const UNLINKED: Link = Link { prev: NIL, next: NIL };

/// The two ends of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl List {
    /// A list without items.
    pub(super) const EMPTY: Self = Self { head: NIL, tail: NIL };

    /// The first item.
    pub(super) fn front(self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }
}

/// The links of all items.
#[derive(Debug)]
pub(super) struct Links(Vec<Link>);

impl Links {
    /// Links for the items `0..num_items`, none of them in a list.
    pub(super) fn new(num_items: usize) -> Self {
        Self(vec![UNLINKED; num_items])
    }

    /// No links yet, with room for those of `num_items` items.
    pub(super) fn with_capacity(num_items: usize) -> Self {
        Self(Vec::with_capacity(num_items))
    }

    /// A link for one item more.
    pub(super) fn grow(&mut self) {
        self.0.push(UNLINKED);
    }

    /// Puts an item, which is in no list, before all others.
    pub(super) fn push_front(&mut self, list: &mut List, item: u32) {
        self.0[item as usize] = Link { prev: NIL, next: list.head };
        match list.front() {
            Some(head) => self.0[head as usize].prev = item,
            None => list.tail = item,
        }
        list.head = item;
    }

    /// Puts an item, which is in no list, behind all others.
    pub(super) fn push_back(&mut self, list: &mut List, item: u32) {
        self.0[item as usize] = Link { prev: list.tail, next: NIL };
        match list.tail {
            NIL => list.head = item,
            tail => self.0[tail as usize].next = item,
        }
        list.tail = item;
    }

    /// Takes an item out of the list that it is in.
    pub(super) fn remove(&mut self, list: &mut List, item: u32) {
        let Link { prev, next } = self.0[item as usize];
        match prev {
            NIL => list.head = next,
            prev => self.0[prev as usize].next = next,
        }
        match next {
            NIL => list.tail = prev,
            next => self.0[next as usize].prev = prev,
        }
    }

    /// The items of a list, from front to back.
    pub(super) fn iter(&self, list: &List) -> impl Iterator<Item = u32> {
        let next_of = |&item: &u32| Some(self.0[item as usize].next).filter(|&next| next != NIL);
        std::iter::successors(list.front(), next_of)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_list_does_what_a_deque_does(moves in prop::collection::vec((0_u32..8, 0..3), 0..80)) {
            let mut links = Links::new(8);
            let (mut list, mut model) = (List::EMPTY, VecDeque::new());
            for (item, what) in moves {
                match (model.iter().position(|&other| other == item), what) {
                    (Some(place), _) => {
                        links.remove(&mut list, item);
                        model.remove(place);
                    }
                    (None, 0) => {
                        links.push_front(&mut list, item);
                        model.push_front(item);
                    }
                    (None, _) => {
                        links.push_back(&mut list, item);
                        model.push_back(item);
                    }
                }
                prop_assert!(links.iter(&list).eq(model.iter().copied()));
                prop_assert_eq!(list.front(), model.front().copied());
                prop_assert_eq!(list == List::EMPTY, model.is_empty());
            }
        }
    }
}
