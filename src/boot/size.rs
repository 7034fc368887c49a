//! Sizes as people read them.
//!
//! What this module deliberately does not do: it reads none; the command line does.

/// A size for people: `98.4 MB`.
pub(crate) fn display_bytes(bytes: u64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let size = bytes as f64;
    match units.into_iter().find(|(unit, _)| size >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", size / unit),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_decimal_units() {
        assert_eq!(display_bytes(999), "999 bytes");
        assert_eq!(display_bytes(98_362_432), "98.4 MB");
        assert_eq!(display_bytes(2_000_000_000), "2.0 GB");
    }
}
