//! What a kernel is called with: its node, its inputs by name, its attributes.

use crate::ge::graph::{Attr, Desc, Node};

use super::values::{Fault, Tensor, fault};

/// A node about to run.
#[derive(Debug)]
pub(super) struct Call<'a> {
    node: &'a Node,
    /// In the order of [`Node::inputs`].
    tensors: Vec<Tensor<'a>>,
}

impl<'a> Call<'a> {
    pub(super) const fn new(node: &'a Node, tensors: Vec<Tensor<'a>>) -> Self {
        Self { node, tensors }
    }

    pub(super) const fn node(&self) -> &'a Node {
        self.node
    }

    /// An input that must be fed.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor<'a>, Fault> {
        match self.optional(name) {
            Some(tensor) => Ok(tensor),
            None => fault(format!("input `{name}` is not fed")),
        }
    }

    /// An input that may be left out.
    pub(super) fn optional(&self, name: &str) -> Option<Tensor<'a>> {
        let idx = self.node.inputs.iter().position(|input| input.name == name)?;
        self.tensors.get(idx).copied()
    }

    /// The tensors of a dynamic input, in order.
    pub(super) fn dynamic(&self, name: &str) -> Result<Vec<Tensor<'a>>, Fault> {
        let tensors: Vec<_> =
            (0..).map_while(|idx| self.optional(&format!("{name}{idx}"))).collect();
        if tensors.is_empty() {
            return fault(format!("input `{name}0` is not fed"));
        }
        Ok(tensors)
    }

    /// Type of an output.
    pub(super) fn output(&self, idx: usize) -> Result<&'a Desc, Fault> {
        match self.node.outputs.get(idx) {
            Some(desc) => Ok(desc),
            None => fault(format!("output {idx} is missing")),
        }
    }

    /// An attribute without a default.
    pub(super) fn int(&self, name: &str) -> Result<i64, Fault> {
        match self.node.attrs.get(name) {
            Some(Attr::Int(value)) => Ok(*value),
            other => unfit(name, "an integer", other),
        }
    }

    pub(super) fn int_or(&self, name: &str, default: i64) -> Result<i64, Fault> {
        if self.node.attrs.contains_key(name) { self.int(name) } else { Ok(default) }
    }

    pub(super) fn float_or(&self, name: &str, default: f32) -> Result<f32, Fault> {
        match self.node.attrs.get(name) {
            None => Ok(default),
            Some(Attr::Float(value)) => Ok(*value),
            other => unfit(name, "a float", other),
        }
    }

    pub(super) fn bool_or(&self, name: &str, default: bool) -> Result<bool, Fault> {
        match self.node.attrs.get(name) {
            None => Ok(default),
            Some(Attr::Bool(value)) => Ok(*value),
            other => unfit(name, "a bool", other),
        }
    }

    pub(super) fn str_or(&self, name: &str, default: &'static str) -> Result<&'a str, Fault> {
        match self.node.attrs.get(name) {
            None => Ok(default),
            Some(Attr::Str(value)) => Ok(value),
            other => unfit(name, "a string", other),
        }
    }

    /// A list without a default.
    pub(super) fn ints(&self, name: &str) -> Result<&'a [i64], Fault> {
        match self.node.attrs.get(name) {
            Some(Attr::ListInt(values)) => Ok(values),
            other => unfit(name, "a list of integers", other),
        }
    }

    pub(super) fn ints_or(&self, name: &str, default: &'static [i64]) -> Result<&'a [i64], Fault> {
        if self.node.attrs.contains_key(name) { self.ints(name) } else { Ok(default) }
    }
}

fn unfit<T>(name: &str, expected: &str, got: Option<&Attr>) -> Result<T, Fault> {
    match got {
        None => fault(format!("attribute `{name}` is missing")),
        Some(got) => fault(format!("attribute `{name}`: expected {expected}, got {got:?}")),
    }
}

/// An axis that may count from the end.
pub(super) fn axis(value: i64, rank: usize) -> Result<usize, Fault> {
    let from_start = if value < 0 { value.checked_add(rank as i64) } else { Some(value) };
    match from_start.and_then(|value| usize::try_from(value).ok()) {
        Some(axis) if axis < rank => Ok(axis),
        _ => fault(format!("axis {value} of a tensor with {rank} axes")),
    }
}

/// The product, if it can be counted even where a size is 0.
pub(super) fn checked_product(sizes: &[usize]) -> Option<usize> {
    let product = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size.max(1)));
    product.map(|product| if sizes.contains(&0) { 0 } else { product })
}

/// Elements before, along and after an axis.
pub(super) fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    let product = |sizes: &[usize]| sizes.iter().product();
    [product(&shape[..axis]), shape[axis], product(&shape[axis + 1..])]
}
