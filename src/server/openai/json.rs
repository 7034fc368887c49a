//! Reading a request body: typed at once, with the name of the field when something is wrong.
//!
//! ```text
//! {"model": "m", "temperature": "hot", "n": 2, "whatever": [1, 2]}
//!      |               |             |          `- unknown: skipped without building anything
//!      |               |             `- known, not supported: refused unless neutral
//!      |               `- wrong type: an error that names `temperature`
//!      `- a field of the struct
//! ```
//!
//! A tree of JSON values would take twenty times the body's size; reading into the fields does not.
//! Of a field that appears twice the last one counts, as in Python.
//!
//! What this module deliberately does not do: it knows no field; see [`super::types`].

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::server::error::ApiError;

/// A field that is known and not supported: it must be absent, null or one of these JSON values.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct NotSupported {
    pub(super) field: &'static str,
    /// JSON texts that ask for nothing beyond what happens anyway.
    pub(super) neutral: &'static [&'static str],
}

/// A struct that reads its own fields out of a JSON object.
pub(in crate::server) trait WireObject: Default {
    /// What the parser expected, for its messages.
    const EXPECTED: &'static str;

    /// Reads the value of `field` when it is one of the struct's; false when it is not, in which
    /// case nothing was read.
    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        field: &str,
        map: &mut A,
    ) -> Result<bool, A::Error>;
}

/// Defines a struct of optional fields together with its [`WireObject`] and `Deserialize`.
///
/// The struct and its fields are as visible as is said before its name. A field is called like its
/// key, unless the key stands in brackets. `flattened` names a field that is such a struct itself and
/// whose keys lie in the same JSON object. The docs and what stands after `where`, a [`Constraint`],
/// go into the document of the API; whoever uses the field enforces the constraint.
///
/// [`Constraint`]: crate::server::openapi::schema::Constraint
macro_rules! wire_object {
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
    (@constraint) => { () };
    (@constraint $constraint:expr) => { $constraint };
    (
        $(#[doc = $doc:literal])*
        $expected:literal => $visible:vis $Name:ident {
            $(
                $(#[doc = $field_doc:literal])*
                $field:ident $([$key:literal])?: $Type:ty $(where $constraint:expr)?,
            )*
        }
        $(flattened $flat:ident: $Flat:ty)?
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Default)]
        $visible struct $Name {
            $($(#[doc = $field_doc])* $visible $field: Option<$Type>,)*
            $($visible $flat: $Flat,)?
        }

        impl $Name {
            /// The fields, those of what is flattened included.
            pub(in crate::server) fn properties(
                schemas: &mut $crate::server::openapi::schema::Schemas,
            ) -> $crate::server::openapi::schema::Object {
                let mut object = $crate::server::openapi::schema::Object::default();
                $(
                    let mut property = $crate::server::openapi::schema::Property {
                        schema: schemas.of::<$Type>(),
                        is_required: false,
                    };
                    $crate::server::openapi::schema::Constraint::apply(
                        wire_object!(@constraint $($constraint)?),
                        &mut property,
                    );
                    let key = wire_object!(@key $field $($key)?);
                    object.add(key, &[$($field_doc),*], property);
                )*
                $(object.extend(<$Flat>::properties(schemas));)?
                object
            }
        }

        impl $crate::server::openapi::schema::Described for $Name {
            const NAME: Option<&'static str> = Some(stringify!($Name));

            fn schema(
                schemas: &mut $crate::server::openapi::schema::Schemas,
            ) -> serde_json::Value {
                Self::properties(schemas).into_schema(&[$($doc),*])
            }
        }

        impl $crate::server::openai::json::WireObject for $Name {
            const EXPECTED: &'static str = $expected;

            fn read_field<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                field: &str,
                map: &mut A,
            ) -> Result<bool, A::Error> {
                match field {
                    $(wire_object!(@key $field $($key)?) => self.$field = map.next_value()?,)*
                    _ => {
                        $(return $crate::server::openai::json::WireObject::read_field(
                            &mut self.$flat,
                            field,
                            map,
                        );)?
                        #[allow(unreachable_code, reason = "reached when nothing is flattened")]
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }

        impl<'de> serde::Deserialize<'de> for $Name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::server::openai::json::read_object(deserializer)
            }
        }
    };
}
pub(in crate::server) use wire_object;

/// Reads a request body.
///
/// # Errors
/// Not UTF-8, not JSON, not an object, a field of a wrong type (named), or a field of
/// `not_supported` with a value that asks for something.
pub(in crate::server) fn parse<T: WireObject>(
    body: &[u8],
    not_supported: &'static [&'static [NotSupported]],
) -> Result<T, ApiError> {
    let whole = |message: String| ApiError::Invalid { param: None, message };
    if body.trim_ascii().is_empty() {
        return Err(whole("the request body is empty, expected a JSON object".into()));
    }
    let text = str::from_utf8(body).map_err(|error| {
        whole(format!("the request body is not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    let progress = Progress { not_supported, ..Progress::default() };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let reader = ObjectReader { progress: &progress, object: PhantomData };
    let parsed = reader.deserialize(&mut deserializer).and_then(|object| {
        deserializer.end()?;
        Ok(object)
    });
    match (parsed, progress.refused.take()) {
        (Err(error), _) => {
            let param = progress.field.take();
            let prefix = param.as_deref().map_or_else(
                || "the request body is not what was expected".to_owned(),
                |field| format!("invalid {field}"),
            );
            Err(ApiError::Invalid { param, message: format!("{prefix}: {error}") })
        }
        (Ok(_), Some(NotSupported { field, neutral })) => {
            Err(ApiError::Unsupported { param: field.to_owned(), neutral })
        }
        (Ok(object), None) => Ok(object),
    }
}

/// Reads a nested object, without a record of where an error happened.
pub(in crate::server) fn read_object<'de, T: WireObject, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    ObjectReader { progress: &Progress::default(), object: PhantomData }.deserialize(deserializer)
}

/// Where the parser is, and what it met on its way.
#[derive(Default)]
struct Progress {
    not_supported: &'static [&'static [NotSupported]],
    /// The field whose value is being read.
    field: RefCell<Option<String>>,
    /// The first field that asks for something that is not supported.
    refused: Cell<Option<NotSupported>>,
}

struct ObjectReader<'a, T> {
    progress: &'a Progress,
    object: PhantomData<T>,
}

impl<'de, T: WireObject> DeserializeSeed<'de> for ObjectReader<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: WireObject> Visitor<'de> for ObjectReader<'_, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut object = T::default();
        while let Some(field) = map.next_key::<String>()? {
            let current = self.progress.field.replace(Some(field));
            debug_assert!(current.is_none(), "the field before has ended");
            self.read_value(&mut object, &mut map)?;
            self.progress.field.take();
        }
        Ok(object)
    }
}

