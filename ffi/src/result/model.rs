//! Models and their descriptions: `acl_mdl.h`.
#![expect(unsafe_code, reason = "calls ACL")]

use std::mem::{self, MaybeUninit};

use super::{Handle, call, text};
use crate::error::AclError;
use crate::loader::Acl;
use crate::sys;

/// `aclmdlQuerySizeFromMem`: bytes of workspace and of weights.
pub(crate) fn sizes(acl: &Acl, om: &[u8]) -> Result<(usize, usize), AclError> {
    let (mut work, mut weight) = (0, 0);
    let (model, bytes) = (om.as_ptr().cast(), om.len());
    // SAFETY: reads `bytes` of the model, writes one `size_t` through each pointer.
    unsafe { call!(acl, aclmdlQuerySizeFromMem(model, bytes, &raw mut work, &raw mut weight)) }?;
    Ok((work, weight))
}

/// `aclmdlCreateConfigHandle`
pub(crate) fn create_config(acl: &Acl) -> Result<Handle, AclError> {
    // SAFETY: the function has no conditions.
    let config = unsafe { (acl.symbols().aclmdlCreateConfigHandle)() };
    Handle::returned(acl, "aclmdlCreateConfigHandle", config)
}

/// `aclmdlDestroyConfigHandle`
///
/// # Safety
/// Not used any more.
pub(crate) unsafe fn destroy_config(acl: &Acl, config: Handle) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclmdlDestroyConfigHandle(config.as_ptr())) }
}

/// `aclmdlSetConfigOpt`, which copies `value`.
///
/// # Safety
/// `T` is the type that `option` has: `size_t` or a pointer. What a pointer points to stays until the
/// model has been loaded.
pub(crate) unsafe fn set_config<T>(
    acl: &Acl,
    config: Handle,
    option: sys::aclmdlConfigAttr,
    value: T,
) -> Result<(), AclError> {
    let (address, bytes) = (&raw const value, mem::size_of::<T>());
    // SAFETY: reads `bytes` at `address`, a local variable; the rest is this function's condition.
    unsafe { call!(acl, aclmdlSetConfigOpt(config.as_ptr(), option, address.cast(), bytes)) }
}

/// `aclmdlLoadWithConfig`: the id of the model, loaded in the current context.
///
/// # Safety
/// What the configuration points to is as `aclmdlSetConfigOpt` wants it.
pub(crate) unsafe fn load(acl: &Acl, config: Handle) -> Result<u32, AclError> {
    let mut id = 0;
    // SAFETY: writes one `uint32_t`; the rest is this function's condition.
    unsafe { call!(acl, aclmdlLoadWithConfig(config.as_ptr(), &raw mut id)) }?;
    Ok(id)
}

/// `aclmdlUnload`, in the context that it was loaded in.
///
/// # Safety
/// A loaded model that is not being executed.
pub(crate) unsafe fn unload(acl: &Acl, id: u32) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclmdlUnload(id)) }
}

/// `aclmdlCreateDesc`
pub(crate) fn create_description(acl: &Acl) -> Result<Handle, AclError> {
    // SAFETY: the function has no conditions.
    let description = unsafe { (acl.symbols().aclmdlCreateDesc)() };
    Handle::returned(acl, "aclmdlCreateDesc", description)
}

/// `aclmdlDestroyDesc`
///
/// # Safety
/// Not used any more.
pub(crate) unsafe fn destroy_description(acl: &Acl, description: Handle) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclmdlDestroyDesc(description.as_ptr())) }
}

/// `aclmdlGetDesc`: fills the description with what the model has.
///
/// # Safety
/// A description of this library and a loaded model.
pub(crate) unsafe fn describe(acl: &Acl, description: Handle, id: u32) -> Result<(), AclError> {
    // SAFETY: this function's condition.
    unsafe { call!(acl, aclmdlGetDesc(description.as_ptr(), id)) }
}

/// Inputs or outputs: the same questions, other functions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Inputs,
    Outputs,
}

