//! The form that an answer must have, in the three ways that requests say it.
//!
//! | Field | Form |
//! | --- | --- |
//! | `response_format` | `text`, `json_object`, `json_schema` |
//! | `structured_outputs` | `json`, `regex`, `choice`, `grammar`, `json_object` |
//! | `guided_json`, `guided_regex`, `guided_choice`, `guided_grammar` | the same, as it was once written |
//!
//! A request says it once. A schema is followed whether it is called strict or not.
//!
//! What this module deliberately does not do: it compiles nothing.

use serde_json::Value;

use super::requests::{ResponseFormat, SamplingFields, StructuredOutputs};
use crate::server::error::ApiError;
use crate::text::grammar::GrammarSpec;

/// Most texts to choose from.
pub(super) const MAX_CHOICES: usize = 20_000;

/// A form, and the field that asks for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Format {
    pub(super) spec: GrammarSpec,
    pub(super) param: &'static str,
}

impl Format {
    /// Any JSON object.
    pub(super) fn json_object(param: &'static str) -> Self {
        Self { spec: GrammarSpec::JsonObject, param }
    }

    /// What a request asks for; `None` for plain text.
    ///
    /// # Errors
    /// Two forms at once, or none where one is expected.
    pub(super) fn of(fields: &SamplingFields) -> Result<Option<Self>, ApiError> {
        let of_response = fields.response_format.as_ref().map(response_format).transpose()?;
        let structured = fields.structured_outputs.as_ref().map(structured_outputs).transpose()?;
        let json = fields.guided_json.as_ref().map(|json| schema("guided_json", &json.0));
        let choice = fields.guided_choice.as_ref().map(|texts| choice("guided_choice", texts));
        let asked = [
            of_response.flatten(),
            structured,
            json.transpose()?,
            fields.guided_regex.as_ref().map(|regex| regex_of("guided_regex", regex)),
            choice.transpose()?,
            fields.guided_grammar.as_ref().map(|grammar| grammar_of("guided_grammar", grammar)),
        ];
        let mut asked = asked.into_iter().flatten();
        let first = asked.next();
        if let (Some(first), Some(second)) = (&first, asked.next()) {
            let message =
                format!("`{}` is not allowed together with `{}`", second.param, first.param);
            return Err(ApiError::invalid(second.param, message));
        }
        Ok(first)
    }
}

fn invalid<T>(param: &str, problem: &str) -> Result<T, ApiError> {
    Err(ApiError::invalid(param, format!("invalid {param}: {problem}")))
}

fn response_format(format: &ResponseFormat) -> Result<Option<Format>, ApiError> {
    const PARAM: &str = "response_format";
    let spec = match format.kind.as_deref() {
        Some("text") => return Ok(None),
        Some("json_object") => GrammarSpec::JsonObject,
        Some("json_schema") => {
            let named = format.json_schema.as_ref();
            let Some(json) = named.and_then(|named| named.schema.as_ref()) else {
                return invalid(PARAM, "`json_schema` with a `schema` is missing");
            };
            return schema(PARAM, &json.0).map(Some);
        }
        Some(other) => {
            let expected = "expected type `text`, `json_object` or `json_schema`";
            return invalid(PARAM, &format!("{expected}, got `{other}`"));
        }
        None => return invalid(PARAM, "`type` is missing"),
    };
    Ok(Some(Format { spec, param: PARAM }))
}

fn structured_outputs(fields: &StructuredOutputs) -> Result<Format, ApiError> {
    const PARAM: &str = "structured_outputs";
    if fields.structural_tag.is_some() {
        return invalid(PARAM, "`structural_tag` is not supported by this version");
    }
    let object = (fields.json_object == Some(true)).then_some(GrammarSpec::JsonObject);
    let forms = [
        fields.json.as_ref().map(|json| schema(PARAM, &json.0)).transpose()?,
        fields.regex.as_ref().map(|regex| regex_of(PARAM, regex)),
        fields.choice.as_ref().map(|texts| choice(PARAM, texts)).transpose()?,
        fields.grammar.as_ref().map(|grammar| grammar_of(PARAM, grammar)),
        object.map(|spec| Format { spec, param: PARAM }),
    ];
    let mut forms = forms.into_iter().flatten();
    match (forms.next(), forms.next()) {
        (Some(form), None) => Ok(form),
        (first, _) => {
            let got = if first.is_none() { "none" } else { "several" };
            let keys = "`json`, `regex`, `choice`, `grammar` and `json_object`";
            invalid(PARAM, &format!("expected exactly one of {keys}, got {got}"))
        }
    }
}

