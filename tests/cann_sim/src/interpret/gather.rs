//! `GatherV2`: rows of a table by their indices.

use super::call::{Call, around, axis, checked_product};
use super::values::{Buffer, Fault, fault};

/// Along `axis`, the slices that `indices` names. An index outside is an exception.
pub(super) fn gather(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let (x, indices) = (call.tensor("x")?, call.tensor("indices")?);
    if call.int_or("batch_dims", 0)? != 0 {
        return fault("expected batch_dims 0");
    }
    let along = axis(call.tensor("axis")?.scalar()?, x.shape().len())?;
    let [before, size, after] = around(x.shape(), along);
    let counts_from_end = call.bool_or("negative_index_support", false)?;
    let indices = indices.i64s()?;
    let slice = after * x.dtype().size();
    let Some(num_bytes) = checked_product(&[before, indices.len(), slice]) else {
        return fault(format!("{} slices of {:?} are too many", indices.len(), x.shape()));
    };
    let mut y = Buffer::zeroed(num_bytes);
    for (row, target) in y.bytes_mut().chunks_exact_mut(slice.max(1)).enumerate() {
        let (outer, idx) = (row / indices.len(), indices[row % indices.len()]);
        let from_start =
            if counts_from_end && idx < 0 { idx.wrapping_add(size as i64) } else { idx };
        match usize::try_from(from_start) {
            Ok(inner) if inner < size => {
                let start = (outer * size + inner) * slice;
                target.copy_from_slice(&x.bytes()[start..start + slice]);
            }
            _ => return fault(format!("index {idx} out of range: axis {along} has {size}")),
        }
    }
    Ok(vec![y])
}
