//! Root mean square norms.

use super::{Call, Fault, Inferred, ensure, shape_fault, strict_fault};
use crate::ge::graph::{Attr, DataType, Desc};

/// Type of the reciprocal deviations: sizes that `gamma` covers become 1.
fn rstd(x: &Desc, gamma: &Desc) -> Result<Desc, Fault> {
    let outer = x.shape.len().checked_sub(gamma.shape.len());
    let outer = outer.filter(|&outer| !gamma.shape.is_empty() && x.shape[outer..] == gamma.shape);
    let outer =
        outer.ok_or_else(|| shape_fault!("gamma {gamma} does not end the shape of x {x}"))?;
    let mut shape = x.shape.clone();
    shape[outer..].fill(1);
    Ok(Desc { dtype: DataType::Float, shape })
}

fn check_epsilon(call: &Call<'_>) -> Result<(), Fault> {
    let is_good = matches!(call.attrs.get("epsilon"), Some(Attr::Float(epsilon)) if *epsilon > 0.0);
    ensure(is_good, || strict_fault!("epsilon must be above 0"))
}

/// `(x, gamma) -> (y, rstd)`.
pub(super) fn rms_norm(call: &Call<'_>) -> Inferred {
    let (x, gamma) = (call.input("x")?, call.input("gamma")?);
    check_epsilon(call)?;
    Ok(vec![x.clone(), rstd(x, gamma)?])
}

/// `(x1, x2, gamma) -> (y, rstd, x)` with `x = x1 + x2`.
pub(super) fn add_rms_norm(call: &Call<'_>) -> Inferred {
    let (x1, x2, gamma) = (call.input("x1")?, call.input("x2")?, call.input("gamma")?);
    check_epsilon(call)?;
    ensure(x1.shape == x2.shape, || shape_fault!("x1 {x1} and x2 {x2} differ"))?;
    Ok(vec![x1.clone(), rstd(x1, gamma)?, x1.clone()])
}
