//! Conversations as people have them: what is said, before any answer is known.
//!
//! ```text
//! system 0 --+-- session 0   say       say   regenerate   say
//!            `-- session 2   say       edit  say          restart
//! system 1 ----- session 1   say       say   say          say
//! ```
//!
//! A [`Trace`] is a function of its [`Shape`], the ids that may be used and a seed. The ids are drawn
//! at random: equal beginnings are those that the trace makes, and no others.
//!
//! A [`Conversation`] plays one session: each of its prompts is everything before, the model's own
//! answers included, and what the user says next.
//!
//! What this module deliberately does not do: it asks no model and keeps no time.

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How large a trace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Conversations.
    pub(super) sessions: usize,
    /// Requests in each.
    pub(super) turns: usize,
    /// System prompts, shared by the sessions in turn.
    pub(super) system_prompts: usize,
    /// Tokens of the first system prompt, the longest; others have a quarter of that or more.
    pub(super) system_tokens: usize,
    /// Tokens that a user says, in the mean: from half of that to half as many again.
    pub(super) user_tokens: usize,
}

impl Shape {
    /// Tokens that no conversation exceeds, when each answer has so many.
    pub(super) fn max_len(&self, answer_tokens: usize) -> usize {
        let turn = self.most_user_tokens().saturating_add(answer_tokens);
        self.system_tokens.saturating_add(self.turns.saturating_mul(turn))
    }

    fn most_user_tokens(&self) -> usize {
        self.user_tokens + self.user_tokens / 2
    }
}

/// What a user does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Goes on.
    Say(Vec<u32>),
    /// Wants another answer to the same.
    Regenerate,
    /// Takes back what was said last, with its answer, and says this instead.
    Edit(Vec<u32>),
    /// Begins again behind the system prompt.
    Restart(Vec<u32>),
}

/// One conversation's beginning, and what its user does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// Which system prompt.
    pub(super) system: usize,
    /// Each is one request.
    pub(super) steps: Vec<Step>,
}

/// All that users say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    /// What sessions begin with.
    pub(super) system_prompts: Vec<Vec<u32>>,
    /// In the order of their arrival.
    pub(super) sessions: Vec<Session>,
}

impl Trace {
    /// The trace of that seed. `ids` are the tokens that may occur, at least one.
    pub(super) fn new(shape: &Shape, ids: &[u32], seed: u64) -> Self {
        let mut draw = Draw { rng: ChaCha8Rng::seed_from_u64(seed), ids };
        let system_prompts = (0..shape.system_prompts)
            .map(|idx| {
                let most = shape.system_tokens;
                let len = if idx == 0 { most } else { draw.number(most.div_ceil(4), most) };
                draw.tokens(len)
            })
            .collect();
        let mut sessions: Vec<Session> = (0..shape.sessions)
            .map(|idx| Session {
                system: idx % shape.system_prompts,
                steps: (0..shape.turns).map(|turn| draw.step(shape, turn == 0)).collect(),
            })
            .collect();
        sessions.shuffle(&mut draw.rng);
        Self { system_prompts, sessions }
    }

    /// Requests in all.
    pub(super) fn num_requests(&self) -> usize {
        self.sessions.iter().map(|session| session.steps.len()).sum()
    }
}

struct Draw<'a> {
    rng: ChaCha8Rng,
    ids: &'a [u32],
}

impl Draw<'_> {
    fn number(&mut self, least: usize, most: usize) -> usize {
        self.rng.random_range(least..=most)
    }

    fn tokens(&mut self, len: usize) -> Vec<u32> {
        (0..len).map(|_| self.ids.choose(&mut self.rng).copied().unwrap_or_default()).collect()
    }

    fn step(&mut self, shape: &Shape, is_first: bool) -> Step {
        let len = self.number(shape.user_tokens.div_ceil(2), shape.most_user_tokens());
        let said = self.tokens(len);
        match self.number(0, 9) {
            0 if !is_first => Step::Regenerate,
            1 if !is_first => Step::Edit(said),
            2 if !is_first => Step::Restart(said),
            _ => Step::Say(said),
        }
    }
}

