//! Who shares what, by example.

use super::super::{BlockCopy, BlockId, KvCache, KvCacheOptions, PrefixCacheStats};
use super::device::{Device, Seq, run};
use super::kv_cache;

/// `0..num_tokens`, all different.
fn tokens(num_tokens: u32) -> Vec<u32> {
    (0..num_tokens).collect()
}

fn blocks(seq: &Seq) -> Vec<u32> {
    seq.table.blocks().iter().map(|block| block.0).collect()
}

#[test]
fn tables_take_all_or_nothing_and_return_everything() {
    let kv_cache = kv_cache(4);
    let (mut one, mut two) = (kv_cache.new_table(None), kv_cache.new_table(None));
    let mut copies = Vec::new();
    assert!(kv_cache.try_reserve(&mut one, 0, 9, 1, &mut copies));
    assert_eq!(one.blocks(), [0, 1, 2].map(BlockId));
    assert!(!kv_cache.try_reserve(&mut two, 0, 5, 0, &mut copies));
    assert!(!kv_cache.try_reserve(&mut two, 0, 1, 1, &mut copies), "the watermark");
    assert!(kv_cache.try_reserve(&mut one, 9, 12, 3, &mut copies), "it has that room already");
    assert_eq!((two.is_empty(), kv_cache.num_used(), kv_cache.num_free()), (true, 3, 1));
    assert!(kv_cache.check_integrity([&one]).is_ok());
    assert!(
        kv_cache.check_integrity([]).is_err() && kv_cache.check_integrity([&one, &one]).is_err()
    );
    drop(one);
    assert_eq!(kv_cache.num_free(), 4);
    assert_eq!(kv_cache.check_integrity([&two]), Ok(()));
}

#[test]
fn whole_blocks_of_a_running_sequence_are_shared() {
    let kv_cache = kv_cache(8);
    let mut device = Device::new(&kv_cache);
    let (first, _) = run(&kv_cache, &mut device, &tokens(10));
    assert_eq!(kv_cache.num_cached(), 2);
    let (second, lookup) = run(&kv_cache, &mut device, &tokens(11));
    assert_eq!((lookup.num_cached_tokens, lookup.num_partial_tokens), (8, 0));
    assert_eq!((blocks(&first), blocks(&second)), (vec![0, 1, 2], vec![0, 1, 3]));
    assert_eq!(kv_cache.check_integrity([&first.table, &second.table]), Ok(()));
}

#[test]
fn the_next_turn_of_a_chat_goes_on_in_its_own_tail_without_a_copy() {
    let kv_cache = kv_cache(8);
    let mut device = Device::new(&kv_cache);
    run(&kv_cache, &mut device, &tokens(10)).0.release(&kv_cache);
    assert_eq!((kv_cache.num_used(), kv_cache.num_cached()), (0, 3));
    let (seq, lookup) = run(&kv_cache, &mut device, &tokens(14));
    assert_eq!((lookup.num_cached_tokens, lookup.num_partial_tokens), (10, 2));
    assert_eq!((blocks(&seq), kv_cache.stats().num_copies), (vec![0, 1, 2, 3], 0));
    assert_eq!(kv_cache.num_cached(), 3, "what was cached of the tail has grown");
    seq.release(&kv_cache);
    run(&kv_cache, &mut device, &tokens(15)).0.release(&kv_cache);
    let (_, lookup) = run(&kv_cache, &mut device, &tokens(16));
    assert_eq!((lookup.num_cached_tokens, lookup.num_partial_tokens), (15, 3));
    assert_eq!((kv_cache.stats().num_copies, kv_cache.num_cached()), (0, 4));
}

#[test]
fn a_block_of_which_only_a_part_matches_is_copied() {
    let kv_cache = kv_cache(8);
    let mut device = Device::new(&kv_cache);
    run(&kv_cache, &mut device, &tokens(8)).0.release(&kv_cache);
    let (other, lookup) = run(&kv_cache, &mut device, &[0, 1, 2, 3, 4, 5, 9, 9]);
    assert_eq!((lookup.num_cached_tokens, lookup.num_partial_tokens), (6, 2));
    assert_eq!((blocks(&other), kv_cache.stats().num_copies), (vec![0, 2], 1));
    let (_, lookup) = Seq::look_up(&kv_cache, None, &tokens(8));
    assert_eq!(lookup.num_cached_tokens, 7, "the original is as it was, the last token computed");
}

