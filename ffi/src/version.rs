//! Which CANN is it, and is it one that we can work with?
//!
//! Two numbers that have little to do with each other:
//!
//! | number | asked for with | example | what we do with it |
//! | --- | --- | --- | --- |
//! | of the interface, [`AclVersion`] | `aclrtGetVersion` | 1.15.0 | the first part must be 1 |
//! | of the toolkit, [`CannVersion`] | `aclsysGetCANNVersion`, `aclsysGetVersionStr` | 8.1.RC1 | at least 8.1 |
//!
//! By its documentation the interface's first part counts incompatible changes, the second one
//! additions, the third one corrections. The headers that we know say 1.15.0 for CANN of the 8.5 to
//! 9.x line and 1.16 or more after it; which number belongs to which release is written down nowhere,
//! so it decides nothing else.
//!
//! The toolkit's own number is read by CANN from the installation that `ASCEND_HOME_PATH` names:
//! without the variable there is no answer, and when the variable names another toolkit than the one
//! the library is from, it is that one's. `aclsysGetVersionStr` does not exist in 8.1: where it does,
//! the toolkit is new enough.
//!
//! What this module deliberately does not do: it refuses nothing that it cannot read. A release that
//! lacks what we need is found out by its missing functions.

use std::ffi::CStr;
use std::fmt;
use std::mem::MaybeUninit;

use crate::sys::{self, functions};

/// The version of the ACL interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AclVersion {
    /// Incompatible changes.
    pub major: i32,
    /// Additions.
    pub minor: i32,
    /// Corrections.
    pub patch: i32,
}

impl AclVersion {
    /// The interface that we know.
    pub(crate) const MAJOR: i32 = 1;
}

impl fmt::Display for AclVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The version of a CANN toolkit, such as `8.1.RC1` or `9.0.0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CannVersion {
    text: String,
}

impl CannVersion {
    /// The oldest release that we work with: its first two numbers.
    pub const OLDEST: (u32, u32) = (8, 1);

    /// The version that CANN calls `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// The first two numbers, if it begins with two numbers.
    pub fn numbers(&self) -> Option<(u32, u32)> {
        let mut parts = self.text.split('.');
        let mut next = || parts.next()?.parse().ok();
        Some((next()?, next()?))
    }

    /// Whether this is known to be older than [`Self::OLDEST`].
    pub fn is_too_old(&self) -> bool {
        self.numbers().is_some_and(|numbers| numbers < Self::OLDEST)
    }
}

impl fmt::Display for CannVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The version by `aclsysGetCANNVersion`, deprecated from 8.5 on.
#[expect(unsafe_code, reason = "calls a function of a library")]
pub(crate) fn by_package(function: functions::aclsysGetCANNVersion) -> Option<CannVersion> {
    let mut version = MaybeUninit::<sys::aclCANNPackageVersion>::zeroed();
    // SAFETY: the function writes one struct of this type, for which there is room; it may be called
    // before `aclInit`.
    let status = unsafe { function(sys::ACL_PKG_NAME_CANN, version.as_mut_ptr()) };
    // SAFETY: zeroed above, and it consists of arrays of characters only.
    let version = unsafe { version.assume_init() };
    if status == 0 { text(&version.version) } else { None }
}

/// The version by `aclsysGetVersionStr`, of releases after 8.1.
#[expect(unsafe_code, reason = "calls a function of a library")]
pub(crate) fn by_name(function: functions::aclsysGetVersionStr) -> Option<CannVersion> {
    // The interface says neither how large the buffer has to be nor that the name is only read: the
    // size is that of CANN's own struct, with as much again to spare, and the name is a copy.
    let mut version = [0; 2 * sys::ACL_PKG_VERSION_MAX_SIZE as usize];
    let mut name = *b"runtime\0";
    // SAFETY: the name is a C string, the buffer is writable for more than a version has; the
    // function may be called before `aclInit`.
    let status = unsafe { function(name.as_mut_ptr().cast(), version.as_mut_ptr()) };
    if status == 0 { text(&version) } else { None }
}

/// What stands before the first NUL, if anything does.
fn text(characters: &[std::ffi::c_char]) -> Option<CannVersion> {
    let bytes: Vec<u8> = characters.iter().map(|character| character.cast_unsigned()).collect();
    let text = CStr::from_bytes_until_nul(&bytes).ok()?.to_str().ok()?.trim();
    if text.is_empty() { None } else { Some(CannVersion::new(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_older_than_the_oldest_is_too_old() {
        for (version, is_too_old) in [
            ("8.0.RC3", true),
            ("8.0.0", true),
            ("7.7", true),
            ("8.1.RC1", false),
            ("8.1.RC1.alpha001", false),
            ("8.10.0", false),
            ("9.0.0", false),
            ("10.0", false),
            ("latest", false),
            ("", false),
            ("8", false),
            ("8.-1", false),
        ] {
            assert_eq!(CannVersion::new(version).is_too_old(), is_too_old, "{version}");
        }
    }

    #[test]
    fn a_version_ends_at_the_first_nul_and_must_end() {
        let characters = |text: &[u8]| text.iter().map(|byte| byte.cast_signed() as _).collect();
        let read = |bytes: &[u8]| {
            let characters: Vec<std::ffi::c_char> = characters(bytes);
            text(&characters).map(|version| version.to_string())
        };
        assert_eq!(read(b"9.0.0\0junk\0").as_deref(), Some("9.0.0"));
        assert_eq!(read(b"9.0.0"), None);
        assert_eq!(read(b"\0"), None);
        assert_eq!(read(b"\xff\0"), None);
    }
}
