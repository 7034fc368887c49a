//! S: shapes of the output that cannot be, or that cost without bound.

use serde_json::{Value, json};

use super::{Case, Expected, Param, Refused, chat};

fn bad_schema() -> Expected {
    Refused::expected(400, None, Param::Within("response_format"))
}

fn format(schema: &Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
}

pub(super) fn cases() -> Vec<Case> {
    let values: Vec<String> = (0..20_000).map(|i| format!("value number {i}")).collect();
    let cases = [
        ("S00 no schema", json!({"type": "json_schema"}), bad_schema()),
        (
            "S00 no schema inside",
            json!({"type": "json_schema", "json_schema": {"name": "x"}}),
            bad_schema(),
        ),
        ("S01 an unknown type", format(&json!({"type": "integerish"})), bad_schema()),
        ("S01 an unknown format", json!({"type": "yaml"}), bad_schema()),
        ("S02 a schema that is itself", format(&json!({"$ref": "#"})), Expected::OkOrRefused),
        (
            "S02 a list of itself",
            format(
                &json!({"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}),
            ),
            Expected::OkOrRefused,
        ),
        (
            "S03 a pattern of exponential cost",
            format(
                &json!({"type": "string", "pattern": "^(a+)+b{1,500}(c|cc)*(d{1,300}){1,300}$"}),
            ),
            Expected::OkOrRefused,
        ),
        (
            "S03 a pattern that is none",
            format(&json!({"type": "string", "pattern": "([a-"})),
            bad_schema(),
        ),
        (
            "S04 a list of a billion",
            format(
                &json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000_000}),
            ),
            Expected::OkOrRefused,
        ),
        (
            "S05 a schema from elsewhere",
            format(&json!({"$ref": "http://169.254.169.254/schema.json"})),
            bad_schema(),
        ),
        ("S06 20,000 values", format(&json!({"enum": values})), Expected::OkOrRefused),
    ];
    cases
        .into_iter()
        .map(|(name, format, expected)| {
            let body = json!({
                "messages": [{"role": "user", "content": "a"}],
                "max_tokens": 1,
                "response_format": format,
            });
            chat(name, body.to_string(), expected)
        })
        .collect()
}