#[test]
fn without_room_for_a_copy_the_original_is_given_up() {
    let kv_cache = kv_cache(2);
    let mut device = Device::new(&kv_cache);
    run(&kv_cache, &mut device, &tokens(8)).0.release(&kv_cache);
    let (seq, lookup) = run(&kv_cache, &mut device, &[0, 1, 2, 3, 4, 5, 9, 9]);
    assert_eq!((lookup.num_cached_tokens, kv_cache.stats().num_copies), (6, 0));
    assert_eq!((kv_cache.stats().num_evictions_capacity, kv_cache.num_cached()), (1, 2));
    assert_eq!(kv_cache.check_integrity([&seq.table]), Ok(()));
}

#[test]
fn forks_share_every_block_until_one_writes() {
    let kv_cache = kv_cache(8);
    let mut device = Device::new(&kv_cache);
    let (mut one, _) = run(&kv_cache, &mut device, &tokens(6));
    let mut two = one.fork(&kv_cache);
    assert_eq!((blocks(&two), kv_cache.num_used()), (vec![0, 1], 2));
    one.tokens.push(100);
    two.tokens.push(200);
    let mut copies = Vec::new();
    assert!(kv_cache.try_reserve(&mut one.table, 6, 7, 0, &mut copies));
    assert!(kv_cache.try_reserve(&mut two.table, 6, 7, 0, &mut copies));
    assert_eq!(copies, [BlockCopy { from: BlockId(1), to: BlockId(2) }], "the last one need not");
    device.copy(&copies);
    one.compute(&kv_cache, &mut device);
    two.compute(&kv_cache, &mut device);
    assert_eq!((one.first_wrong(&device), two.first_wrong(&device)), (None, None));
    assert_eq!((blocks(&one), blocks(&two)), (vec![0, 2], vec![0, 1]));
}

#[test]
fn blocks_that_hold_nothing_yet_are_replaced_without_a_copy() {
    let kv_cache = kv_cache(8);
    let mut one = kv_cache.new_table(None);
    let mut copies = Vec::new();
    assert!(kv_cache.try_reserve(&mut one, 0, 12, 0, &mut copies));
    let mut two = kv_cache.fork(&one);
    assert!(kv_cache.try_reserve(&mut two, 5, 12, 0, &mut copies));
    assert_eq!(copies.len(), 1, "of the block of tokens 4 to 7");
    assert_eq!((two.blocks()[0], kv_cache.num_used()), (BlockId(0), 5));
    assert_eq!(kv_cache.check_integrity([&one, &two]), Ok(()));
}

#[test]
fn tables_of_different_salts_never_share() {
    let kv_cache = kv_cache(16);
    let mut device = Device::new(&kv_cache);
    for salt in [None, Some(""), Some("a"), Some("b")] {
        for (num_cached, comment) in [(0, "nobody was here"), (7, "the same tenant was")] {
            let (mut seq, lookup) = Seq::look_up(&kv_cache, salt, &tokens(8));
            assert_eq!(lookup.num_cached_tokens, num_cached, "{comment}");
            assert!(seq.try_reserve(&kv_cache, &mut device, 0));
            seq.compute(&kv_cache, &mut device);
            assert_eq!(seq.first_wrong(&device), None);
            seq.release(&kv_cache);
        }
    }
    assert_eq!(kv_cache.check_integrity([]), Ok(()));
}

#[test]
fn of_two_that_computed_the_same_one_block_is_cached_as_long_as_either_runs() {
    let kv_cache = kv_cache(8);
    let mut device = Device::new(&kv_cache);
    let (mut one, _) = Seq::look_up(&kv_cache, None, &tokens(8));
    let (mut two, _) = Seq::look_up(&kv_cache, None, &tokens(8));
    for seq in [&mut one, &mut two] {
        assert!(seq.try_reserve(&kv_cache, &mut device, 0));
        seq.compute(&kv_cache, &mut device);
    }
    assert_eq!((kv_cache.num_cached(), kv_cache.num_used()), (2, 4));
    one.release(&kv_cache);
    assert_eq!((kv_cache.num_cached(), kv_cache.num_used()), (2, 2));
    let (three, lookup) = Seq::look_up(&kv_cache, None, &tokens(9));
    assert_eq!((lookup.num_cached_tokens, blocks(&three)), (8, blocks(&two)));
    assert_eq!(three.first_wrong(&device), None);
    assert_eq!(kv_cache.check_integrity([&two.table, &three.table]), Ok(()));
}

