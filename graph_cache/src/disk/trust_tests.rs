//! Which entries the disk store uses, by who could have written them.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use fs_err as fs;

use super::tests::{filled, hit, names_in, new_root, open, open_as};
use super::{DiskAccess, DiskOptions, DiskStore};
use crate::entry::{MANIFEST, RECORD};
use crate::filesystem::Stat;
use crate::key::CacheKey;
use crate::store::{Lookup, MissReason, Put, Store as _, StoreError};
use crate::testing::{Hook, Hooked};
use crate::trust::{KeyRing, SigningKey, Trust};

#[track_caller]
fn assert_untrusted(found: Lookup, path: &Path) {
    let Lookup::Miss(MissReason::Untrusted(what)) = found else { panic!("{found:?}") };
    let path = format!("`{}`", path.display());
    assert!(what.contains(&path) && what.contains("--cache-trust any"), "{what}");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_entry_that_others_can_write_to_is_not_used() {
    let (_folder, root) = new_root();
    let (store, entry) = filled(&root);
    let place = store.layout().entry(entry.key());
    let mut places = vec![root.clone()];
    places.extend(store.layout().way_to(&place));
    places.extend(["model.om", MANIFEST, RECORD].map(|name| place.join(name)));
    for path in places {
        let mode = fs::metadata(&path).unwrap().mode();
        for wider in [0o020, 0o002] {
            set_mode(&path, mode | wider);
            assert_untrusted(store.get(entry.key()), &path);
            assert!(matches!(store.put(&entry), Err(StoreError::Occupied { .. })));
            let any = open_as(&root, DiskAccess::ReadWrite, Trust::Any);
            assert_eq!(any.get(entry.key()), hit(&entry));
        }
        set_mode(&path, mode);
        assert_eq!(store.get(entry.key()), hit(&entry));
    }
}

#[test]
fn a_root_that_others_can_write_to_is_refused_for_writing() {
    let (_folder, root) = new_root();
    fs::create_dir(&root).unwrap();
    set_mode(&root, 0o777);
    let error = DiskStore::open(&root).unwrap_err();
    assert!(matches!(error, StoreError::Untrusted { .. }));
    assert!(error.to_string().contains("mode 777, expected no more than 755"), "{error}");
    assert_eq!(names_in(&root), [""; 0]);
    open_as(&root, DiskAccess::ReadOnly, Trust::Owner);
    open_as(&root, DiskAccess::ReadWrite, Trust::Any);
}

/// Everything belongs to somebody else.
#[derive(Debug)]
struct OwnedBy(u32);

impl Hook for OwnedBy {
    fn run<T>(
        &self,
        _: &'static str,
        _: &Path,
        whole: impl FnOnce() -> io::Result<T>,
        _: impl FnOnce(),
    ) -> io::Result<T> {
        whole()
    }

    fn told(&self, _: &Path, stat: Stat) -> Stat {
        Stat { owner: self.0, ..stat }
    }
}

#[test]
fn an_entry_of_another_user_is_used_in_a_layer_only() {
    let (_folder, root) = new_root();
    let (_store, entry) = filled(&root);
    let open = |owner, access, trust| {
        let options = DiskOptions { trust, access, ..DiskOptions::default() };
        DiskStore::open_on(Box::new(Hooked(Arc::new(OwnedBy(owner)))), &root, options)
    };
    let error = open(54321, DiskAccess::ReadWrite, Trust::Owner).unwrap_err();
    assert!(error.to_string().contains("belongs to user 54321"), "{error}");
    let read_only = open(54321, DiskAccess::ReadOnly, Trust::Owner).unwrap();
    assert_untrusted(read_only.get(entry.key()), &root);
    let layer = open(54321, DiskAccess::Layer, Trust::Owner).unwrap();
    assert_eq!(layer.get(entry.key()), hit(&entry));
    let any = open(54321, DiskAccess::ReadOnly, Trust::Any).unwrap();
    assert_eq!(any.get(entry.key()), hit(&entry));
    let of_root = open(0, DiskAccess::ReadOnly, Trust::Owner).unwrap();
    assert_eq!(of_root.get(entry.key()), hit(&entry));
}

#[test]
fn with_signatures_it_matters_who_signed_and_not_who_can_write() {
    let (_folder, root) = new_root();
    let (store, entry) = filled(&root);
    let key = *entry.key();
    let (ours, theirs) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let ring = KeyRing::parse(&format!("{}\n", ours.public())).unwrap();
    let signed = open_as(&root, DiskAccess::ReadOnly, Trust::Signed(ring.clone()));
    assert!(matches!(signed.get(&key), Lookup::Miss(MissReason::Untrusted(_))));
    store.sign(&key, &theirs).unwrap();
    assert!(matches!(signed.get(&key), Lookup::Miss(MissReason::Untrusted(_))));
    assert_eq!(signed.manifest(&key), None);
    store.sign(&key, &ours).unwrap();
    store.sign(&key, &ours).unwrap();
    let Lookup::Hit(found) = signed.get(&key) else { panic!() };
    assert_eq!(found.artifact(), entry.artifact());
    assert_eq!(found.signatures().split_inclusive(|c| *c == b'\n').count(), 2);
    set_mode(&store.layout().entry(&key), 0o777);
    assert!(matches!(signed.get(&key), Lookup::Hit(_)));
    assert!(matches!(store.sign(&key, &ours), Err(StoreError::Untrusted { .. })));
    assert!(matches!(signed.sign(&key, &ours), Err(StoreError::ReadOnly { .. })));
    let missing = store.sign(&CacheKey::from_bytes([1; 32]), &ours);
    assert!(missing.unwrap_err().to_string().contains("not in the cache"));
}

#[test]
fn a_signed_entry_takes_the_place_of_one_that_nobody_signed() {
    let (_folder, root) = new_root();
    let (store, entry) = filled(&root);
    let key = SigningKey::generate().unwrap();
    let ring = KeyRing::parse(&format!("{}\n", key.public())).unwrap();
    let signed_store = open_as(&root, DiskAccess::ReadWrite, Trust::Signed(ring));
    assert!(matches!(signed_store.put(&entry), Err(StoreError::Occupied { .. })));
    let line = format!("{}\n", key.sign(entry.manifest_json()));
    let signed = entry.clone().with_signatures(line.into_bytes());
    assert!(matches!(signed_store.put(&signed).unwrap(), Put::Stored { .. }));
    assert_eq!(signed_store.get(entry.key()), hit(&signed));
    assert_eq!(store.get(entry.key()), hit(&signed));
}

#[test]
fn a_root_that_is_a_link_is_refused_but_not_a_link_on_the_way() {
    let (folder, root) = new_root();
    let (_store, entry) = filled(&root);
    let link = folder.path().join("link");
    symlink(&root, &link).unwrap();
    for shown in [link.clone(), link.join(".")] {
        let error = DiskStore::open(&shown).unwrap_err();
        assert!(matches!(error, StoreError::Untrusted { .. }));
        assert!(error.to_string().contains(&root.display().to_string()), "{error}");
    }
    let any = open_as(&link, DiskAccess::ReadWrite, Trust::Any);
    assert_eq!(any.get(entry.key()), hit(&entry));
    let way = folder.path().join("way");
    symlink(folder.path(), &way).unwrap();
    let store = open(&way.join("cache"));
    assert_eq!(store.root(), root);
    assert_eq!(store.get(entry.key()), hit(&entry));
    // And should the root become a link while the store is open, it is not followed any more.
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&root, &elsewhere).unwrap();
    symlink(&elsewhere, &root).unwrap();
    assert!(matches!(store.get(entry.key()), Lookup::Miss(MissReason::Unreadable(_))));
    assert!(store.put(&entry).is_err());
}
