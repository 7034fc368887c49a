//! Types to JSON schemas.
//!
//! | Type | Its schema comes from |
//! | --- | --- |
//! | request bodies | [`Described`], which `wire_object!` implements: fields, docs, constraints |
//! | types with a reader of their own | [`Described`], written beside the reader |
//! | answers | `utoipa::ToSchema`, derived from the same attributes as their `Serialize` |
//!
//! ```text
//! /// Randomness: 0 always takes the likeliest token.
//! temperature: f64 where 0.0..=100.0,
//!   -> "temperature": {"description": "Randomness: ...", "type": ["number", "null"],
//!                      "minimum": 0.0, "maximum": 100.0}
//! ```
//!
//! What this module deliberately does not do: it checks no value; whoever reads a body does.

use std::collections::BTreeMap;
use std::ops::{RangeFrom, RangeInclusive};

use serde::Serialize;
use serde_json::{Map, Value, json};

/// The named schemas of a document, while they are collected.
#[derive(Debug, Default)]
pub(in crate::server) struct Schemas(BTreeMap<String, Value>);

/// A type with a JSON schema.
pub(in crate::server) trait Described {
    /// What the document calls it; `None`: it is written out wherever it occurs.
    const NAME: Option<&'static str> = None;

    /// Its schema.
    fn schema(schemas: &mut Schemas) -> Value;
}

impl Schemas {
    /// The schema of a type, by name where it has one.
    pub(in crate::server) fn of<T: Described>(&mut self) -> Value {
        let Some(name) = T::NAME else { return T::schema(self) };
        if !self.0.contains_key(name) {
            // Holds the place, so that a type may contain itself.
            self.0.insert(name.to_owned(), Value::Null);
            let schema = T::schema(self);
            self.0.insert(name.to_owned(), schema);
        }
        reference(name)
    }

    /// The schema of a type that is sent.
    pub(in crate::server) fn of_sent<T: utoipa::ToSchema>(&mut self) -> Value {
        let mut found = Vec::new();
        T::schemas(&mut found);
        found.push((T::name().into_owned(), T::schema()));
        for (name, schema) in found {
            let schema = serde_json::to_value(schema)
                .expect("invariant: schemas have string keys and no failing parts");
            self.0.entry(name).or_insert(schema);
        }
        reference(&T::name())
    }

    /// All of them, by name.
    pub(super) fn into_object(self) -> Value {
        Value::Object(self.0.into_iter().collect())
    }
}

/// A function that gives a schema, to be named in tables.
pub(in crate::server) type SchemaOf = fn(&mut Schemas) -> Value;

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The properties of an object, in order.
#[derive(Debug, Default)]
pub(in crate::server) struct Object {
    properties: Map<String, Value>,
    required: Vec<Value>,
}

/// One property, before it is added to its object.
#[derive(Debug)]
pub(in crate::server) struct Property {
    pub(in crate::server) schema: Value,
    pub(in crate::server) is_required: bool,
}

impl Object {
    /// Adds a property. Unless it is required it may be null, which means that it is absent.
    pub(in crate::server) fn add(&mut self, key: &str, doc: &[&str], mut property: Property) {
        if property.is_required {
            self.required.push(key.into());
        } else {
            property.schema = or_null(property.schema);
        }
        let description = description(doc);
        if !description.is_empty() {
            property.schema["description"] = description.into();
        }
        self.properties.insert(key.to_owned(), property.schema);
    }

    /// Adds a property that is known and refused, unless it has one of these values.
    pub(in crate::server) fn add_refused(&mut self, key: &str, neutral: &[&str]) {
        let values = neutral.iter().filter_map(|json| serde_json::from_str(json).ok());
        let allowed: Vec<Value> = [Value::Null].into_iter().chain(values).collect();
        let doc = "Not supported by this version: leave it out, or send one of these values.";
        self.properties.insert(key.to_owned(), json!({ "description": doc, "enum": allowed }));
    }

    /// Keeps these properties: the others mean nothing here.
    pub(in crate::server) fn only(mut self, keys: &[&str]) -> Self {
        self.properties.retain(|key, _| keys.contains(&key.as_str()));
        self.required.retain(|key| key.as_str().is_some_and(|key| keys.contains(&key)));
        self
    }

    /// Adds the properties of another object.
    pub(in crate::server) fn extend(&mut self, other: Self) {
        for (key, schema) in other.properties {
            self.properties.entry(key).or_insert(schema);
        }
        self.required.extend(other.required);
    }

    /// The schema. Keys that it does not name are ignored.
    pub(in crate::server) fn into_schema(self, doc: &[&str]) -> Value {
        let mut schema = json!({ "type": "object", "properties": self.properties });
        let description = description(doc);
        if !description.is_empty() {
            schema["description"] = description.into();
        }
        if !self.required.is_empty() {
            schema["required"] = self.required.into();
        }
        schema["additionalProperties"] = true.into();
        schema
    }
}