#[test]
fn a_tail_that_becomes_what_another_block_is_already_joins_it() {
    let kv_cache = kv_cache(8);
    let mut device = Device::new(&kv_cache);
    run(&kv_cache, &mut device, &tokens(6)).0.release(&kv_cache);
    let (mut one, _) = Seq::look_up(&kv_cache, None, &tokens(8));
    let (two, lookup) = run(&kv_cache, &mut device, &tokens(8));
    assert_eq!((lookup.num_cached_tokens, kv_cache.stats().num_copies), (6, 1));
    assert!(one.try_reserve(&kv_cache, &mut device, 0));
    assert_eq!((blocks(&one), kv_cache.num_cached()), (vec![0, 1], 3), "nobody else has it now");
    one.compute(&kv_cache, &mut device);
    assert_eq!(kv_cache.num_cached(), 2, "the first block and one for both of the others");
    assert_eq!(kv_cache.check_integrity([&one.table, &two.table]), Ok(()));
    two.release(&kv_cache);
    assert_eq!((kv_cache.num_cached(), kv_cache.num_used()), (2, 2));
    assert_eq!(kv_cache.check_integrity([&one.table]), Ok(()));
}

#[test]
fn a_lookup_waits_for_the_block_that_another_computes() {
    let kv_cache = kv_cache(16);
    let mut device = Device::new(&kv_cache);
    let (mut one, lookup) = Seq::look_up(&kv_cache, None, &tokens(13));
    assert!(!lookup.is_pending);
    kv_cache.announce(&mut one.table, &tokens(13));
    assert!(one.try_reserve(&kv_cache, &mut device, 0));
    let is_pending =
        |salt, num_tokens| Seq::look_up(&kv_cache, salt, &tokens(num_tokens)).1.is_pending;
    assert!(is_pending(None, 5) && is_pending(None, 20));
    assert!(!is_pending(Some("a"), 20) && !is_pending(None, 3));
    // One block of the prompt is computed; who shares no more than that need not wait.
    kv_cache.commit(&mut one.table, &tokens(13), 5);
    assert!(!is_pending(None, 5) && is_pending(None, 9));
    let fork = kv_cache.fork(&one.table);
    assert_eq!(kv_cache.check_integrity([&one.table, &fork]), Ok(()));
    kv_cache.commit(&mut one.table, &tokens(13), 13);
    assert!(!is_pending(None, 20), "generated tokens are not waited for");
}

#[test]
fn nobody_waits_for_a_table_that_is_gone_or_whose_work_is_void() {
    let kv_cache = kv_cache(16);
    for what in ["drop", "clear", "reset"] {
        let mut table = kv_cache.new_table(None);
        assert!(kv_cache.try_reserve(&mut table, 0, 12, 0, &mut Vec::new()));
        kv_cache.announce(&mut table, &tokens(12));
        assert!(Seq::look_up(&kv_cache, None, &tokens(12)).1.is_pending);
        match what {
            "drop" => drop(table),
            "clear" => table.clear(),
            _ => {
                kv_cache.reset();
                kv_cache.commit(&mut table, &tokens(12), 4);
            }
        }
        assert!(!Seq::look_up(&kv_cache, None, &tokens(12)).1.is_pending, "after a {what}");
    }
}

#[test]
fn blocks_from_elsewhere_are_found_once_they_are_committed() {
    let kv_cache = kv_cache(2);
    let mut table = kv_cache.new_table(None);
    assert_eq!(kv_cache.push_block(&mut table), Some(BlockId(0)));
    assert_eq!(kv_cache.push_block(&mut table), Some(BlockId(1)));
    assert_eq!(kv_cache.push_block(&mut table), None);
    kv_cache.commit(&mut table, &tokens(8), 8);
    assert_eq!(Seq::look_up(&kv_cache, None, &tokens(9)).1.num_cached_tokens, 8);
}

#[test]
fn without_the_prefix_cache_nothing_is_found_and_forks_still_copy() {
    let kv_cache = KvCache::new(KvCacheOptions {
        num_blocks: 8,
        block_size: 4,
        is_prefix_cache_on: false,
        hash_seed: 0,
    });
    let mut device = Device::new(&kv_cache);
    let (one, _) = run(&kv_cache, &mut device, &tokens(6));
    let mut two = one.fork(&kv_cache);
    two.tokens.push(7);
    assert!(two.try_reserve(&kv_cache, &mut device, 0));
    assert_eq!(blocks(&two), [0, 2]);
    let tables = [&one.table, &two.table];
    assert_eq!(kv_cache.check_integrity(tables), Ok(()));
    one.release(&kv_cache);
    two.release(&kv_cache);
    let (seq, lookup) = Seq::look_up(&kv_cache, None, &tokens(6));
    assert!(seq.table.is_empty() && !lookup.is_pending && lookup.num_cached_tokens == 0);
    kv_cache.count(&lookup);
    let expected = PrefixCacheStats {
        num_query_tokens: 6,
        num_miss_tokens_new: 4,
        num_miss_tokens_tail: 2,
        num_copies: 1,
        ..PrefixCacheStats::default()
    };
    assert_eq!((kv_cache.stats(), kv_cache.num_cached()), (expected, 0));
}
