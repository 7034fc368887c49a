//! Which JSON schemas are compiled: known keywords only, local references, bounded depth.
//!
//! | Keywords | What happens |
//! | --- | --- |
//! | that the compiler enforces | checked inside and passed on |
//! | that say nothing about the text (`title`, `default`, an unknown `format`) | dropped |
//! | all others (`not`, `if`, `contains`, misspelt ones) | an error that names keyword and place |
//!
//! The compiler would skip keywords that it does not know, and a text would then break the schema
//! that it was promised to follow.
//!
//! What this module deliberately does not do: it gives keywords no meaning; the compiler does.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::error::GrammarError;
use super::json_schema_cost;
use super::spec::MAX_REGEX_BYTES;

/// Schemas inside schemas, references followed: the compiler recurses as deep.
const MAX_DEPTH: usize = 5_000;
/// Values of one `enum`.
const MAX_ENUM_VALUES: usize = 20_000;
/// Properties of one object.
const MAX_PROPERTIES: usize = 1_000;
/// Patterns of `patternProperties`, in the whole schema: each is compared with each.
const MAX_NAME_PATTERNS: usize = 50;
/// Whitespace between two parts of a text: a line break and an indentation, but no endless blank,
/// which small models fall for.
const WHITESPACE: &str = r"[\x20\x0A\x0D\x09]{1,64}";
/// Formats that the compiler enforces.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
const TYPES: [&str; 7] = ["null", "boolean", "number", "integer", "string", "array", "object"];

/// What a keyword holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// Nothing that says something about the text.
    Notes,
    /// A schema.
    Schema,
    /// A list of schemas.
    Schemas,
    /// A schema, or a list of them.
    SchemaOrSchemas,
    /// Schemas by name.
    Definitions,
    /// Schemas of the properties that have a name.
    Properties,
    Reference,
    /// A name of a type, or a list of them.
    Types,
    Values,
    AnyValue,
    Names,
    Count,
    Number,
    /// A number, or in old drafts a Boolean.
    Bound,
    Format,
    Pattern,
    /// Something that may be demanded of arrays, but is not enforced.
    Uniqueness,
}

fn holds(keyword: &str) -> Option<Holds> {
    Some(match keyword {
        "$schema" | "$id" | "id" | "$anchor" | "$comment" | "title" | "description" | "default"
        | "example" | "examples" | "readOnly" | "writeOnly" | "deprecated" | "contentMediaType"
        | "contentEncoding" | "contentSchema" | "discriminator" => Holds::Notes,
        "additionalProperties" | "additionalItems" => Holds::Schema,
        "anyOf" | "oneOf" | "allOf" | "prefixItems" => Holds::Schemas,
        "items" => Holds::SchemaOrSchemas,
        "$defs" | "definitions" => Holds::Definitions,
        "properties" | "patternProperties" => Holds::Properties,
        "$ref" => Holds::Reference,
        "type" => Holds::Types,
        "enum" => Holds::Values,
        "const" => Holds::AnyValue,
        "required" => Holds::Names,
        "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" => {
            Holds::Count
        }
        "minimum" | "maximum" | "multipleOf" => Holds::Number,
        "exclusiveMinimum" | "exclusiveMaximum" => Holds::Bound,
        "format" => Holds::Format,
        "pattern" => Holds::Pattern,
        "uniqueItems" => Holds::Uniqueness,
        _ => return None,
    })
}

/// The schema of any JSON object.
pub(super) fn any_object() -> Value {
    with_options(Map::from_iter([("type".to_owned(), json!("object"))]))
}

/// The schema in a text, as the compiler takes it.
///
/// # Errors
/// When it is no JSON, too deep or too wide, refers to something else, or asks for what is not
/// enforced.
pub(super) fn check(text: &str) -> Result<Value, GrammarError> {
    // The parser bounds the nesting of the text itself.
    let value: Value =
        serde_json::from_str(text).map_err(|error| GrammarError::NotJson(error.to_string()))?;
    let mut references = BTreeSet::new();
    let schema = clean(&value, &Place::Root, &mut references)?;
    let num_patterns = num_name_patterns(&schema);
    if num_patterns > MAX_NAME_PATTERNS {
        return Err(GrammarError::TooLarge {
            what: "patterns in patternProperties",
            got: num_patterns,
            max: MAX_NAME_PATTERNS,
        });
    }
    let mut depth = depth_of(&schema);
    for reference in &references {
        let target = target(&schema, reference).ok_or_else(|| GrammarError::Schema {
            place: reference.clone(),
            expected: "a schema",
            got: "nothing".to_owned(),
        })?;
        depth = depth.saturating_add(depth_of(target));
    }
    if depth > MAX_DEPTH {
        return Err(GrammarError::TooLarge {
            what: "levels of schemas inside schemas, references included",
            got: depth,
            max: MAX_DEPTH,
        });
    }
    json_schema_cost::check(&schema)?;
    Ok(match schema {
        Value::Object(schema) => with_options(schema),
        // The options need a place; these are all that is left.
        Value::Bool(true) => with_options(Map::new()),
        schema => schema,
    })
}

