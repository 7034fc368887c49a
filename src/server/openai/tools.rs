//! What the model may or must call, as a request says it.
//!
//! | `tool_choice` | Meaning |
//! | --- | --- |
//! | absent | `auto` with tools, `none` without |
//! | `none` | the model does not see the tools |
//! | `auto` | it sees them, and what looks like a call is one |
//! | `required` | it must call at least one of them |
//! | `{"type": "function", "function": {"name"}}` | it must call this one |
//! | `{"type": "allowed_tools", ..., "mode", "tools"}` | `auto` or `required`, with these only |
//!
//! The same object without the inner `function` or `allowed_tools`, as another dialect writes it,
//! is read, too.
//!
//! What this module deliberately does not do: it does not look into a schema; compiling it does.

use std::collections::HashSet;

use serde_json::Value;

use super::requests::Function;
use crate::server::error::ApiError;
use crate::text::ToolSpec;
use crate::text::output_parser::RequiredTool;

/// Most tools of one request.
pub(super) const MAX_TOOLS: usize = 512;
/// Longest name of a tool.
const MAX_NAME_BYTES: usize = 128;

/// What the model may call.
#[derive(Debug, Default)]
pub(super) struct Tools {
    /// What it is shown; empty when it may call nothing.
    pub(super) specs: Vec<ToolSpec>,
    /// What it must call, if it must.
    pub(super) required: Option<RequiredTool>,
}

impl Tools {
    /// Of the tools that a request brings, and its choice; `param` is the field of the choice.
    ///
    /// # Errors
    /// A choice that is none, or that there is no tool for.
    pub(super) fn choose(
        mut specs: Vec<ToolSpec>,
        choice: Option<&Value>,
        param: &'static str,
    ) -> Result<Self, ApiError> {
        let invalid =
            |problem: String| ApiError::invalid(param, format!("invalid {param}: {problem}"));
        let choice = match choice {
            None => return Ok(Self { specs, required: None }),
            Some(choice) => Choice::of(choice).map_err(invalid)?,
        };
        if let Some(allowed) = &choice.allowed {
            let known: HashSet<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
            if let Some(name) = allowed.iter().find(|name| !known.contains(name.as_str())) {
                return Err(invalid(format!("`{name}` is not among the tools of this request")));
            }
            specs.retain(|spec| allowed.contains(&spec.name));
        }
        match choice.mode {
            Mode::None => Ok(Self::default()),
            Mode::Auto => Ok(Self { specs, required: None }),
            Mode::Required if specs.is_empty() => {
                Err(invalid("a call is required, but the request has no tools".to_owned()))
            }
            Mode::Required => Ok(Self { specs, required: Some(RequiredTool::Any) }),
            Mode::Named(name) if specs.iter().all(|spec| spec.name != name) => {
                Err(invalid(format!("`{name}` is not among the tools of this request")))
            }
            Mode::Named(name) => Ok(Self { specs, required: Some(RequiredTool::Named(name)) }),
        }
    }
}

/// A choice as it is written.
struct Choice {
    mode: Mode,
    /// The only tools that count.
    allowed: Option<Vec<String>>,
}

enum Mode {
    None,
    Auto,
    Required,
    Named(String),
}

impl Choice {
    fn of(choice: &Value) -> Result<Self, String> {
        let expected = "expected `none`, `auto`, `required` or an object that names a function";
        let mode = |mode| Ok(Self { mode, allowed: None });
        match choice {
            Value::String(word) => match word.as_str() {
                "none" => mode(Mode::None),
                "auto" => mode(Mode::Auto),
                "required" => mode(Mode::Required),
                other => Err(format!("{expected}, got `{other}`")),
            },
            Value::Object(object) => {
                match object.get("type").and_then(Value::as_str).unwrap_or("function") {
                    "function" => {
                        let name = function_name(choice)
                            .ok_or_else(|| format!("{expected}, got an object without a name"))?;
                        mode(Mode::Named(name.to_owned()))
                    }
                    "allowed_tools" => Self::allowed(object.get("allowed_tools").unwrap_or(choice)),
                    other => Err(format!("a tool of type `{other}` is not supported")),
                }
            }
            _ => Err(expected.to_owned()),
        }
    }

    fn allowed(object: &Value) -> Result<Self, String> {
        let mode = match object.get("mode").and_then(Value::as_str) {
            None | Some("auto") => Mode::Auto,
            Some("required") => Mode::Required,
            Some(other) => {
                return Err(format!("expected a `mode` of `auto` or `required`, got `{other}`"));
            }
        };
        let tools = object.get("tools").and_then(Value::as_array);
        let tools = tools.ok_or("`allowed_tools` has no list of `tools`")?;
        let name = |tool| function_name(tool).map(str::to_owned);
        let allowed: Option<Vec<_>> = tools.iter().map(name).collect();
        let allowed = allowed.ok_or("one of the allowed tools is not a function with a name")?;
        Ok(Self { mode, allowed: Some(allowed) })
    }
}

/// `{"function": {"name": ..}}` or `{"name": ..}`.
fn function_name(object: &Value) -> Option<&str> {
    object.get("function").unwrap_or(object).get("name")?.as_str()
}

