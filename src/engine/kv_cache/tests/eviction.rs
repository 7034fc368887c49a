//! What is forgotten, when, and how it is counted; by example.

use super::super::PrefixCacheStats;
use super::super::prefix_index::MAX_COMPARED_CHILDREN;
use super::device::{Device, Seq, run};
use super::kv_cache;

/// `num_tokens` tokens that begin with `first`, so that nothing of different ones is shared.
fn tokens(first: u32, num_tokens: u32) -> Vec<u32> {
    (0..num_tokens).map(|idx| first * 100 + idx).collect()
}

#[test]
fn evicts_least_recently_used_first_and_tails_before_heads() {
    let kv_cache = kv_cache(6);
    let mut device = Device::new(&kv_cache);
    for first in [1, 2, 3] {
        run(&kv_cache, &mut device, &tokens(first, 8)).0.release(&kv_cache);
    }
    // A hit makes the first the youngest.
    drop(Seq::look_up(&kv_cache, None, &tokens(1, 8)));
    let num_cached = |first| {
        let lookup = Seq::look_up(&kv_cache, None, &tokens(first, 9)).1;
        (lookup.num_cached_tokens, kv_cache.num_cached())
    };
    let (_, lookup) = run(&kv_cache, &mut device, &tokens(4, 4));
    assert_eq!(lookup.num_cached_tokens, 0);
    assert_eq!(num_cached(2), (4, 6), "the tail of the oldest is gone; the new one is cached");
    assert_eq!(num_cached(3), (8, 6));
    assert_eq!(num_cached(1), (8, 6));
    assert_eq!(kv_cache.stats().num_evictions_capacity, 1);
}

#[test]
fn blocks_that_are_not_cached_are_taken_before_any_is_evicted() {
    let kv_cache = kv_cache(4);
    let mut device = Device::new(&kv_cache);
    run(&kv_cache, &mut device, &tokens(1, 8)).0.release(&kv_cache);
    for _ in 0..3 {
        let (mut seq, _) = Seq::look_up(&kv_cache, None, &tokens(2, 8));
        assert!(seq.try_reserve(&kv_cache, &mut device, 0));
    }
    assert_eq!(kv_cache.stats().num_evictions_capacity, 0);
    assert_eq!((kv_cache.num_cached(), kv_cache.num_free()), (2, 4));
}

#[test]
fn what_others_still_run_with_is_not_forgotten() {
    let kv_cache = kv_cache(4);
    let mut device = Device::new(&kv_cache);
    let (running, _) = run(&kv_cache, &mut device, &tokens(1, 8));
    for first in 2..9 {
        run(&kv_cache, &mut device, &tokens(first, 8)).0.release(&kv_cache);
    }
    assert_eq!(running.first_wrong(&device), None);
    assert_eq!(Seq::look_up(&kv_cache, None, &tokens(1, 9)).1.num_cached_tokens, 8);
}

#[test]
fn the_same_tail_is_cached_once() {
    let kv_cache = kv_cache(8);
    let mut device = Device::new(&kv_cache);
    let mut seqs: Vec<Seq> =
        (0..3).map(|_| Seq::look_up(&kv_cache, None, &tokens(1, 6)).0).collect();
    for seq in &mut seqs {
        assert!(seq.try_reserve(&kv_cache, &mut device, 0));
        seq.compute(&kv_cache, &mut device);
    }
    for seq in seqs {
        seq.release(&kv_cache);
    }
    assert_eq!(kv_cache.num_cached(), 2);
    assert_eq!(kv_cache.check_integrity([]), Ok(()));
}

#[test]
fn a_reset_forgets_everything_and_what_was_computed_before_stays_forgotten() {
    let kv_cache = kv_cache(8);
    let mut device = Device::new(&kv_cache);
    run(&kv_cache, &mut device, &tokens(1, 6)).0.release(&kv_cache);
    let (mut running, _) = run(&kv_cache, &mut device, &tokens(2, 6));
    assert_eq!((kv_cache.num_cached(), kv_cache.reset(), kv_cache.num_cached()), (3, 3, 0));
    assert_eq!(kv_cache.stats().num_evictions_reset, 3);
    assert_eq!((kv_cache.num_used(), running.first_wrong(&device)), (2, None));
    running.tokens.extend(tokens(2, 9));
    assert!(running.try_reserve(&kv_cache, &mut device, 0));
    running.compute(&kv_cache, &mut device);
    assert_eq!(kv_cache.check_integrity([&running.table]), Ok(()));
    running.release(&kv_cache);
    assert_eq!(kv_cache.num_cached(), 0);
    run(&kv_cache, &mut device, &tokens(2, 6)).0.release(&kv_cache);
    assert_eq!(kv_cache.num_cached(), 2, "whoever starts after it is cached again");
}

