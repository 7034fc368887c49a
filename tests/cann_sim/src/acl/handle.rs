//! Opaque handles: numbers that name something alive, and that are looked up, never followed.
//!
//! ```text
//!  63      56      48                              4   0
//!  |   0   | kind  |            number             | 0 |
//! ```
//!
//! The bits make them addresses of nothing, so a program that looks behind one faults. A number is
//! never used twice: a handle that outlives its object is recognised.

use std::collections::BTreeMap;
use std::ffi::c_void;

use super::error::{Fail, code};

/// What a handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Context = 0x11,
    Stream = 0x22,
    Event = 0x33,
    Desc = 0x44,
    Dataset = 0x55,
    Buffer = 0x66,
    Config = 0x77,
    Exception = 0x7a,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Context => "context",
            Self::Stream => "stream",
            Self::Event => "event",
            Self::Desc => "model description",
            Self::Dataset => "dataset",
            Self::Buffer => "data buffer",
            Self::Config => "config handle",
            Self::Exception => "exception info",
        }
    }

    const fn null_code(self) -> i32 {
        match self {
            Self::Context | Self::Stream | Self::Event => code::RT_PARAM_INVALID,
            _ => code::INVALID_PARAM,
        }
    }

    const fn stale_code(self) -> i32 {
        match self {
            Self::Context | Self::Stream | Self::Event => code::RT_INVALID_HANDLE,
            _ => code::INVALID_PARAM,
        }
    }
}

/// Everything alive of one kind.
#[derive(Debug)]
pub(super) struct Table<T> {
    kind: Kind,
    issued: u64,
    live: BTreeMap<u64, T>,
}

impl<T> Table<T> {
    pub(super) const fn new(kind: Kind) -> Self {
        Self { kind, issued: 0, live: BTreeMap::new() }
    }

    /// Adds something and returns its handle.
    pub(super) fn insert(&mut self, value: T) -> u64 {
        self.issued += 1;
        let handle = ((self.kind as u64) << 48) | (self.issued << 4);
        self.live.insert(handle, value);
        handle
    }

    /// # Errors
    /// When nothing of that handle is alive.
    pub(super) fn get(&self, handle: u64) -> Result<&T, Fail> {
        self.live.get(&handle).ok_or_else(|| self.refusal(handle))
    }

    /// # Errors
    /// When nothing of that handle is alive.
    pub(super) fn get_mut(&mut self, handle: u64) -> Result<&mut T, Fail> {
        let refusal = self.refusal(handle);
        self.live.get_mut(&handle).ok_or(refusal)
    }

    /// # Errors
    /// When nothing of that handle is alive.
    pub(super) fn remove(&mut self, handle: u64) -> Result<T, Fail> {
        self.live.remove(&handle).ok_or_else(|| self.refusal(handle))
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.live.iter().map(|(handle, value)| (*handle, value))
    }

    /// Takes everything out; handles issued so far stay unknown.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(&mut self.live).into_values()
    }

    fn refusal(&self, handle: u64) -> Fail {
        let name = self.kind.name();
        if handle == 0 {
            Fail::new(self.kind.null_code(), format!("the {name} is null"))
        } else {
            let text = format!("{name} {handle:#x} is not alive: destroyed, or of another kind");
            Fail::new(self.kind.stale_code(), text)
        }
    }
}

/// The handle as C sees it.
pub(super) fn to_pointer(handle: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(handle as usize)
}

/// The handle that C gives back.
pub(super) fn from_pointer(pointer: *const c_void) -> u64 {
    pointer.addr() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_known_until_it_is_removed_and_only_as_its_kind() {
        let mut streams = Table::new(Kind::Stream);
        let events = Table::<u8>::new(Kind::Event);
        let handle = streams.insert(5);
        assert_eq!(streams.get(handle).copied(), Ok(5));
        assert_eq!(events.get(handle).unwrap_err().code, code::RT_INVALID_HANDLE);
        assert_eq!(streams.remove(handle), Ok(5));
        assert_eq!(streams.remove(handle).unwrap_err().code, code::RT_INVALID_HANDLE);
        assert_ne!(streams.insert(6), handle);
        assert_eq!(streams.get(0).unwrap_err().code, code::RT_PARAM_INVALID);
    }
}
