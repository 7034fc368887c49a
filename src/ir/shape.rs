//! Shapes with symbolic dimensions.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Dim`] | one axis: a fixed size or a symbol |
//! | [`SymbolId`] | index of a symbol in its graph's table |
//! | [`Symbol`] | name and inclusive bounds of a symbolic size |
//! | [`Shape`] | a list of dims, outermost first |
//!
//! There is no arithmetic on symbols: a graph for a language model needs none, and without it two
//! dims are equal exactly when they are written the same.

use std::fmt;

/// Index of a [`Symbol`] in its graph's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SymbolId(pub u32);

/// A size that is known only when the graph runs (or once a bucket is chosen).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Symbol {
    /// For people: never part of canonical bytes.
    pub name: String,
    /// Smallest size, at least 1.
    pub min: u64,
    /// Largest size, inclusive.
    pub max: u64,
}

/// One axis of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A size known when the graph is built.
    Fixed(u64),
    /// A size known when the graph runs.
    Symbolic(SymbolId),
}

impl From<u64> for Dim {
    fn from(size: u64) -> Self {
        Self::Fixed(size)
    }
}

impl From<usize> for Dim {
    fn from(size: usize) -> Self {
        Self::Fixed(size as u64)
    }
}

impl From<SymbolId> for Dim {
    fn from(id: SymbolId) -> Self {
        Self::Symbolic(id)
    }
}

/// The axes of a tensor, outermost first; row-major in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// A shape of those axes.
    pub fn new(dims: impl IntoIterator<Item = Dim>) -> Self {
        Self(dims.into_iter().collect())
    }

    /// A shape without symbols.
    pub fn fixed(dims: &[usize]) -> Self {
        Self(dims.iter().map(|&dim| Dim::from(dim)).collect())
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The axes.
    pub fn dims(&self) -> &[Dim] {
        &self.0
    }

    /// The innermost axis, if there is one.
    pub fn last(&self) -> Option<Dim> {
        self.0.last().copied()
    }

    /// The shape with the innermost axis replaced.
    pub fn with_last(&self, last: Dim) -> Self {
        let mut dims = self.0.clone();
        if let Some(slot) = dims.last_mut() {
            *slot = last;
        }
        Self(dims)
    }

    /// Sizes with every symbol replaced by `value_of`, which is indexed by [`SymbolId`]; `None`
    /// when a symbol has no value.
    pub fn resolve(&self, value_of: &[u64]) -> Option<Vec<usize>> {
        self.0
            .iter()
            .map(|dim| match *dim {
                Dim::Fixed(size) => usize::try_from(size).ok(),
                Dim::Symbolic(SymbolId(id)) => {
                    value_of.get(id as usize).and_then(|&size| usize::try_from(size).ok())
                }
            })
            .collect()
    }

    /// The sizes when no axis is symbolic.
    pub fn as_fixed(&self) -> Option<Vec<usize>> {
        self.resolve(&[])
    }

    /// Product of the fixed axes and how often each symbol occurs, in order of id: equal for two
    /// shapes exactly when they hold the same number of elements for every value of the symbols.
    pub fn size_class(&self) -> (Option<u64>, Vec<SymbolId>) {
        let mut product = Some(1_u64);
        let mut symbols = Vec::new();
        for dim in &self.0 {
            match *dim {
                Dim::Fixed(size) => product = product.and_then(|p| p.checked_mul(size)),
                Dim::Symbolic(id) => symbols.push(id),
            }
        }
        symbols.sort_unstable();
        (product, symbols)
    }
}

impl fmt::Display for SymbolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Symbolic(id) => write!(f, "{id}"),
        }
    }
}

/// Prints `[s0, 576]`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (idx, dim) in self.0.iter().enumerate() {
            if idx > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_class_sees_through_the_order_of_axes() {
        let s = SymbolId(0);
        let flat = Shape::new([s.into(), 576_u64.into()]);
        let heads = Shape::new([s.into(), 9_u64.into(), 64_u64.into()]);
        assert_eq!(flat.size_class(), heads.size_class());
        assert_eq!(flat.resolve(&[3]), Some(vec![3, 576]));
        assert_eq!(flat.as_fixed(), None);
    }
}