impl<T: WireObject> ObjectReader<'_, T> {
    fn read_value<'de, A: MapAccess<'de>>(
        &self,
        object: &mut T,
        map: &mut A,
    ) -> Result<(), A::Error> {
        let field = self.progress.field.borrow();
        let field = field.as_deref().unwrap_or_default();
        if object.read_field(field, map)? {
            return Ok(());
        }
        let known = self
            .progress
            .not_supported
            .iter()
            .copied()
            .flatten()
            .find(|known| known.field == field);
        let Some(known) = known else {
            map.next_value::<IgnoredAny>()?;
            return Ok(());
        };
        let value: Probe = map.next_value()?;
        if !value.is_neutral(known.neutral) && self.progress.refused.get().is_none() {
            self.progress.refused.set(Some(*known));
        }
        Ok(())
    }
}

/// The shape of a JSON value, as far as it takes to tell whether it is a neutral one: at most one
/// element of a list or object is kept, so its size does not depend on the input's.
#[derive(Debug, PartialEq)]
enum Probe {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Option<Box<Probe>>),
    Object(Option<(String, Box<Probe>)>),
    Large,
}

impl Probe {
    fn is_neutral(&self, neutral: &[&str]) -> bool {
        *self == Self::Null
            || neutral.iter().any(|json| {
                serde_json::from_str::<Self>(json).is_ok_and(|neutral| neutral == *self)
            })
    }
}

impl<'de> Deserialize<'de> for Probe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ProbeVisitor)
    }
}

struct ProbeVisitor;

