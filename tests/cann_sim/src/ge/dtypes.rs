//! Type combinations of the kernels: the lists of a chip, and in step with each other.

use super::graph::{DataType, Desc};
use super::protos::{Kernel, KernelPort};

/// Names of the types in column `at`, as in `bf16`; `None` past the end.
fn column(port: &KernelPort, at: usize) -> Option<&str> {
    port.dtype.as_deref()?.split(',').nth(at)
}

/// Whether some column of the lists has the types of all tensors that are present. Tensors come
/// with the index of their port; dynamic ports come once for each part.
pub(super) fn is_supported(
    kernel: &Kernel,
    inputs: &[(usize, &Desc)],
    outputs: &[(usize, &Desc)],
) -> bool {
    let columns = |ports: &[KernelPort]| {
        ports.iter().filter_map(|port| Some(port.dtype.as_ref()?.split(',').count())).max()
    };
    let Some(count) = columns(&kernel.inputs).max(columns(&kernel.outputs)) else {
        // Picked when the graph is compiled.
        return true;
    };
    let fits = |ports: &[KernelPort], (port, desc): (usize, &Desc), at: usize| {
        let port = ports.get(port).filter(|port| port.dtype.is_some());
        port.is_none_or(|port| column(port, at) == Some(desc.dtype.name()))
    };
    (0..count).any(|at| {
        inputs.iter().all(|&tensor| fits(&kernel.inputs, tensor, at))
            && outputs.iter().all(|&tensor| fits(&kernel.outputs, tensor, at))
    })
}

/// Whether the type takes part in the compiler's choice of a precision.
pub(super) const fn is_lowered_to_fp16(dtype: DataType) -> bool {
    matches!(dtype, DataType::Float | DataType::Bf16)
}
