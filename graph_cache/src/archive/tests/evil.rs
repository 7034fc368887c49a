//! Archives that were not made here: cut, flipped, and put together by somebody evil.

use super::*;

/// A member of a tar as it is put together by hand.
#[derive(Clone)]
struct Member {
    header: tar::Header,
    content: Vec<u8>,
}

impl Member {
    fn path(&self) -> String {
        String::from_utf8(self.header.path_bytes().into_owned()).unwrap()
    }

    /// The same with a change in the header, whose checksum is right again.
    fn with(mut self, change: impl FnOnce(&mut tar::Header)) -> Self {
        change(&mut self.header);
        self.header.set_cksum();
        self
    }

    /// The same under another name, which may be one that the library refuses to write.
    fn named(self, path: &[u8]) -> Self {
        self.with(|header| {
            let ustar = header.as_ustar_mut().unwrap();
            ustar.prefix = [0; 155];
            ustar.name = [0; 100];
            ustar.name[..path.len()].copy_from_slice(path);
        })
    }
}

fn members(archive: &[u8]) -> Vec<Member> {
    let tar = unpacked(archive);
    let mut rest = &tar[..];
    let mut members = Vec::new();
    while rest[0] != 0 {
        let header = tar::Header::from_byte_slice(&rest[..BLOCK_BYTES]).clone();
        let bytes = header.entry_size().unwrap();
        let content = rest[BLOCK_BYTES..][..bytes as usize].to_vec();
        rest = &rest[BLOCK_BYTES + bytes as usize + padding(bytes)..];
        members.push(Member { header, content });
    }
    members
}

fn archive_of(members: &[Member]) -> Vec<u8> {
    let mut tar = Vec::new();
    for Member { header, content } in members {
        tar.extend(header.as_bytes());
        tar.extend(content);
        tar.resize(tar.len() + padding(content.len() as u64), 0);
    }
    tar.resize(tar.len() + 2 * BLOCK_BYTES, 0);
    packed(&tar)
}

/// The small archive after a change of its members.
fn changed(change: impl FnOnce(&mut Vec<Member>)) -> ArchiveError {
    let mut members = members(&small_archive());
    change(&mut members);
    imported(&archive_of(&members)).map(|entries| entries.len()).unwrap_err()
}

fn index_of(text: &str) -> Result<Vec<Entry>, ArchiveError> {
    let mut members = members(&small_archive());
    text.as_bytes().clone_into(&mut members[0].content);
    members[0] = members[0].clone().with(|header| header.set_size(text.len() as u64));
    imported(&archive_of(&members))
}

#[test]
fn every_truncation_is_an_error() {
    let archive = small_archive();
    for length in 0..archive.len() {
        let error = imported(&archive[..length]).unwrap_err();
        assert!(matches!(error, ArchiveError::Cut { .. }), "{length}: {error}");
    }
    let tar = unpacked(&archive);
    for length in 0..tar.len() {
        let error = imported(&packed(&tar[..length])).unwrap_err();
        assert!(matches!(error, ArchiveError::Cut { .. }), "tar of {length}: {error}");
    }
}

#[test]
fn every_flipped_bit_is_refused_or_changes_nothing() {
    let (archive, expected) = (small_archive(), sorted(small_entries()));
    for at in 0..archive.len() * 8 {
        let mut bad = archive.clone();
        bad[at / 8] ^= 1 << (at % 8);
        if let Ok(entries) = imported(&bad) {
            assert_eq!(entries, expected, "bit {at}");
        }
    }
    let tar = unpacked(&archive);
    let signature = b"ed25519 00 11\n";
    let signed = tar.windows(signature.len()).position(|bytes| bytes == signature).unwrap();
    for at in 0..tar.len() {
        let mut bad = tar.clone();
        bad[at] ^= 1 << (at % 8);
        match imported(&packed(&bad)) {
            Err(_) => {}
            // Signatures are carried along, not checked.
            Ok(_) if (signed..signed + signature.len()).contains(&at) => {}
            Ok(entries) => panic!("byte {at} of the tar: {entries:?}"),
        }
    }
}

#[test]
fn paths_that_lead_elsewhere_are_not_the_expected_ones() {
    for path in [
        &b"../../etc/passwd"[..],
        b"/etc/passwd",
        b"entries/../../x",
        b"entries",
        b".",
        b"",
        b"./cairn-archive.json",
        b"record.bin",
        b"entries/\xff\n",
        b"entries\\x",
    ] {
        for at in 0..3 {
            let error = changed(|members| members[at] = members[at].clone().named(path));
            assert!(matches!(error, ArchiveError::Member { .. }), "{}", path.escape_ascii());
        }
    }
    let error = changed(|members| members[1] = members[1].clone().named(b"../../etc/passwd"));
    let key = *sorted(small_entries())[0].key();
    assert_eq!(
        error.to_string(),
        format!("archive member `entries/{key}/record.bin` expected, got `../../etc/passwd`")
    );
}

