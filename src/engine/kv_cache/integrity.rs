//! Every rule of the cache, checked against all tables.
//!
//! | Rule | |
//! | --- | --- |
//! | references | a block's are those of the tables; one without is in the free list, once |
//! | order | in the free list blocks that are not cached come first, and no node before its children |
//! | nodes | a node's block says so, and so do its duplicates, which are held; the parent is there |
//! | search | every full node is found by its tokens, every node is among its parent's children |
//! | tables | the registered blocks of a table are a path through the tree |
//! | announcements | are those of the tables |
//!
//! What this module deliberately does not do: it is not quick; it is for tests and idle moments.

use rustc_hash::FxHashMap;

use super::BlockId;
use super::list::List;
use super::pool::Pool;
use super::prefix_index::{Node, NodeId, Place};
use super::table::BlockTable;

/// Checks that with `condition`, or says what is wrong.
fn ensure(condition: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(wrong()) }
}

/// Checks a pool against all tables that hold its blocks.
pub(super) fn check(pool: &Pool, tables: &[&BlockTable]) -> Result<(), String> {
    check_references(pool, tables)?;
    let ages = check_free_list(pool)?;
    check_nodes(pool, &ages)?;
    tables.iter().try_for_each(|table| check_table(pool, table))?;
    check_announcements(pool, tables)
}

fn check_references(pool: &Pool, tables: &[&BlockTable]) -> Result<(), String> {
    let mut refs = vec![0_u32; pool.blocks.len()];
    for &BlockId(block) in tables.iter().flat_map(|table| &table.blocks) {
        let refs = refs.get_mut(block as usize);
        *refs.ok_or_else(|| format!("block {block} of a table is not of this pool"))? += 1;
    }
    for (idx, (block, &found)) in pool.blocks.iter().zip(&refs).enumerate() {
        ensure(block.refs == found, || {
            format!("block {idx} has {} references, but tables hold {found}", block.refs)
        })?;
    }
    Ok(())
}

/// By block: its place in the free list, or none while it is held.
fn check_free_list(pool: &Pool) -> Result<Vec<Option<usize>>, String> {
    let mut ages = vec![None; pool.blocks.len()];
    let mut is_cached = false;
    // One more than there may be, so that a list that bites its tail ends.
    for (age, idx) in pool.links.iter(&pool.free).take(pool.blocks.len() + 1).enumerate() {
        let block = pool.blocks[idx as usize];
        ensure(block.refs == 0, || format!("block {idx} is held and in the free list"))?;
        ensure(ages[idx as usize].replace(age).is_none(), || {
            format!("block {idx} is in the free list twice")
        })?;
        ensure(block.node.is_some() || !is_cached, || {
            format!("block {idx} is not cached, but behind cached ones in the free list")
        })?;
        is_cached = block.node.is_some();
    }
    let num_free = pool.blocks.iter().filter(|block| block.refs == 0).count();
    let num_listed = ages.iter().flatten().count();
    ensure(num_free == num_listed && num_free == pool.num_free, || {
        format!("{num_free} blocks are free, {num_listed} listed, {} counted", pool.num_free)
    })?;
    Ok(ages)
}

fn check_nodes(pool: &Pool, ages: &[Option<usize>]) -> Result<(), String> {
    let (mut num_cached, mut num_roots, mut num_tied) = (0, 0, 0);
    for (idx, node) in pool.index.nodes.iter().enumerate().filter(|(_, node)| node.serial != 0) {
        let id = NodeId(idx as u32);
        match node.place {
            Place::Root(salt) => {
                num_roots += 1;
                ensure(pool.index.root(salt) == Some(id), || format!("root {idx} is not found"))?;
                ensure(node.children != List::EMPTY, || format!("root {idx} leads nowhere"))?;
            }
            Place::Behind { parent, .. } => {
                num_cached += 1;
                num_tied += check_node(pool, ages, id, node, parent)?;
            }
        }
    }
    ensure(num_cached == pool.index.num_cached() && num_roots == pool.index.roots.len(), || {
        format!("{num_cached} nodes and {num_roots} roots, other numbers counted")
    })?;
    let num_claimed = pool.blocks.iter().filter(|block| block.node.is_some()).count();
    ensure(num_claimed == num_tied, || {
        format!("{num_claimed} blocks claim a node, nodes have {num_tied}")
    })
}

/// Returns the number of blocks that the node has, duplicates included.
fn check_node(
    pool: &Pool,
    ages: &[Option<usize>],
    id: NodeId,
    node: &Node,
    parent: NodeId,
) -> Result<usize, String> {
    let index = &pool.index;
    let name = || format!("node {} in block {}", id.0, node.block.0);
    let is_full = node.num_tokens as usize == pool.block_size;
    ensure(node.num_tokens > 0, || format!("{} has no tokens", name()))?;
    ensure(is_full || node.children == List::EMPTY, || {
        format!("{} is partial and has children", name())
    })?;
    let parent_node = index.node(parent);
    ensure(parent_node.serial != 0 && node.place == index.behind(parent), || {
        format!("the parent of {} is gone", name())
    })?;
    ensure(index.sibling_links.iter(&parent_node.children).any(|child| child == id.0), || {
        format!("{} is not among its parent's children", name())
    })?;
    let is_found = index.find(parent, node.hash, index.tokens_of(node)) == Some(id);
    ensure(!is_full || is_found, || format!("{} is not found by its tokens", name()))?;
    if let Place::Behind { .. } = parent_node.place
        && let Some(parent_age) = ages[parent_node.block.0 as usize]
    {
        let age = ages[node.block.0 as usize];
        ensure(age.is_some_and(|age| age < parent_age), || {
            format!("{} would be evicted after its parent", name())
        })?;
    }
    let mut num_blocks = 1;
    ensure(pool.block(node.block).node == Some(id), || format!("{} is of another node", name()))?;
    for duplicate in pool.links.iter(&node.duplicates).take(pool.blocks.len()) {
        num_blocks += 1;
        let block = pool.block(BlockId(duplicate));
        let is_held = block.refs > 0 && pool.block(node.block).refs > 0;
        ensure(is_full && is_held && block.node == Some(id), || {
            format!("{} has a duplicate {duplicate} that is none", name())
        })?;
    }
    Ok(num_blocks)
}

fn check_table(pool: &Pool, table: &BlockTable) -> Result<(), String> {
    if table.epoch != pool.epoch {
        return Ok(());
    }
    let mut parent = pool.index.root(table.salt);
    for &block in &table.blocks[..table.num_registered] {
        let node = pool.block(block).node;
        let node = node.ok_or_else(|| format!("block {} lost its node", block.0))?;
        let place = parent.map(|parent| pool.index.behind(parent));
        let is_full = pool.index.node(node).num_tokens as usize == pool.block_size;
        ensure(is_full && place == Some(pool.index.node(node).place), || {
            format!("block {} of a table is not behind the one before", block.0)
        })?;
        parent = Some(node);
    }
    Ok(())
}

fn check_announcements(pool: &Pool, tables: &[&BlockTable]) -> Result<(), String> {
    let mut found: FxHashMap<u64, u32> = FxHashMap::default();
    for hash in tables.iter().filter_map(|table| table.announced) {
        *found.entry(hash).or_default() += 1;
    }
    ensure(found == pool.announced, || {
        format!("announced are {:?}, by tables {found:?}", pool.announced)
    })
}
