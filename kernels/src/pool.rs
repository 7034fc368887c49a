//! Threads that compute one thing together, again and again, with as little as possible between.
//!
//! ```text
//! run(tasks)   opens a turn -----------> workers that look see it, and claim tasks one by one
//!              claims tasks itself
//!              none is left: closes it    a worker that comes too late finds it closed
//!              waits for those inside
//! ```
//!
//! A token takes some hundred such turns of a few microseconds each, so a worker that has nothing to
//! do looks for work for a while before it sleeps, and nobody waits for a worker that did not come.
//!
//! What this module deliberately does not do: tasks are given no order and no thread, so what a task
//! computes must not depend on who computes it, or when.

#![expect(
    unsafe_code,
    reason = "what is borrowed for a turn is shared with threads that outlive it"
)]

use std::cell::UnsafeCell;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Looks before a worker sleeps: some hundred microseconds, as long as what lies between two steps
/// of a busy engine.
const SPINS: u32 = 10_000;
/// Looks of one who waits for another thread before it offers it the processor.
const SPINS_BEFORE_YIELD: u32 = 2_000;

/// A number of threads that compute together: those of the pool, and the one that asks.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by who has a turn.
    caller: Mutex<()>,
}

/// What is to be done in a turn.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    num_tasks: usize,
}

struct Shared {
    /// Odd while a turn is open; each turn has a number of its own.
    turn: AtomicU64,
    /// The next task of the turn that nobody claimed.
    next: AtomicUsize,
    /// Workers that are in a turn, or about to see that it is closed.
    inside: AtomicUsize,
    /// Written only between turns, by who holds `caller`.
    job: UnsafeCell<Option<Job>>,
    has_panicked: AtomicBool,
    is_stopped: AtomicBool,
    num_asleep: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

// SAFETY: `job` is the one field that is not `Sync`. It is written only while no turn is open and no
// worker is inside one (see `Pool::run`), and read only by workers inside an open turn. What it
// points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is not owned.
unsafe impl Send for Shared {}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("num_threads", &self.num_threads()).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool in which so many threads compute, the calling one among them; 0 is taken for 1.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn new(num_threads: usize) -> io::Result<Self> {
        let mut pool = Self {
            shared: Arc::new(Shared {
                turn: AtomicU64::new(0),
                next: AtomicUsize::new(0),
                inside: AtomicUsize::new(0),
                job: UnsafeCell::new(None),
                has_panicked: AtomicBool::new(false),
                is_stopped: AtomicBool::new(false),
                num_asleep: AtomicUsize::new(0),
                bed: Mutex::new(()),
                bell: Condvar::new(),
            }),
            workers: Vec::new(),
            caller: Mutex::new(()),
        };
        for idx in 1..num_threads {
            let shared = Arc::clone(&pool.shared);
            let name = format!("cairn-cpu-{idx}");
            // Those started so far are stopped when the pool is dropped.
            pool.workers.push(thread::Builder::new().name(name).spawn(move || shared.serve())?);
        }
        Ok(pool)
    }