impl<'de> Visitor<'de> for ProbeVisitor {
    type Value = Probe;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Probe, E> {
        Ok(Probe::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Probe, E> {
        Ok(Probe::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Probe, E> {
        Ok(Probe::Number(value as f64))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Probe, E> {
        Ok(Probe::Number(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Probe, E> {
        Ok(Probe::Number(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Probe, E> {
        Ok(Probe::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Probe, A::Error> {
        let first = list.next_element::<Probe>()?;
        let mut is_large = false;
        while list.next_element::<IgnoredAny>()?.is_some() {
            is_large = true;
        }
        Ok(if is_large { Probe::Large } else { Probe::List(first.map(Box::new)) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Probe, A::Error> {
        let first = map.next_entry::<String, Probe>()?;
        let mut is_large = false;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            is_large = true;
        }
        Ok(if is_large {
            Probe::Large
        } else {
            Probe::Object(first.map(|(key, value)| (key, Box::new(value))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    wire_object! {
        /// For these tests.
        "an object" => Small {
            size: i64,
            name: String,
        }
    }

    const NOT_SUPPORTED: &[&[NotSupported]] = &[
        &[NotSupported { field: "n", neutral: &["1"] }],
        &[
            NotSupported { field: "format", neutral: &[r#"{"type":"text"}"#] },
            NotSupported { field: "kinds", neutral: &["[]", r#"["text"]"#] },
        ],
    ];

    fn read(body: &str) -> Result<Small, ApiError> {
        parse(body.as_bytes(), NOT_SUPPORTED)
    }

    fn param(body: &[u8]) -> Option<String> {
        match parse::<Small>(body, NOT_SUPPORTED).unwrap_err() {
            ApiError::Invalid { param, .. } => param,
            ApiError::Unsupported { param, .. } => Some(param),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unknown_fields_are_skipped_and_the_last_of_two_counts() {
        let small = read(r#"{"x": [[{}]], "size": 1, "size": 2, "name": null}"#).unwrap();
        assert_eq!((small.size, small.name), (Some(2), None));
    }

    #[test]
    fn an_error_names_the_field() {
        assert_eq!(param(br#"{"name": "a", "size": "5"}"#).as_deref(), Some("size"));
        assert_eq!(param(br#"{"size": true}"#).as_deref(), Some("size"));
        assert_eq!(param(br#"{"size": 1.5}"#).as_deref(), Some("size"));
        assert_eq!(param(br#"{"size": 1e999}"#).as_deref(), Some("size"));
        assert_eq!(param(br#"{"size": 9223372036854775808}"#).as_deref(), Some("size"));
        let digits = format!(r#"{{"size": {}}}"#, "9".repeat(400));
        assert_eq!(param(digits.as_bytes()).as_deref(), Some("size"));
        assert_eq!(param(br#"{"size": 1"#), None);
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        let deep = "[".repeat(100_000);
        let objects = r#"{"a":"#.repeat(100_000);
        for body in [
            "",
            " \n",
            "nonsense",
            "[]",
            "null",
            "5",
            r#""text""#,
            r#"{"size": 1"#,
            r#"{"size": 1} x"#,
            r#"{"name": "\ud800"}"#,
            r#"{"size": NaN}"#,
            r#"{"size": Infinity}"#,
            "{'size': 1}",
            deep.as_str(),
            objects.as_str(),
        ] {
            assert!(read(body).is_err(), "{body:.40}");
        }
        assert!(parse::<Small>(b"{\"name\": \"\xff\"}", &[]).is_err());
        assert!(parse::<Small>(b"{\"x\": \"\xff\"}", &[]).is_err());
    }

    #[test]
    fn unsupported_fields_pass_only_with_a_neutral_value() {
        for body in [
            r#"{"n": 1}"#,
            r#"{"n": 1.0}"#,
            r#"{"n": null}"#,
            r#"{"format": {"type": "text"}}"#,
            r#"{"kinds": []}"#,
            r#"{"kinds": ["text"]}"#,
        ] {
            assert!(read(body).is_ok(), "{body}");
        }
        for (body, field) in [
            (r#"{"n": 2}"#, "n"),
            (r#"{"n": "1"}"#, "n"),
            (r#"{"n": -1}"#, "n"),
            (r#"{"format": {"type": "json"}}"#, "format"),
            (r#"{"format": {"type": "text", "x": 1}}"#, "format"),
            (r#"{"kinds": ["text", "audio"]}"#, "kinds"),
            (r#"{"kinds": [[]]}"#, "kinds"),
        ] {
            assert_eq!(param(body.as_bytes()).as_deref(), Some(field), "{body}");
        }
    }
}
