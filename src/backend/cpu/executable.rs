//! Runs a plan: checks the step once, then calls kernel after kernel.

use std::fmt;

use cairn_kernels::{
    Arithmetic, AttentionArgs, Binary, CacheShape, Kernels, LinearWeight, Matrix, Query, RopeArgs,
    WeightRows, copy, gather_rows, round,
};

use super::NAME;
use super::memory::{CpuMemory, PlacedWeight};
use super::plan::{Attention, Bound, CacheKind, Call, Plan, Size, Source, Step as PlanStep, View};
use crate::backend::{BackendError, Executable, Memory, Step};

/// A plan with its kernels and working memory.
pub(super) struct CpuExecutable {
    plan: Plan,
    /// By weight of the plan: its place in the memory.
    weight_places: Vec<usize>,
    /// The memory was placed for another graph of the same model, and may hold more.
    shares_memory: bool,
    /// See [`CpuExecutable::find_products`].
    products: Vec<(Arithmetic, Vec<usize>)>,
    kernels: Box<dyn Kernels>,
    /// By slot; grows to the largest step seen.
    slots: Vec<Vec<f32>>,
    /// The queries of the running step.
    queries: Vec<Query>,
}

impl fmt::Debug for CpuExecutable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuExecutable")
            .field("steps", &self.plan.steps.len())
            .finish_non_exhaustive()
    }
}

impl CpuExecutable {
    pub(super) fn new(plan: Plan, kernels: Box<dyn Kernels>) -> Self {
        let slots = vec![Vec::new(); plan.slots.len()];
        let weight_places = (0..plan.weights.len()).collect();
        let mut executable = Self {
            plan,
            weight_places,
            shares_memory: false,
            products: Vec::new(),
            kernels,
            slots,
            queries: Vec::new(),
        };
        executable.find_products();
        executable
    }
}

impl CpuExecutable {
    /// Packs the weights of products that are not packed yet.
    fn pack(&self, memory: &mut CpuMemory) -> Result<(), BackendError> {
        let num_weights = self.weight_places.iter().map(|place| place + 1).max().unwrap_or(0);
        if memory.weights.len() < num_weights
            || !self.shares_memory && memory.weights.len() > num_weights
        {
            let got = memory.weights.len();
            return Err(BackendError::BadInput(format!(
                "expected {num_weights} weights, got {got}"
            )));
        }
        for (arithmetic, weights) in &self.products {
            memory.pack(weights, self.kernels.as_ref(), *arithmetic)?;
        }
        Ok(())
    }

    /// The places of products' weights, by what they are rounded to.
    fn find_products(&mut self) {
        self.products.clear();
        for step in &self.plan.steps {
            let Call::Linear { weight, arithmetic, .. } = step.call else { continue };
            let (arithmetic, place) = (arithmetic.into(), self.weight_places[weight]);
            match self.products.iter_mut().find(|(other, _)| *other == arithmetic) {
                Some((_, places)) => places.push(place),
                None => self.products.push((arithmetic, vec![place])),
            }
        }
    }
}

impl Executable for CpuExecutable {
    fn prepare(&mut self, memory: &mut dyn Memory) -> Result<(), BackendError> {
        self.pack(downcast(memory)?)
    }

    fn run(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        output: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let memory = downcast(memory)?;
        self.pack(memory)?;
        check(&self.plan, &self.weight_places, memory, step)?;
        for (slot, values) in self.plan.slots.iter().zip(&mut self.slots) {
            grow(values, slot.rows.resolve(step.symbols), slot.columns)?;
        }
        let mut run = Run {
            plan: &self.plan,
            weight_places: &self.weight_places,
            kernels: self.kernels.as_ref(),
            slots: &mut self.slots,
            queries: &mut self.queries,
            memory,
            step,
        };
        self.plan.steps.iter().try_for_each(|step| run.call(step))?;

        let view = &self.plan.output;
        let rows = view.rows.resolve(step.symbols);
        output.clear();
        reserve(output, rows, view.columns)?;
        let weights = Weights { placed: &memory.weights, places: &self.weight_places };
        let result = matrix(view, step.symbols, &self.slots, weights, &self.plan);
        for row in 0..rows {
            output.extend_from_slice(result.row(row));
        }
        Ok(())
    }