/// A JSON schema: an object, a boolean, or a text that holds one.
pub(super) fn schema(param: &'static str, schema: &Value) -> Result<Format, ApiError> {
    let text = match schema {
        Value::Object(_) | Value::Bool(_) => schema.to_string(),
        Value::String(text) => text.clone(),
        _ => return invalid(param, "expected a JSON schema, which is an object"),
    };
    Ok(Format { spec: GrammarSpec::JsonSchema(text), param })
}

fn regex_of(param: &'static str, regex: &str) -> Format {
    Format { spec: GrammarSpec::Regex(regex.to_owned()), param }
}

fn grammar_of(param: &'static str, grammar: &str) -> Format {
    Format { spec: GrammarSpec::Lark(grammar.to_owned()), param }
}

fn choice(param: &'static str, texts: &[String]) -> Result<Format, ApiError> {
    match texts.len() {
        0 => invalid(param, "the list of texts to choose from is empty"),
        1..=MAX_CHOICES => Ok(Format { spec: GrammarSpec::Choice(texts.to_vec()), param }),
        got => invalid(param, &format!("expected at most {MAX_CHOICES} texts, got {got}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::openai::json::parse;

    fn read(body: &str) -> Result<Option<(GrammarSpec, &'static str)>, String> {
        let fields: SamplingFields = parse(body.as_bytes(), &[]).unwrap();
        Format::of(&fields)
            .map(|format| format.map(|format| (format.spec, format.param)))
            .map_err(|error| error.body().error.param.unwrap())
    }

    #[test]
    fn a_form_may_be_said_in_many_ways() {
        let schema = |text: &str| GrammarSpec::JsonSchema(text.to_owned());
        let choice = || GrammarSpec::Choice(vec!["a".into(), "b".into()]);
        for (body, spec) in [
            ("{}", None),
            (r#"{"response_format": {"type": "text"}}"#, None),
            (
                r#"{"response_format": {"type": "json_object"}}"#,
                Some((GrammarSpec::JsonObject, "response_format")),
            ),
            (
                r#"{"response_format": {"type": "json_schema", "json_schema":
                    {"name": "x", "strict": true, "schema": {"type": "object"}}}}"#,
                Some((schema(r#"{"type":"object"}"#), "response_format")),
            ),
            (
                r#"{"structured_outputs": {"json": "{}"}}"#,
                Some((schema("{}"), "structured_outputs")),
            ),
            (
                r#"{"structured_outputs": {"choice": ["a", "b"], "regex": null}}"#,
                Some((choice(), "structured_outputs")),
            ),
            (r#"{"guided_choice": ["a", "b"]}"#, Some((choice(), "guided_choice"))),
            (r#"{"guided_regex": "a+"}"#, Some((GrammarSpec::Regex("a+".into()), "guided_regex"))),
            (
                r#"{"guided_grammar": "start: \"a\""}"#,
                Some((GrammarSpec::Lark("start: \"a\"".into()), "guided_grammar")),
            ),
            (r#"{"guided_json": {"a": 1}}"#, Some((schema(r#"{"a":1}"#), "guided_json"))),
        ] {
            assert_eq!(read(body), Ok(spec), "{body}");
        }
    }

    #[test]
    fn no_form_and_two_forms_are_refused_by_name() {
        for (body, param) in [
            (r#"{"response_format": {}}"#, "response_format"),
            (r#"{"response_format": {"type": "yaml"}}"#, "response_format"),
            (r#"{"response_format": {"type": "json_schema"}}"#, "response_format"),
            (
                r#"{"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}"#,
                "response_format",
            ),
            (r#"{"structured_outputs": {}}"#, "structured_outputs"),
            (r#"{"structured_outputs": {"regex": "a", "grammar": "b"}}"#, "structured_outputs"),
            (r#"{"structured_outputs": {"structural_tag": {}}}"#, "structured_outputs"),
            (r#"{"guided_choice": []}"#, "guided_choice"),
            (r#"{"guided_json": 5}"#, "guided_json"),
            (r#"{"guided_regex": "a", "guided_json": {}}"#, "guided_regex"),
            (
                r#"{"response_format": {"type": "json_object"}, "guided_regex": "a"}"#,
                "guided_regex",
            ),
        ] {
            assert_eq!(read(body), Err(param.to_owned()), "{body}");
        }
    }
}
