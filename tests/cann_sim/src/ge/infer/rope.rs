//! Rotary position embeddings, with the limits that the kernels' documents state.

use super::{Call, Fault, Inferred, ensure, shape_fault, strict_fault};
use crate::ge::graph::{Attr, Desc};

/// Checks a table of cosines or sines: like `x`, with sizes of 1 where it is repeated.
fn check_table(x: &Desc, table: &Desc) -> Result<(), Fault> {
    let is_like = table.shape.len() == 4
        && table.shape[3] == x.shape[3]
        && (0..3).all(|axis| table.shape[axis] == 1 || table.shape[axis] == x.shape[axis]);
    ensure(is_like, || shape_fault!("{table} cannot be broadcast to x {x}"))?;
    ensure(table.dtype == x.dtype, || strict_fault!("{table} is not of the type of x {x}"))
}

fn check_rank(x: &Desc) -> Result<(), Fault> {
    ensure(x.shape.len() == 4, || strict_fault!("x {x} is not of rank 4 (BSND, BNSD or SBND)"))
}

/// `y = x r1 + rotate(x) r2` with halves.
pub(super) fn rotary_mul(call: &Call<'_>) -> Inferred {
    let (x, r1, r2) = (call.input("x")?, call.input("r1")?, call.input("r2")?);
    check_rank(x)?;
    check_table(x, r1)?;
    check_table(x, r2)?;
    ensure(r1.shape == r2.shape, || shape_fault!("r1 {r1} and r2 {r2} differ"))?;
    let d = x.shape[3];
    ensure(d > 0 && d.is_multiple_of(64), || strict_fault!("D is {d}, no multiple of 64"))?;
    let repeated = (0..3).filter(|&axis| r1.shape[axis] == 1 && x.shape[axis] > 1);
    let repeats: usize = repeated.map(|axis| x.shape[axis]).product();
    ensure(x.shape[0] < 1000 && repeats < 1000, || {
        strict_fault!("x {x} is broadcast {repeats} times, B and N must be below 1000")
    })?;
    Ok(vec![x.clone()])
}

/// `y = x cos + rotate(x) sin`; mode 0 with halves, mode 1 interleaved.
pub(super) fn rotary_position_embedding(call: &Call<'_>) -> Inferred {
    let (x, cos, sin) = (call.input("x")?, call.input("cos")?, call.input("sin")?);
    check_rank(x)?;
    check_table(x, cos)?;
    check_table(x, sin)?;
    ensure(cos.shape == sin.shape, || shape_fault!("cos {cos} and sin {sin} differ"))?;
    let mode = call.int("mode")?;
    ensure((0..=1).contains(&mode), || strict_fault!("mode {mode} is not simulated"))?;
    ensure(call.optional("rotate").is_none(), || strict_fault!("rotate is not simulated"))?;
    let d = x.shape[3];
    ensure(d > 0 && d.is_multiple_of(2) && d < 896, || {
        strict_fault!("D is {d}, it must be even and below 896")
    })?;
    Ok(vec![x.clone()])
}

/// Rotates `query` and `key` in place.
pub(super) fn apply_rotary_pos_emb(call: &Call<'_>) -> Inferred {
    let (query, key) = (call.input("query")?, call.input("key")?);
    let (cos, sin) = (call.input("cos")?, call.input("sin")?);
    let is_plain = match call.attrs.get("rotary_mode") {
        Some(Attr::Str(mode)) => mode == "half",
        _ => true,
    };
    ensure(call.int("layout")? == 1 && is_plain, || {
        strict_fault!("only layout 1 (BSND) with halves is simulated")
    })?;
    for x in [query, key] {
        check_rank(x)?;
        check_table(x, cos)?;
        check_table(x, sin)?;
        ensure(x.shape[3] == 128, || strict_fault!("D of {x} is not 128"))?;
        ensure(x.shape[..2] == query.shape[..2] && cos.shape[2] == 1, || {
            shape_fault!("query {query}, key {key} and cos {cos} do not fit")
        })?;
    }
    ensure(cos.shape == sin.shape, || shape_fault!("cos {cos} and sin {sin} differ"))?;
    Ok(vec![query.clone(), key.clone()])
}
