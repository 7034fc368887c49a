//! Any harm at all, at random.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::damage::change;
use super::{Filled, LOOK, REPAIR, picture};
use crate::store::{Lookup, MissReason, Store as _};

/// One thing that a disk, a program or a person may do to a store.
#[derive(Clone, Debug)]
enum Harm {
    Flip(usize, usize),
    Cut(usize, usize),
    Grow(usize),
    Remove(usize),
    Rename(usize, usize),
    Link(usize),
    Plant(usize, String),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        (any::<usize>(), any::<usize>()).prop_map(|(file, bit)| Harm::Flip(file, bit)),
        (any::<usize>(), any::<usize>()).prop_map(|(file, at)| Harm::Cut(file, at)),
        any::<usize>().prop_map(Harm::Grow),
        any::<usize>().prop_map(Harm::Remove),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Harm::Rename(from, to)),
        any::<usize>().prop_map(Harm::Link),
        (any::<usize>(), "[a-z0-9. ]{1,8}").prop_map(|(folder, name)| Harm::Plant(folder, name)),
    ]
}

impl Harm {
    fn inflict(&self, root: &Path) {
        let mut files = Vec::new();
        let mut folders = vec![root.join("v2")];
        for (path, what) in picture(&root.join("v2")) {
            if what == "folder" { folders.push(path) } else { files.push(path) }
        }
        // A lease of the living is not to be tampered with: that is not what this is about.
        folders.retain(|folder| !folder.ends_with("leases"));
        let pick = |of: &[PathBuf], number: usize| of[number % of.len()].clone();
        match self {
            Self::Flip(file, bit) => change(pick(&files, *file), |bytes| {
                let bits = bytes.len() * 8;
                if bits > 0 {
                    bytes[bit % bits / 8] ^= 1 << (bit % 8);
                }
            }),
            Self::Cut(file, at) => change(pick(&files, *file), |bytes| {
                bytes.truncate(at % (bytes.len() + 1));
            }),
            Self::Grow(file) => change(pick(&files, *file), |bytes| bytes.push(0)),
            Self::Remove(file) => fs::remove_file(pick(&files, *file)).unwrap(),
            Self::Rename(from, to) => {
                let (from, to) = (pick(&folders[1..], *from), pick(&folders, *to).join("moved"));
                let _ = fs::rename(from, to);
            }
            Self::Link(file) => {
                let path = pick(&files, *file);
                fs::remove_file(&path).unwrap();
                symlink("/etc/passwd", path).unwrap();
            }
            Self::Plant(folder, name) => {
                let path = pick(&folders, *folder).join(name);
                if !path.exists() {
                    fs::write(path, name).unwrap();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_is_done_to_a_store_a_repair_makes_it_clean(
        harms in prop::collection::vec(harm(), 1..5),
    ) {
        let filled = Filled::new();
        filled.store.pin(&filled.key()).unwrap();
        for harm in &harms {
            harm.inflict(filled.store.root());
        }
        let before = filled.picture();
        filled.verify(&LOOK);
        prop_assert_eq!(filled.picture(), before);
        let report = filled.verify(&REPAIR);
        prop_assert!(report.failed.is_empty(), "{:?}", report);
        // What is moved away brings to light what it hid.
        filled.verify(&REPAIR);
        let report = filled.verify(&LOOK);
        prop_assert!(report.is_clean(), "{:?}", report);
        prop_assert_eq!(report.num_entries, report.num_good);
        for entry in &filled.entries {
            match filled.store.get(entry.key()) {
                Lookup::Hit(found) => prop_assert_eq!(&*found, entry),
                Lookup::Miss(reason) => prop_assert_eq!(reason, MissReason::Absent),
            }
        }
    }
}