impl Side {
    /// `aclmdlGetNumInputs`, `aclmdlGetNumOutputs`
    ///
    /// # Safety
    /// A description that [`describe`] has filled; so for all of these.
    pub(crate) unsafe fn count(self, acl: &Acl, description: Handle) -> usize {
        let function = match self {
            Self::Inputs => acl.symbols().aclmdlGetNumInputs,
            Self::Outputs => acl.symbols().aclmdlGetNumOutputs,
        };
        // SAFETY: this function's condition.
        unsafe { function(description.as_ptr()) }
    }

    /// `aclmdlGetInputSizeByIndex`, `aclmdlGetOutputSizeByIndex`: bytes; 0 for what is unknown.
    ///
    /// # Safety
    /// As of [`Self::count`].
    pub(crate) unsafe fn bytes(self, acl: &Acl, description: Handle, idx: usize) -> usize {
        let function = match self {
            Self::Inputs => acl.symbols().aclmdlGetInputSizeByIndex,
            Self::Outputs => acl.symbols().aclmdlGetOutputSizeByIndex,
        };
        // SAFETY: this function's condition; an index that is too large is answered with 0.
        unsafe { function(description.as_ptr(), idx) }
    }

    /// `aclmdlGetInputNameByIndex`, `aclmdlGetOutputNameByIndex`
    ///
    /// # Safety
    /// As of [`Self::count`].
    pub(crate) unsafe fn name(self, acl: &Acl, description: Handle, idx: usize) -> Option<String> {
        let function = match self {
            Self::Inputs => acl.symbols().aclmdlGetInputNameByIndex,
            Self::Outputs => acl.symbols().aclmdlGetOutputNameByIndex,
        };
        // SAFETY: this function's condition; an index that is too large is answered with "".
        let name = unsafe { function(description.as_ptr(), idx) };
        // SAFETY: null, or a C string that lives as long as the description; copied here.
        unsafe { text(name) }
    }

    /// `aclmdlGetInputDims`, `aclmdlGetOutputDims`
    ///
    /// # Safety
    /// As of [`Self::count`].
    pub(crate) unsafe fn dims(
        self,
        acl: &Acl,
        description: Handle,
        idx: usize,
    ) -> Result<sys::aclmdlIODims, AclError> {
        let mut dims = MaybeUninit::<sys::aclmdlIODims>::zeroed();
        let (from, to) = (description.as_ptr(), dims.as_mut_ptr());
        // SAFETY, of both: this function's condition; writes one struct of this type, zeroed before.
        match self {
            // SAFETY: as said.
            Self::Inputs => unsafe { call!(acl, aclmdlGetInputDims(from, idx, to)) },
            // SAFETY: as said.
            Self::Outputs => unsafe { call!(acl, aclmdlGetOutputDims(from, idx, to)) },
        }?;
        // SAFETY: zeroed above, and it consists of numbers and arrays of numbers.
        Ok(unsafe { dims.assume_init() })
    }

    /// `aclmdlGetInputDataType`, `aclmdlGetOutputDataType`
    ///
    /// # Safety
    /// As of [`Self::count`].
    pub(crate) unsafe fn dtype(
        self,
        acl: &Acl,
        description: Handle,
        idx: usize,
    ) -> sys::aclDataType {
        let function = match self {
            Self::Inputs => acl.symbols().aclmdlGetInputDataType,
            Self::Outputs => acl.symbols().aclmdlGetOutputDataType,
        };
        // SAFETY: this function's condition; an index that is too large is "undefined".
        unsafe { function(description.as_ptr(), idx) }
    }

    /// `aclmdlGetInputFormat`, `aclmdlGetOutputFormat`
    ///
    /// # Safety
    /// As of [`Self::count`].
    pub(crate) unsafe fn format(
        self,
        acl: &Acl,
        description: Handle,
        idx: usize,
    ) -> sys::aclFormat {
        let function = match self {
            Self::Inputs => acl.symbols().aclmdlGetInputFormat,
            Self::Outputs => acl.symbols().aclmdlGetOutputFormat,
        };
        // SAFETY: this function's condition; an index that is too large is "undefined".
        unsafe { function(description.as_ptr(), idx) }
    }
}
