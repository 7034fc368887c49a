use serde_json::{Value, json};

use super::*;
use crate::model::config::{ModelConfig, RopeStyle};

const VECTORS: &str = include_str!("../../../tests/golden/rope/vectors.json");

fn floats(value: &Value) -> Vec<f32> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap() as f32).collect()
}

/// The settings of a case, read as those of a model would be.
fn config_of(case: &Value) -> RopeConfig {
    let mut config = json!({
        "model_type": "llama", "vocab_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "hidden_size": case["head_dim"], "num_attention_heads": 1,
    });
    let fields = config.as_object_mut().unwrap();
    fields.extend(case["config"].as_object().unwrap().clone());
    ModelConfig::from_json(config.to_string().as_bytes(), None).unwrap().rope
}

/// How many f32 lie between two positive ones.
fn ulps(a: f32, b: f32) -> u32 {
    a.to_bits().abs_diff(b.to_bits())
}

#[test]
fn tables_equal_those_of_the_reference_for_every_scaling() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let positions: Vec<usize> = serde_json::from_value(vectors["positions"].clone()).unwrap();
    let num_positions = positions.iter().max().unwrap() + 1;
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let head_dim = case["head_dim"].as_u64().unwrap() as usize;
        let config = config_of(case);
        let frequencies = inverse_frequencies(&config, head_dim).unwrap();
        let expected = floats(&case["inv_freq"]);
        assert_eq!(frequencies.len(), expected.len());
        let mut errors = vec![0.0; expected.len()];
        for (pair, (&got, &want)) in frequencies.iter().zip(&expected).enumerate() {
            assert!(ulps(got, want) <= 1, "{name}: frequency {pair} is {got}, not {want}");
            errors[pair] = (got - want).abs();
        }
        // The reference's own power function is off by its last bit now and then.
        let num_off = errors.iter().filter(|&&error| error > 0.0).count();
        assert!(num_off <= 2, "{name}: {num_off} frequencies differ");
        let tables = rope_tables(&config, head_dim, num_positions).unwrap();
        for (row, &position) in positions.iter().enumerate() {
            let at = position * (head_dim / 2);
            for (table, key) in [(&tables.cos, "cos"), (&tables.sin, "sin")] {
                for (pair, want) in floats(&case[key][row]).into_iter().enumerate() {
                    let got = table[at + pair];
                    // Where a frequency differs, the angle does by as many times as the
                    // position says, and by its own rounding.
                    let angle = position as f32 * frequencies[pair];
                    let tolerance = match errors[pair] {
                        0.0 => 4e-7,
                        error => 4e-7 + position as f32 * error + angle * f32::EPSILON,
                    };
                    assert!(
                        (got - want).abs() <= tolerance,
                        "{name}: {key} of position {position}, pair {pair} is {got}, not {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn equal_factors_are_linear_scaling() {
    let tables = |scaling| {
        let config = RopeConfig { theta: 10_000.0, scaling, style: RopeStyle::Interleaved };
        rope_tables(&config, 16, 64)
    };
    assert_eq!(
        tables(RopeScaling::FrequencyFactors(vec![4.0; 8])).unwrap(),
        tables(RopeScaling::Linear { factor: 4.0 }).unwrap()
    );
    assert_eq!(
        tables(RopeScaling::FrequencyFactors(vec![4.0; 7])).unwrap_err().to_string(),
        "frequency factors do not match: expected 8, half a head, got 7"
    );
}

#[test]
fn tables_that_do_not_fit_are_an_error() {
    let config =
        RopeConfig { theta: 10_000.0, scaling: RopeScaling::None, style: RopeStyle::Halves };
    for num_positions in [usize::MAX, usize::MAX / 16] {
        let error = rope_tables(&config, 16, num_positions).unwrap_err();
        assert!(matches!(error, RopeError::OutOfMemory { pairs: 8, .. }));
    }
    let none = rope_tables(&config, 16, 0).unwrap();
    assert!(none.cos.is_empty() && none.sin.is_empty());
}
