//! Which contents are cached: a tree of blocks, with a hash table to find full ones.
//!
//! ```text
//! roots                 nodes                                   buckets by hash
//! no salt  --> (root) --> [ 5 9 2 7 ] --> [ 1 1 4 8 ] full      hash % n: -> node -> node
//!                    |              `---> [ 1 1 ]     partial
//!                    `--> [ 5 9 ]
//! salt "a" --> (root) --> [ 5 9 2 7 ]                           the same tokens, another node
//! ```
//!
//! A *node* is one content: its tokens behind those of its parent. Each has a *serial* that is
//! never used again. A search finds a node only under the parent that it asks for: tokens and the
//! parent's serial are compared, whatever the hashes say, and a salt's root is found by the salt
//! itself. A node's parent is always there: whoever removes one removes its children first.
//!
//! Full nodes are found by hash, or at once where they are the youngest child. Nodes that merely
//! begin with the wanted tokens are looked for among the few youngest children of a parent: among
//! many children with one beginning, nearly any few will do.
//!
//! What this module deliberately does not do: it counts no references, evicts nothing and computes
//! no hash; it holds for each node the number of a block and knows nothing else of blocks.

use rustc_hash::FxHashMap;

use super::BlockId;
use super::chain::Salt;
use super::list::{Links, List};

/// Youngest children that are compared token by token for the longest common beginning.
pub(super) const MAX_COMPARED_CHILDREN: usize = 8;

/// Number of a node; used again when the node is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeId(pub(super) u32);

/// Where in the tree a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Before all first blocks of a salt; has no tokens and no block.
    Root(Salt),
    /// Behind another node.
    Behind { parent: NodeId, parent_serial: u64 },
}

/// One cached content.
#[derive(Debug)]
pub(super) struct Node {
    /// Never that of another node; 0 when there is no node.
    pub(super) serial: u64,
    pub(super) place: Place,
    /// Chained hash; of a partial node 0.
    pub(super) hash: u64,
    pub(super) num_tokens: u32,
    /// Where the K and V are.
    pub(super) block: BlockId,
    /// Youngest first.
    pub(super) children: List,
    /// Held blocks of the same content, links by block; the pool's.
    pub(super) duplicates: List,
}

/// All cached contents.
#[derive(Debug)]
pub(super) struct PrefixIndex {
    pub(super) block_size: usize,
    /// By block: the tokens of the node that it is the block of.
    pub(super) tokens: Vec<u32>,
    pub(super) nodes: Vec<Node>,
    pub(super) unused: Vec<NodeId>,
    num_cached: usize,
    last_serial: u64,
    pub(super) roots: FxHashMap<Salt, NodeId>,
    /// A power of two of them.
    pub(super) buckets: Vec<List>,
    /// By node, of full ones.
    pub(super) bucket_links: Links,
    /// By node.
    pub(super) sibling_links: Links,
}

impl PrefixIndex {
    /// An empty index for `num_blocks` blocks.
    pub(super) fn new(num_blocks: usize, block_size: usize) -> Self {
        Self {
            block_size,
            tokens: vec![0; num_blocks * block_size],
            nodes: Vec::with_capacity(num_blocks),
            unused: Vec::with_capacity(num_blocks),
            num_cached: 0,
            last_serial: 0,
            roots: FxHashMap::default(),
            buckets: vec![List::EMPTY; num_blocks.next_power_of_two()],
            bucket_links: Links::with_capacity(num_blocks),
            sibling_links: Links::with_capacity(num_blocks),
        }
    }

    /// Nodes that have a block.
    pub(super) fn num_cached(&self) -> usize {
        self.num_cached
    }

    /// The node of that number.
    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The same, to be changed.
    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// The root of a salt, if anything is cached under it.
    pub(super) fn root(&self, salt: Salt) -> Option<NodeId> {
        self.roots.get(&salt).copied()
    }

    /// A root for a salt that has none. Its first child has to follow: it goes with its last.
    pub(super) fn insert_root(&mut self, salt: Salt) -> NodeId {
        let id = self.take_node(Place::Root(salt), BlockId(u32::MAX));
        self.roots.insert(salt, id);
        id
    }

    /// The tokens of a node.
    pub(super) fn tokens_of(&self, node: &Node) -> &[u32] {
        let start = node.block.0 as usize * self.block_size;
        &self.tokens[start..][..node.num_tokens as usize]
    }

    /// The node behind `parent` with exactly these tokens, a whole block of that hash.
    pub(super) fn find(&self, parent: NodeId, hash: u64, tokens: &[u32]) -> Option<NodeId> {
        let place = self.behind(parent);
        let bucket = &self.buckets[self.bucket_idx(hash)];
        let mut candidates = self.bucket_links.iter(bucket).map(NodeId);
        candidates.find(|&id| self.node(id).hash == hash && self.is_at(id, place, tokens))
    }

    /// The youngest child of `parent`, if it has exactly these tokens.
    pub(super) fn find_youngest(&self, parent: NodeId, tokens: &[u32]) -> Option<NodeId> {
        self.first_child(parent).filter(|&child| self.is_at(child, self.behind(parent), tokens))
    }

