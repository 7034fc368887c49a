//! Stop strings over streamed text: what may be shown now, and where generation ends.
//!
//! ```text
//! stop "</s>"     push "a <"      -> show "a "    hold "<"       it could begin the stop string
//!                 push "/b>"      -> show "</b>"  hold ""        it did not
//!                 push "x</s>y"   -> show "x"     stopped        never shown: "</s>", "y"
//! ```
//!
//! The text ends before the stop string that is complete first, the longest one if several end
//! at the same byte: the same place however the text was cut into pieces. Each stop string is
//! followed with the Knuth-Morris-Pratt automaton (SIAM J. Comput. 6, 1977), so a byte of text
//! costs amortised constant time per stop string, whatever the strings are.
//!
//! What this module deliberately does not do: stop tokens and limits, which need no text.

/// One stop string and how much of it the text's end matches.
#[derive(Clone, Debug)]
struct Automaton {
    pattern: Vec<u8>,
    /// By length of a match: the longest shorter match that is a suffix of it.
    fallback: Vec<u16>,
    matched: usize,
}

impl Automaton {
    /// `pattern` has 1 to `MAX_STOP_STRING_BYTES` bytes, so lengths fit 16 bits.
    fn new(pattern: &str) -> Self {
        let mut automaton = Self {
            pattern: pattern.as_bytes().to_vec(),
            fallback: vec![0; pattern.len() + 1],
            matched: 0,
        };
        for idx in 1..pattern.len() {
            automaton.advance(pattern.as_bytes()[idx]);
            automaton.fallback[idx + 1] = automaton.matched as u16;
        }
        automaton.matched = 0;
        automaton
    }

    /// Feeds one byte; the match is never longer than the pattern.
    fn advance(&mut self, byte: u8) {
        while self.matched > 0 && self.pattern.get(self.matched) != Some(&byte) {
            self.matched = usize::from(self.fallback[self.matched]);
        }
        if self.pattern.get(self.matched) == Some(&byte) {
            self.matched += 1;
        }
    }

    fn is_complete(&self) -> bool {
        self.matched == self.pattern.len()
    }
}

/// Watches the text of one request for its stop strings.
#[derive(Clone, Debug)]
pub(crate) struct StopStrings {
    automata: Vec<Automaton>,
    /// The stop string that is found is shown, too.
    is_included: bool,
    /// Text that is not shown yet because a stop string may begin in it.
    held: String,
}

impl StopStrings {
    /// A watcher for strings that passed [`SamplingParams::validate`].
    ///
    /// [`SamplingParams::validate`]: super::SamplingParams::validate
    pub(crate) fn new(stop: &[String], is_included: bool) -> Self {
        let automata = stop.iter().map(|pattern| Automaton::new(pattern)).collect();
        Self { automata, is_included, held: String::new() }
    }

    /// Whether there is nothing to look for.
    pub(crate) fn is_empty(&self) -> bool {
        self.automata.is_empty()
    }

    /// Takes new text, appends what may be shown to `shown`, and says which stop string was found,
    /// by index. After that nothing more may be pushed.
    pub(crate) fn push(&mut self, text: &str, shown: &mut String) -> Option<usize> {
        if self.automata.is_empty() {
            shown.push_str(text);
            return None;
        }
        let start = self.held.len();
        self.held.push_str(text);
        for (idx, byte) in text.bytes().enumerate() {
            self.automata.iter_mut().for_each(|automaton| automaton.advance(byte));
            let complete =
                (0..).zip(&self.automata).filter(|(_, automaton)| automaton.is_complete());
            if let Some((which, found)) = complete.max_by_key(|(_, automaton)| automaton.matched) {
                // Both ends of a match lie between characters, since stop strings are whole ones.
                let end = start + idx + 1;
                let shown_end = if self.is_included { end } else { end - found.matched };
                shown.push_str(&self.held[..shown_end]);
                self.held.clear();
                return Some(which);
            }
        }
        let num_held = self.automata.iter().map(|automaton| automaton.matched).max().unwrap_or(0);
        shown.extend(self.held.drain(..self.held.len() - num_held));
        None
    }

