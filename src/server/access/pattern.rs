//! Names with `*` in them: which models and which endpoints a key may use.
//!
//! What this module deliberately does not do: no other wildcard, no classes, no escapes.

/// Whether the name is what the pattern says; each `*` stands for any letters, slashes included.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        // The earliest place leaves most for the parts that follow.
        let Some(found) = rest.find(part) else { return false };
        rest = &rest[found + part.len()..];
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_is_any_letters() {
        for (pattern, name, expected) in [
            ("tiny", "tiny", true),
            ("tiny", "tiny2", false),
            ("tiny", "Tiny", false),
            ("tiny*", "tiny", true),
            ("/v1/models*", "/v1/models/a/b", true),
            ("/v1/models/*", "/v1/models", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("**", "é", true),
            ("*é*", "aéb", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    /// The definition, slowly.
    fn slow(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some((b'*', rest)), _) => (0..=name.len()).any(|n| slow(rest, &name[n..])),
            (Some((a, rest)), Some((b, others))) => a == b && slow(rest, others),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn it_is_the_definition(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            prop_assert_eq!(matches(&pattern, &name), slow(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
