//! One run of a graph: where its values are, and what happens at each node.
//!
//! | Place | What is there |
//! | --- | --- |
//! | input | a `Data` or `RefData` node's binding: the caller's memory |
//! | constant | a `Const` node's tensor, in the graph |
//! | slot | what an operator produced, until its last reader ran |
//!
//! An operator that updates in place changes the caller's memory behind a `RefData`, so everything
//! that reads the `RefData` later sees the change. What it does to any other value is a change of a
//! copy: a plain `Data` keeps its contents, and the caller never sees the update.

use crate::ge::graph::{Attr, Desc, Edge, GeGraph, Node};

use super::call::{Call, checked_product};
use super::values::{Buffer, Fault, Tensor, fault};
use super::{Binding, KernelError, kernel, rope, scatter};

#[derive(Clone, Copy, Debug)]
enum Place {
    Input(usize),
    Constant(usize),
    Slot(usize),
}

#[derive(Debug)]
struct Slot {
    buffer: Buffer,
    /// Readers that have not run yet.
    readers: usize,
}

#[derive(Debug)]
pub(super) struct Run<'r, 'b> {
    graph: &'r GeGraph,
    inputs: &'r mut [Binding<'b>],
    /// By node and output.
    places: Vec<Vec<Option<Place>>>,
    /// Readers of each output, over the whole run.
    readers: Vec<Vec<usize>>,
    slots: Vec<Option<Slot>>,
}