fn with_options(mut schema: Map<String, Value>) -> Value {
    schema.insert("x-guidance".to_owned(), json!({ "whitespace_pattern": WHITESPACE }));
    Value::Object(schema)
}

/// The part of a schema that a checked reference means. Names are compared as they are written.
pub(super) fn target<'a>(schema: &'a Value, reference: &str) -> Option<&'a Value> {
    let path = match reference {
        "#" | "#/" => return Some(schema),
        reference => reference.strip_prefix("#/")?,
    };
    path.split('/').try_fold(schema, |value, name| match value {
        Value::Array(values) => values.get(name.parse::<usize>().ok()?),
        value => value.get(name),
    })
}

/// Where in a schema.
enum Place<'a> {
    Root,
    In(&'a Place<'a>, &'a str),
    At(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn pointer(&self) -> String {
        match self {
            Self::Root => "#".to_owned(),
            Self::In(outer, name) => format!("{}/{}", outer.pointer(), shortened(name)),
            Self::At(outer, idx) => format!("{}/{idx}", outer.pointer()),
        }
    }

    fn wrong(&self, expected: &'static str, got: &Value) -> GrammarError {
        let got = shortened(&got.to_string());
        GrammarError::Schema { place: self.pointer(), expected, got }
    }
}

fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The schema without what says nothing about the text.
fn clean(
    schema: &Value,
    place: &Place<'_>,
    references: &mut BTreeSet<String>,
) -> Result<Value, GrammarError> {
    let schema = match schema {
        Value::Bool(_) => return Ok(schema.clone()),
        Value::Object(schema) => schema,
        other => return Err(place.wrong("a schema: an object, true or false", other)),
    };
    let mut cleaned = Map::new();
    for (keyword, value) in schema {
        let inside = Place::In(place, keyword);
        let Some(holds) = holds(keyword) else {
            return Err(GrammarError::Keyword {
                place: place.pointer(),
                keyword: shortened(keyword),
            });
        };
        if let Some(value) = clean_value(holds, value, &inside, references)? {
            cleaned.insert(keyword.clone(), value);
        }
    }
    Ok(Value::Object(cleaned))
}

/// What a keyword holds, or `None` where that says nothing.
fn clean_value(
    holds: Holds,
    value: &Value,
    place: &Place<'_>,
    references: &mut BTreeSet<String>,
) -> Result<Option<Value>, GrammarError> {
    let list = |references: &mut BTreeSet<String>| {
        let Some(schemas) = value.as_array() else {
            return Err(place.wrong("a list of schemas", value));
        };
        let schemas = schemas.iter().enumerate();
        let cleaned =
            schemas.map(|(idx, schema)| clean(schema, &Place::At(place, idx), references));
        cleaned.collect::<Result<Vec<Value>, _>>().map(Value::Array)
    };
    let wrong = |expected| Err(place.wrong(expected, value));
    let cleaned = match holds {
        Holds::Notes => return Ok(None),
        Holds::SchemaOrSchemas if value.is_array() => list(references)?,
        Holds::Schema | Holds::SchemaOrSchemas => clean(value, place, references)?,
        Holds::Schemas => list(references)?,
        Holds::Definitions | Holds::Properties => {
            let max_names = if holds == Holds::Properties { MAX_PROPERTIES } else { usize::MAX };
            let Some(schemas) = value.as_object() else { return wrong("schemas by name") };
            if schemas.len() > max_names {
                return Err(GrammarError::TooLarge {
                    what: "properties of one object",
                    got: schemas.len(),
                    max: max_names,
                });
            }
            let cleaned = schemas.iter().map(|(name, schema)| {
                let schema = clean(schema, &Place::In(place, name), references)?;
                Ok((name.clone(), schema))
            });
            Value::Object(cleaned.collect::<Result<_, GrammarError>>()?)
        }
        Holds::Reference => {
            let Some(reference) = value.as_str() else { return wrong("a reference") };
            if reference != "#" && !reference.starts_with("#/") {
                let (place, reference) = (place.pointer(), shortened(reference));
                return Err(GrammarError::Reference { place, reference });
            }
            references.insert(reference.to_owned());
            value.clone()
        }
        Holds::Types => {
            let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
            let is_sound = match value {
                Value::Array(names) => !names.is_empty() && names.iter().all(is_type),
                name => is_type(name),
            };
            if !is_sound {
                return wrong(
                    "null, boolean, number, integer, string, array, object, or a list of these",
                );
            }
            value.clone()
        }
        Holds::Values => match value.as_array() {
            Some(values) if values.len() > MAX_ENUM_VALUES => {
                return Err(GrammarError::TooLarge {
                    what: "values of an enum",
                    got: values.len(),
                    max: MAX_ENUM_VALUES,
                });
            }
            Some(values) if !values.is_empty() => value.clone(),
            _ => return wrong("a list of at least one value"),
        },
        Holds::AnyValue => value.clone(),
        Holds::Names => match value.as_array() {
            Some(names) if names.iter().all(Value::is_string) => value.clone(),
            _ => return wrong("a list of names"),
        },
        Holds::Count if is_count(value) => value.clone(),
        Holds::Count => return wrong("a whole number that is not negative"),
        Holds::Number | Holds::Bound if value.is_number() => value.clone(),
        Holds::Bound if value.is_boolean() => value.clone(),
        Holds::Number | Holds::Bound => return wrong("a number"),
        Holds::Format => match value.as_str() {
            Some(name) if FORMATS.contains(&name) => value.clone(),
            Some(_) => return Ok(None),
            None => return wrong("the name of a format"),
        },
        Holds::Pattern => match value.as_str().map(str::len) {
            Some(got) if got > MAX_REGEX_BYTES => {
                let (what, max) = ("bytes of a pattern", MAX_REGEX_BYTES);
                return Err(GrammarError::TooLarge { what, got, max });
            }
            Some(_) => value.clone(),
            None => return wrong("a regular expression"),
        },
        Holds::Uniqueness => match value {
            Value::Bool(false) => return Ok(None),
            _ => return wrong("false: that items are unique is not enforced"),
        },
    };
    Ok(Some(cleaned))
}

/// Whether it is a whole number, however it is written: 1 and 1.0 are one number.
fn is_count(value: &Value) -> bool {
    value.as_u64().is_some()
        || value.as_f64().is_some_and(|number| number >= 0.0 && number.fract() == 0.0)
}

/// Patterns of names, wherever they are; a property of that name counts as well.
fn num_name_patterns(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(num_name_patterns).sum(),
        Value::Object(values) => {
            let own =
                values.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
            own + values.values().map(num_name_patterns).sum::<usize>()
        }
        _ => 0,
    }
}

