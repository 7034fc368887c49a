//! One installation, one model, one cache; runs of the program in it, and what every run must keep,
//! whatever fails.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::deployment::{Deployment, Ended, finish, graph_entries};
use crate::toolkit::Toolkit;

/// Few and small graphs: `decode 1`, `decode 2` and `prefill 64`.
pub(crate) const SMALL: [&str; 6] =
    ["--max-num-seqs", "2", "--max-num-batched-tokens", "64", "--max-model-len", "256"];
/// Its graphs.
pub(crate) const NUM_GRAPHS: usize = 3;
/// Cases that run at once.
const NUM_WORKERS: usize = 3;

/// Environment variables of one run.
pub(crate) type Order<'a> = &'a [(&'a str, &'a str)];

/// A model, an installed toolkit and a cache folder.
pub(crate) struct Place {
    pub(crate) deployment: Deployment,
    pub(crate) toolkit: Toolkit,
}

/// A run and what the runtime noted of it.
pub(crate) struct Run {
    pub(crate) ended: Ended,
    /// Calls, and at the end what was left behind and which rules were broken.
    pub(crate) log: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(Toolkit::new())
    }

    pub(crate) fn with(toolkit: Toolkit) -> Self {
        let mut deployment = Deployment::new();
        deployment.variables = toolkit.variables();
        Self { deployment, toolkit }
    }

    /// With all graphs in the cache.
    pub(crate) fn warm() -> Self {
        let place = Self::new();
        let ended = place.warmup(&[]);
        assert_eq!((ended.code, ended.graphs()), (0, [NUM_GRAPHS, 0]), "{ended:?}");
        place
    }

    /// Runs a command of the program with few and small graphs.
    pub(crate) fn run(&self, command: &str, flags: &[&str], order: Order) -> Run {
        self.run_sized(command, &[&SMALL, flags].concat(), order)
    }

    /// With graphs of other sizes.
    pub(crate) fn run_sized(&self, command: &str, flags: &[&str], order: Order) -> Run {
        let log = self.toolkit.file("calls.log");
        let _ = std::fs::remove_file(&log);
        let args = [&[command, "model", "--backend", "ascend"][..], flags].concat();
        let mut command = self.deployment.command(&args);
        let ended = finish(command.envs(order.iter().copied()));
        let run = Run { ended, log: std::fs::read_to_string(log).unwrap_or_default() };
        assert!(!run.ended.stderr.contains("panicked at"), "{order:?}: {run:?}");
        run
    }

    pub(crate) fn warmup(&self, order: Order) -> Ended {
        self.run("warmup", &[], order).ended
    }

    /// Generates a few tokens, the same ones in every run that nothing happens to.
    pub(crate) fn generate(&self, order: Order) -> Run {
        self.generate_with(&[], order)
    }

    pub(crate) fn generate_with(&self, flags: &[&str], order: Order) -> Run {
        let own = ["--prompt", "hi", "--max-tokens", "6"];
        self.run("generate", &[&own, flags].concat(), order)
    }

    /// Generates with calls that fail on order.
    pub(crate) fn generate_failing(&self, script: &str) -> Run {
        self.generate(&[("CANN_SIM_FAIL", script)])
    }

    /// What a run prints that nothing happens to.
    pub(crate) fn right_answer(&self) -> String {
        let run = self.generate(&[]);
        assert_eq!(run.ended.code, 0, "{run:?}");
        run.assert_clean();
        run.ended.stdout
    }

    /// Entries of the cache: the folder of each, with its files.
    pub(crate) fn entries(&self) -> Vec<PathBuf> {
        graph_entries(&self.deployment.path("cache/graphs"))
    }

    /// Entries that were moved away as unusable.
    pub(crate) fn num_quarantined(&self) -> usize {
        let files = std::fs::read_dir(self.quarantine()).into_iter().flatten();
        // Beside each lies the reason.
        files.filter(|file| file.as_ref().unwrap().path().is_dir()).count()
    }

    /// Only a few of one graph are kept.
    pub(crate) fn empty_quarantine(&self) {
        std::fs::remove_dir_all(self.quarantine()).unwrap();
        std::fs::create_dir(self.quarantine()).unwrap();
    }

    fn quarantine(&self) -> PathBuf {
        self.deployment.path("cache/graphs/v2/quarantine")
    }
}

/// Without the calls, which are thousands.
impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.log.lines().rev();
        let end = [lines.next(), lines.next()].map(Option::unwrap_or_default);
        write!(f, "{:#?}, log ends with {end:?}", self.ended)
    }
}

impl Run {
    /// How often each function was called.
    pub(crate) fn calls(&self) -> BTreeMap<String, usize> {
        let mut calls = BTreeMap::new();
        for line in self.log.lines().filter(|line| line.starts_with("acl")) {
            let name = line.split(' ').next().unwrap();
            *calls.entry(name.to_owned()).or_default() += 1;
        }
        calls
    }

    /// What the runtime says was not given back: nothing is `0`; `None` when it was never started.
    pub(crate) fn leaks(&self) -> Option<&str> {
        self.log.lines().rev().find_map(|line| line.strip_prefix("leaks: "))
    }

    /// Rules of the runtime were kept.
    pub(crate) fn keeps_rules(&self) -> bool {
        let line = self.log.lines().rev().find(|line| line.starts_with("violations: "));
        line.is_none_or(|line| line == "violations: 0")
    }

    pub(crate) fn assert_clean(&self) {
        assert!(self.leaks() == Some("0") && self.keeps_rules(), "{self:?}");
    }

    /// The error as a person is told.
    pub(crate) fn error(&self) -> &str {
        error_of(&self.ended)
    }

    /// How often the simulator's message about an ordered failure is told, its log apart.
    pub(crate) fn times_told(&self) -> usize {
        let error = self.error();
        let words = error.split_once("; CANN's log: ").map_or(error, |(words, _)| words);
        words.matches("ordered by CANN_SIM_FAIL").count()
    }

    /// Whether what was printed is the right answer, as far as it came.
    pub(crate) fn is_prefix_of(&self, right: &str) -> bool {
        right.starts_with(self.ended.stdout.trim_end_matches('\n'))
    }
}

/// From `error:` on; nothing where there is none.
pub(crate) fn error_of(ended: &Ended) -> &str {
    let text = &ended.stderr;
    text.find("error: ").map_or("", |at| &text[at..])
}

/// Runs every case on a few workers, each of which makes its own place first. Tells of every case
/// that fails, not only of the first.
pub(crate) fn for_each_case<P, C: Sync>(
    make_place: impl Fn() -> P + Sync,
    cases: &[C],
    check: impl Fn(&P, &C) -> Result<(), String> + Sync,
) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..NUM_WORKERS.min(cases.len()) {
            scope.spawn(|| {
                let place = make_place();
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(failure) = check(&place, case) {
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let count = format!("{} of {} cases fail", failures.len(), cases.len());
    assert!(failures.is_empty(), "{count}:\n\n{}", failures.join("\n\n"));
}