    fn is_at(&self, id: NodeId, place: Place, tokens: &[u32]) -> bool {
        let node = self.node(id);
        node.place == place && self.tokens_of(node) == tokens
    }

    /// The young child of `parent` that has most of these tokens at its beginning, and how many.
    pub(super) fn find_beginning(&self, parent: NodeId, tokens: &[u32]) -> Option<(NodeId, usize)> {
        let place = self.behind(parent);
        let children = self.sibling_links.iter(&self.node(parent).children);
        let mut best: Option<(NodeId, usize)> = None;
        for id in children.take(MAX_COMPARED_CHILDREN).map(NodeId) {
            let node = self.node(id);
            debug_assert!(node.place == place, "a child is in the list of another parent");
            let pairs = self.tokens_of(node).iter().zip(tokens);
            let num_common = pairs.take_while(|(cached, wanted)| cached == wanted).count();
            if best.is_none_or(|(_, most)| num_common > most) {
                best = Some((id, num_common));
            }
        }
        best
    }

    /// Adds a node behind `parent`; a hash makes it a full one.
    pub(super) fn insert(
        &mut self,
        parent: NodeId,
        block: BlockId,
        tokens: &[u32],
        hash: Option<u64>,
    ) -> NodeId {
        let id = self.take_node(self.behind(parent), block);
        self.num_cached += 1;
        self.sibling_links.push_front(&mut self.nodes[parent.0 as usize].children, id.0);
        self.write(id, tokens, hash);
        id
    }

    /// Adds tokens to a partial node: `tokens` are the old and the new ones.
    pub(super) fn extend(&mut self, id: NodeId, tokens: &[u32], hash: Option<u64>) {
        debug_assert!(tokens.starts_with(self.tokens_of(self.node(id))));
        self.write(id, tokens, hash);
    }

    /// Moves a node to another block that has the same content.
    pub(super) fn set_block(&mut self, id: NodeId, block: BlockId) {
        let node = &mut self.nodes[id.0 as usize];
        let start = node.block.0 as usize * self.block_size;
        let tokens = start..start + node.num_tokens as usize;
        node.block = block;
        self.tokens.copy_within(tokens, block.0 as usize * self.block_size);
    }

    /// Removes a node that has a block and no children, and returns its parent, which may be gone
    /// as well then: a root.
    pub(super) fn remove(&mut self, id: NodeId) -> NodeId {
        let Node { place, hash, num_tokens, children, .. } = *self.node(id);
        let Place::Behind { parent, .. } = place else { unreachable!("a root is not removed") };
        debug_assert!(children == List::EMPTY, "a node is removed before its children");
        if num_tokens as usize == self.block_size {
            let bucket_idx = self.bucket_idx(hash);
            self.bucket_links.remove(&mut self.buckets[bucket_idx], id.0);
        }
        let siblings = &mut self.nodes[parent.0 as usize].children;
        self.sibling_links.remove(siblings, id.0);
        let is_last = *siblings == List::EMPTY;
        self.num_cached -= 1;
        self.give_node(id);
        if let Place::Root(salt) = self.node(parent).place
            && is_last
        {
            self.roots.remove(&salt);
            self.give_node(parent);
        }
        parent
    }

    fn write(&mut self, id: NodeId, tokens: &[u32], hash: Option<u64>) {
        debug_assert_eq!(hash.is_some(), tokens.len() == self.block_size);
        let node = &mut self.nodes[id.0 as usize];
        node.num_tokens = tokens.len() as u32;
        let start = node.block.0 as usize * self.block_size;
        self.tokens[start..][..tokens.len()].copy_from_slice(tokens);
        if let Some(hash) = hash {
            node.hash = hash;
            let bucket_idx = self.bucket_idx(hash);
            self.bucket_links.push_front(&mut self.buckets[bucket_idx], id.0);
        }
    }

    fn take_node(&mut self, place: Place, block: BlockId) -> NodeId {
        self.last_serial += 1;
        let node = Node {
            serial: self.last_serial,
            place,
            hash: 0,
            num_tokens: 0,
            block,
            children: List::EMPTY,
            duplicates: List::EMPTY,
        };
        if let Some(id) = self.unused.pop() {
            *self.node_mut(id) = node;
            return id;
        }
        let idx = u32::try_from(self.nodes.len());
        self.nodes.push(node);
        self.bucket_links.grow();
        self.sibling_links.grow();
        NodeId(idx.expect("invariant: each node has a block or is a root with a child"))
    }

    fn give_node(&mut self, id: NodeId) {
        self.node_mut(id).serial = 0;
        self.unused.push(id);
    }

    /// Where the children of a node are.
    pub(super) fn behind(&self, parent: NodeId) -> Place {
        Place::Behind { parent, parent_serial: self.node(parent).serial }
    }

    fn bucket_idx(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// The first child of a node.
    pub(super) fn first_child(&self, id: NodeId) -> Option<NodeId> {
        self.node(id).children.front().map(NodeId)
    }
}
