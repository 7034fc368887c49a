//! A toolkit that is not there, not whole, too old, or for another chip.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::deployment::Ended;
use crate::place::{NUM_GRAPHS, Order, Place, error_of};
use crate::toolkit::Toolkit;

/// The error of a command that must fail, with the words that it must have.
fn assert_error(ended: &Ended, words: &[&str]) {
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{ended:?}");
    let error = error_of(ended);
    for words in words {
        assert!(error.contains(words), "`{words}` is not in: {error}");
    }
}

fn assert_generate_fails(place: &Place, order: Order, words: &[&str]) {
    let run = place.generate(order);
    assert_error(&run.ended, words);
    assert!(run.leaks().is_none_or(|leaks| leaks == "0"), "{run:?}");
}

const NAME_THE_HOME: &str = "hint: set `ASCEND_HOME_PATH` to where CANN is installed";

#[test]
fn a_missing_or_broken_library_is_named_with_every_path_that_was_tried() {
    let place = Place::warm();
    let library = place.toolkit.home().join("lib64/libascendcl.so");
    let tried = format!("tried `{}`: ", library.display());
    fs::remove_file(&library).unwrap();
    let words = ["no CANN library found", &tried, "libacl_rt.so`: not found", NAME_THE_HOME];
    assert_generate_fails(&place, &[], &words);
    fs::write(&library, "no library").unwrap();
    let words = ["no CANN library is usable", &tried, "file too short", NAME_THE_HOME];
    assert_generate_fails(&place, &[], &words);
}

#[test]
fn a_toolkit_that_is_too_old_is_named_with_its_release() {
    let place = Place::with(Toolkit::install(&["--cann", "8.0.0"]));
    let home = place.toolkit.home();
    let at_home = format!("the CANN toolkit at `{}` is of release 8.0", home.display());
    assert_generate_fails(&place, &[], &[&at_home, "expected 8.1 or later", NAME_THE_HOME]);
    assert_error(&place.warmup(&[]), &[&at_home]);
}

#[test]
fn a_home_that_is_no_toolkit_is_named() {
    let place = Place::new();
    let home = |path: &Path, words: &[&str]| {
        let order = [("ASCEND_HOME_PATH", path.to_str().unwrap())];
        assert_generate_fails(&place, &order, words);
        let order = [order[0], ("ASCEND_TOOLKIT_HOME", path.to_str().unwrap())];
        let ended = place.warmup(&order);
        assert_error(&ended, words);
        assert_error(&ended, &["no CANN toolkit found; tried `", NAME_THE_HOME]);
        assert_eq!(error_of(&ended).matches("no such folder").count().max(1), 1, "{ended:?}");
    };
    home(Path::new("cann"), &["`cann`: not an absolute path"]);
    home(Path::new("/nowhere/cann"), &["`/nowhere/cann`: there is no such folder"]);
    let file = place.toolkit.home().join("bin/atc");
    home(&file, &["bin/atc`: there is no such folder"]);
    home(&place.deployment.path("model"), &["compiler/version.info`: not found"]);
    let words = ["neither `ASCEND_HOME_PATH` nor `ASCEND_TOOLKIT_HOME` is set", NAME_THE_HOME];
    assert_generate_fails(&place, &[("ASCEND_HOME_PATH", "")], &words);
}

#[test]
fn without_a_compiler_only_a_cache_that_has_everything_serves() {
    let place = Place::warm();
    let right = place.right_answer();
    let atc = place.toolkit.home().join("bin/atc");
    fs::remove_file(&atc).unwrap();
    let run = place.generate(&[]);
    assert_eq!((run.ended.code, &run.ended.stdout), (0, &right), "{run:?}");
    fs::remove_dir_all(place.entries().first().unwrap()).unwrap();
    let words = ["compiling graph `", "is not in the cache", "has no `atc`", "hint: install"];
    assert_generate_fails(&place, &[], &words);
    assert_error(&place.warmup(&[]), &words);
}

#[test]
fn a_compiler_that_cannot_be_started_is_named_with_the_reason() {
    let place = Place::new();
    let atc = place.toolkit.home().join("bin/atc");
    let program = format!("cannot start the compiler `{}`: ", atc.display());
    fs::remove_file(&atc).unwrap();
    fs::write(&atc, "no program").unwrap();
    fs::set_permissions(&atc, fs::Permissions::from_mode(0o644)).unwrap();
    let hint = "hint: check that the file is executable and made for this processor";
    assert_error(&place.warmup(&[]), &[&program, "Permission denied", hint]);
    fs::set_permissions(&atc, fs::Permissions::from_mode(0o755)).unwrap();
    assert_error(&place.warmup(&[]), &[&program, "Exec format error", hint]);
    assert!(place.entries().is_empty());
}

#[test]
fn a_device_that_is_not_there_or_of_another_chip_is_named() {
    let place = Place::warm();
    let run = place.generate_with(&["--device", "7"], &[]);
    let words = ["device 7 cannot be opened", "`aclrtSetDevice` failed", "1 in all", "hint: "];
    assert_error(&run.ended, &words);
    run.assert_clean();
    let run = place.generate_with(&["--soc", "Ascend910_9391"], &[]);
    let words = ["graphs are wanted for Ascend910_9391, but device 0 is Ascend910B3", "`--soc`"];
    assert_error(&run.ended, &words);
    run.assert_clean();
    let other = [("CANN_SIM_SOC", "Ascend310P3")];
    assert_generate_fails(&place, &other, &["unknown chip `Ascend310P3`", "Ascend910B3"]);
}

#[test]
fn graphs_of_another_chip_or_release_are_not_taken() {
    let place = Place::warm();
    let right = place.right_answer();
    let run = place.generate(&[("CANN_SIM_SOC", "Ascend910_9391")]);
    assert_eq!((run.ended.code, &run.ended.stdout), (0, &right), "{run:?}");
    assert_eq!(run.ended.graphs(), [NUM_GRAPHS, 0]);
    assert_eq!(place.entries().len(), 2 * NUM_GRAPHS);

    let newer = Toolkit::install(&["--cann", "8.5.0"]);
    let home = newer.home();
    let run = place.generate(&[("ASCEND_HOME_PATH", home.to_str().unwrap())]);
    assert_eq!((run.ended.code, &run.ended.stdout), (0, &right), "{run:?}");
    assert_eq!(run.ended.graphs(), [NUM_GRAPHS, 0]);
    assert_eq!(place.generate(&[]).ended.graphs(), [0, NUM_GRAPHS]);
}
