//! Asks every device for its name, its memory and what the backend needs of it.
//!
//! What this module deliberately does not do: it runs nothing on a device.

use std::sync::Arc;

use cairn_ffi::{Acl, AclError, Device, Runtime};

use super::check::{Check, State};
use crate::backend::ascend::target::Soc;
use crate::cli::values::display_bytes;

pub(super) const DEVICES: &str = "devices";

/// What was found of devices.
pub(super) struct Found {
    pub(super) check: Check,
    /// The chip's name; all devices of a machine are of one kind.
    pub(super) soc: Option<String>,
    /// CANN, initialised.
    pub(super) runtime: Option<Arc<Runtime>>,
}

/// Looks at every device that this process can see.
pub(super) fn look(acl: Acl) -> Found {
    match found(acl) {
        Ok(found) => found,
        Err(error) => {
            let check = Check::failed(DEVICES, &error)
                .remedy("look at `npu-smi info`, and at the driver and the device files above");
            Found { check, soc: None, runtime: None }
        }
    }
}

fn found(acl: Acl) -> Result<Found, AclError> {
    let runtime = Runtime::init(Arc::new(acl))?;
    let count = runtime.device_count()?;
    let soc = runtime.soc_name();
    if count == 0 {
        let check = Check::failed(DEVICES, "no device that this process can see")
            .remedy("check `ASCEND_RT_VISIBLE_DEVICES` and, in a container, what is passed on");
        return Ok(Found { check, soc: None, runtime: Some(runtime) });
    }
    let name = soc.as_deref().unwrap_or("of no name");
    let found = format!("{count} x {name}");
    let known = soc.as_deref().map(str::parse::<Soc>);
    let check = match known {
        Some(Ok(_)) => Check::ok(DEVICES, found),
        Some(Err(error)) => Check::failed(DEVICES, found).detail(error),
        None => Check::warning(DEVICES, found).remedy("name the chip with `--soc`"),
    };
    let described = (0..count).map(|id| described(&runtime, id));
    let check = described.fold(check, |check, device| match device {
        Ok(line) => check.detail(line),
        Err(line) => {
            let check = Check { state: State::Failed, ..check.detail(line) };
            match check.remedy {
                Some(_) => check,
                None => check.remedy("another process may hold the device: look at `npu-smi info`"),
            }
        }
    });
    Ok(Found { check, soc, runtime: Some(runtime) })
}

/// A line about a device, or about why it cannot be used.
fn described(runtime: &Arc<Runtime>, id: u32) -> Result<String, String> {
    let describe = || -> Result<String, AclError> {
        let device = Device::open(Arc::clone(runtime), id)?;
        let current = device.enter()?;
        let memory = current.memory_info()?;
        let plans = match current.supports_tiling_sink() {
            Some(true) => ", plans attention itself",
            Some(false) => ", cannot plan attention itself",
            None => "",
        };
        let [free, total] = [memory.free, memory.total].map(display_bytes);
        Ok(format!("device {id}: {free} of {total} free{plans}"))
    };
    describe().map_err(|error| format!("device {id}: {error}"))
}