#[test]
fn links_and_everything_that_is_no_regular_file_are_refused() {
    for kind in (0..=u8::MAX).filter(|kind| *kind != b'0') {
        for at in 0..4 {
            let error = changed(|members| {
                members[at] =
                    members[at].clone().with(|header| header.as_old_mut().linkflag = [kind]);
            });
            assert!(matches!(error, ArchiveError::Member { .. }), "{kind}: {error}");
        }
    }
    let error = changed(|members| {
        let link = members[1].clone().with(|header| {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_link_name("/etc/passwd").unwrap();
        });
        members[1] = link;
    });
    assert!(error.to_string().contains("a header that no export writes (kind Symlink)"), "{error}");
}

#[test]
fn headers_of_other_programs_are_refused() {
    let changes: [fn(&mut tar::Header); 7] = [
        |header| header.set_mode(0o4755),
        |header| header.set_uid(1000),
        |header| header.set_gid(1000),
        |header| header.set_mtime(1),
        |header| header.set_link_name("x").unwrap(),
        |header| header.set_username("root").unwrap(),
        |header| header.as_old_mut().pad[11] = 1,
    ];
    for change in changes {
        let error = changed(|members| members[0] = members[0].clone().with(change));
        assert!(matches!(error, ArchiveError::Member { .. }), "{error}");
    }
    let mut bad_checksum = members(&small_archive());
    bad_checksum[0].header.as_old_mut().cksum = *b"0000000\0";
    assert!(imported(&archive_of(&bad_checksum)).is_err());
}

#[test]
fn sizes_beyond_the_limits_are_refused_before_anything_is_read() {
    // The index, a record, a manifest, and a file of an artifact.
    for (at, sizes) in [
        (0, [0, (64 << 20) + 1]),
        (1, [0, 4097]),
        (2, [0, (16 << 20) + 1]),
        (3, [1 << 20, 4 << 30]),
    ] {
        for claimed in sizes.into_iter().chain([(8 << 30) - 1, 8 << 30, u64::MAX]) {
            let error = changed(|members| {
                members[at] = members[at].clone().with(|header| header.set_size(claimed));
            });
            let is_size = matches!(error, ArchiveError::Size { .. });
            assert!(is_size, "member {at} of {claimed} bytes: {error}");
        }
    }
    let error = changed(|members| {
        members[3] = members[3].clone().with(|header| {
            header.as_old_mut().size = *b"-0000000001\0";
        });
    });
    assert!(matches!(error, ArchiveError::Size { .. }), "{error}");
}

#[test]
fn members_out_of_order_twice_missing_or_foreign_are_refused() {
    let num_members = members(&small_archive()).len();
    for at in 0..num_members {
        let is_member = |error: &ArchiveError| {
            matches!(error, ArchiveError::Member { .. } | ArchiveError::Trailing(_))
        };
        let twice = changed(|members| members.insert(at, members[at].clone()));
        assert!(is_member(&twice), "{at} twice: {twice}");
        let foreign = members(&small_archive())[1].clone().named(b"readme.txt");
        let error = changed(|members| members.insert(at, foreign.clone()));
        assert!(is_member(&error), "foreign before {at}: {error}");
        // Without its signature an entry is still whole.
        if !members(&small_archive())[at].path().ends_with("manifest.sig") {
            let error = changed(|members| drop(members.remove(at)));
            assert!(is_member(&error), "without {at}: {error}");
        }
        if at > 0 {
            let error = changed(|members| members.swap(at, at - 1));
            assert!(is_member(&error), "{at} before its predecessor: {error}");
        }
    }
    let error = changed(|members| members.push(members[1].clone()));
    assert!(matches!(error, ArchiveError::Trailing(_)), "{error}");
    let error = changed(|members| members.truncate(3));
    assert!(error.to_string().ends_with("got the end of the archive"), "{error}");
}

#[test]
fn nothing_may_follow_the_end() {
    let archive = small_archive();
    let tar = unpacked(&archive);
    let longer = [&tar[..], &[0]].concat();
    let bytes_after = |bytes: &[u8]| imported(bytes).unwrap_err().to_string();
    assert_eq!(
        bytes_after(&packed(&longer)),
        "archive has more after its last entry: bytes after the end of the tar"
    );
    for more in [&[0][..], &archive, &packed(b"")] {
        assert_eq!(
            bytes_after(&[&archive, more].concat()),
            "archive has more after its last entry: bytes after the end of the compressed data"
        );
    }
}