/// Lines of a doc comment as one text; an empty line ends a paragraph.
fn description(doc: &[&str]) -> String {
    let lines: Vec<&str> = doc.iter().map(|line| line.trim()).collect();
    let paragraphs = lines.split(|line| line.is_empty()).map(|lines| lines.join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n").trim().to_owned()
}

fn or_null(mut schema: Value) -> Value {
    match schema.get("type") {
        Some(Value::String(name)) if schema.get("enum").is_none() => {
            schema["type"] = json!([name, "null"]);
            schema
        }
        // Anything, null included.
        None if schema.as_object().is_some_and(Map::is_empty) => schema,
        _ => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

/// What a field of a request must be besides its type.
pub(in crate::server) trait Constraint {
    /// Says it in the schema.
    fn apply(self, property: &mut Property);
}

/// The field must be there.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Required;

/// A number above the first and at most the second.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Above(pub(in crate::server) f64, pub(in crate::server) f64);

/// One of these texts.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct OneOf<'a>(pub(in crate::server) &'a [&'a str]);

/// A text that matches.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Pattern(pub(in crate::server) &'static str);

impl Constraint for Pattern {
    fn apply(self, property: &mut Property) {
        property.schema["pattern"] = self.0.into();
    }
}

impl Constraint for () {
    fn apply(self, _: &mut Property) {}
}

impl Constraint for Required {
    fn apply(self, property: &mut Property) {
        property.is_required = true;
    }
}

impl Constraint for OneOf<'_> {
    fn apply(self, property: &mut Property) {
        property.schema["enum"] = self.0.into();
    }
}

impl Constraint for Above {
    fn apply(self, property: &mut Property) {
        property.schema["exclusiveMinimum"] = self.0.into();
        property.schema["maximum"] = self.1.into();
    }
}

/// Bounds of a number, or of the size of a text, list or object.
impl<T: Serialize> Constraint for RangeInclusive<T> {
    fn apply(self, property: &mut Property) {
        let [min, max] = bound_names(&property.schema);
        property.schema[min] = json!(self.start());
        property.schema[max] = json!(self.end());
    }
}

impl<T: Serialize> Constraint for RangeFrom<T> {
    fn apply(self, property: &mut Property) {
        let [min, _] = bound_names(&property.schema);
        property.schema[min] = json!(self.start);
    }
}

impl<A: Constraint, B: Constraint> Constraint for (A, B) {
    fn apply(self, property: &mut Property) {
        self.0.apply(property);
        self.1.apply(property);
    }
}

fn bound_names(schema: &Value) -> [&'static str; 2] {
    match schema["type"].as_str() {
        Some("string") => ["minLength", "maxLength"],
        Some("array") => ["minItems", "maxItems"],
        Some("object") => ["minProperties", "maxProperties"],
        _ => ["minimum", "maximum"],
    }
}

/// Implements [`Described`] for types without a name of their own.
macro_rules! described {
    ($($Type:ty => $schema:tt,)*) => {$(
        impl Described for $Type {
            fn schema(_: &mut Schemas) -> Value {
                json!($schema)
            }
        }
    )*};
}
described! {
    bool => {"type": "boolean"},
    i64 => {"type": "integer", "format": "int64", "minimum": (i64::MIN), "maximum": (i64::MAX)},
    u32 => {"type": "integer", "minimum": 0, "maximum": (u32::MAX)},
    f64 => {"type": "number"},
    String => {"type": "string"},
    serde::de::IgnoredAny => {},
    Value => {},
    Map<String, Value> => {"type": "object", "additionalProperties": true},
}

impl<T: Described> Described for Vec<T> {
    fn schema(schemas: &mut Schemas) -> Value {
        json!({ "type": "array", "items": schemas.of::<T>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(schema: Value, constraint: impl Constraint) -> Value {
        let mut property = Property { schema, is_required: false };
        constraint.apply(&mut property);
        let mut object = Object::default();
        object.add("key", &[" Says", " what.", "", " More."], property);
        object.into_schema(&[])
    }

    #[test]
    fn what_may_be_left_out_may_be_null() {
        let got = property(json!({ "type": "integer" }), 1..=5);
        let key = json!({
            "type": ["integer", "null"], "minimum": 1, "maximum": 5,
            "description": "Says what.\n\nMore.",
        });
        assert_eq!(got["properties"]["key"], key);
        assert_eq!(got["additionalProperties"], true);
        assert!(got.get("required").is_none());
        let got = property(json!({ "type": "string" }), OneOf(&["a"]));
        assert_eq!(got["properties"]["key"]["anyOf"][1], json!({ "type": "null" }));
    }

    #[test]
    fn what_is_required_may_not_and_bounds_have_the_names_of_their_type() {
        let got = property(json!({ "type": "array" }), (Required, 1..=2));
        let key = json!({
            "type": "array", "minItems": 1, "maxItems": 2, "description": "Says what.\n\nMore.",
        });
        assert_eq!((&got["properties"]["key"], &got["required"]), (&key, &json!(["key"])));
        let got = property(json!({ "type": "number" }), Above(0.0, 1.0));
        assert_eq!(got["properties"]["key"]["exclusiveMinimum"], 0.0);
    }

    #[test]
    fn a_refused_field_may_be_absent_null_or_neutral() {
        let mut object = Object::default();
        object.add_refused("n", &["1", r#"["text"]"#]);
        assert_eq!(object.into_schema(&[])["properties"]["n"]["enum"], json!([null, 1, ["text"]]));
    }

    #[test]
    fn a_type_may_contain_itself() {
        struct Tree;
        impl Described for Tree {
            const NAME: Option<&'static str> = Some("Tree");

            fn schema(schemas: &mut Schemas) -> Value {
                schemas.of::<Vec<Tree>>()
            }
        }
        let mut schemas = Schemas::default();
        assert_eq!(schemas.of::<Tree>(), json!({ "$ref": "#/components/schemas/Tree" }));
        let items = json!({ "$ref": "#/components/schemas/Tree" });
        assert_eq!(schemas.into_object(), json!({ "Tree": { "type": "array", "items": items } }));
    }
}
