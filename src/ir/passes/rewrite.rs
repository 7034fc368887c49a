//! What every pass shares: a builder for the new graph and the map from old values to new ones.

use crate::ir::{Builder, Graph, Node, Op, ValueId};

/// A rewrite in progress.
pub(super) struct Rewrite<'a> {
    pub(super) old: &'a Graph,
    pub(super) builder: Builder,
    new_of: Vec<Option<ValueId>>,
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(old: &'a Graph) -> Self {
        Self { old, builder: Builder::like(old), new_of: vec![None; old.values().len()] }
    }

    /// The new value for an old one.
    pub(super) fn get(&self, old: ValueId) -> ValueId {
        self.new_of[old.0 as usize].expect("invariant: a pass keeps every value that is still used")
    }

    /// Lets an old value stand for a new one from here on.
    pub(super) fn map(&mut self, old: ValueId, new: ValueId) {
        self.new_of[old.0 as usize] = Some(new);
    }

    /// Copies a node as it is.
    pub(super) fn keep(&mut self, node: &Node) {
        self.emit(node.op.clone(), &node.inputs, &node.outputs);
    }

    /// A new node in place of old ones: operands and results are given as old values.
    pub(super) fn emit(&mut self, op: Op, inputs: &[ValueId], outputs: &[ValueId]) {
        if op.is_source() {
            let value = self.old.value(outputs[0]);
            let id = self.builder.source(&value.name, op, value.ty.clone());
            self.map(outputs[0], id);
            return;
        }
        let inputs: Vec<ValueId> = inputs.iter().map(|&id| self.get(id)).collect();
        let names: Vec<&str> = outputs.iter().map(|&id| self.old.value(id).name.as_str()).collect();
        let made =
            self.builder.multi(&names, op, &inputs).expect("invariant: a pass keeps operand types");
        for (&old, new) in outputs.iter().zip(made) {
            self.map(old, new);
        }
    }

    pub(super) fn finish(self) -> Graph {
        let outputs: Vec<ValueId> = self.old.outputs().iter().map(|&id| self.get(id)).collect();
        self.builder.finish(&outputs)
    }
}
