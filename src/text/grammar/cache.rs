//! Grammars that were compiled lately.
//!
//! Bounded by their number and by the bytes of their sources, which is what is kept to compare with:
//! two specs are one when they are equal, not when their hashes are. The one that was not used for
//! longest goes first.
//!
//! What this module deliberately does not do: it holds nobody up who compiles the same at once.

use std::collections::HashMap;

use super::matcher::Grammar;
use super::spec::GrammarSpec;

/// Grammars by their specs.
#[derive(Debug)]
pub(super) struct Cache {
    entries: HashMap<GrammarSpec, Entry>,
    max_entries: usize,
    max_bytes: usize,
    num_bytes: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    grammar: Grammar,
    used_at: u64,
}

impl Cache {
    /// Without entries.
    pub(super) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { entries: HashMap::new(), max_entries, max_bytes, num_bytes: 0, clock: 0 }
    }

    /// What was compiled for an equal spec.
    pub(super) fn get(&mut self, spec: &GrammarSpec) -> Option<Grammar> {
        self.clock += 1;
        let entry = self.entries.get_mut(spec)?;
        entry.used_at = self.clock;
        Some(entry.grammar.clone())
    }

    /// Keeps a grammar, instead of what was compiled for an equal spec before.
    pub(super) fn insert(&mut self, spec: GrammarSpec, grammar: Grammar) {
        let num_bytes = spec.num_bytes();
        if num_bytes > self.max_bytes {
            return;
        }
        self.clock += 1;
        let entry = Entry { grammar, used_at: self.clock };
        if self.entries.insert(spec, entry).is_none() {
            self.num_bytes += num_bytes;
        }
        while self.entries.len() > self.max_entries || self.num_bytes > self.max_bytes {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used_at);
            let Some(spec) = oldest.map(|(spec, _)| spec.clone()) else { return };
            self.num_bytes -= spec.num_bytes();
            self.entries.remove(&spec);
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