/// Checks the functions of a request; `place` makes the name of a field of the one at an index.
///
/// # Errors
/// The first one that is wrong, or too many of them.
pub(super) fn specs(
    functions: Vec<Function>,
    param: &'static str,
    place: impl Fn(usize, &str) -> String,
) -> Result<Vec<ToolSpec>, ApiError> {
    if functions.len() > MAX_TOOLS {
        let got = functions.len();
        let message = format!("invalid {param}: expected at most {MAX_TOOLS}, got {got}");
        return Err(ApiError::invalid(param, message));
    }
    let mut names = HashSet::new();
    let mut specs = Vec::new();
    for (index, function) in functions.into_iter().enumerate() {
        let spec = spec(function).and_then(|spec| {
            if names.insert(spec.name.clone()) {
                return Ok(spec);
            }
            Err(("name", format!("two of them are called `{}`", spec.name)))
        });
        specs.push(spec.map_err(|(key, problem)| {
            let param = place(index, key);
            ApiError::invalid(&param, format!("invalid {param}: {problem}"))
        })?);
    }
    Ok(specs)
}

fn spec(function: Function) -> Result<ToolSpec, (&'static str, String)> {
    let Some(name) = function.name else { return Err(("name", "it is missing".to_owned())) };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if !(1..=MAX_NAME_BYTES).contains(&name.len()) || !name.bytes().all(is_plain) {
        let expected = format!("expected 1 to {MAX_NAME_BYTES} letters, digits, `_`, `-` and `.`");
        return Err(("name", expected));
    }
    let parameters = function.parameters.map_or(Value::Null, |json| json.0);
    if !(parameters.is_null() || parameters.is_object()) {
        return Err(("parameters", "expected a JSON schema, which is an object".to_owned()));
    }
    let (description, strict) = (function.description, function.strict.unwrap_or(false));
    Ok(ToolSpec { name, description, parameters, strict })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn choose(choice: &Value) -> Result<(Vec<String>, Option<RequiredTool>), String> {
        let spec = |name: &str| ToolSpec { name: name.into(), ..ToolSpec::default() };
        let specs = vec![spec("f"), spec("g")];
        Tools::choose(specs, Some(choice), "tool_choice")
            .map(|tools| (tools.specs.into_iter().map(|spec| spec.name).collect(), tools.required))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_choice_says_what_is_shown_and_what_must_be_called() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let both = names(&["f", "g"]);
        let named = || Some(RequiredTool::Named("g".into()));
        for (choice, specs, required) in [
            (json!("none"), vec![], None),
            (json!("auto"), both.clone(), None),
            (json!("required"), both.clone(), Some(RequiredTool::Any)),
            (json!({"type": "function", "function": {"name": "g"}}), both.clone(), named()),
            (json!({"type": "function", "name": "g"}), both, named()),
            (
                json!({"type": "allowed_tools", "allowed_tools": {"mode": "required",
                       "tools": [{"type": "function", "function": {"name": "f"}}]}}),
                names(&["f"]),
                Some(RequiredTool::Any),
            ),
            (
                json!({"type": "allowed_tools", "mode": "auto",
                       "tools": [{"type": "function", "name": "f"}]}),
                names(&["f"]),
                None,
            ),
        ] {
            assert_eq!(choose(&choice), Ok((specs, required)), "{choice}");
        }
    }

    #[test]
    fn a_choice_of_nothing_is_refused() {
        for choice in [
            json!("all"),
            json!(5),
            json!({"type": "function"}),
            json!({"type": "function", "function": {"name": "h"}}),
            json!({"type": "custom", "name": "f"}),
            json!({"type": "allowed_tools", "mode": "auto", "tools": [{"name": "h"}]}),
            json!({"type": "allowed_tools", "mode": "now", "tools": [{"name": "f"}]}),
            json!({"type": "allowed_tools", "mode": "required", "tools": []}),
        ] {
            assert!(choose(&choice).unwrap_err().starts_with("invalid tool_choice: "), "{choice}");
        }
        let required = Tools::choose(Vec::new(), Some(&json!("required")), "tool_choice");
        assert!(required.is_err());
    }

    #[test]
    fn a_tool_has_a_plain_name_of_its_own() {
        let read = |functions: Vec<Function>| {
            specs(functions, "tools", |index, key| format!("tools[{index}].function.{key}"))
                .map_err(|error| error.body().error.param.unwrap())
        };
        let named = |name: &str| Function { name: Some(name.into()), ..Function::default() };
        assert_eq!(read(vec![named("a.b-c_1")]).unwrap()[0].name, "a.b-c_1");
        for name in ["", "a b", "ä", "\"", &"a".repeat(129)] {
            let param = read(vec![named("f"), named(name)]).unwrap_err();
            assert_eq!(param, "tools[1].function.name", "{name}");
        }
        assert_eq!(read(vec![Function::default()]).unwrap_err(), "tools[0].function.name");
        assert_eq!(read(vec![named("f"), named("f")]).unwrap_err(), "tools[1].function.name");
        let many = (0..=MAX_TOOLS).map(|index| named(&index.to_string())).collect();
        assert_eq!(read(many).unwrap_err(), "tools");
        let parameters = Some(crate::server::openai::requests::Json(json!([])));
        let listed = Function { parameters, ..named("f") };
        assert_eq!(read(vec![listed]).unwrap_err(), "tools[0].function.parameters");
    }
}
