//! Two small graphs to find out with whether a compiler takes what is written here.
//!
//! ```text
//! add             x1, x2 f32[8,16]                    --Add--> y
//! norm_matmul     x bf16[8,64], gamma bf16[64]        --RmsNorm--> y, rstd
//!                 y, weight bf16[128,64] transposed   --MatMulV2--> out bf16[8,128]
//! ```
//!
//! What this module deliberately does not do: attention and the cache in place. Their graphs are
//! those of a model.

use prost::Message as _;

use super::super::dtype::GeDType;
use super::super::ge_graph::{Attr, GeGraph, TensorType};

/// The simplest graph there is, as an `.air` file's bytes.
pub fn add() -> Vec<u8> {
    let ty = TensorType::new(GeDType::F32, vec![8, 16]);
    let mut graph = GeGraph::default();
    let inputs = ["input_0", "input_1"].map(|name| graph.data(name, ty.clone()));
    let [x1, x2] = &inputs;
    let sum = graph.call("n0", "Add").input("x1", x1).input("x2", x2).one("y", ty);
    graph.finish(&[sum], &[]).encode_to_vec()
}

/// The beginning of a model in bf16: an operator with two outputs, of which one is not used, then
/// one with optional inputs, which are left out.
pub fn norm_matmul() -> Vec<u8> {
    let bf16 = |shape: &[u64]| TensorType::new(GeDType::BF16, shape.to_vec());
    let mut graph = GeGraph::default();
    let x = graph.data("input_0", bf16(&[8, 64]));
    let gamma = graph.data("weight_0", bf16(&[64]));
    let weight = graph.data("weight_1", bf16(&[128, 64]));
    let normed = graph
        .call("n0", "RmsNorm")
        .input("x", &x)
        .input("gamma", &gamma)
        .attr("epsilon", Attr::Float(1e-6))
        .output("y", bf16(&[8, 64]))
        .output("rstd", TensorType::new(GeDType::F32, vec![8, 1]))
        .first();
    let out = graph
        .call("n1", "MatMulV2")
        .input("x1", &normed)
        .input("x2", &weight)
        .attr("transpose_x1", Attr::Bool(false))
        .attr("transpose_x2", Attr::Bool(true))
        .one("y", bf16(&[8, 128]));
    graph.finish(&[out], &[]).encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::super::proto::ModelDef;
    use super::*;

    #[test]
    fn the_samples_are_whole_graphs() {
        for (bytes, expected) in [
            (add(), &["Data", "Data", "Add", "NetOutput"][..]),
            (norm_matmul(), &["Data", "Data", "Data", "RmsNorm", "MatMulV2", "NetOutput"]),
        ] {
            let model = ModelDef::decode(bytes.as_slice()).unwrap();
            let types: Vec<&str> = model.graph[0].op.iter().map(|op| op.r#type.as_str()).collect();
            assert_eq!(types, expected);
        }
    }
}
