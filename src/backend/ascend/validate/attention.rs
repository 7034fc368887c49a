//! What the kernel of `FusedInferAttentionScore` can do on Atlas A2.
//!
//! `b` sequences, `t` tokens in all, `s` tokens of each, `h` and `g` heads of query and of KV, `d`
//! their size, `n` blocks of `p` positions, `m` blocks for each sequence.
//!
//! | Layout | query | block size | from |
//! | --- | --- | --- | --- |
//! | `TND` | `[t, h, d]`, bf16, d 128 | 128, 512, 1024 | CANN 9.0 |
//! | `BSH`, `BSND`, `BNSD`, s = 1 | `[b, 1, h d]` and so on | 16 to 512 in steps of 16 | 8.1 |
//! | the same, s > 1 | `[b, s, h d]` and so on | 128 to 512 in steps of 128 | 8.1 |
//!
//! With a block table `[b, m]`, keys and values are `[n, p, g d]`, and the lengths of the sequences
//! are given for each, `[b]`. Lengths of queries are given for each too, but `TND` has them summed
//! up. Masks for a `sparse_mode` from 2 on are `[2048, 2048]`.
//!
//! What this module deliberately does not do: it knows no quantised cache, no prefix and no list of
//! tensors.

use super::super::dtype::GeDType;
use super::super::proto::{AttrValue, TensorDescriptor};
use super::super::target::{CannRelease, Target};
use super::graph::{Graph, Node, dims, dtype};
use super::violation::{Rule, Violation};

const MAX_KV_WIDTH: i64 = 65535;
const MASK_SIDE: i64 = 2048;
const PACKED_HEAD_SIZE: i64 = 128;
const MAX_PACKED_TOKENS: i64 = 1 << 20;
const MAX_PACKED_SEQUENCES: i64 = 4096;

/// Holds every attention to what its kernel can do.
pub(super) fn check(graph: &Graph<'_>, target: Target) -> Result<(), Violation> {
    let is_attention = |node: &&Node<'_>| node.op.r#type == "FusedInferAttentionScore";
    for node in graph.nodes.iter().filter(is_attention) {
        let checked = Attention::read(node).and_then(|attention| attention.check(target));
        checked.map_err(|detail| Violation::of(node.op, Rule::Attention, detail))?;
    }
    Ok(())
}

/// How the queries lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// `TND`, `t` tokens.
    Packed { num_tokens: i64 },
    /// `b` sequences of `s` tokens.
    Padded { num_seqs: i64, num_tokens: i64 },
}

struct Attention<'a> {
    node: &'a Node<'a>,
    query: &'a TensorDescriptor,
    layout: Layout,
    head_size: i64,
    num_kv_heads: i64,
}

impl<'a> Attention<'a> {
    fn read(node: &'a Node<'a>) -> Result<Self, String> {
        let query = node.input("query").ok_or("expected a query, got none")?;
        let num_heads = node.int("num_heads").unwrap_or(0);
        let num_kv_heads = match node.int("num_key_value_heads") {
            None | Some(0) => num_heads,
            Some(num) => num,
        };
        if num_kv_heads < 1 || num_heads < 1 || num_heads % num_kv_heads != 0 {
            let got = format!("got {num_heads} and {num_kv_heads}");
            return Err(format!("expected heads in groups for each KV head, {got}"));
        }
        let name = match node.attribute("input_layout") {
            Some(AttrValue::S(name)) => name.as_slice(),
            _ => b"BSH",
        };
        let padded = |num_seqs, num_tokens| Layout::Padded { num_seqs, num_tokens };
        let (layout, heads, head_size) = match (name, dims(query)) {
            (b"TND", &[t, h, d]) => (Layout::Packed { num_tokens: t }, h, d),
            (b"BSH", &[b, s, width]) if width % num_heads == 0 => {
                (padded(b, s), num_heads, width / num_heads)
            }
            (b"BSND", &[b, s, h, d]) | (b"BNSD", &[b, h, s, d]) => (padded(b, s), h, d),
            _ => (padded(0, 0), 0, 0),
        };
        if heads != num_heads || head_size < 1 {
            let (name, dims) = (String::from_utf8_lossy(name), dims(query));
            return Err(format!("expected {num_heads} heads in the query, got `{name}` {dims:?}"));
        }
        Ok(Self { node, query, layout, head_size, num_kv_heads })
    }

    fn check(&self, target: Target) -> Result<(), String> {
        let output = self.node.output("attention_out").map(dims);
        if output != Some(dims(self.query)) {
            return Err(format!("expected the query's shape for the result, got {output:?}"));
        }
        self.mask()?;
        let num_seqs = match self.node.input("block_table") {
            Some(table) => Some(self.paged(table)?),
            None => None,
        };
        match self.layout {
            Layout::Packed { num_tokens } => self.packed(num_tokens, num_seqs, target),
            Layout::Padded { num_seqs: expected, num_tokens } => {
                if num_seqs.is_some_and(|num_seqs| num_seqs != expected) {
                    return Err(format!("expected block tables for {expected} sequences"));
                }
                self.padded(expected, num_tokens)
            }
        }
    }

    fn int(&self, name: &str) -> i64 {
        self.node.int(name).unwrap_or(0)
    }

