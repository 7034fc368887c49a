//! Names of inputs and outputs against the prototype.
//!
//! GE finds the parameter of a descriptor through two lists, `_input_name_key` and
//! `_input_name_value`: the i-th key is the name of the descriptor with the i-th value as its index.
//!
//! ```text
//! prototype  query  key*  value*  pse_shift?  atten_mask?
//! names      query  key0  value0              atten_mask     in declared order, gaps where optional
//! ```
//!
//! What this module deliberately does not do: it looks at no descriptor.

use super::super::proto::{AttrValue, ListValue, OpDef};
use super::prototypes::{Parameter, ParameterKind, Prototype};
use super::violation::{Rule, Violation, ensure};

type Parameters = Vec<&'static Parameter>;

/// The parameter of each input descriptor and of each output descriptor.
pub(super) fn read(
    op: &OpDef,
    proto: &'static Prototype,
) -> Result<(Parameters, Parameters), Violation> {
    let names = name_map(op, "input", op.input_desc.len())?;
    let inputs = parameters(&names, &proto.inputs)
        .map_err(|detail| Violation::of(op, Rule::InputNames, detail))?;
    let names = name_map(op, "output", op.output_desc.len())?;
    let outputs = parameters(&names, &proto.outputs)
        .map_err(|detail| Violation::of(op, Rule::OutputNames, detail))?;
    Ok((inputs, outputs))
}

/// The name of each descriptor.
fn name_map<'a>(op: &'a OpDef, side: &str, len: usize) -> Result<Vec<&'a str>, Violation> {
    let (keys_name, indices_name) = (format!("_{side}_name_key"), format!("_{side}_name_value"));
    let (keys, indices) = (list(op, &keys_name)?, list(op, &indices_name)?);
    let keys = keys.map_or(&[][..], |list| &list.s);
    let indices = indices.map_or(&[][..], |list| &list.i);
    ensure(op, keys.len() == len && indices.len() == len, Rule::NameMap, || {
        let (keys, indices) = (keys.len(), indices.len());
        format!(
            "expected {len} names in `{keys_name}` and as many indices, got {keys} and {indices}"
        )
    })?;
    let mut names = vec![None; len];
    for (key, &index) in keys.iter().zip(indices) {
        let name = std::str::from_utf8(key).map_err(|_| {
            Violation::of(op, Rule::NameMap, format!("`{keys_name}`: expected UTF-8, got {key:?}"))
        })?;
        let place = usize::try_from(index).ok().and_then(|index| names.get_mut(index));
        let Some(place @ None) = place else {
            let expected = format!("expected each index below {len} once");
            let detail = format!("`{indices_name}`: {expected}, got {indices:?}");
            return Err(Violation::of(op, Rule::NameMap, detail));
        };
        *place = Some(name);
    }
    Ok(names.into_iter().flatten().collect())
}

fn list<'a>(op: &'a OpDef, name: &str) -> Result<Option<&'a ListValue>, Violation> {
    match op.attr.get(name).map(|attr| attr.value.as_ref()) {
        None => Ok(None),
        Some(Some(AttrValue::List(list))) => Ok(Some(list)),
        Some(_) => Err(Violation::of(op, Rule::NameMap, format!("`{name}`: expected a list"))),
    }
}

/// The parameter of each name.
fn parameters(names: &[&str], declared: &'static [Parameter]) -> Result<Parameters, String> {
    let mut found = Vec::with_capacity(names.len());
    for parameter in declared {
        let before = found.len();
        match parameter.kind {
            ParameterKind::Required | ParameterKind::Optional => {
                if names.get(before) == Some(&parameter.name.as_str()) {
                    found.push(parameter);
                }
            }
            ParameterKind::Dynamic => {
                while let Some(name) = names.get(found.len())
                    && *name == format!("{}{}", parameter.name, found.len() - before)
                {
                    found.push(parameter);
                }
            }
        }
        if found.len() == before && parameter.kind != ParameterKind::Optional {
            let number = if parameter.kind == ParameterKind::Dynamic { "0" } else { "" };
            let got = names.get(before).map_or("nothing".to_owned(), |name| format!("`{name}`"));
            return Err(format!("expected `{}{number}` at {before}, got {got}", parameter.name));
        }
    }
    match names.get(found.len()) {
        None => Ok(found),
        Some(name) => Err(format!(
            "expected no `{name}` at {}: unknown, fed twice or out of declared order",
            found.len()
        )),
    }
}
