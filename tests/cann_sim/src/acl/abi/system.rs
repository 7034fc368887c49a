//! Initialisation, versions, error texts.

use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, Once, PoisonError};

use fs_err as fs;

use super::pointer::{Out, text};
use crate::acl::call::{Env, Needs, status, value};
use crate::acl::error::{self, Fail, code};
use crate::acl::state::state;
use crate::acl::version::Version;

/// `aclInit`: reads the `CANN_SIM_*` variables. The file of a configuration must be JSON.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclInit(config_path: *const c_char) -> i32 {
    status("aclInit", Needs::Nothing, |mut env| {
        if env.state.is_initialised {
            return Err(Fail::new(code::REPEAT_INITIALIZE, "aclInit was called before"));
        }
        if !config_path.is_null() {
            // SAFETY: the caller's string.
            let path = unsafe { text(config_path, "configPath") }?;
            check_config(&path)?;
        }
        register_exit();
        env.state.initialise()
    })
}

fn check_config(path: &str) -> Result<(), Fail> {
    if path.is_empty() {
        return Ok(());
    }
    let json = fs::read_to_string(Path::new(path));
    let json = json.map_err(|error| Fail::new(code::INVALID_FILE, error.to_string()))?;
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(&json);
    parsed.map(drop).map_err(|error| Fail::new(code::PARSE_FILE, format!("{path}: {error}")))
}

/// Lets the end of the process write the summary when `aclFinalize` did not.
fn register_exit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function has the type that `atexit` wants and does not unwind.
        unsafe { libc::atexit(at_exit) };
    });
}

extern "C" fn at_exit() {
    let state = state();
    if state.is_initialised {
        state.summarise();
    }
}

/// `aclFinalize`: ends everything and writes the summary to the call log.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclFinalize() -> i32 {
    let result = status("aclFinalize", Needs::Nothing, |mut env| {
        if !env.state.is_initialised {
            return Err(Fail::new(code::REPEAT_FINALIZE, "there is nothing to finalise"));
        }
        let streams = env.state.finalise();
        drop(env.state);
        for stream in streams {
            stream.close();
        }
        Ok(())
    });
    if result == 0 {
        state().clear();
    }
    result
}

/// `aclrtGetVersion`: of the interface, not of CANN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetVersion(major: *mut i32, minor: *mut i32, patch: *mut i32) -> i32 {
    status("aclrtGetVersion", Needs::Nothing, |env| {
        // SAFETY: the caller's three places for an `int32_t`.
        let major = unsafe { Out::new(major, "majorVersion") }?;
        // SAFETY: as above.
        let minor = unsafe { Out::new(minor, "minorVersion") }?;
        // SAFETY: as above.
        let patch = unsafe { Out::new(patch, "patchVersion") }?;
        major.set(1);
        minor.set(if env.state.config.cann.1.major >= 9 { 15 } else { 14 });
        patch.set(0);
        Ok(())
    })
}

/// `aclCANNPackageVersion`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AclCannPackageVersion {
    /// All of it.
    pub version: [c_char; 128],
    /// Its first part.
    pub major_version: [c_char; 64],
    /// Its second part.
    pub minor_version: [c_char; 64],
    /// Its third part.
    pub release_version: [c_char; 64],
    /// Empty.
    pub patch_version: [c_char; 64],
    /// Empty.
    pub reserved: [c_char; 128],
}

/// `aclsysGetCANNVersion`: every package has the runtime's version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclsysGetCANNVersion(
    package: i32,
    version: *mut AclCannPackageVersion,
) -> i32 {
    status("aclsysGetCANNVersion", Needs::Nothing, |env| {
        // SAFETY: the caller's place for the structure.
        let out = unsafe { Out::new(version, "version") }?;
        if !(0..=7).contains(&package) {
            return Err(Fail::new(code::INVALID_PARAM, format!("there is no package {package}")));
        }
        let (text, version) = &env.state.config.cann;
        out.set(AclCannPackageVersion {
            version: c_chars(text),
            major_version: c_chars(&version.major.to_string()),
            minor_version: c_chars(&version.minor.to_string()),
            release_version: c_chars(&version.release()),
            patch_version: [0; 64],
            reserved: [0; 128],
        });
        Ok(())
    })
}

