//! Which toolkit, for which chip.

/// A version of CANN, as in `8.1.RC1` or `9.0.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CannVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl CannVersion {
    /// The version that the text begins with.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        Some(Self { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }

    /// Whether operators have the inputs and attributes that came after 8.x.
    pub const fn is_newer(self) -> bool {
        self.major >= 9
    }
}

/// A family of chips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Atlas A2.
    Ascend910B,
    /// Atlas A3.
    Ascend910C,
    /// A chip that exists, and that the simulator does not compile for.
    Other,
}

/// Chips that `--soc_version` knows.
const CHIPS: [(Family, &[&str]); 3] = [
    (
        Family::Ascend910B,
        &[
            "Ascend910B1",
            "Ascend910B2",
            "Ascend910B2C",
            "Ascend910B3",
            "Ascend910B4",
            "Ascend910B4-1",
        ],
    ),
    (
        Family::Ascend910C,
        &[
            "Ascend910_9362",
            "Ascend910_9372",
            "Ascend910_9381",
            "Ascend910_9382",
            "Ascend910_9391",
            "Ascend910_9392",
        ],
    ),
    (
        Family::Other,
        &[
            "Ascend310B1",
            "Ascend310B4",
            "Ascend310P1",
            "Ascend310P3",
            "Ascend310P5",
            "Ascend310P7",
            "Ascend910A",
            "Ascend910ProA",
            "Ascend910ProB",
            "Ascend910PremiumA",
        ],
    ),
];

impl Family {
    /// The family of the chip with that full name; `Ascend910B` alone is none.
    pub fn of(soc: &str) -> Option<Self> {
        CHIPS.iter().find(|(_, names)| names.contains(&soc)).map(|(family, _)| *family)
    }

    /// The folder of its operators in the ops package.
    pub const fn ops_folder(self) -> &'static str {
        match self {
            Self::Ascend910B => "ascend910b",
            Self::Ascend910C => "ascend910_93",
            Self::Other => "ascend310p",
        }
    }
}
