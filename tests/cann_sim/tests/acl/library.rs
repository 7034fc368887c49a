//! The shared library itself.

use std::path::PathBuf;

use ascendcl::acl::FUNCTIONS;
use libloading::Library;

/// Where the build leaves it: beside this program or one folder up.
fn library() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let folders = program.ancestors().skip(1).take(2);
    let mut places = folders.map(|folder| folder.join("libascendcl.so"));
    places.find(|path| path.is_file()).expect("the library is built with this program")
}

type GetVersion = unsafe extern "C" fn(*mut i32, *mut i32, *mut i32) -> i32;

#[test]
fn every_function_is_exported_and_answers() {
    // SAFETY: the library does nothing when it is loaded.
    let library = match unsafe { Library::new(library()) } {
        Ok(library) => library,
        // One that is built for a sanitizer wants it in the program that loads it.
        Err(error) if format!("{error:?}").contains("san_") => return,
        Err(error) => panic!("{error:?}"),
    };
    for name in FUNCTIONS {
        // SAFETY: only its address is looked at.
        let symbol = unsafe { library.get::<unsafe extern "C" fn()>(*name) };
        assert!(symbol.is_ok(), "{name}");
    }
    // SAFETY: the type is that of the function.
    let get_version = unsafe { library.get::<GetVersion>("aclrtGetVersion") }.unwrap();
    let mut parts = [0; 3];
    let [major, minor, patch] = &mut parts;
    // SAFETY: three places for an `int32_t`.
    assert_eq!(unsafe { get_version(major, minor, patch) }, 0);
    assert_eq!(parts[0], 1);
    // The call may have made what a library cannot take away again.
    std::mem::forget(library);
}