/// Lists and objects inside each other.
fn depth_of(value: &Value) -> usize {
    let deepest = match value {
        Value::Array(values) => values.iter().map(depth_of).max(),
        Value::Object(values) => values.values().map(depth_of).max(),
        _ => return 0,
    };
    1 + deepest.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(schema: &str) -> String {
        check(schema).unwrap_err().to_string()
    }

    #[test]
    fn what_says_nothing_is_dropped_and_the_rest_stays() {
        let schema = r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "t",
            "type": "object", "uniqueItems": false,
            "properties": {"title": {"type": "string", "format": "password", "default": 5},
                "at": {"type": "string", "format": "date"}}}"#;
        let mut cleaned = check(schema).unwrap();
        cleaned.as_object_mut().unwrap().remove("x-guidance");
        assert_eq!(
            cleaned.to_string(),
            r#"{"type":"object","properties":{"title":{"type":"string"},"at":{"type":"string","format":"date"}}}"#
        );
    }

    #[test]
    fn what_cannot_be_honoured_is_named_with_its_place() {
        assert_eq!(
            message(r#"{"properties": {"a": {"anyOf": [{"not": {}}]}}}"#),
            "#/properties/a/anyOf/0: the keyword `not` is not supported: remove it, or allow for \
             what it forbids"
        );
        assert_eq!(
            message(r#"{"$ref": "http://example.com/schema"}"#),
            "#/$ref: expected a reference into the schema itself, `#/...`, got \
             `http://example.com/schema`: nothing is fetched"
        );
        assert_eq!(
            message(r##"{"$ref": "#/$defs/a"}"##),
            "#/$defs/a: expected a schema, got nothing"
        );
        assert!(message(r#"{"x-guidance": {"lenient": true}}"#).contains("`x-guidance`"));
        assert!(message(r#"{"uniqueItems": true}"#).contains("#/uniqueItems: expected false"));
        for (schema, place) in [
            ("5", "#: expected a schema"),
            (r#"{"type": "text"}"#, "#/type"),
            (r#"{"type": []}"#, "#/type"),
            (r#"{"properties": []}"#, "#/properties"),
            (r#"{"items": 5}"#, "#/items"),
            (r#"{"anyOf": [5]}"#, "#/anyOf/0"),
            (r#"{"minItems": -1}"#, "#/minItems"),
            (r#"{"minItems": "1"}"#, "#/minItems"),
            (r#"{"minimum": "1"}"#, "#/minimum"),
            (r#"{"enum": []}"#, "#/enum"),
            (r#"{"required": [1]}"#, "#/required"),
            (r#"{"pattern": 1}"#, "#/pattern"),
            (r#"{"format": 1}"#, "#/format"),
        ] {
            assert!(message(schema).starts_with(place), "{schema}: {}", message(schema));
        }
    }

    #[test]
    fn chains_of_references_are_as_deep_as_they_are_long() {
        let chain = |len: usize| {
            let defs: Vec<String> = (0..len)
                .map(|idx| {
                    format!(r##""a{idx}": {{"items": {{"$ref": "#/$defs/a{}"}}}}"##, idx + 1)
                })
                .collect();
            format!(
                r##"{{"$ref": "#/$defs/a0", "$defs": {{{}, "a{len}": {{}}}}}}"##,
                defs.join(", ")
            )
        };
        assert!(check(&chain(1000)).is_ok());
        assert!(message(&chain(4000)).contains("at most 5000 levels"));
        assert!(message(&"[".repeat(100_000)).contains("not JSON"));
    }
}
