//! What graphs are compiled for: the chip and the release of CANN.
//!
//! What this module deliberately does not do: it does not look at the machine; `toolkit` does.

use std::fmt;
use std::str::FromStr;

/// Chips that graphs are made for, by the name that `aclrtGetSocName` gives and `atc` takes.
const SOCS: &[(&str, Family)] = &[
    ("Ascend910B1", Family::A2),
    ("Ascend910B2", Family::A2),
    ("Ascend910B2C", Family::A2),
    ("Ascend910B3", Family::A2),
    ("Ascend910B4", Family::A2),
    ("Ascend910B4-1", Family::A2),
    ("Ascend910_9361", Family::A3),
    ("Ascend910_9362", Family::A3),
    ("Ascend910_9372", Family::A3),
    ("Ascend910_9381", Family::A3),
    ("Ascend910_9382", Family::A3),
    ("Ascend910_9391", Family::A3),
    ("Ascend910_9392", Family::A3),
];

/// A line of chips with the same kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Atlas A2: 910B.
    A2,
    /// Atlas A3: 910C, two dies.
    A3,
}

/// A chip that graphs can be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soc {
    name: &'static str,
    family: Family,
}

/// A name that is no chip graphs can be made for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown chip `{name}`: expected one of {}", names().collect::<Vec<_>>().join(", "))]
pub struct UnknownSoc {
    name: String,
}

fn names() -> impl Iterator<Item = &'static str> {
    SOCS.iter().map(|(name, _)| *name)
}

impl Soc {
    /// The name, exactly as CANN spells it.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Its line.
    pub const fn family(self) -> Family {
        self.family
    }
}

impl FromStr for Soc {
    type Err = UnknownSoc;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = SOCS.iter().find(|(known, _)| *known == name);
        found
            .map(|&(name, family)| Self { name, family })
            .ok_or_else(|| UnknownSoc { name: name.to_owned() })
    }
}

impl fmt::Display for Soc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A release of CANN, as in `8.1` or `9.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CannRelease {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl CannRelease {
    /// The oldest that is supported.
    pub const OLDEST: Self = Self { major: 8, minor: 1 };
    /// The first whose attention takes packed batches (TND) over a paged cache of 128-wide heads.
    pub const PACKED_ATTENTION: Self = Self { major: 9, minor: 0 };
}

/// A text that is no release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a release of CANN: expected two numbers, as in 8.1 or 9.0.RC1")]
pub struct BadRelease(String);

impl FromStr for CannRelease {
    type Err = BadRelease;

    /// Reads the first two numbers: `8.1.RC1` and `9.0.0` are 8.1 and 9.0.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().split('.').map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self { major, minor }),
            _ => Err(BadRelease(text.to_owned())),
        }
    }
}

impl fmt::Display for CannRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a graph is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The chip.
    pub soc: Soc,
    /// The release that compiles it.
    pub cann: CannRelease,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_cann_takes_are_chips() {
        assert_eq!("Ascend910B3".parse::<Soc>().unwrap().family(), Family::A2);
        assert_eq!("Ascend910_9382".parse::<Soc>().unwrap().to_string(), "Ascend910_9382");
        for name in ["", "Ascend910B", "ascend910b3", "Ascend310P3"] {
            let error = name.parse::<Soc>().unwrap_err().to_string();
            assert!(error.contains("Ascend910B3"), "{error}");
        }
    }

    #[test]
    fn releases_are_ordered_and_read_from_longer_names() {
        let release = |text: &str| text.parse::<CannRelease>().unwrap();
        assert!(release("8.1.RC1") < release("8.5"));
        assert_eq!(release("9.0.0"), CannRelease::PACKED_ATTENTION);
        assert_eq!(release("9.2").to_string(), "9.2");
        for text in ["", "8", "x.y", "8.RC1"] {
            assert!(text.parse::<CannRelease>().is_err(), "{text}");
        }
    }
}
