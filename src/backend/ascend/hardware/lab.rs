//! Where questions are asked: the backend, and what becomes of small graphs with it.
//!
//! What was compiled once is kept: later questions use the same graphs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::backend::AscendBackend;
use super::super::executable::AscendExecutable;
use super::super::memory::AscendMemory;
use super::super::session::{Session, run_error};
use super::No;
use crate::backend::{Artifact, Backend as _, BackendError, Files, StateSpec, Weight};
use crate::ir::{Graph, TypeError, Verified, canonical_bytes, passes, verify};
use crate::weights::Tensor;

/// What questions are asked with.
#[derive(Debug)]
pub struct Lab<'a> {
    backend: &'a AscendBackend,
    allows_faults: bool,
    /// By canonical bytes.
    compiled: RefCell<HashMap<Vec<u8>, Rc<Artifact>>>,
    /// Names of graphs and how long they took to compile.
    times: RefCell<Vec<(String, Duration)>>,
}

impl<'a> Lab<'a> {
    /// Asks a backend, which may have been opened without a device: then only what the compiler can
    /// answer is asked. With `allows_faults`, the last question breaks a step on purpose, after which
    /// neither this process nor others may be able to use the device before it is reset.
    pub fn new(backend: &'a AscendBackend, allows_faults: bool) -> Self {
        let (compiled, times) = (RefCell::default(), RefCell::default());
        Self { backend, allows_faults, compiled, times }
    }

    pub(super) fn backend(&self) -> &AscendBackend {
        self.backend
    }

    pub(super) fn allows_faults(&self) -> bool {
        self.allows_faults
    }

    /// The device.
    ///
    /// # Errors
    /// [`No::Skipped`] when there is none, or when it broke before.
    pub(super) fn session(&self) -> Result<&Arc<Session>, No> {
        let session = self.backend.session();
        let session = session.map_err(|_| No::Skipped("it takes a device".to_owned()))?;
        if let Some(failure) = session.device().failure() {
            return Err(No::Skipped(format!("the device was given up before: {failure}")));
        }
        Ok(session)
    }

    /// Bytes of the device's memory that are free.
    pub(super) fn free_memory(&self) -> Result<u64, No> {
        let current = self.session()?.enter()?;
        let info = current.memory_info().map_err(|error| run_error(&error))?;
        Ok(info.free)
    }

    /// What `compile` gives, whose time is noted under a name.
    pub(super) fn timed<T>(&self, name: &str, compile: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = compile();
        self.times.borrow_mut().push((name.to_owned(), started.elapsed()));
        result
    }

    /// The graph that took longest to compile, how long it took, and how many there were.
    pub(super) fn slowest(&self) -> Option<(String, Duration, usize)> {
        let times = self.times.borrow();
        let (name, time) = times.iter().max_by_key(|(_, time)| *time)?;
        Some((name.clone(), *time, times.len()))
    }

    /// The artifact of a graph.
    pub(super) fn compile(&self, graph: &Verified<Graph>) -> Result<Rc<Artifact>, No> {
        let key = canonical_bytes(graph);
        if let Some(artifact) = self.compiled.borrow().get(&key) {
            return Ok(Rc::clone(artifact));
        }
        let name = graph.name();
        let artifact = self.timed(name, || self.backend.compile(graph));
        let artifact = Rc::new(artifact.map_err(|error| in_graph(name, &error))?);
        self.compiled.borrow_mut().insert(key, Rc::clone(&artifact));
        Ok(artifact)
    }

    /// A graph, compiled and loaded.
    pub(super) fn load(&self, graph: &Verified<Graph>) -> Result<AscendExecutable, No> {
        let artifact = self.compile(graph)?;
        self.load_artifact(graph.name(), &artifact.files())
    }

    /// An artifact, loaded.
    pub(super) fn load_artifact(
        &self,
        name: &str,
        files: &Files<'_>,
    ) -> Result<AscendExecutable, No> {
        let session = Arc::clone(self.session()?);
        AscendExecutable::load(session, files).map_err(|error| in_graph(name, &error))
    }

    /// A graph's weights, found by their names, and its states, zeroed, on the device.
    pub(super) fn place(&self, graph: &Graph, tensors: &[Tensor]) -> Result<AscendMemory, No> {
        let find = |name: &str| tensors.iter().find(|tensor| tensor.name == name).cloned();
        let weights = graph.weights().map(|(_, parts)| {
            let tensors: Option<Vec<Tensor>> = parts.iter().map(|part| find(&part.name)).collect();
            tensors.map(|parts| Weight { parts })
        });
        let states = graph.states().map(|id| {
            let ty = graph.ty(id);
            ty.shape.as_fixed().map(|shape| StateSpec { dtype: ty.dtype, shape })
        });
        let weights: Option<Vec<_>> = weights.collect();
        let states: Option<Vec<_>> = states.collect();
        let (Some(weights), Some(states)) = (weights, states) else {
            return Err(No::Fails(format!("the graph `{}` has unknown tensors", graph.name())));
        };
        Ok(AscendMemory::new(Arc::clone(self.session()?), weights, &states)?)
    }
}

/// A graph as the engine would have it compiled.
pub(super) fn finished(graph: Result<Graph, TypeError>) -> Result<Verified<Graph>, No> {
    let graph = graph.map_err(|error| No::Fails(error.to_string()))?;
    let graph = verify(graph).and_then(|graph| passes::optimise(&graph));
    graph.map_err(|error| No::Fails(error.to_string()))
}

fn in_graph(name: &str, error: &BackendError) -> No {
    No::Fails(format!("{name}: {error}"))
}