    /// The mask fits the mode.
    fn mask(&self) -> Result<(), String> {
        let mask = self.node.input("atten_mask");
        match (self.int("sparse_mode"), mask) {
            (0 | 1, _) => Ok(()),
            (mode @ 2..=4, Some(mask)) => {
                let small = matches!(dtype(mask), Some(GeDType::I8 | GeDType::U8 | GeDType::Bool));
                let square = [MASK_SIDE, MASK_SIDE];
                let rest = dims(mask).strip_suffix(&square);
                let fits = rest.is_some_and(|rest| rest.len() <= 2 && rest.iter().all(|&d| d == 1));
                if fits && small {
                    return Ok(());
                }
                let expected = format!("expected a mask of {square:?} bytes for mode {mode}");
                Err(format!("{expected}, got {}", super::graph::show(mask)))
            }
            (mode @ 2..=4, None) => Err(format!("expected a mask for mode {mode}, got none")),
            (mode, _) => Err(format!("expected a mode from 0 to 4, got {mode}")),
        }
    }

    /// Keys and values in blocks; returns the number of sequences.
    fn paged(&self, table: &TensorDescriptor) -> Result<i64, String> {
        let &[num_seqs, width] = dims(table) else {
            return Err(format!("expected `block_table` [b, m], got {:?}", dims(table)));
        };
        if num_seqs < 1 || width < 1 || dtype(table) != Some(GeDType::I32) {
            let got = super::graph::show(table);
            return Err(format!("expected `block_table` int32 [b, m], got {got}"));
        }
        let kv_width = self.num_kv_heads.checked_mul(self.head_size).unwrap_or(i64::MAX);
        if kv_width > MAX_KV_WIDTH {
            return Err(format!(
                "expected keys of at most {MAX_KV_WIDTH} elements, got {kv_width}"
            ));
        }
        let block_size = self.int("block_size");
        for name in ["key", "value"] {
            if self.node.inputs.iter().filter(|input| input.name == name).count() != 1 {
                return Err(format!("expected one `{name}` with a block table"));
            }
            let got = self.node.input(name).map_or(&[][..], dims);
            if !matches!(got, &[_, p, w] if p == block_size && w == kv_width) {
                return Err(format!(
                    "expected `{name}` [n, {block_size}, {kv_width}], from `block_size`, got {got:?}"
                ));
            }
        }
        if self.lengths("actual_seq_lengths_kv")? != Some(num_seqs) {
            return Err(format!("expected {num_seqs} `actual_seq_lengths_kv` with block tables"));
        }
        Ok(num_seqs)
    }

    /// How many lengths there are.
    fn lengths(&self, name: &str) -> Result<Option<i64>, String> {
        let Some(desc) = self.node.input(name) else { return Ok(None) };
        match dims(desc) {
            &[count] => Ok(Some(count)),
            got => Err(format!("expected `{name}` [b], got {got:?}")),
        }
    }

    fn packed(&self, num_tokens: i64, num_seqs: Option<i64>, target: Target) -> Result<(), String> {
        if target.cann < CannRelease::PACKED_ATTENTION {
            let expected = CannRelease::PACKED_ATTENTION;
            return Err(format!("TND: expected CANN {expected} or newer, got {}", target.cann));
        }
        if dtype(self.query) != Some(GeDType::BF16) || self.head_size != PACKED_HEAD_SIZE {
            let got = super::graph::show(self.query);
            return Err(format!("TND: expected bf16 heads of {PACKED_HEAD_SIZE}, got {got}"));
        }
        let lengths = self.lengths("actual_seq_lengths")?;
        let known = lengths.filter(|count| (1..=MAX_PACKED_SEQUENCES).contains(count));
        if known.is_none() || num_seqs.is_some_and(|num_seqs| known != Some(num_seqs)) {
            return Err(format!(
                "TND: expected `actual_seq_lengths` for each of 1 to {MAX_PACKED_SEQUENCES} \
                 sequences, {num_seqs:?} in the block table, got {lengths:?}"
            ));
        }
        if num_tokens > MAX_PACKED_TOKENS {
            return Err(format!(
                "TND: expected {MAX_PACKED_TOKENS} tokens at most, got {num_tokens}"
            ));
        }
        let masked = self.node.input("atten_mask").is_some();
        if !matches!((self.int("sparse_mode"), masked), (0, false) | (3, true)) {
            return Err("TND: expected mode 0 without a mask, or mode 3 with one".to_owned());
        }
        self.block_size(
            num_seqs.is_some(),
            |size| [128, 512, 1024].contains(&size),
            "128, 512, 1024",
        )
    }

    fn padded(&self, num_seqs: i64, num_tokens: i64) -> Result<(), String> {
        let lengths = self.lengths("actual_seq_lengths")?;
        if lengths.is_some_and(|lengths| lengths != num_seqs) {
            return Err(format!("expected {num_seqs} `actual_seq_lengths`, got {lengths:?}"));
        }
        let paged = self.node.input("block_table").is_some();
        if num_tokens > 1 {
            let fits = |size| (128..=512).contains(&size) && size % 128 == 0;
            return self.block_size(paged, fits, "128 to 512 in steps of 128");
        }
        if self.int("sparse_mode") != 0 {
            return Err("expected mode 0 for one query".to_owned());
        }
        let fits = |size| (16..=512).contains(&size) && size % 16 == 0;
        self.block_size(paged, fits, "16 to 512 in steps of 16")
    }

    fn block_size(
        &self,
        paged: bool,
        fits: impl Fn(i64) -> bool,
        expected: &str,
    ) -> Result<(), String> {
        let size = self.int("block_size");
        if !paged || fits(size) {
            return Ok(());
        }
        Err(format!("expected `block_size` {expected} for this layout, got {size}"))
    }
}
