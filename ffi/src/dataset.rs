//! The inputs or outputs of a model, at fixed addresses.
//!
//! ```text
//! Dataset --> aclmdlDataset --> aclDataBuffer (address, length) --> a part of device memory
//!                           --> aclDataBuffer                   --> ..
//! ```
//!
//! A dataset is made once and used for every step: CANN compares addresses with those of the step
//! before and has nothing to do while they are the same. What changes is what is in the memory.
//!
//! What this module deliberately does not do: it does not change addresses.

use std::sync::Arc;

use crate::current::Current;
use crate::device::Device;
use crate::error::AclError;
use crate::memory::DeviceSlice;
use crate::model::TensorInfo;
use crate::result::{self, Handle};

/// The inputs or outputs of a model, which it keeps.
#[derive(Debug)]
pub struct Dataset {
    device: Arc<Device>,
    handle: Handle,
    buffers: Vec<Handle>,
    tensors: Vec<DeviceSlice>,
}

impl Dataset {
    /// Makes a dataset of parts of device memory, in the order of the model's inputs or outputs
    /// (`aclmdlCreateDataset`, `acl_mdl.h`; `aclCreateDataBuffer`, `acl_base.h`).
    ///
    /// # Errors
    /// When one of them is of another device, that was given up, or what CANN says.
    pub fn new(current: &Current<'_>, tensors: Vec<DeviceSlice>) -> Result<Self, AclError> {
        const FUNCTION: &str = "Dataset::new";
        let device = Arc::clone(current.device());
        device.usable(FUNCTION)?;
        for tensor in &tensors {
            current.check(tensor.buffer().device(), FUNCTION)?;
        }
        let handle = result::dataset::create(current.acl())?;
        let buffers = Vec::with_capacity(tensors.len());
        // From here on dropping it gives everything back.
        let mut dataset = Self { device, handle, buffers, tensors };
        dataset.fill(current)?;
        Ok(dataset)
    }

    #[expect(unsafe_code, reason = "calls ACL")]
    fn fill(&mut self, current: &Current<'_>) -> Result<(), AclError> {
        for tensor in &self.tensors {
            let buffer =
                result::dataset::create_buffer(current.acl(), tensor.address(), tensor.len())?;
            self.buffers.push(buffer);
            // SAFETY: both are ours and are destroyed together, the dataset first.
            unsafe { result::dataset::add(current.acl(), self.handle, buffer) }?;
        }
        Ok(())
    }

    /// What it consists of.
    pub fn tensors(&self) -> &[DeviceSlice] {
        &self.tensors
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle
    }

    /// Fails unless it has memory enough for each of a model's `infos`.
    pub(crate) fn check(
        &self,
        function: &'static str,
        side: &str,
        infos: &[TensorInfo],
    ) -> Result<(), AclError> {
        if self.tensors.len() != infos.len() {
            let (has, wants) = (self.tensors.len(), infos.len());
            let message = format!("the dataset has {has} {side}s, the model {wants}");
            return Err(AclError::refused(function, message));
        }
        let mut pairs = self.tensors.iter().zip(infos);
        let Some((tensor, info)) = pairs.find(|(tensor, info)| tensor.len() < info.bytes) else {
            return Ok(());
        };
        let (name, wants, has) = (&info.name, info.bytes, tensor.len());
        let message = format!("{side} `{name}` has {wants} bytes, the dataset {has} for it");
        Err(AclError::refused(function, message))
    }
}

impl Drop for Dataset {
    #[expect(unsafe_code, reason = "calls ACL")]
    fn drop(&mut self) {
        let acl = self.device.runtime().acl();
        self.device.release(|| {
            // SAFETY: a run that uses it borrows it until it has ended, or the device was given up and
            // this is not called.
            unsafe { result::dataset::destroy(acl, self.handle) }?;
            let mut outcome = Ok(());
            for buffer in &self.buffers {
                // SAFETY: the only dataset that has it is gone.
                let destroyed = unsafe { result::dataset::destroy_buffer(acl, *buffer) };
                // One that stays is no reason to keep the others.
                outcome = outcome.and(destroyed);
            }
            outcome
        });
    }
}
