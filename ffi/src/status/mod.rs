//! What an ACL function answered.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`AclStatus`] | `aclError`: 0, or a number that says what went wrong |
//! | [`StatusClass`] | what the caller can do about it |
//!
//! The known codes are a table in `codes`. A code that is not in it, from a CANN release that we
//! have not seen, is classed by its range.
//!
//! What this module deliberately does not do: it does not fetch the text of the last error from
//! ACL, which has to happen in the thread of the failing call.

mod codes;

use std::fmt;

use codes::CODES;

/// The `aclError` that an ACL function returned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AclStatus(pub i32);

/// What the caller can do about a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusClass {
    /// Nothing: it worked.
    Ok,
    /// The call was wrong: fail the request, log it; the device is as it was.
    Misuse,
    /// Something ran out: free memory, streams or events, then try again.
    Retry,
    /// The compiled graph does not fit this runtime: drop it from the cache and compile it again,
    /// once.
    DropEntry,
    /// No device or no permission: nothing that this process can change.
    Environment,
    /// The context is in an unknown state: fail what is running and restart the process.
    Restart,
    /// The device or a link to it failed: exit, for a supervisor to act.
    DeviceLost,
}

impl StatusClass {
    /// The class in words, for messages.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "success",
            Self::Misuse => "the call is not valid here",
            Self::Retry => "a resource ran out: free some, then try again",
            Self::DropEntry => "the compiled graph does not fit this runtime: compile it again",
            Self::Environment => "there is no usable device: check the driver and permissions",
            Self::Restart => "the device is in an unknown state: restart the process",
            Self::DeviceLost => "the device or a link to it failed",
        }
    }
}

impl AclStatus {
    /// `ACL_SUCCESS`.
    pub const SUCCESS: Self = Self(0);

    /// Whether the call worked.
    pub const fn is_success(self) -> bool {
        self.0 == Self::SUCCESS.0
    }

    /// The name in CANN's headers, when it is a known code.
    pub fn name(self) -> Option<&'static str> {
        self.row().map(|(_, name, _)| *name)
    }

    /// What the caller can do.
    pub fn class(self) -> StatusClass {
        match self.row() {
            Some((_, _, class)) => *class,
            None => match self.0 {
                145_000..146_000 | 545_000..545_100 => StatusClass::DropEntry,
                100_000..200_000 => StatusClass::Misuse,
                200_000..300_000 => StatusClass::Retry,
                _ => StatusClass::Restart,
            },
        }
    }

    fn row(self) -> Option<&'static (i32, &'static str, StatusClass)> {
        let idx = CODES.binary_search_by_key(&self.0, |(code, _, _)| *code).ok()?;
        CODES.get(idx)
    }
}

impl fmt::Display for AclStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name().unwrap_or("unknown ACL status");
        write!(f, "{name} ({}): {}", self.0, self.class().meaning())
    }
}

impl fmt::Debug for AclStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AclStatus({} {})", self.0, self.name().unwrap_or("unknown"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_are_unique() {
        assert!(CODES.is_sorted_by(|(a, _, _), (b, _, _)| a < b));
        let mut names: Vec<_> = CODES.iter().map(|(_, name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CODES.len());
    }

    #[test]
    fn well_known_codes_are_classed_by_what_can_be_done() {
        for (code, name, class) in [
            (0, "ACL_ERROR_NONE", StatusClass::Ok),
            (100_002, "ACL_ERROR_REPEAT_INITIALIZE", StatusClass::Misuse),
            (145_003, "ACL_ERROR_GE_EXEC_MODEL_ID_INVALID", StatusClass::DropEntry),
            (207_001, "ACL_ERROR_RT_MEMORY_ALLOCATION", StatusClass::Retry),
            (207_004, "ACL_ERROR_RT_NO_DEVICE", StatusClass::Environment),
            (507_014, "ACL_ERROR_RT_AICORE_TIMEOUT", StatusClass::Restart),
            (507_054, "ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR", StatusClass::DeviceLost),
            (545_001, "ACL_ERROR_GE_LOAD_MODEL", StatusClass::DropEntry),
            (545_601, "ACL_ERROR_GE_MODEL_EXECUTE_TIMEOUT", StatusClass::Restart),
        ] {
            let status = AclStatus(code);
            assert_eq!((status.name(), status.class()), (Some(name), class));
            assert_eq!(status.is_success(), code == 0);
        }
    }

    #[test]
    fn unknown_codes_are_classed_by_their_range() {
        for (code, class) in [
            (107_999, StatusClass::Misuse),
            (145_999, StatusClass::DropEntry),
            (207_999, StatusClass::Retry),
            (507_999, StatusClass::Restart),
            (545_699, StatusClass::Restart),
            (-1, StatusClass::Restart),
            (i32::MAX, StatusClass::Restart),
        ] {
            assert_eq!(AclStatus(code).name(), None);
            assert_eq!(AclStatus(code).class(), class, "{code}");
        }
    }

    #[test]
    fn messages_name_the_code_and_the_way_out() {
        assert_eq!(
            AclStatus(207_018).to_string(),
            "ACL_ERROR_RT_DEVICE_OOM (207018): a resource ran out: free some, then try again"
        );
        assert_eq!(
            AclStatus(999_999).to_string(),
            "unknown ACL status (999999): the device is in an unknown state: restart the process"
        );
    }
}