    /// Threads that compute together.
    pub fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` with each number below `num_tasks`, each once, on any of the threads, and
    /// returns when all have ended. A task must not use the pool.
    ///
    /// # Panics
    /// When a task panics, after all others have ended.
    pub fn run(&self, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || num_tasks <= 1 {
            (0..num_tasks).for_each(task);
            return;
        }
        let _caller = lock(&self.caller);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. Workers call it only inside this turn, and this
        // function does not return, nor unwind, before the turn is closed and they have left it.
        let job = Job { task: unsafe { erase(task) }, num_tasks };
        // SAFETY: no turn is open, and the last caller waited until no worker was inside; one that
        // enters now finds the number of the turn changed or even, and does not look at the job.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, Ordering::Relaxed);
        let turn = shared.turn.load(Ordering::Relaxed);
        shared.turn.store(turn + 1, Ordering::SeqCst);
        if shared.num_asleep.load(Ordering::SeqCst) > 0 {
            drop(lock(&shared.bed));
            shared.bell.notify_all();
        }
        shared.work(num_tasks, task);
        shared.turn.store(turn + 2, Ordering::SeqCst);
        let mut spins = 0;
        while shared.inside.load(Ordering::SeqCst) != 0 {
            pause(&mut spins);
        }
        assert!(!shared.has_panicked.swap(false, Ordering::Relaxed), "a task of a kernel panicked");
    }

    /// Calls `f` with chunks of a slice and their numbers; the last one may be shorter.
    pub fn for_chunks<T: Send>(
        &self,
        values: &mut [T],
        chunk_len: usize,
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let len = values.len();
        let start = Start(values.as_mut_ptr(), PhantomData);
        self.run(len.div_ceil(chunk_len), &|idx| {
            let at = idx * chunk_len;
            // SAFETY: chunks of different numbers do not overlap and lie within the slice, which is
            // borrowed until `run` returns; each number is given out once.
            let chunk =
                unsafe { std::slice::from_raw_parts_mut(start.at(at), chunk_len.min(len - at)) };
            f(idx, chunk);
        });
    }

    /// Calls `f` with parts of a slice and their numbers. Parts lie between neighbours of `bounds`.
    ///
    /// # Panics
    /// When the bounds are not in order or beyond the slice.
    pub fn for_parts<T: Send>(
        &self,
        values: &mut [T],
        bounds: &[usize],
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        assert!(bounds.is_sorted() && bounds.last().is_none_or(|end| *end <= values.len()));
        let start = Start(values.as_mut_ptr(), PhantomData);
        self.run(bounds.len().saturating_sub(1), &|idx| {
            let (from, to) = (bounds[idx], bounds[idx + 1]);
            // SAFETY: parts of different numbers do not overlap and lie within the slice, which is
            // borrowed until `run` returns; each number is given out once.
            let part = unsafe { std::slice::from_raw_parts_mut(start.at(from), to - from) };
            f(idx, part);
        });
    }

    /// Calls `f` with groups of columns of a dense matrix and their numbers; the last group may have
    /// fewer columns.
    ///
    /// # Panics
    /// When the numbers are not whole rows.
    pub fn for_columns(
        &self,
        values: &mut [f32],
        columns: usize,
        width: usize,
        f: impl Fn(usize, Columns<'_>) + Sync,
    ) {
        let rows = values.len() / columns;
        self.for_tiles(values, columns, &[0, rows], width, |_, group, columns| f(group, columns));
    }

    /// Calls `f` with groups of columns of bands of rows, and the numbers of band and group. Bands lie
    /// between neighbours of `bounds`. The last tasks begin first.
    ///
    /// # Panics
    /// When the numbers are not whole rows, or the bounds are not in order or beyond them.
    pub fn for_tiles(
        &self,
        values: &mut [f32],
        columns: usize,
        bounds: &[usize],
        width: usize,
        f: impl Fn(usize, usize, Columns<'_>) + Sync,
    ) {
        assert_eq!(values.len() % columns, 0, "the numbers are not rows of {columns}");
        assert!(
            bounds.is_sorted() && bounds.last().is_none_or(|end| end * columns <= values.len())
        );
        let num_groups = columns.div_ceil(width);
        let num_tasks = bounds.len().saturating_sub(1) * num_groups;
        let start = Start(values.as_mut_ptr(), PhantomData);
        self.run(num_tasks, &|task| {
            let task = num_tasks - 1 - task;
            let (band, group) = (task / num_groups, task % num_groups);
            let (first_row, rows) = (bounds[band], bounds[band + 1] - bounds[band]);
            let first = first_row * columns + group * width;
            let width = width.min(columns - group * width);
            let start = start.again();
            f(band, group, Columns { start, rows, stride: columns, first, width });
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.bed));
        self.shared.bell.notify_all();
        for worker in self.workers.drain(..) {
            // It cannot have panicked: tasks are caught.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// The life of a worker.
    fn serve(&self) {
        let mut last = 0;
        while let Some(turn) = self.wait_for_turn(last) {
            self.inside.fetch_add(1, Ordering::SeqCst);
            if self.turn.load(Ordering::SeqCst) == turn {
                // SAFETY: the turn was open after this worker had entered, so its caller waits for
                // it to leave before it writes the job again.
                let job = unsafe { *self.job.get() };
                if let Some(Job { task, num_tasks }) = job {
                    // SAFETY: the caller of the turn keeps it alive until this worker has left.
                    self.work(num_tasks, unsafe { &*task });
                }
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
            last = turn;
        }
    }

    /// Claims tasks until none is left.
    fn work(&self, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let work = || {
            loop {
                let idx = self.next.fetch_add(1, Ordering::Relaxed);
                if idx >= num_tasks {
                    return;
                }
                task(idx);
            }
        };
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.has_panicked.store(true, Ordering::Relaxed);
        }
    }

    /// The number of an open turn other than the last one; `None` when the pool is dropped.
    fn wait_for_turn(&self, last: u64) -> Option<u64> {
        let open = || {
            let turn = self.turn.load(Ordering::SeqCst);
            (turn % 2 == 1 && turn != last).then_some(turn)
        };
        for _ in 0..SPINS {
            if let Some(turn) = open() {
                return Some(turn);
            }
            if self.is_stopped.load(Ordering::Relaxed) {
                return None;
            }
            std::hint::spin_loop();
        }
        // Said before the last look: a caller opens its turn before it asks who sleeps.
        self.num_asleep.fetch_add(1, Ordering::SeqCst);
        let mut bed = lock(&self.bed);
        let turn = loop {
            if self.is_stopped.load(Ordering::SeqCst) {
                break None;
            }
            if let Some(turn) = open() {
                break Some(turn);
            }
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        self.num_asleep.fetch_sub(1, Ordering::SeqCst);
        turn
    }
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pause(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS_BEFORE_YIELD {
        std::hint::spin_loop();
    } else {
        thread::yield_now();
    }
}

/// The same task, said to live forever.
///
/// # Safety
/// The result must not be called when the task is gone.
unsafe fn erase<'a>(task: &'a (dyn Fn(usize) + Sync + 'a)) -> *const (dyn Fn(usize) + Sync) {
    // SAFETY: only the lifetime changes; the caller answers for how long it is used.
    let task: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(task) };
    task
}

/// Where a slice begins that is borrowed mutably for `'a`.
struct Start<'a, T>(*mut T, PhantomData<&'a mut [T]>);