/// The text in a field, cut so that a zero byte follows.
pub(super) fn c_chars<const N: usize>(text: &str) -> [c_char; N] {
    let mut chars = [0; N];
    for (to, from) in chars.iter_mut().take(N.saturating_sub(1)).zip(text.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    chars
}

/// Names of packages that `aclsysGetVersionStr` knows.
const PACKAGES: [&str; 8] =
    ["cann", "runtime", "compiler", "hccl", "toolkit", "opp", "opp_kernel", "driver"];

/// The version, for the functions that ask by a package's name; CANN 8 has none of them.
fn version_of(env: &Env, package: &str) -> Result<(String, Version), Fail> {
    since_9(env)?;
    if !PACKAGES.contains(&package) {
        return Err(Fail::new(code::INVALID_PARAM, format!("there is no package `{package}`")));
    }
    Ok(env.state.config.cann.clone())
}

/// # Errors
/// When the runtime is older than CANN 9, whose library has no such function.
pub(super) fn since_9(env: &Env) -> Result<(), Fail> {
    let (text, version) = &env.state.config.cann;
    if version.major >= 9 {
        return Ok(());
    }
    Err(Fail::new(code::API_NOT_SUPPORT, format!("CANN {text} has no such function")))
}

/// `aclsysGetVersionStr`, since CANN 9: writes at most 128 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclsysGetVersionStr(package: *mut c_char, version: *mut c_char) -> i32 {
    status("aclsysGetVersionStr", Needs::Nothing, |env| {
        // SAFETY: the caller's string.
        let package = unsafe { text(package, "pkgName") }?;
        // SAFETY: the caller's place for `ACL_PKG_VERSION_MAX_SIZE` characters.
        let out = unsafe { Out::new(version.cast::<[c_char; 128]>(), "versionStr") }?;
        out.set(c_chars(&version_of(&env, &package)?.0));
        Ok(())
    })
}

/// `aclsysGetVersionNum`, since CANN 9.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclsysGetVersionNum(package: *mut c_char, version: *mut i32) -> i32 {
    status("aclsysGetVersionNum", Needs::Nothing, |env| {
        // SAFETY: the caller's string.
        let package = unsafe { text(package, "pkgName") }?;
        // SAFETY: the caller's place for an `int32_t`.
        let out = unsafe { Out::new(version, "versionNum") }?;
        out.set(version_of(&env, &package)?.1.number());
        Ok(())
    })
}

/// `aclrtGetSocName`; the string lives for ever.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetSocName() -> *const c_char {
    value("aclrtGetSocName", Needs::Init, ptr::null(), |env| {
        let soc = CString::new(env.state.config.soc.as_str())
            .map_err(|_| Fail::new(code::INVALID_PARAM, "CANN_SIM_SOC has a zero byte"))?;
        Ok(forever(soc).as_ptr())
    })
}

/// Keeps one copy of every name for ever: callers never give them back.
fn forever(name: CString) -> &'static CStr {
    static NAMES: Mutex<Vec<&'static CStr>> = Mutex::new(Vec::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.iter().find(|known| **known == name.as_c_str()) {
        return known;
    }
    let name: &'static CStr = Box::leak(name.into_boxed_c_str());
    names.push(name);
    name
}

/// `aclGetRecentErrMsg`: of this thread's last failure, once; null when there is nothing new.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclGetRecentErrMsg() -> *const c_char {
    let message = error::take_message();
    value("aclGetRecentErrMsg", Needs::Nothing, ptr::null(), |_| Ok(message.unwrap_or(ptr::null())))
}

/// `aclrtPeekAtLastError`: of this thread, level 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtPeekAtLastError(level: i32) -> i32 {
    value("aclrtPeekAtLastError", Needs::Init, code::UNINITIALIZE, |_| {
        check_level(level).map_or_else(Ok, |()| Ok(error::last_code()))
    })
}

/// `aclrtGetLastError`: of this thread, level 0; forgets it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetLastError(level: i32) -> i32 {
    value("aclrtGetLastError", Needs::Init, code::UNINITIALIZE, |_| {
        check_level(level).map_or_else(Ok, |()| Ok(error::clear_last_code()))
    })
}

fn check_level(level: i32) -> Result<(), i32> {
    if level == 0 { Ok(()) } else { Err(code::RT_PARAM_INVALID) }
}

/// `aclDataTypeSize`: bytes of one element; 0 for what has no whole ones or is unknown.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclDataTypeSize(data_type: i32) -> usize {
    match data_type {
        2 | 4 | 12 | 34..=37 => 1,
        1 | 6 | 7 | 27 => 2,
        0 | 3 | 8 | 33 => 4,
        9 | 10 | 11 | 16 => 8,
        17 => 16,
        _ => 0,
    }
}
