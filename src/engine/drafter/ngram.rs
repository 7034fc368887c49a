//! Prompt lookup: texts repeat themselves.
//!
//! ```text
//! tokens    a b c d e f   x   b c d         the longest end that occurs before: "b c d"
//!             ^^^^^ e f                     what followed it, the last time: "e f x"
//! ```
//!
//! The rule is that of vLLM's n-gram proposer: the longest end of `max` down to `min` tokens that
//! occurs before; of several places the earliest.
//!
//! What this module deliberately does not do: it keeps no index. The end is matched backwards in one
//! pass over the tokens (Knuth, Morris, Pratt, SIAM J. Comput. 6, 1977): linear time, and no memory
//! but for the pattern's.

/// The most tokens that an end may have.
const MAX: usize = 64;

/// Where the tokens stand that are likely to follow, and how many, at most `num_tokens`; an empty
/// range when no end of `min` to `max` tokens occurs before.
pub(super) fn find(tokens: &[u32], min: usize, max: usize, num_tokens: usize) -> (usize, usize) {
    let max = max.min(MAX).min(tokens.len().saturating_sub(1));
    if max < min || min == 0 {
        return (0, 0);
    }
    // Read backwards, an end of the text is a beginning.
    let end = |idx: usize| tokens[tokens.len() - 1 - idx];
    let mut fallback = [0_usize; MAX + 1];
    let mut matched = 0;
    for idx in 1..max {
        matched = advance(&end, &fallback, max, matched, end(idx));
        fallback[idx + 1] = matched;
    }
    let (mut best_len, mut best_at) = (0, 0);
    matched = 0;
    // The earliest place is the last one that a backward pass comes to.
    for start in (0..tokens.len() - 1).rev() {
        matched = advance(&end, &fallback, max, matched, tokens[start]);
        if matched >= best_len {
            (best_len, best_at) = (matched, start);
        }
    }
    if best_len < min {
        return (0, 0);
    }
    let first = best_at + best_len;
    (first, num_tokens.min(tokens.len() - first))
}

/// How many tokens of the pattern match once one more was read.
fn advance(
    pattern: &impl Fn(usize) -> u32,
    fallback: &[usize],
    len: usize,
    mut matched: usize,
    token: u32,
) -> usize {
    if matched == len {
        matched = fallback[matched];
    }
    while matched > 0 && pattern(matched) != token {
        matched = fallback[matched];
    }
    if pattern(matched) == token { matched + 1 } else { matched }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drafts(tokens: &[u32], min: usize, max: usize, num_tokens: usize) -> Vec<u32> {
        let (start, len) = find(tokens, min, max, num_tokens);
        tokens[start..start + len].to_vec()
    }

    #[test]
    fn finds_what_followed_the_longest_end() {
        assert_eq!(drafts(&[1, 2, 3, 4, 5, 9, 2, 3, 4], 1, 4, 3), [5, 9, 2]);
        assert_eq!(drafts(&[1, 2, 3, 9, 3, 8, 2, 3], 1, 4, 1), [9], "two tokens beat one");
        assert_eq!(drafts(&[1, 2, 3, 9, 3, 8, 2, 3], 1, 1, 1), [9], "the earliest place");
        assert_eq!(drafts(&[1, 2, 3], 1, 4, 3), [] as [u32; 0]);
        assert_eq!(drafts(&[7, 7], 1, 4, 5), [7], "no more than there is");
        assert_eq!(drafts(&[1, 2, 1], 2, 4, 5), [] as [u32; 0], "the end is too short");
        assert_eq!(drafts(&[], 1, 4, 5), [] as [u32; 0]);
        assert_eq!(drafts(&[1], 1, 4, 5), [] as [u32; 0]);
    }

    /// The definition.
    fn expected(tokens: &[u32], min: usize, max: usize, num_tokens: usize) -> Vec<u32> {
        for len in (min..=max.min(tokens.len().saturating_sub(1))).rev() {
            let end = &tokens[tokens.len() - len..];
            let found = tokens[..tokens.len() - 1].windows(len).position(|window| window == end);
            if let Some(at) = found {
                return tokens[at + len..].iter().copied().take(num_tokens).collect();
            }
        }
        Vec::new()
    }

    proptest! {
        #[test]
        fn finds_what_the_definition_finds(
            tokens in prop::collection::vec(0_u32..3, 0..40),
            min in 1_usize..4,
            more in 0_usize..5,
            num_tokens in 1_usize..6,
        ) {
            let max = min + more;
            prop_assert_eq!(
                drafts(&tokens, min, max, num_tokens),
                expected(&tokens, min, max, num_tokens)
            );
        }
    }
}
