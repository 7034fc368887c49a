//! What was built: the stamp that `build.rs` leaves, for `--version`, `/version` and reports.
//!
//! ```text
//! cairn 0.1.0 (0123456789ab, x86_64-unknown-linux-gnu, release, features: ascend,cpu)
//!       VERSION GIT_REVISION TARGET                    PROFILE            FEATURES
//! ```
//!
//! What this module deliberately does not do: it knows nothing that is found out at run time, and
//! holds no date, so that the same sources give the same program.

/// Version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// First 12 digits of the commit that was built, or `unknown` outside of git.
pub const GIT_REVISION: &str = env!("CAIRN_BUILD_GIT_REVISION");

/// Target triple.
pub const TARGET: &str = env!("CAIRN_BUILD_TARGET");

/// `debug` or `release`.
pub const PROFILE: &str = env!("CAIRN_BUILD_PROFILE");

/// Features that are on, separated by commas.
pub const FEATURES: &str = env!("CAIRN_BUILD_FEATURES");

/// Everything above in one line, without the program's name.
pub const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("CAIRN_BUILD_GIT_REVISION"),
    ", ",
    env!("CAIRN_BUILD_TARGET"),
    ", ",
    env!("CAIRN_BUILD_PROFILE"),
    ", features: ",
    env!("CAIRN_BUILD_FEATURES"),
    ")"
);
