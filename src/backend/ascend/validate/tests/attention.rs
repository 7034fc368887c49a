//! What the kernels of attention and of rotary embedding can do, as tables.

use GeDType::{BF16, Bool, F16, I8, I32, I64, U8};

use super::super::super::dtype::GeDType;
use super::sample::{Attention, Sample};
use super::{Rule, Violation, target, validate};

fn refused(attention: &Attention, cann: &str) -> Option<Violation> {
    validate(&attention.model(), &target("Ascend910B3", cann)).err()
}

type Base = fn() -> Attention;
type Change = fn(&mut Attention);

const TAKEN: &[(Base, Change)] = &[
    (Attention::decode, |_| {}),
    (Attention::prefill, |_| {}),
    (Attention::packed, |_| {}),
    (Attention::decode, |a| (a.layout, a.query) = ("BSND", vec![3, 1, 4, 64])),
    (Attention::decode, |a| (a.layout, a.query) = ("BNSD", vec![3, 4, 1, 64])),
    (Attention::decode, |a| (a.block_size, a.cache[1]) = (16, 16)),
    (Attention::decode, |a| a.q_lens = Some(vec![3])),
    (Attention::decode, |a| (a.num_kv_heads, a.cache[2]) = (0, 256)),
    (Attention::decode, |a| a.mask = Some((F16, vec![3, 1, 640]))),
    (Attention::prefill, |a| a.mask = Some((I8, vec![1, 1, 2048, 2048]))),
    (Attention::prefill, |a| a.mask = Some((U8, vec![1, 2048, 2048]))),
    (Attention::prefill, |a| (a.block_size, a.cache[1]) = (256, 256)),
    (Attention::packed, |a| (a.block_size, a.cache[1]) = (1024, 1024)),
    (Attention::packed, |a| (a.sparse_mode, a.mask) = (0, None)),
];

const REFUSED: &[(Base, Change, &str)] = &[
    (Attention::decode, |a| a.num_heads = 0, "in groups"),
    (Attention::decode, |a| a.num_kv_heads = 3, "in groups"),
    (Attention::decode, |a| a.num_kv_heads = -1, "in groups"),
    (Attention::decode, |a| (a.num_heads, a.num_kv_heads) = (3, 1), "3 heads in the query"),
    (Attention::decode, |a| a.layout = "SH", "got `SH`"),
    (Attention::decode, |a| a.layout = "BSND", "got `BSND`"),
    (Attention::decode, |a| a.query = vec![3, 256], "heads in the query"),
    (Attention::decode, |a| a.result = Some(vec![3, 256]), "shape for the result"),
    (Attention::decode, |a| a.kv_lens = None, "`actual_seq_lengths_kv`"),
    (Attention::decode, |a| a.kv_lens = Some(vec![2]), "3 `actual_seq_lengths_kv`"),
    (Attention::decode, |a| a.kv_lens = Some(vec![3, 1]), "`actual_seq_lengths_kv` [b]"),
    (Attention::decode, |a| a.q_lens = Some(vec![4]), "3 `actual_seq_lengths`"),
    (Attention::decode, |a| a.tables = Some((I32, vec![3])), "`block_table` [b, m]"),
    (
        Attention::decode,
        |a| (a.tables, a.kv_lens) = (Some((I32, vec![4, 5])), Some(vec![4])),
        "for 3 sequences",
    ),
    (Attention::decode, |a| a.block_size = 64, "[n, 64, 128]"),
    (Attention::decode, |a| a.cache = vec![8, 128, 64], "[n, 128, 128]"),
    (Attention::decode, |a| a.cache = vec![8, 2, 128, 64], "[n, 128, 128]"),
    (Attention::decode, |a| (a.block_size, a.cache[1]) = (24, 24), "16 to 512 in steps of 16"),
    (Attention::decode, |a| (a.block_size, a.cache[1]) = (528, 528), "16 to 512 in steps of 16"),
    (
        Attention::decode,
        |a| (a.sparse_mode, a.mask) = (3, Some((Bool, vec![2048, 2048]))),
        "mode 0 for one query",
    ),
    (
        Attention::decode,
        |a| {
            (a.num_heads, a.num_kv_heads) = (1024, 1024);
            (a.query, a.cache) = (vec![3, 1, 65536], vec![8, 128, 65536]);
        },
        "at most 65535",
    ),
    (Attention::prefill, |a| (a.block_size, a.cache[1]) = (64, 64), "in steps of 128"),
    (Attention::prefill, |a| a.mask = None, "a mask for mode 3, got none"),
    (Attention::prefill, |a| a.mask = Some((Bool, vec![16, 2048])), "[2048, 2048] bytes"),
    (Attention::prefill, |a| a.mask = Some((F16, vec![2048, 2048])), "[2048, 2048] bytes"),
    (Attention::prefill, |a| a.mask = Some((Bool, vec![2, 2048, 2048])), "[2048, 2048] bytes"),
    (Attention::prefill, |a| a.sparse_mode = 5, "a mode from 0 to 4"),
    (Attention::packed, |a| a.dtype = F16, "bf16 heads of 128"),
    (
        Attention::packed,
        |a| (a.query, a.cache) = (vec![20, 4, 64], vec![8, 128, 128]),
        "bf16 heads of 128",
    ),
    (Attention::packed, |a| a.q_lens = None, "for each of 1 to 4096"),
    (Attention::packed, |a| a.q_lens = Some(vec![2]), "for each of 1 to 4096"),
    (Attention::packed, |a| a.mask = None, "a mask for mode 3"),
    (Attention::packed, |a| a.sparse_mode = 0, "mode 0 without a mask"),
    (Attention::packed, |a| (a.block_size, a.cache[1]) = (256, 256), "128, 512, 1024"),
    (Attention::packed, |a| a.query[0] = (1 << 20) + 1, "tokens at most"),
];

