//! Versions of CANN, such as `8.1.RC1` and `9.0.0`, and their order.

/// A version; release candidates come before their release.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) patch: u32,
    /// `u32::MAX` for a release.
    candidate: u32,
}

impl Version {
    /// `None` for what is no version.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let rest = parts.next().unwrap_or("0");
        let (patch, candidate) = match rest.strip_prefix("RC") {
            Some(number) => (0, leading(number)?),
            None => match rest.split_once(['-', '.']) {
                Some((patch, _)) => (patch.parse().ok()?, 0),
                None => (rest.parse().ok()?, u32::MAX),
            },
        };
        Some(Self { major, minor, patch, candidate })
    }

    /// As `aclsysGetVersionNum` counts.
    pub(super) fn number(&self) -> i32 {
        let number = u64::from(self.major) * 10_000_000
            + u64::from(self.minor) * 100_000
            + u64::from(self.patch) * 1_000;
        i32::try_from(number).unwrap_or(i32::MAX)
    }

    /// The release part of its text: `RC1`, or the patch number.
    pub(super) fn release(&self) -> String {
        match self.candidate {
            0 | u32::MAX => self.patch.to_string(),
            candidate => format!("RC{candidate}"),
        }
    }
}

fn leading(text: &str) -> Option<u32> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_with_candidates_first() {
        let sorted = ["8.0.0", "8.1.RC1", "8.1.RC2", "8.1.0", "8.5.0", "9.0.0-beta.1", "9.0.0"];
        let versions: Vec<_> = sorted.iter().map(|text| Version::parse(text).unwrap()).collect();
        assert!(versions.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn what_is_no_version_is_none() {
        for text in ["", "9", "x.y", "9.x", "9.0.RC", "9.0.x", "99999999999.0.0"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