impl<'r, 'b> Run<'r, 'b> {
    pub(super) fn new(
        graph: &'r GeGraph,
        inputs: &'r mut [Binding<'b>],
    ) -> Result<Self, KernelError> {
        let mut readers: Vec<Vec<usize>> =
            graph.nodes.iter().map(|node| vec![0; node.outputs.len()]).collect();
        let edges = graph.nodes.iter().filter(|node| node.op != "NetOutput");
        let edges = edges.flat_map(|node| node.inputs.iter().map(|input| input.edge));
        for edge in edges.chain(graph.outputs.iter().copied()) {
            if let Some(count) = readers.get_mut(edge.node).and_then(|of| of.get_mut(edge.output)) {
                *count += 1;
            }
        }
        let places = readers.iter().map(|of| vec![None; of.len()]).collect();
        let run = Self { graph, inputs, places, readers, slots: Vec::new() };
        for node in &graph.nodes {
            check_sizes(node).map_err(|fault| error(node, &fault))?;
        }
        Ok(run)
    }

    /// Runs every node.
    pub(super) fn run(&mut self) -> Result<(), KernelError> {
        let graph = self.graph;
        for (idx, node) in graph.nodes.iter().enumerate() {
            self.step(idx, node).map_err(|fault| error(node, &fault))?;
        }
        Ok(())
    }

    /// Copies the graph's outputs.
    pub(super) fn copy_outputs(&self, outputs: &mut [&mut [u8]]) -> Result<(), KernelError> {
        self.copy_each(outputs).map_err(|fault| KernelError {
            node: "NetOutput".to_owned(),
            op: "NetOutput".to_owned(),
            what: fault.to_string(),
        })
    }

    fn copy_each(&self, outputs: &mut [&mut [u8]]) -> Result<(), Fault> {
        let (expected, got) = (self.graph.outputs.len(), outputs.len());
        if expected != got {
            return fault(format!("expected {expected} outputs, got {got}"));
        }
        for (idx, (edge, output)) in self.graph.outputs.iter().zip(outputs).enumerate() {
            let bytes = self.tensor(*edge)?.bytes();
            let (expected, got) = (bytes.len(), output.len());
            let Some(output) = output.get_mut(..expected) else {
                return fault(format!("output {idx}: expected {expected} bytes, got {got}"));
            };
            output.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn step(&mut self, idx: usize, node: &'r Node) -> Result<(), Fault> {
        match node.op.as_str() {
            "Data" | "RefData" => return self.bind(idx),
            "Const" | "Constant" => return self.place(idx, 0, Place::Constant(idx)),
            "NetOutput" => return Ok(()),
            "Reshape" => self.reshape(idx, node)?,
            "ScatterNdUpdate" => self.scatter(idx, node)?,
            "ApplyRotaryPosEmb" => {
                let buffers = rope::apply_rotary_pos_emb(&self.call(node)?)?;
                for (output, (name, buffer)) in ["query", "key"].iter().zip(buffers).enumerate() {
                    self.update(idx, output, fed(node, name)?, buffer)?;
                }
            }
            op => match kernel(op) {
                Some(kernel) => {
                    let buffers = kernel(&self.call(node)?)?;
                    self.keep_all(idx, node, buffers)?;
                }
                None => return fault("no kernel for this operator"),
            },
        }
        for input in &node.inputs {
            self.release(input.edge);
        }
        Ok(())
    }

    fn bind(&mut self, idx: usize) -> Result<(), Fault> {
        match self.graph.inputs.iter().position(|&node| node == idx) {
            Some(input) if input < self.inputs.len() => {
                self.place(idx, 0, Place::Input(input))?;
                self.tensor(Edge { node: idx, output: 0 }).map(drop)
            }
            Some(input) => fault(format!("input {input} of {} is not bound", self.inputs.len())),
            None => fault("is no input of the graph"),
        }
    }

    /// The same bytes under another shape: not a copy.
    fn reshape(&mut self, idx: usize, node: &'r Node) -> Result<(), Fault> {
        let source = fed(node, "x")?;
        let expected = self.tensor(source)?.bytes().len();
        if node.outputs.first().map(Desc::num_bytes) != Some(expected) {
            return fault(format!("expected an output of {expected} bytes"));
        }
        let place = self.find(source)?;
        self.place(idx, 0, place)
    }

    fn scatter(&mut self, idx: usize, node: &'r Node) -> Result<(), Fault> {
        let target = fed(node, "var")?;
        // Copies: the operands may lie in the memory that changes.
        let (indices, updates) =
            (self.copied(fed(node, "indices")?)?, self.copied(fed(node, "updates")?)?);
        let indices = Tensor::new(indices.0, indices.1.bytes())?;
        let updates = Tensor::new(updates.0, updates.1.bytes())?;
        let place = self.find(target)?;
        let var = self.desc(target);
        if var.dtype != updates.dtype() {
            let (expected, got) = (var.dtype, updates.dtype());
            return fault(format!("expected `updates` of type {expected:?}, got {got:?}"));
        }
        let write =
            |bytes: &mut [u8]| scatter::update(&node.name, &var.shape, bytes, indices, updates);
        if let Place::Input(input) = place
            && let Binding::Update(bytes) = &mut self.inputs[input]
        {
            write(bytes)?;
            return self.place(idx, 0, place);
        }
        let (_, mut copy) = self.copied(target)?;
        write(copy.bytes_mut())?;
        self.keep(idx, 0, copy)
    }

    /// Puts new contents where an in-place operator found the old ones.
    fn update(
        &mut self,
        idx: usize,
        output: usize,
        target: Edge,
        buffer: Buffer,
    ) -> Result<(), Fault> {
        let place = self.find(target)?;
        if let Place::Input(input) = place
            && let Some(Binding::Update(bytes)) = self.inputs.get_mut(input)
            && let Some(bytes) = bytes.get_mut(..buffer.bytes().len())
        {
            bytes.copy_from_slice(buffer.bytes());
            return self.place(idx, output, place);
        }
        self.keep(idx, output, buffer)
    }

    fn call(&self, node: &'r Node) -> Result<Call<'_>, Fault> {
        let tensors = node.inputs.iter().map(|input| self.tensor(input.edge));
        Ok(Call::new(node, tensors.collect::<Result<_, _>>()?))
    }

    fn tensor(&self, edge: Edge) -> Result<Tensor<'_>, Fault> {
        let place = self.find(edge)?;
        let bytes = match place {
            Place::Input(input) => match &self.inputs[input] {
                Binding::Read(bytes) => bytes,
                Binding::Update(bytes) => &**bytes,
            },
            Place::Constant(node) => match self.graph.nodes[node].attrs.get("value") {
                Some(Attr::Tensor(_, bytes)) => bytes,
                _ => return fault("a constant without a tensor in `value`"),
            },
            Place::Slot(slot) => match &self.slots[slot] {
                Some(slot) => slot.buffer.bytes(),
                None => return fault("a value is gone before its last reader"),
            },
        };
        Tensor::new(self.desc(edge), bytes)
    }

    /// A copy of a value.
    fn copied(&self, edge: Edge) -> Result<(&'r Desc, Buffer), Fault> {
        let buffer = Buffer::copied(self.tensor(edge)?.bytes());
        Ok((self.desc(edge), buffer))
    }

    /// Type of a value that was found.
    fn desc(&self, edge: Edge) -> &'r Desc {
        &self.graph.nodes[edge.node].outputs[edge.output]
    }

    fn find(&self, edge: Edge) -> Result<Place, Fault> {
        match self.places.get(edge.node).and_then(|of| of.get(edge.output)) {
            Some(Some(place)) => Ok(*place),
            _ => fault(format!("output {} of node {} is not made yet", edge.output, edge.node)),
        }
    }

    fn keep_all(&mut self, idx: usize, node: &Node, buffers: Vec<Buffer>) -> Result<(), Fault> {
        if buffers.len() != node.outputs.len() {
            let (expected, got) = (buffers.len(), node.outputs.len());
            return fault(format!("expected {expected} outputs, got {got}"));
        }
        for (output, buffer) in buffers.into_iter().enumerate() {
            self.keep(idx, output, buffer)?;
        }
        Ok(())
    }

    /// A new slot, if anybody will read it.
    fn keep(&mut self, idx: usize, output: usize, buffer: Buffer) -> Result<(), Fault> {
        let Some(desc) = self.graph.nodes[idx].outputs.get(output) else {
            return fault(format!("output {output} is missing"));
        };
        if desc.num_bytes() != buffer.bytes().len() {
            let (expected, got) = (buffer.bytes().len(), desc.num_bytes());
            return fault(format!(
                "output {output}: computed {expected} bytes, its type has {got}"
            ));
        }
        if self.readers[idx][output] == 0 {
            return Ok(());
        }
        self.slots.push(Some(Slot { buffer, readers: 0 }));
        self.place(idx, output, Place::Slot(self.slots.len() - 1))
    }

    fn place(&mut self, idx: usize, output: usize, place: Place) -> Result<(), Fault> {
        let Some(entry) = self.places[idx].get_mut(output) else {
            return fault(format!("output {output} is missing"));
        };
        *entry = Some(place);
        if let Place::Slot(slot) = place
            && let Some(slot) = &mut self.slots[slot]
        {
            slot.readers += self.readers[idx][output];
        }
        Ok(())
    }

    /// One reader is done.
    fn release(&mut self, edge: Edge) {
        if let Ok(Place::Slot(slot)) = self.find(edge)
            && let Some(entry) = &mut self.slots[slot]
        {
            entry.readers = entry.readers.saturating_sub(1);
            if entry.readers == 0 {
                self.slots[slot] = None;
            }
        }
    }
}

fn fed(node: &Node, name: &str) -> Result<Edge, Fault> {
    node.input(name).map_or_else(|| fault(format!("input `{name}` is not fed")), Ok)
}

/// Sizes whose product cannot be counted are found before anything is computed from them.
fn check_sizes(node: &Node) -> Result<(), Fault> {
    for desc in &node.outputs {
        let sizes = [desc.shape.as_slice(), &[desc.dtype.size()]].concat();
        if checked_product(&sizes).is_none() {
            return fault(format!("a tensor {:?} is too large", desc.shape));
        }
    }
    Ok(())
}

fn error(node: &Node, fault: &Fault) -> KernelError {
    KernelError { node: node.name.clone(), op: node.op.clone(), what: fault.to_string() }
}
