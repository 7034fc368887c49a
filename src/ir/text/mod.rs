//! The text form of a graph: printed for people, parsed by tests and tools, equal after a round
//! trip.
//!
//! ```text
//! graph "double"
//! symbol s0 "num_tokens" 1..=64
//! %0 "x": f32[s0, 8] = input()
//! %1 "sum": f32[s0, 8] = add(%0, %0)
//! return %1
//! ```
//!
//! A line is one node: results with name and type, the op, its operands, then its attributes as
//! `; key=value`. Names are JSON strings. Floats are printed so that they read back to the same
//! bits.

mod parse;
mod print;

pub use parse::{ParseError, parse};

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ir::{Builder, Constant, DType, Graph, Op, RopeStyle, Shape, verify};

    /// A graph that uses every op but those that only passes make.
    pub(crate) fn every_op() -> Graph {
        let mut b = Builder::new("every \"op\"");
        let t = b.symbol("num_tokens", 1, 512);
        let s = b.symbol("num_seqs", 1, 32);
        let m = b.symbol("max_blocks", 1, 128);
        let n = b.symbol("num_blocks", 1, 1 << 20);
        let i32s = |dims: &[crate::ir::SymbolId]| Shape::new(dims.iter().map(|&d| d.into()));
        let ids = b.input("token_ids", DType::I32, i32s(&[t]));
        let slots = b.input("slots", DType::I32, i32s(&[t]));
        let tables = b.input("block_tables", DType::I32, i32s(&[s, m]));
        let ends = b.input("query_ends", DType::I32, i32s(&[s]));
        let lens = b.input("seq_lens", DType::I32, i32s(&[s]));
        let cache = Shape::new([n.into(), 16_u64.into(), 2_u64.into(), 32_u64.into()]);
        let k_cache = b.state("k", DType::F32, cache.clone());
        let v_cache = b.state("v", DType::F32, cache);
        let table = b.weight("embed", DType::Q8_0, Shape::fixed(&[100, 64]));
        let norm = b.weight("norm", DType::F32, Shape::fixed(&[64]));
        let wq = b.weight("q", DType::BF16, Shape::fixed(&[64, 64]));
        let wk = b.weight("k", DType::BF16, Shape::fixed(&[64, 64]));
        let rope = b.weight("rope", DType::F32, Shape::fixed(&[128, 16]));
        let scale = b.constant("scale", Constant { shape: vec![], values: vec![0.1] });
        let mut build = || -> Result<Graph, crate::ir::TypeError> {
            let x = b.op("x", Op::Gather { dtype: DType::F32 }, &[table, ids])?;
            let h = b.op("h", Op::RmsNorm { eps: 1e-5 }, &[x, norm])?;
            let q = b.op("q", Op::Linear, &[h, wq])?;
            let k = b.op("k", Op::Linear, &[h, wk])?;
            let heads = Shape::new([t.into(), 2_u64.into(), 32_u64.into()]);
            let q = b.op("q3", Op::Reshape { shape: heads.clone() }, &[q])?;
            let k = b.op("k3", Op::Reshape { shape: heads }, &[k])?;
            let cos = b.op("cos", Op::Gather { dtype: DType::F32 }, &[rope, ids])?;
            let q = b.op("q4", Op::Rope { style: RopeStyle::Halves }, &[q, cos, cos])?;
            let kc = b.op("kc", Op::KvWrite, &[k, k_cache, slots])?;
            let vc = b.op("vc", Op::KvWrite, &[k, v_cache, slots])?;
            let attention = Op::PagedAttention { scale: 0.125, window: Some(64) };
            let a = b.op("a", attention, &[q, kc, vc, tables, ends, lens])?;
            let flat = Shape::new([t.into(), 64_u64.into()]);
            let a = b.op("a2", Op::Reshape { shape: flat }, &[a])?;
            let sum = b.op("sum", Op::Add, &[x, a])?;
            let h = b.op("h2", Op::RmsNorm { eps: 1e-6 }, &[sum, norm])?;
            let gate = b.op("silu", Op::Silu, &[h])?;
            let h = b.op("mul", Op::Mul, &[gate, h])?;
            let h = b.op("scaled", Op::Mul, &[h, scale])?;
            let h = b.op("half", Op::Slice { start: 16, len: 32 }, &[h])?;
            let h = b.op("cast", Op::Cast { dtype: DType::F16 }, &[h])?;
            Ok(std::mem::take(&mut b).finish(&[h, sum]))
        };
        build().unwrap()
    }

    #[test]
    fn a_graph_reads_back_equal() {
        for graph in [
            every_op(),
            crate::ir::passes::optimise(&verify(every_op()).unwrap()).unwrap().into_inner(),
        ] {
            let text = graph.to_string();
            let back = parse(&text).unwrap();
            assert_eq!(back, graph, "{text}");
            assert_eq!(back.to_string(), text);
        }
    }

    #[test]
    fn a_parse_error_names_line_and_column() {
        let text = every_op().to_string();
        let broken = text.replacen("linear(", "linaer(", 1);
        let error = parse(&broken).unwrap_err();
        assert!(error.to_string().contains("unknown op `linaer`"), "{error}");
        assert!(error.line > 1 && error.column > 1, "{error:?}");
    }

    #[test]
    fn cut_or_changed_text_never_panics() {
        let text = every_op().to_string();
        for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
            let _ = parse(&text[..end]).map(verify);
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = b'9';
            if let Ok(changed) = String::from_utf8(bytes) {
                let _ = parse(&changed).map(verify);
            }
        }
    }
}