    fn use_weights(&mut self, places: &[usize]) -> Result<(), BackendError> {
        if places.len() != self.plan.weights.len() {
            let (expected, got) = (self.plan.weights.len(), places.len());
            return Err(BackendError::BadInput(format!("expected {expected} weights, got {got}")));
        }
        self.weight_places = places.to_vec();
        self.shares_memory = true;
        self.find_products();
        Ok(())
    }
}

fn downcast(memory: &mut dyn Memory) -> Result<&mut CpuMemory, BackendError> {
    memory
        .as_any_mut()
        .downcast_mut()
        .ok_or_else(|| BackendError::BadInput(format!("the memory is not of the {NAME} backend")))
}

/// Makes working memory at least `rows x columns` numbers long.
fn grow(values: &mut Vec<f32>, rows: usize, columns: usize) -> Result<(), BackendError> {
    reserve(values, rows, columns)?;
    if values.len() < rows * columns {
        values.resize(rows * columns, 0.0);
    }
    Ok(())
}

/// Makes room for `rows x columns` numbers in all.
fn reserve(values: &mut Vec<f32>, rows: usize, columns: usize) -> Result<(), BackendError> {
    let out_of_memory = || BackendError::OutOfMemory {
        what: format!("a result of {rows} rows of {columns} numbers"),
        needed: Some((rows as u64).saturating_mul(columns as u64).saturating_mul(4)),
        detail: String::new(),
    };
    let needed = rows.checked_mul(columns).ok_or_else(out_of_memory)?;
    values.try_reserve_exact(needed.saturating_sub(values.len())).map_err(|_| out_of_memory())
}

/// Everything that kernels rely on, so that no input can make one panic.
fn check(
    plan: &Plan,
    weight_places: &[usize],
    memory: &CpuMemory,
    step: &Step<'_>,
) -> Result<(), BackendError> {
    let fail = |message: String| Err(BackendError::BadInput(message));
    if step.symbols.len() != plan.symbols.len() || step.inputs.len() != plan.inputs.len() {
        return fail(format!(
            "expected {} symbols and {} inputs, got {} and {}",
            plan.symbols.len(),
            plan.inputs.len(),
            step.symbols.len(),
            step.inputs.len()
        ));
    }
    for (idx, (&value, &(min, max))) in step.symbols.iter().zip(&plan.symbols).enumerate() {
        if !(min..=max).contains(&value) {
            return fail(format!("symbol {idx} must be {min} to {max}, got {value}"));
        }
    }
    let resolve = |bound: &Bound| -> Vec<usize> {
        bound.shape.iter().map(|size| size.resolve(step.symbols)).collect()
    };
    for (idx, (bound, input)) in plan.inputs.iter().zip(step.inputs).enumerate() {
        let shape = resolve(bound);
        let size = shape.iter().try_fold(1_usize, |size, &dim| size.checked_mul(dim));
        if size != Some(input.len()) {
            return fail(format!(
                "input {idx} must be of shape {shape:?}, got {} numbers",
                input.len()
            ));
        }
    }
    if memory.states.len() != plan.states.len() {
        return fail(format!("expected {} states, got {}", plan.states.len(), memory.states.len()));
    }
    for (idx, (bound, &place)) in plan.weights.iter().zip(weight_places).enumerate() {
        let (shape, weight) = (resolve(bound), &memory.weights[place]);
        if bound.dtype.0 != weight.dtype && bound.shape.len() > 1 || shape != weight.shape {
            return fail(format!(
                "weight {idx} must be {} {shape:?}, got {} {:?}",
                bound.dtype.0, weight.dtype, weight.shape
            ));
        }
    }
    for (idx, (bound, state)) in plan.states.iter().zip(&memory.states).enumerate() {
        let shape = resolve(bound);
        if shape != state.shape {
            return fail(format!("state {idx} must be of shape {shape:?}, got {:?}", state.shape));
        }
    }
    Ok(())
}

/// The matrix that a view names.
fn matrix<'a>(
    view: &View,
    symbols: &[u64],
    slots: &'a [Vec<f32>],
    weights: Weights<'a>,
    plan: &'a Plan,
) -> Matrix<'a> {
    let data: &[f32] = match view.source {
        Source::Slot(idx) => &slots[idx],
        Source::Weight(idx) => &weights.of(idx).vector,
        Source::Constant(idx) => &plan.constants[idx],
    };
    Matrix {
        data: &data[view.offset.min(data.len())..],
        rows: view.rows.resolve(symbols),
        columns: view.columns,
        stride: view.stride,
    }
}