impl<T> Start<'_, T> {
    /// The same place.
    fn again(&self) -> Self {
        Self(self.0, PhantomData)
    }

    /// A place in the slice, if it lies within.
    fn at(&self, idx: usize) -> *mut T {
        self.0.wrapping_add(idx)
    }
}

// SAFETY: it stands for the slice that it begins; each use states why it aliases nothing.
unsafe impl<T: Send> Send for Start<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Start<'_, T> {}

/// Some columns of some rows of a matrix, which nobody else has.
pub struct Columns<'a> {
    start: Start<'a, f32>,
    rows: usize,
    stride: usize,
    /// Where the first row's part begins.
    first: usize,
    width: usize,
}

impl fmt::Debug for Columns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Columns")
            .field("rows", &self.rows)
            .field("first", &self.first)
            .field("width", &self.width)
            .finish_non_exhaustive()
    }
}

impl Columns<'_> {
    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// A row's part.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: the rows are rows of the matrix, and the columns lie within a row: `for_tiles` made
        // them so, and gave these columns to nobody else; `&mut self` keeps two parts apart.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.start.at(row * self.stride + self.first),
                self.width,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whoever_sleeps() {
        let pool = Pool::new(4).unwrap();
        for round in 0..3_000 {
            let num_tasks = round % 23;
            let counts: Vec<AtomicUsize> = (0..num_tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(num_tasks, &|idx| {
                counts[idx].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{round}");
            if round % 1_000 == 999 {
                thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }

    #[test]
    fn callers_take_turns() {
        let pool = Pool::new(3).unwrap();
        let sums: Vec<usize> = thread::scope(|scope| {
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut total = 0;
                        for _ in 0..200 {
                            let sum = AtomicUsize::new(0);
                            pool.run(9, &|idx| {
                                sum.fetch_add(idx, Ordering::Relaxed);
                            });
                            total += sum.into_inner();
                        }
                        total
                    })
                })
                .collect();
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        assert_eq!(sums, [200 * 36; 4]);
    }

    #[test]
    fn a_task_that_panics_is_told_to_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2).unwrap();
        let panics = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, &|idx| assert_ne!(idx, 5, "on purpose"));
        }));
        assert!(panics.is_err());
        let mut values = vec![0; 100];
        pool.for_chunks(&mut values, 7, |idx, chunk| chunk.fill(idx));
        assert!(values.iter().enumerate().all(|(at, value)| *value == at / 7));
    }

    #[test]
    fn columns_are_every_ones_own() {
        let pool = Pool::new(3).unwrap();
        let mut values = vec![0.0; 5 * 11];
        pool.for_columns(&mut values, 11, 4, |idx, mut columns| {
            for row in 0..5 {
                let width = columns.width();
                assert_eq!(width, if idx == 2 { 3 } else { 4 });
                columns.row_mut(row).fill((row * 10 + idx) as f32);
            }
        });
        for (at, value) in values.iter().enumerate() {
            assert_eq!(*value as usize, at / 11 * 10 + at % 11 / 4);
        }
    }
}