    /// The text still held, once no more will come.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is shown after each piece, then whether it stopped, then what was still held.
    fn run(stop: &[&str], pieces: &[&str]) -> (Vec<String>, bool, String) {
        let stop: Vec<String> = stop.iter().map(ToString::to_string).collect();
        let mut watcher = StopStrings::new(&stop, false);
        let mut shown = Vec::new();
        for piece in pieces {
            shown.push(String::new());
            if watcher.push(piece, shown.last_mut().unwrap()).is_some() {
                return (shown, true, watcher.finish());
            }
        }
        (shown, false, watcher.finish())
    }

    #[test]
    fn holds_back_what_could_begin_a_stop_string() {
        let (shown, is_stopped, held) = run(&["</s>"], &["a <", "/", "b>", "x</s", ">y"]);
        assert_eq!(shown, ["a ", "", "</b>", "x", ""]);
        assert_eq!((is_stopped, held.as_str()), (true, ""));
    }

    #[test]
    fn gives_the_held_text_back_at_the_end() {
        let (shown, is_stopped, held) = run(&["STOP"], &["go ST", "O"]);
        assert_eq!((shown.concat().as_str(), is_stopped, held.as_str()), ("go ", false, "STO"));
    }

    #[test]
    fn finds_a_match_inside_a_failed_longer_one() {
        let (shown, is_stopped, _) = run(&["aab"], &["a", "a", "a", "b"]);
        assert_eq!((shown.concat().as_str(), is_stopped), ("a", true));
        let (shown, is_stopped, _) = run(&["ababx", "bay"], &["abab", "ay"]);
        assert_eq!((shown.concat().as_str(), is_stopped), ("aba", true));
    }

    #[test]
    fn the_longest_of_several_that_end_together_wins() {
        let (shown, is_stopped, _) = run(&["c", "bc"], &["abc"]);
        assert_eq!((shown.concat().as_str(), is_stopped), ("a", true));
    }

    #[test]
    fn says_which_was_found_and_shows_it_where_that_is_wanted() {
        let stop = ["x", "bc"].map(str::to_owned);
        for (is_included, expected) in [(false, "a"), (true, "abc")] {
            let mut shown = String::new();
            let mut watcher = StopStrings::new(&stop, is_included);
            assert_eq!(watcher.push("abcx", &mut shown), Some(1));
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn characters_of_several_bytes_are_never_cut() {
        // The first two bytes of the two characters are equal.
        let (shown, is_stopped, held) = run(&["é中"], &["é丁", "é", "中"]);
        assert_eq!(shown, ["é丁", "", ""]);
        assert_eq!((is_stopped, held.as_str()), (true, ""));
    }

    #[test]
    fn a_hostile_pattern_costs_no_more_than_its_length() {
        let pattern = format!("{}b", "a".repeat(4095));
        let stop = vec![pattern; 64];
        let mut watcher = StopStrings::new(&stop, false);
        let mut shown = String::new();
        for _ in 0..2000 {
            assert_eq!(watcher.push("aaaaaaaa", &mut shown), None);
        }
        assert_eq!(shown.len() + watcher.finish().len(), 16_000);
    }

    /// The definition, on the whole text at once.
    fn expected(stop: &[String], text: &str) -> (String, bool) {
        let matches = stop
            .iter()
            .filter_map(|stop| text.find(stop.as_str()).map(|start| (start + stop.len(), start)));
        match matches.min() {
            Some((_, start)) => (text[..start].to_string(), true),
            None => (text.to_string(), false),
        }
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_how_text_is_cut(
            stop in prop::collection::vec("[ab\u{e9}]{1,4}", 0..4),
            pieces in prop::collection::vec("[ab\u{e9}]{0,3}", 0..12),
        ) {
            let stops: Vec<&str> = stop.iter().map(String::as_str).collect();
            let cut: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (shown, is_stopped, held) = run(&stops, &cut);
            prop_assert_eq!((shown.concat() + &held, is_stopped), expected(&stop, &pieces.concat()));
        }
    }
}