/// The weights of a plan, among those of the memory.
#[derive(Clone, Copy)]
struct Weights<'a> {
    placed: &'a [PlacedWeight],
    places: &'a [usize],
}

impl<'a> Weights<'a> {
    fn of(self, idx: usize) -> &'a PlacedWeight {
        &self.placed[self.places[idx]]
    }
}

/// One run of a plan.
struct Run<'a> {
    plan: &'a Plan,
    weight_places: &'a [usize],
    kernels: &'a dyn Kernels,
    slots: &'a mut [Vec<f32>],
    queries: &'a mut Vec<Query>,
    memory: &'a mut CpuMemory,
    step: &'a Step<'a>,
}

impl Run<'_> {
    fn call(&mut self, step: &PlanStep) -> Result<(), BackendError> {
        if let Call::KvWrite { x, state, slots, kind } = &step.call {
            return self.kv_write(x, *state, self.step.inputs[*slots], *kind);
        }
        if let Call::Attention(attention) = &step.call {
            self.prepare_queries(attention)?;
        }
        // A target's slot is taken out while its kernel runs: no operand lies in it.
        let mut taken: Vec<(usize, Vec<f32>)> = step
            .targets
            .iter()
            .map(|target| (target.slot, std::mem::take(&mut self.slots[target.slot])))
            .collect();
        let mut targets: Vec<&mut [f32]> = step
            .targets
            .iter()
            .zip(&mut taken)
            .map(|(target, (_, values))| {
                let len = target.rows.resolve(self.step.symbols) * target.columns;
                &mut values[..len]
            })
            .collect();
        let result = self.kernel(&step.call, &mut targets);
        for (slot, values) in taken {
            self.slots[slot] = values;
        }
        result
    }

    fn matrix(&self, view: &View) -> Matrix<'_> {
        matrix(view, self.step.symbols, self.slots, self.weights(), self.plan)
    }

    fn weights(&self) -> Weights<'_> {
        Weights { placed: &self.memory.weights, places: self.weight_places }
    }

    fn weight(&self, idx: usize) -> WeightRows<'_> {
        self.weights().of(idx).rows()
    }

    fn linear_weight(&self, idx: usize, arithmetic: Arithmetic) -> LinearWeight<'_> {
        let weight = self.weights().of(idx);
        LinearWeight { rows: weight.rows(), arithmetic, packed: weight.packed.as_ref() }
    }

    fn kernel(&self, call: &Call, targets: &mut [&mut [f32]]) -> Result<(), BackendError> {
        let kernels = self.kernels;
        match (call, targets) {
            (Call::Gather { table, ids }, [target]) => {
                kernels.gather(self.weight(*table), self.step.inputs[*ids], target);
            }
            (Call::GatherRows { x, ids }, [target]) => {
                gather_rows(self.matrix(x), self.step.inputs[*ids], target);
            }
            (Call::Linear { x, weight, arithmetic }, [target]) => {
                kernels.linear(
                    self.matrix(x),
                    self.linear_weight(*weight, (*arithmetic).into()),
                    target,
                );
            }
            (Call::Binary { function, a, b }, [target]) => {
                kernels.binary((*function).into(), self.matrix(a), self.matrix(b), target);
            }
            (Call::Silu { x }, [target]) => kernels.silu(self.matrix(x), target),
            (Call::RmsNorm { x, weight, eps }, [target]) => {
                kernels.rms_norm(self.matrix(x), self.matrix(weight).row(0), *eps, target);
            }
            (Call::AddRmsNorm { x, residual, weight, eps }, [sum, normed]) => {
                let (x, residual) = (self.matrix(x), self.matrix(residual));
                kernels.binary(Binary::Add, x, residual, sum);
                let sum = Matrix { data: sum, rows: x.rows, columns: x.columns, stride: x.columns };
                kernels.rms_norm(sum, self.matrix(weight).row(0), *eps, normed);
            }
            (Call::Rope { x, cos, sin, head_dim, style }, [target]) => {
                let args = RopeArgs {
                    x: self.matrix(x),
                    cos: self.matrix(cos),
                    sin: self.matrix(sin),
                    head_dim: *head_dim,
                    style: (*style).into(),
                };
                kernels.rope(args, target);
            }
            (Call::Attention(attention), [target]) => {
                kernels.attention(self.attention(attention), target);
            }
            (Call::Round { x, dtype }, [target]) => {
                round(self.matrix(x), dtype.0, target);
            }
            (Call::Copy { x }, [target]) => copy(self.matrix(x), target),
            (other, targets) => {
                let message = format!("a plan with {} targets for {other:?}", targets.len());
                return Err(BackendError::Execution(message));
            }
        }
        Ok(())
    }

    fn cache_shape(&self, state: usize) -> CacheShape {
        let shape = &self.memory.states[state].shape;
        CacheShape { block_size: shape[1], num_heads: shape[2], head_dim: shape[3] }
    }

    fn attention<'b>(&'b self, attention: &Attention) -> AttentionArgs<'b> {
        AttentionArgs {
            q: self.matrix(&attention.q),
            k: &self.memory.states[attention.k_state].values,
            v: &self.memory.states[attention.v_state].values,
            cache: self.cache_shape(attention.k_state),
            queries: self.queries,
            block_tables: self.step.inputs[attention.block_tables],
            scale: attention.scale,
        }
    }

    /// Copies rows into the cache; a slot outside it is an error, a negative one is padding.
    fn kv_write(
        &mut self,
        x: &View,
        state: usize,
        slots: &[i32],
        kind: CacheKind,
    ) -> Result<(), BackendError> {
        let cache = self.cache_shape(state);
        let weights = Weights { placed: &self.memory.weights, places: self.weight_places };
        let x = matrix(x, self.step.symbols, self.slots, weights, self.plan);
        let state = &mut self.memory.states[state];
        let num_slots = state.shape[0] * state.shape[1];
        for (row, &slot) in slots.iter().enumerate() {
            let Ok(slot) = usize::try_from(slot) else { continue };
            if slot >= num_slots {
                let message = format!("slot {slot} is outside the KV cache of {num_slots} slots");
                return Err(BackendError::BadInput(message));
            }
            match kind {
                CacheKind::Keys => cache.put_keys(&mut state.values, slot, x.row(row)),
                CacheKind::Values => cache.put_values(&mut state.values, slot, x.row(row)),
            }
        }
        Ok(())
    }

    /// For each token, which positions it sees, from the ends and lengths of the sequences.
    fn prepare_queries(&mut self, attention: &Attention) -> Result<(), BackendError> {
        let fail = |message: String| Err(BackendError::BadInput(message));
        let inputs = self.step.inputs;
        let (tables, ends) = (inputs[attention.block_tables], inputs[attention.query_ends]);
        let lens = inputs[attention.seq_lens];
        let shape = &self.memory.states[attention.k_state].shape;
        let (num_blocks, block_size) = (shape[0], shape[1]);
        let width = tables.len() / lens.len().max(1);
        let num_tokens = self.rows(attention.q.rows);

        self.queries.clear();
        self.queries.resize(num_tokens, Query::default());
        let mut first = 0;
        for (sequence, (&end, &len)) in ends.iter().zip(lens).enumerate() {
            let (Ok(end), Ok(len)) = (usize::try_from(end), usize::try_from(len)) else {
                return fail(format!("sequence {sequence}: negative end {end} or length {len}"));
            };
            let Some(count) = end.checked_sub(first).filter(|_| end <= num_tokens) else {
                return fail(format!(
                    "sequence {sequence}: query end {end} after {first} of {num_tokens}"
                ));
            };
            if count > len && count > 0 || len > width * block_size {
                return fail(format!(
                    "sequence {sequence}: {count} queries and length {len} with {width} blocks of {block_size}"
                ));
            }
            let table = sequence * width;
            let used = &tables[table..table + len.div_ceil(block_size)];
            if let Some(block) =
                used.iter().find(|&&block| usize::try_from(block).map_or(true, |b| b >= num_blocks))
            {
                return fail(format!("sequence {sequence}: block {block} of {num_blocks}"));
            }
            for (idx, query) in self.queries[first..end].iter_mut().enumerate() {
                let own = len - count + idx;
                let window = attention.window.map_or(usize::MAX, |window| window as usize);
                *query = Query { start: (own + 1).saturating_sub(window), end: own + 1, table };
            }
            first = end;
        }
        Ok(())
    }

    fn rows(&self, size: Size) -> usize {
        size.resolve(self.step.symbols)
    }
}