#[test]
fn a_bomb_of_zeros_is_refused_where_it_begins() {
    // 4 GiB of zeros would take minutes to unpack here; the first block is enough to refuse them.
    let mut bomb = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..4096 {
        bomb.write_all(&zeros).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    let error = imported(&bomb).unwrap_err();
    assert!(error.to_string().ends_with("got the end of the archive"), "{error}");
    // The same with an index that claims to be all of it.
    let mut tar = write::header(INDEX, 8 << 20).to_vec();
    tar.resize(tar.len() + (8 << 20), 0);
    let error = imported(&packed(&tar)).unwrap_err();
    assert!(matches!(error, ArchiveError::Index(_)), "{error}");
}

#[test]
fn a_promise_of_a_large_member_is_not_believed() {
    // An honest manifest of 4 GiB, and nothing behind it.
    let entry = entry_of("a", "", &[("model.om", b"x")]);
    let archive = encode_entry(&entry).unwrap();
    let mut members = members(&archive);
    let claimed = 4_u64 << 30;
    let json = String::from_utf8(members[2].content.clone()).unwrap();
    let json = json.replace("\"bytes\": 1,", &format!("\"bytes\": {claimed},"));
    let record = crate::entry::codec::encode(&crate::entry::record::Record {
        key: *entry.key().as_bytes(),
        manifest: crate::entry::record::FileDigest::of(json.as_bytes()),
        artifact_bytes: claimed,
    });
    let index = String::from_utf8(members[0].content.clone()).unwrap();
    let index = index.replace("_bytes\": 1", &format!("_bytes\": {claimed}"));
    for (at, content) in [(0, index.into_bytes()), (1, record), (2, json.into_bytes())] {
        let size = content.len() as u64;
        members[at] = Member { content, ..members[at].clone() }.with(|h| h.set_size(size));
    }
    members[3] = members[3].clone().with(|header| header.set_size(claimed));
    let error = imported(&archive_of(&members)).unwrap_err();
    let expected = format!("entries/{}/model.om", entry.key());
    assert!(matches!(&error, ArchiveError::Cut { member } if *member == expected), "{error}");
}

#[test]
fn windows_beyond_the_limit_are_refused() {
    let tar = unpacked(&small_archive());
    let with_window = |log| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap()
    };
    assert!(imported(&with_window(MAX_WINDOW_LOG)).is_ok());
    let error = imported(&with_window(MAX_WINDOW_LOG + 1)).unwrap_err();
    assert!(error.to_string().contains("too much memory"), "{error}");
}

#[test]
fn a_newer_format_is_named_whatever_else_its_index_holds() {
    let error = index_of("{\"format\": 2, \"entries\": \"elsewhere\"}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "archive is of format 2, this version reads format 1; use a version that reads it, or \
         export it again with this one"
    );
    for bad in [
        "",
        "{}",
        "[]",
        "{\"format\": -1}",
        "{\"format\": 1}",
        "{\"format\": 1, \"entries\": [{}]}",
    ] {
        let error = index_of(bad).unwrap_err();
        assert!(matches!(error, ArchiveError::Index(_) | ArchiveError::Size { .. }), "{error}");
    }
}

#[test]
fn an_index_must_describe_its_entries_as_they_are_and_in_order() {
    let archive = small_archive();
    let index = String::from_utf8(members(&archive)[0].content.clone()).unwrap();
    let error = index_of(&index.replace("8 sequences", "9 sequences")).unwrap_err();
    assert!(matches!(error, ArchiveError::Described { .. }), "{error}");
    let rows = read_index(&archive[..]).unwrap();
    let of = |rows: &[&ArchiveEntry]| {
        let entries: Vec<_> = rows.iter().map(|row| (*row).clone()).collect();
        index_of(&serde_json::to_string(&Index { format: FORMAT, entries }).unwrap()).unwrap_err()
    };
    for rows in [[&rows[0], &rows[0]], [&rows[1], &rows[0]]] {
        assert!(of(&rows).to_string().contains("expected ascending keys"));
    }
    let many: BTreeSet<_> = (0..=MAX_ENTRIES as u64)
        .map(|n| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            CacheKey::from_bytes(bytes)
        })
        .collect();
    let many: Vec<_> =
        many.into_iter().map(|key| ArchiveEntry { key, ..rows[0].clone() }).collect();
    let error = of(&many.iter().collect::<Vec<_>>());
    assert_eq!(
        error.to_string(),
        "archive of 100001 entries, expected at most 100000; use several archives"
    );
}

#[test]
fn an_entry_under_the_key_of_another_is_refused() {
    let entries = sorted(small_entries());
    let archive = encode_entry(&entries[0]).unwrap();
    let mut members = members(&archive);
    let other = entries[1].key().to_string();
    let index = String::from_utf8(members[0].content.clone()).unwrap();
    members[0].content = index.replace(&entries[0].key().to_string(), &other).into_bytes();
    for member in &mut members[1..] {
        let path = member.path().replace(&entries[0].key().to_string(), &other);
        *member = member.clone().with(|header| header.set_path(path).unwrap());
    }
    let error = imported(&archive_of(&members)).unwrap_err();
    assert!(error.to_string().contains("holds the entry of key"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert!(imported(&bytes).is_err());
        prop_assert!(imported(&packed(&bytes)).is_err());
    }
}
