//! The bindings are held against three things: the header that they are made from, CANN's interface
//! as data, and what a C compiler makes of it.

mod c;
mod data;

use std::collections::BTreeMap;
use std::fs;
use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::bindings::SIGNATURES;
use super::{HcclSymbols, Symbols};
use data::Data;

/// A function as the bindings declare it.
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    /// Name and type.
    pub(crate) parameters: &'static [(&'static str, &'static str)],
    /// Nothing for `void`.
    pub(crate) returns: &'static str,
}

/// Where the fields of a struct are, as Rust has them.
pub(super) struct Layout {
    pub(super) name: &'static str,
    pub(super) bytes: usize,
    pub(super) fields: Vec<(&'static str, usize)>,
}

macro_rules! layouts {
    ($($name:ident { $($field:ident),* })*) => {
        vec![$(Layout {
            name: stringify!($name),
            bytes: size_of::<super::$name>(),
            fields: vec![$((stringify!($field), offset_of!(super::$name, $field))),*],
        }),*]
    };
}

fn layouts() -> Vec<Layout> {
    layouts! {
        aclCANNPackageVersion {
            version, majorVersion, minorVersion, releaseVersion, patchVersion, reserved
        }
        aclmdlIODims { name, dimCount, dims }
        HcclRootInfo { internal }
        HcclCommConfig {
            reserved, hcclBufferSize, hcclDeterministic, hcclCommName, hcclUdi,
            hcclOpExpansionMode, hcclRdmaTrafficClass, hcclRdmaServiceLevel
        }
    }
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn header() -> PathBuf {
    package().join("include/acl_min.h")
}

const COMMITTED: &str = include_str!("../bindings.rs");

/// The numbers in the bindings, by name.
fn constants() -> BTreeMap<&'static str, i64> {
    let constants = COMMITTED.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("pub const ")?.split_once(':')?;
        let (_, value) = rest.split_once('=')?;
        Some((name, value.trim().trim_end_matches(';').parse().unwrap()))
    });
    constants.collect()
}

#[test]
fn the_committed_bindings_are_those_of_the_header() {
    let (head, body) = COMMITTED.split_at(COMMITTED.match_indices('\n').nth(2).unwrap().0 + 1);
    let digest = |bytes: &[u8]| {
        let digest = Sha256::digest(bytes);
        digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    };
    let of_header = digest(&fs::read(header()).unwrap());
    assert!(
        head.lines()
            .any(|line| line.starts_with("// SHA-256 of that file:") && line.ends_with(&of_header)),
        "include/acl_min.h has changed: `cargo test -p cairn-ffi --features bindgen`, which needs \
         libclang, makes the new bindings"
    );
    let of_body = digest(body.as_bytes());
    assert!(
        head.lines().any(|line| line.starts_with("// SHA-256 of what") && line.ends_with(&of_body)),
        "src/sys/bindings.rs was edited by hand"
    );
}

#[cfg(feature = "bindgen")]
#[test]
fn the_committed_bindings_are_what_bindgen_makes() {
    let generated = include_str!(concat!(env!("OUT_DIR"), "/bindings.rs"));
    assert!(
        COMMITTED == generated,
        "out of date: cp {}/bindings.rs {}",
        env!("OUT_DIR"),
        package().join("src/sys/bindings.rs").display()
    );
}

#[test]
fn every_function_has_the_parameters_and_the_result_of_cann() {
    let data = Data::read();
    let names: Vec<_> = SIGNATURES.iter().map(|signature| signature.name).collect();
    assert_eq!(names, data.functions.iter().map(|function| &function.name).collect::<Vec<_>>());
    for (signature, function) in SIGNATURES.iter().zip(&data.functions) {
        let declared = signature.parameters.iter().map(|(name, kind)| (*name, squeezed(kind)));
        let wanted = function.parameters.iter().map(|(name, kind)| (&**name, data::rust(kind)));
        assert_eq!(declared.collect::<Vec<_>>(), wanted.collect::<Vec<_>>(), "{}", signature.name);
        assert_eq!(
            squeezed(signature.returns),
            data::rust(&function.returns),
            "{}",
            signature.name
        );
    }
}

/// Without spaces, of which the compiler puts in as many as it likes.
fn squeezed(kind: &str) -> String {
    kind.split_whitespace().collect()
}

#[test]
fn every_function_is_in_one_table_and_what_8_1_lacks_is_optional() {
    let ((acl, acl_optional), (hccl, hccl_optional)) = (Symbols::NAMES, HcclSymbols::NAMES);
    let data = Data::read();
    for function in &data.functions {
        let name = &&*function.name;
        let places = [acl, acl_optional, hccl, hccl_optional].map(|names| names.contains(name));
        assert_eq!(places.iter().filter(|is_there| **is_there).count(), 1, "{name}");
        let [acl, _, hccl, hccl_optional] = places;
        assert!(function.in_8_1 || !(acl || hccl), "{name} is not in 8.1 but required");
        assert_eq!(name.starts_with("Hccl"), hccl || hccl_optional, "{name}");
    }
    let listed = [acl, acl_optional, hccl, hccl_optional].map(<[_]>::len).iter().sum::<usize>();
    assert_eq!(listed, data.functions.len());
}

#[test]
fn every_number_is_that_of_cann() {
    let data = Data::read();
    let constants = constants();
    assert!(constants.len() > 100, "only {} were found", constants.len());
    for (name, value) in constants {
        assert_eq!(data.numbers.get(name), Some(&value), "{name}");
    }
}

#[test]
fn every_struct_has_the_fields_of_cann() {
    let data = Data::read();
    let layouts = layouts();
    assert_eq!(layouts.len(), data.structs.len());
    for layout in layouts {
        let wanted = data.structs[layout.name].iter().map(|field| &*field.name);
        let fields = layout.fields.iter().map(|(name, _)| *name);
        assert_eq!(fields.collect::<Vec<_>>(), wanted.collect::<Vec<_>>(), "{}", layout.name);
    }
}
