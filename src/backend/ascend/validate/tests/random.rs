//! Damage of any kind is refused or taken, but never ends the program.

use proptest::prelude::*;

use super::super::super::proto::{AttrValue, ListValue, ModelDef, ShapeDef};
use super::sample::{Attention, attr, decoder, ints};
use super::{target, validate};

#[derive(Clone, Debug)]
struct Damage {
    kind: u8,
    node: usize,
    place: usize,
    number: i64,
}

fn damage() -> impl Strategy<Value = Damage> {
    let number = prop_oneof![
        -3..260_i64,
        prop::sample::select(vec![i64::MIN, i64::MAX, i64::from(i32::MAX), 1 << 32]),
    ];
    (0..14_u8, any::<usize>(), 0..6_usize, number).prop_map(|(kind, node, place, number)| Damage {
        kind,
        node,
        place,
        number,
    })
}

fn value(number: i64) -> AttrValue {
    match number.rem_euclid(8) {
        0 => AttrValue::I(number),
        1 => AttrValue::F(number as f32),
        2 => AttrValue::B(number > 9),
        3 => AttrValue::S(b"BNSD".to_vec()),
        4 => AttrValue::Dt(number),
        5 => AttrValue::List(ListValue::default()),
        6 => ints(&[number, 1]),
        _ => AttrValue::Bt(vec![0]),
    }
}

fn apply(model: &mut ModelDef, damage: &Damage) {
    let Damage { kind, node, place, number } = *damage;
    let ops = &mut model.graph[0].op;
    let (count, node) = (ops.len(), node % ops.len());
    let twin = ops[number.rem_euclid(count as i64) as usize].clone();
    let op = &mut ops[node];
    let edge = op.input.len().checked_sub(1).map(|last| place.min(last));
    let key = op.attr.keys().nth(place).cloned();
    let descs = op.input_desc.len() + op.output_desc.len();
    let desc = op.input_desc.iter_mut().chain(&mut op.output_desc).nth(place % descs.max(1));
    match (kind, edge, desc, key) {
        (0, Some(edge), ..) => drop(op.input.remove(edge)),
        (1, Some(edge), ..) => op.input.swap(0, edge),
        (2, Some(edge), ..) => op.input[edge] = format!("{}:{number}", twin.name),
        (3, _, Some(desc), _) => desc.dtype = number as i32,
        (4, _, Some(desc), _) => {
            desc.shape.get_or_insert_default().dim.push(number);
        }
        (5, _, Some(desc), _) => {
            if let Some(dim) = desc.shape.get_or_insert_default().dim.last_mut() {
                *dim = number;
            }
        }
        (6, _, Some(desc), _) => desc.shape = None::<ShapeDef>,
        (7, .., Some(key)) => drop(op.attr.insert(key, attr(value(number)))),
        (8, .., Some(key)) => drop(op.attr.remove(&key)),
        (9, ..) => op.r#type = twin.r#type,
        (10, ..) => op.input_desc.push(twin.input_desc.first().cloned().unwrap_or_default()),
        (11, ..) => drop(op.output_desc.pop()),
        (12, ..) => *op = twin,
        _ => drop(ops.remove(node)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_makes_it_panic(damages in prop::collection::vec(damage(), 1..4)) {
        let models = [decoder(), Attention::prefill().model(), Attention::packed().model()];
        for mut model in models {
            for damage in &damages {
                apply(&mut model, damage);
            }
            if let Err(violation) = validate(&model, &target("Ascend910B3", "9.0")) {
                prop_assert!(!violation.to_string().is_empty());
            }
        }
    }

    /// Kernels and layouts see shapes that the rules before them let through.
    #[test]
    fn no_attention_makes_it_panic(
        query in prop::collection::vec(0..300_i64, 0..5),
        heads in (-2..6_i64, -2..6_i64),
        layout in prop::sample::select(vec!["BSH", "BSND", "BNSD", "TND", "SH"]),
        tables in prop::collection::vec(0..4_i64, 0..3),
        block_size in -1..600_i64,
    ) {
        let attention = Attention {
            query,
            num_heads: heads.0,
            num_kv_heads: heads.1,
            layout,
            tables: Some((super::super::super::dtype::GeDType::I32, tables)),
            block_size,
            ..Attention::packed()
        };
        drop(validate(&attention.model(), &target("Ascend910B3", "9.0")));
    }
}
