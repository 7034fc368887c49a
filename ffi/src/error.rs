//! What a call on CANN failed with.
//!
//! | [`Origin`] | who said no | message |
//! | --- | --- | --- |
//! | `Cann` | CANN, with a status | what CANN says about it, taken at once on the same thread |
//! | `Refused` | this crate, before any call: the request makes no sense | what is wrong with it |
//! | `Poisoned` | this crate: the device was given up | the failure that it was given up for |
//!
//! What this module deliberately does not do: it takes no action. [`AclError::class`] says which.

use std::fmt;

use crate::status::{AclStatus, StatusClass};

/// A call that did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclError {
    /// The function of CANN that failed, or the one of this crate that refused.
    pub function: &'static str,
    /// What CANN answered; what CANN would have answered, where this crate refused.
    pub status: AclStatus,
    /// More about it; may be empty.
    pub message: String,
    /// Who said no.
    pub origin: Origin,
}

/// Who said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// CANN itself.
    Cann,
    /// This crate, which did not ask CANN.
    Refused,
    /// This crate, since the device is in a state that nobody knows.
    Poisoned,
}

impl AclError {
    /// `ACL_ERROR_INVALID_PARAM`.
    const INVALID_PARAM: AclStatus = AclStatus(100_000);

    /// A request that makes no sense, refused before any call.
    pub(crate) fn refused(function: &'static str, message: impl Into<String>) -> Self {
        let (status, origin) = (Self::INVALID_PARAM, Origin::Refused);
        Self { function, status, message: message.into(), origin }
    }

    /// A request to a device that was given up for `cause`.
    pub(crate) fn poisoned(function: &'static str, device: u32, cause: &Self) -> Self {
        let message = format!("device {device} was given up after {cause}");
        Self { function, status: cause.status, message, origin: Origin::Poisoned }
    }

    /// What the caller can do.
    pub fn class(&self) -> StatusClass {
        match (self.origin, self.status.class()) {
            (Origin::Poisoned, StatusClass::DeviceLost) => StatusClass::DeviceLost,
            (Origin::Poisoned, _) => StatusClass::Restart,
            (_, class) => class,
        }
    }
}

impl fmt::Display for AclError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, status, message, origin } = self;
        match origin {
            Origin::Cann if message.is_empty() => write!(f, "`{function}` failed: {status}"),
            Origin::Cann => write!(f, "`{function}` failed: {status}; CANN says: {message}"),
            Origin::Refused | Origin::Poisoned => write!(f, "`{function}` refused: {message}"),
        }
    }
}

impl std::error::Error for AclError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_function_the_status_the_way_out_and_the_words_of_cann() {
        let mut error = AclError {
            function: "aclrtMalloc",
            status: AclStatus(207_001),
            message: "EL0004: no memory".to_owned(),
            origin: Origin::Cann,
        };
        assert_eq!(
            error.to_string(),
            "`aclrtMalloc` failed: ACL_ERROR_RT_MEMORY_ALLOCATION (207001): a resource ran out: \
             free some, then try again; CANN says: EL0004: no memory"
        );
        assert_eq!(error.class(), StatusClass::Retry);
        error.message.clear();
        assert!(error.to_string().ends_with("then try again"));
    }

    #[test]
    fn a_refusal_is_misuse_and_a_device_that_was_given_up_wants_a_restart() {
        let refused = AclError::refused("DeviceBuffer::upload", "4 bytes at 10 of 12");
        assert_eq!(refused.class(), StatusClass::Misuse);
        assert_eq!(refused.to_string(), "`DeviceBuffer::upload` refused: 4 bytes at 10 of 12");
        let poisoned = AclError::poisoned("Device::enter", 3, &refused);
        assert_eq!(poisoned.class(), StatusClass::Restart);
        assert!(
            poisoned.to_string().contains("device 3 was given up after `DeviceBuffer::upload`")
        );
        let lost = AclError { status: AclStatus(507_054), origin: Origin::Cann, ..refused };
        let poisoned = AclError::poisoned("Device::enter", 3, &lost);
        assert_eq!(poisoned.class(), StatusClass::DeviceLost);
    }
}
