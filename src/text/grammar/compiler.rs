//! From a spec to a grammar, within budgets.
//!
//! | Budget | Bounds |
//! | --- | --- |
//! | sizes of `spec`, `json_schema` and `json_schema_cost` | what the library sees at all |
//! | a thread with a large stack | recursion over what passed those |
//! | [`limits`] | lexer and parser, when they are made and for each mask |
//! | [`Cache`] | what is kept |
//!
//! What this module deliberately does not do: it waits for nobody; whoever calls it from an async
//! thread sends it elsewhere.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Logger, ParserFactory, panic_utils};

use super::cache::Cache;
use super::error::{GrammarError, brief};
use super::matcher::Grammar;
use super::spec::{GrammarSpec, Source};
use super::token_trie::TokenTrie;
use crate::text::Tokenizer;

/// For the recursion of parsers and compilers; only what is used of it takes memory.
const STACK_BYTES: usize = 256 << 20;
/// States of a lexer, each of one or two kilobytes.
const MAX_LEXER_STATES: usize = 20_000;
/// With more states, a grammar is compiled anew for the next request.
const WORN_LEXER_STATES: usize = MAX_LEXER_STATES / 2;
/// Grammars that are kept.
pub(super) const MAX_CACHED: usize = 32;
/// Bytes of their sources.
const MAX_CACHED_BYTES: usize = 2 << 20;

/// Compiles grammars for one model. Cloning is cheap, and clones share what they keep.
#[derive(Clone)]
pub struct GrammarCompiler {
    inner: Arc<Inner>,
}

struct Inner {
    factory: ParserFactory,
    trie: Arc<TokenTrie>,
    cache: Mutex<Cache>,
}

impl GrammarCompiler {
    /// A compiler for a model: its tokenizer, how many logits it has, and its end-of-text tokens.
    /// Takes some hundred milliseconds.
    ///
    /// # Errors
    /// [`GrammarError::Vocabulary`] when that is no vocabulary to write text with.
    pub fn new(
        tokenizer: &Tokenizer,
        vocab_size: usize,
        eos: &[u32],
    ) -> Result<Self, GrammarError> {
        let build = || {
            let trie = TokenTrie::new(tokenizer, vocab_size, eos)?;
            let slices = SlicedBiasComputer::general_slices();
            let mut factory =
                ParserFactory::new(&trie.env, InferenceCapabilities::default(), &slices)
                    .map_err(|error| GrammarError::Vocabulary(brief(&error.to_string())))?;
            factory.quiet();
            Ok((factory, trie))
        };
        // The library asserts what it expects of a vocabulary.
        let built = panic_utils::catch_unwind(AssertUnwindSafe(|| Ok(build())));
        let (factory, trie) =
            built.map_err(|error| GrammarError::Vocabulary(brief(&error.to_string())))??;
        let cache = Mutex::new(Cache::new(MAX_CACHED, MAX_CACHED_BYTES));
        Ok(Self { inner: Arc::new(Inner { factory, trie: Arc::new(trie), cache }) })
    }

    /// The grammar of a spec. Takes from microseconds, where an equal spec was compiled lately, to
    /// a second, for one that uses all its budgets.
    ///
    /// # Errors
    /// Why there is none, for whoever wrote the spec.
    pub fn compile(&self, spec: &GrammarSpec) -> Result<Grammar, GrammarError> {
        let cached = self.cache().get(spec);
        if let Some(grammar) = cached.filter(|grammar| !grammar.is_worn(WORN_LEXER_STATES)) {
            return Ok(grammar);
        }
        let grammar = self.compile_on_a_large_stack(spec)?;
        self.cache().insert(spec.clone(), grammar.clone());
        Ok(grammar)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compile_on_a_large_stack(&self, spec: &GrammarSpec) -> Result<Grammar, GrammarError> {
        thread::scope(|scope| {
            let builder = thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES);
            let compile = || self.compile_anew(spec);
            let thread = builder
                .spawn_scoped(scope, compile)
                .map_err(|error| GrammarError::Compiler(error.to_string()))?;
            thread.join().unwrap_or_else(|_| Err(GrammarError::Compiler("it panicked".to_owned())))
        })
    }

    fn compile_anew(&self, spec: &GrammarSpec) -> Result<Grammar, GrammarError> {
        let source = spec.source()?;
        let fuel = match (spec, &source) {
            (GrammarSpec::Choice(_), _) | (_, Source::Schema(_)) => 500_000,
            // The bytes of a regex are few.
            (_, Source::LarkWithSchemas(_) | Source::Regex(_)) => 60_000,
            (_, Source::Lark(_)) => 40_000,
        };
        let grammar = match source {
            Source::Schema(schema) => TopLevelGrammar::from_json_schema(schema),
            Source::Lark(grammar) | Source::LarkWithSchemas(grammar) => {
                TopLevelGrammar::from_lark(grammar)
            }
            Source::Regex(pattern) => TopLevelGrammar::from_regex(&pattern),
        };
        let invalid = |problem: String| GrammarError::Invalid { kind: spec.kind(), problem };
        // It catches its panics.
        let parser = self.inner.factory.create_parser_from_init_ext(
            GrammarInit::Serialized(grammar),
            Logger::new(0, 0),
            InferenceCapabilities::default(),
            limits(fuel),
        );
        let parser = parser.map_err(|error| invalid(brief(&format!("{error:#}"))))?;
        Grammar::new(parser, Arc::clone(&self.inner.trie)).map_err(|error| invalid(error.0))
    }

    /// How many grammars are kept.
    #[cfg(test)]
    pub(super) fn num_cached(&self) -> usize {
        self.cache().len()
    }
}

/// What a grammar may cost, when it is made and for each mask.
///
/// A terminal of n optional parts has n² derivatives, whose size no budget of the library counts. The
/// fuel for the first look at a grammar bounds n: it is small where terminals are written by hand, and
/// large for schemas and choices, which have long lists of values.
fn limits(initial_lexer_fuel: u64) -> ParserLimits {
    ParserLimits {
        // An object of n optional properties wants 4n.
        max_items_in_row: 4_500,
        initial_lexer_fuel,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: MAX_LEXER_STATES,
        max_grammar_size: 200_000,
        // It walks the whole vocabulary for each large lexeme, with the budget of one.
        precompute_large_lexemes: false,
        // States hold text of the model.
        verbose_errors: false,
    }
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").field("cache", &*self.cache()).finish_non_exhaustive()
    }
}