/// One session as it is played.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    tokens: Vec<u32>,
    num_system_tokens: usize,
    /// Where what the user said last begins, and where the answer to it does.
    user_at: usize,
    answer_at: usize,
    steps: std::vec::IntoIter<Step>,
}

impl Conversation {
    /// A session of a trace, before its first turn.
    pub(super) fn new(trace: &Trace, session: &Session) -> Self {
        let tokens = trace.system_prompts[session.system].clone();
        let num_system_tokens = tokens.len();
        Self {
            tokens,
            num_system_tokens,
            user_at: num_system_tokens,
            answer_at: num_system_tokens,
            steps: session.steps.clone().into_iter(),
        }
    }

    /// The next prompt; none when the user has said everything.
    pub(super) fn next_prompt(&mut self) -> Option<Vec<u32>> {
        let (keep, said) = match self.steps.next()? {
            Step::Say(said) => (self.tokens.len(), said),
            Step::Regenerate => (self.answer_at, Vec::new()),
            Step::Edit(said) => (self.user_at, said),
            Step::Restart(said) => (self.num_system_tokens, said),
        };
        self.tokens.truncate(keep);
        if !said.is_empty() {
            self.user_at = keep;
            self.tokens.extend(said);
        }
        self.answer_at = self.tokens.len();
        Some(self.tokens.clone())
    }

    /// Takes note of the answer to the newest prompt.
    pub(super) fn answer(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape =
        Shape { sessions: 5, turns: 4, system_prompts: 2, system_tokens: 40, user_tokens: 6 };

    #[test]
    fn a_trace_follows_from_its_seed_and_keeps_to_its_shape() {
        let ids: Vec<u32> = (10..200).collect();
        let trace = Trace::new(&SHAPE, &ids, 1);
        assert_eq!(trace, Trace::new(&SHAPE, &ids, 1));
        assert_ne!(trace, Trace::new(&SHAPE, &ids, 2));
        assert_eq!(trace.num_requests(), 20);
        let lens: Vec<usize> = trace.system_prompts.iter().map(Vec::len).collect();
        assert!(lens[0] == 40 && (10..=40).contains(&lens[1]), "{lens:?}");
        for session in &trace.sessions {
            let mut conversation = Conversation::new(&trace, session);
            let system = &trace.system_prompts[session.system];
            while let Some(prompt) = conversation.next_prompt() {
                assert!(prompt.starts_with(system) && prompt.len() > system.len());
                assert!(prompt.iter().all(|id| ids.contains(id)));
                conversation.answer(&[10; 7]);
                assert!(prompt.len() + 7 <= SHAPE.max_len(7));
            }
        }
    }

    #[test]
    fn each_step_continues_from_where_it_belongs() {
        let steps = vec![
            Step::Say(vec![1]),
            Step::Say(vec![2]),
            Step::Regenerate,
            Step::Edit(vec![3]),
            Step::Say(vec![4]),
            Step::Restart(vec![5]),
        ];
        let session = Session { system: 0, steps };
        let trace = Trace { system_prompts: vec![vec![0]], sessions: vec![session.clone()] };
        let mut conversation = Conversation::new(&trace, &session);
        let mut prompts = Vec::new();
        for answer in 90.. {
            let Some(prompt) = conversation.next_prompt() else { break };
            prompts.push(prompt);
            conversation.answer(&[answer]);
        }
        let expected: [&[u32]; 6] = [
            &[0, 1],
            &[0, 1, 90, 2],
            &[0, 1, 90, 2],
            &[0, 1, 90, 3],
            &[0, 1, 90, 3, 93, 4],
            &[0, 5],
        ];
        assert_eq!(prompts, expected);
    }
}
