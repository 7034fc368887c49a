//! CANN's interface as data: `tests/data/acl_abi.json`.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::package;

/// What the file says.
pub(super) struct Data {
    pub(super) functions: Vec<Function>,
    /// Constants and the values of enumerations.
    pub(super) numbers: BTreeMap<String, i64>,
    pub(super) structs: BTreeMap<String, Vec<Field>>,
}

pub(super) struct Function {
    pub(super) name: String,
    /// Name and C type.
    pub(super) parameters: Vec<(String, String)>,
    pub(super) returns: String,
    pub(super) in_8_1: bool,
}

pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: String,
    /// How many, of an array.
    pub(super) count: Option<u64>,
}

impl Data {
    pub(super) fn read() -> Self {
        let text = fs::read_to_string(package().join("tests/data/acl_abi.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let enums = json["enums"].as_object().unwrap().values();
        let numbers =
            enums.chain([&json["constants"]]).flat_map(|group| group.as_object().unwrap());
        Self {
            functions: json["functions"].as_object().unwrap().iter().map(function).collect(),
            numbers: numbers.map(|(name, value)| (name.clone(), value.as_i64().unwrap())).collect(),
            structs: json["structs"].as_object().unwrap().iter().map(structure).collect(),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn function((name, value): (&String, &Value)) -> Function {
    let parameters = value["parameters"].as_array().unwrap().iter();
    Function {
        name: name.clone(),
        parameters: parameters.map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
        returns: text(&value["returns"]),
        in_8_1: value["in_8_1"].as_bool().unwrap(),
    }
}

fn structure((name, fields): (&String, &Value)) -> (String, Vec<Field>) {
    let fields = fields.as_array().unwrap().iter().map(|field| Field {
        name: text(&field[0]),
        kind: text(&field[1]),
        count: field[2].as_u64(),
    });
    (name.clone(), fields.collect())
}

/// A C type as bindgen writes it, without spaces.
pub(super) fn rust(kind: &str) -> String {
    let base = kind.trim_end_matches('*');
    let stars = kind.len() - base.len();
    let (base, is_const) = match base.trim().strip_prefix("const ") {
        Some(base) => (base.trim(), true),
        None => (base.trim(), false),
    };
    let base = match base {
        "int32_t" => "i32",
        "uint32_t" => "u32",
        "int64_t" => "i64",
        "uint64_t" => "u64",
        "size_t" => "usize",
        "float" => "f32",
        "char" => "::core::ffi::c_char",
        "void" => "::core::ffi::c_void",
        other => other,
    };
    // `const` belongs to what the innermost pointer points to.
    let pointers =
        (0..stars).map(|idx| if idx + 1 == stars && is_const { "*const" } else { "*mut" });
    pointers.collect::<String>() + base
}

#[test]
fn c_types_become_those_of_rust() {
    for (c, expected) in [
        ("const char*", "*const::core::ffi::c_char"),
        ("void**", "*mut*mut::core::ffi::c_void"),
        ("aclmdlDesc*", "*mutaclmdlDesc"),
        ("size_t", "usize"),
        ("aclrtStream", "aclrtStream"),
    ] {
        assert_eq!(rust(c), expected);
    }
}