#[test]
fn attention_is_taken_as_its_kernel_can_do_it() {
    for (idx, (base, change)) in TAKEN.iter().enumerate() {
        let mut attention = base();
        change(&mut attention);
        assert_eq!(refused(&attention, "9.0"), None, "{idx}: {attention:?}");
    }
}

#[test]
fn attention_that_its_kernel_cannot_do_is_refused() {
    for (idx, (base, change, expected)) in REFUSED.iter().enumerate() {
        let mut attention = base();
        change(&mut attention);
        let violation = refused(&attention, "9.0").expect(expected);
        assert_eq!((violation.rule, &*violation.node), (Rule::Attention, "attn"), "{violation}");
        assert!(violation.detail.contains(expected), "{idx}: {violation} without {expected}");
    }
}

#[test]
fn packed_attention_needs_a_newer_release() {
    assert_eq!(refused(&Attention::decode(), "8.1"), None);
    assert_eq!(refused(&Attention::prefill(), "8.1"), None);
    let violation = refused(&Attention::packed(), "8.5").unwrap();
    assert!(violation.detail.contains("expected CANN 9.0 or newer, got 8.5"), "{violation}");
}

#[test]
fn block_tables_of_another_type_have_no_kernel() {
    let attention = Attention { tables: Some((I64, vec![3, 5])), ..Attention::decode() };
    assert_eq!(refused(&attention, "9.0").unwrap().rule, Rule::Kernel);
}

#[test]
fn rotary_embedding_is_taken_as_its_kernel_can_do_it() {
    let embedded = |op: &str, [table_1, table_2]: [&str; 2], x: &[i64], table: &[i64]| {
        let mut g = Sample::default();
        g.data("x", BF16, x);
        g.data("cos", BF16, table);
        g.data("sin", BF16, table);
        let inputs = [("x", "x:0"), (table_1, "cos:0"), (table_2, "sin:0")];
        g.node("rope", op, &inputs, &[], &[("y", BF16, x)]);
        let violation = validate(&g.finish(&["rope:0"]), &target("Ascend910B3", "8.1")).err()?;
        assert_eq!((violation.rule, &*violation.node), (Rule::Rotary, "rope"), "{violation}");
        Some(violation.detail)
    };
    let rotary = |x: &[i64], table: &[i64]| embedded("RotaryMul", ["r1", "r2"], x, table);
    assert_eq!(rotary(&[1, 4096, 32, 128], &[1, 4096, 1, 128]), None);
    assert_eq!(rotary(&[1, 7, 4, 64], &[1, 7, 1, 64]), None);
    for (x, table, expected) in [
        (&[7, 4, 64][..], &[7, 1, 64][..], "four axes"),
        (&[1, 7, 4, 32], &[1, 7, 1, 32], "a multiple of 64"),
        (&[1, 7, 4, 64], &[1, 7, 1, 1], "a multiple of 64"),
        (&[1, 7, 4, 64], &[1, 6, 1, 64], "broadcast"),
        (&[1, 1, 4, 64], &[1, 6, 1, 64], "broadcast"),
        (&[1, 7, 1000, 64], &[1, 7, 1, 64], "fewer than 1000"),
        (&[64, 7, 16, 64], &[1, 7, 1, 64], "less than 1024"),
    ] {
        let detail = rotary(x, table).expect(expected);
        assert!(detail.contains(expected), "{detail}");
    }

    let any_size = |x: &[i64], d: &[i64]| embedded("RotaryPositionEmbedding", ["cos", "sin"], x, d);
    assert_eq!(any_size(&[1, 7, 4, 80], &[1, 7, 1, 80]), None);
    for d in [81, 896] {
        let detail = any_size(&[1, 7, 4, d], &[1, 7, 1, d]).expect("refused");
        assert!(detail.contains("even and below 896"), "{detail}");
    }
}