#[test]
fn a_table_from_before_a_reset_that_was_still_empty_is_cached() {
    let kv_cache = kv_cache(8);
    let (mut table, tokens) = (kv_cache.new_table(None), tokens(1, 4));
    kv_cache.reset();
    assert_eq!(kv_cache.lookup(&mut table, &tokens, 3).num_cached_tokens, 0);
    assert!(kv_cache.try_reserve(&mut table, 0, 4, 0, &mut Vec::new()));
    kv_cache.commit(&mut table, &tokens, 4);
    assert_eq!(kv_cache.num_cached(), 1);
}

#[test]
fn what_is_behind_a_block_that_is_given_up_is_free_before_anything_else_is_evicted() {
    let kv_cache = kv_cache(4);
    let mut device = Device::new(&kv_cache);
    run(&kv_cache, &mut device, &tokens(2, 4)).0.release(&kv_cache);
    run(&kv_cache, &mut device, &tokens(1, 12)).0.release(&kv_cache);
    let (mut seq, lookup) = Seq::look_up(&kv_cache, None, &[100, 101, 7, 7]);
    assert_eq!(lookup.num_cached_tokens, 2);
    assert!(seq.try_reserve(&kv_cache, &mut device, 3), "no copy fits above the watermark");
    assert_eq!((kv_cache.num_cached(), kv_cache.stats().num_evictions_capacity), (1, 3));
    assert_eq!(kv_cache.check_integrity([&seq.table]), Ok(()));
}

#[test]
fn releasing_fewer_tokens_than_were_committed_registers_nothing_more() {
    let kv_cache = kv_cache(4);
    let mut device = Device::new(&kv_cache);
    let (mut seq, _) = run(&kv_cache, &mut device, &tokens(1, 8));
    seq.num_computed = 6;
    seq.release(&kv_cache);
    assert_eq!(kv_cache.num_cached(), 2);
    assert_eq!(kv_cache.check_integrity([]), Ok(()));
}

#[test]
fn of_many_continuations_the_youngest_are_searched_for_a_part() {
    let kv_cache = kv_cache(32);
    let mut device = Device::new(&kv_cache);
    for first in 0..=MAX_COMPARED_CHILDREN as u32 {
        run(&kv_cache, &mut device, &tokens(first, 4)).0.release(&kv_cache);
    }
    let num_cached = |tokens: &[u32]| Seq::look_up(&kv_cache, None, tokens).1.num_cached_tokens;
    assert_eq!((num_cached(&tokens(0, 4)), num_cached(&tokens(1, 4))), (0, 3));
    assert_eq!(num_cached(&tokens(0, 5)), 4, "a whole block is found among any number");
}

#[test]
fn every_token_of_a_lookup_is_counted_once() {
    let kv_cache = kv_cache(3);
    let mut device = Device::new(&kv_cache);
    let mut admit = |tokens: &[u32]| {
        let before = kv_cache.stats();
        let (seq, lookup) = run(&kv_cache, &mut device, tokens);
        assert_eq!(kv_cache.stats().num_query_tokens, before.num_query_tokens, "not yet");
        kv_cache.count(&lookup);
        seq.release(&kv_cache);
        let PrefixCacheStats {
            num_query_tokens,
            num_hit_tokens,
            num_partial_hit_tokens,
            num_miss_tokens_new,
            num_miss_tokens_evicted,
            num_miss_tokens_tail,
            ..
        } = kv_cache.stats();
        assert_eq!(num_query_tokens - before.num_query_tokens, tokens.len() as u64);
        [
            num_hit_tokens - before.num_hit_tokens,
            num_partial_hit_tokens - before.num_partial_hit_tokens,
            num_miss_tokens_new - before.num_miss_tokens_new,
            num_miss_tokens_evicted - before.num_miss_tokens_evicted,
            num_miss_tokens_tail - before.num_miss_tokens_tail,
        ]
    };
    assert_eq!(admit(&tokens(1, 9)), [0, 0, 8, 0, 1]);
    assert_eq!(admit(&tokens(1, 12)), [9, 1, 0, 0, 3]);
    assert_eq!(admit(&tokens(1, 12)), [11, 3, 0, 0, 1]);
    assert_eq!(admit(&tokens(2, 10)), [0, 0, 8, 0, 2]);
    assert_eq!(admit(&tokens(1, 9)), [0, 0, 0, 8, 1], "it was cached once");
}
