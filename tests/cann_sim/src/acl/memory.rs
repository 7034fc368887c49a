//! Device memory and pinned host memory.
//!
//! ```text
//!  addresses   |guard|64|  allocation  | guard |64| allocation | ...   reserved, no access: the host
//!                       |                                              faults on them
//!  bytes                +--> a mapping of its own, which streams reach under the bus lock
//! ```
//!
//! Addresses are 64-byte aligned and no more, and are given out round robin, so that a freed one
//! stays unused for long. What a mapping holds at first is not zero where that is cheap: up to
//! 16 MiB of bytes 0xff (a NaN in every float type).
//!
//! All reading and writing of device bytes happens under one lock, [`bus`]: tasks of different
//! streams come in any order, but never mix.

#![expect(unsafe_code, reason = "maps memory and copies through raw pointers")]

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::{Fail, code};

const PAGE: usize = 4096;
/// Guaranteed alignment of device addresses.
pub(super) const ALIGNMENT: usize = 64;
/// The largest allocation that is filled with garbage.
const GARBAGE_LIMIT: usize = 16 << 20;

/// An anonymous mapping, or reserved addresses.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to no thread; what is behind `base` is only reached in ways that argue
// for themselves.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`: shared references only give out the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: usize, protection: libc::c_int) -> Option<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping wherever the kernel likes touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        NonNull::new(base.cast()).map(|base| Self { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and is unmapped once, here.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Device or pinned memory.
#[derive(Debug)]
pub(super) struct Allocation {
    /// As the program under test sees it.
    address: usize,
    pub(super) len: usize,
    bytes: Mapping,
    freed: AtomicBool,
}

/// A part of an allocation, checked against its bounds.
#[derive(Clone, Debug)]
pub(super) struct Span {
    allocation: Arc<Allocation>,
    offset: usize,
    len: usize,
}

impl Span {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The first byte behind the address. Whoever follows it holds [`bus`] for device memory.
    pub(super) fn pointer(&self) -> *mut u8 {
        self.allocation.bytes.base.as_ptr().wrapping_add(self.offset)
    }

    /// The addresses as the program under test sees them.
    pub(super) fn addresses(&self) -> std::ops::Range<usize> {
        let start = self.allocation.address + self.offset;
        start..start + self.len
    }

    /// The first `len` bytes, at most all.
    pub(super) fn prefix(&self, len: usize) -> Self {
        Self { len: len.min(self.len), ..self.clone() }
    }

    /// Whether it was freed since.
    pub(super) fn is_freed(&self) -> bool {
        self.allocation.freed.load(Ordering::Acquire)
    }

    /// Whether any byte is in both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.addresses(), other.addresses());
        a.start < b.end && b.start < a.end
    }
}

static BUS: Mutex<()> = Mutex::new(());

/// The right to reach the bytes of device memory.
pub(super) type Bus = MutexGuard<'static, ()>;

/// Waits for the right to reach the bytes of device memory.
pub(super) fn bus() -> Bus {
    BUS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything allocated.
#[derive(Debug)]
pub(super) struct Memory {
    reserved: Option<Mapping>,
    /// Where the search for free addresses goes on.
    cursor: usize,
    /// Device memory by address: whose it is and what it counts for.
    device: BTreeMap<usize, (u32, u64, Arc<Allocation>)>,
    pinned: BTreeMap<usize, Arc<Allocation>>,
    /// Bytes in use of each device, models' own memory included.
    used: Vec<u64>,
    limit: u64,
}

impl Memory {
    pub(super) const fn new() -> Self {
        Self {
            reserved: None,
            cursor: 0,
            device: BTreeMap::new(),
            pinned: BTreeMap::new(),
            used: Vec::new(),
            limit: 0,
        }
    }

    /// Sets devices and the memory of each. Addresses once reserved stay so: a stale one is to fault.
    ///
    /// # Errors
    /// When the process has no room for the addresses.
    pub(super) fn set_up(&mut self, num_devices: u32, limit: u64) -> Result<(), Fail> {
        self.used = vec![0; num_devices as usize];
        self.limit = limit;
        let total = limit.saturating_mul(u64::from(num_devices)).saturating_mul(2);
        let wanted = usize::try_from(total.max(64 << 30)).unwrap_or(usize::MAX);
        if self.reserved.as_ref().is_none_or(|reserved| reserved.len < wanted) {
            let refusal = || {
                let text = format!("the process has no {wanted} bytes of addresses for the device");
                Fail::new(code::RT_RESOURCE_ALLOC_FAIL, text)
            };
            let fresh = Mapping::new(wanted, libc::PROT_NONE).ok_or_else(refusal)?;
            self.cursor = fresh.base.addr().get();
            // Leaked on purpose: no address of the old range is to mean anything ever again.
            if let Some(old) = self.reserved.replace(fresh) {
                std::mem::forget(old);
            }
        }
        Ok(())
    }

    /// Free and total bytes of a device.
    pub(super) fn info(&self, device: u32) -> (u64, u64) {
        let used = self.used.get(device as usize).copied().unwrap_or(self.limit);
        (self.limit - used.min(self.limit), self.limit)
    }

    /// Takes bytes of a device without addresses, for what models keep to themselves.
    ///
    /// # Errors
    /// When fewer are left.
    pub(super) fn charge(&mut self, device: u32, bytes: u64) -> Result<(), Fail> {
        let (free, total) = self.info(device);
        if bytes > free {
            let text = format!("no memory left: asked for {bytes} bytes, {free} of {total} free");
            let is_hopeless = bytes > total;
            let code = if is_hopeless { code::RT_MEMORY_ALLOCATION } else { code::RT_DEVICE_OOM };
            return Err(Fail::new(code, text));
        }
        if let Some(used) = self.used.get_mut(device as usize) {
            *used += bytes;
        }
        Ok(())
    }

    /// Gives back what [`charge`](Self::charge) took.
    pub(super) fn discharge(&mut self, device: u32, bytes: u64) {
        if let Some(used) = self.used.get_mut(device as usize) {
            *used = used.saturating_sub(bytes);
        }
    }

    /// Device memory of that size; the address.
    ///
    /// # Errors
    /// When it does not fit.
    pub(super) fn allocate(&mut self, device: u32, len: usize) -> Result<usize, Fail> {
        // Kernels may read up to 32 bytes past the end: the real one counts them in too.
        let padded = (len as u64).checked_add(32);
        let counted = padded.and_then(|len| len.checked_next_multiple_of(512)).unwrap_or(u64::MAX);
        self.charge(device, counted)?;
        let placed = self.place(len).and_then(|address| Some((address, Mapping::writable(len)?)));
        let Some((address, bytes)) = placed else {
            self.discharge(device, counted);
            let text = format!("no place for {len} bytes: host memory or addresses ran out");
            return Err(Fail::new(code::RT_MEMORY_ALLOCATION, text));
        };
        bytes.fill_with_garbage(len);
        let allocation = Allocation { address, len, bytes, freed: AtomicBool::new(false) };
        self.device.insert(address, (device, counted, Arc::new(allocation)));
        Ok(address)
    }

    /// Frees device memory.
    ///
    /// # Errors
    /// When nothing of that device starts at the address.
    pub(super) fn free(&mut self, device: u32, address: usize) -> Result<(), Fail> {
        match self.device.get(&address) {
            Some((owner, _, _)) if *owner != device => {
                let text = format!("{address:#x} belongs to device {owner}, not {device}");
                return Err(Fail::new(code::RT_PARAM_INVALID, text));
            }
            Some(_) => {}
            None => {
                let text = format!("{address:#x} is not the start of device memory, or freed");
                return Err(Fail::new(code::RT_MEMORY_FREE, text));
            }
        }
        if let Some((_, counted, allocation)) = self.device.remove(&address) {
            allocation.freed.store(true, Ordering::Release);
            self.discharge(device, counted);
        }
        Ok(())
    }

    /// Pinned host memory of that size; the address.
    ///
    /// # Errors
    /// When the host has none.
    pub(super) fn allocate_pinned(&mut self, len: usize) -> Result<usize, Fail> {
        let refusal =
            || Fail::new(code::RT_MEMORY_ALLOCATION, format!("no {len} bytes of pinned memory"));
        let bytes = Mapping::writable(len).ok_or_else(refusal)?;
        bytes.fill_with_garbage(len);
        let address = bytes.base.as_ptr().expose_provenance();
        let allocation = Allocation { address, len, bytes, freed: AtomicBool::new(false) };
        self.pinned.insert(address, Arc::new(allocation));
        Ok(address)
    }

    /// Frees pinned host memory.
    ///
    /// # Errors
    /// When none starts at the address.
    pub(super) fn free_pinned(&mut self, address: usize) -> Result<(), Fail> {
        let text = || format!("{address:#x} is not the start of pinned memory, or freed");
        let allocation =
            self.pinned.remove(&address).ok_or_else(|| Fail::new(code::RT_MEMORY_FREE, text()))?;
        allocation.freed.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether the address is one of a device, allocated or not.
    pub(super) fn is_device_address(&self, address: usize) -> bool {
        self.reserved.as_ref().is_some_and(|reserved| {
            let start = reserved.base.addr().get();
            (start..start + reserved.len).contains(&address)
        })
    }

    /// `len` bytes of device memory from an address on.
    ///
    /// # Errors
    /// When not all of them belong to one allocation of that device.
    pub(super) fn device_span(
        &self,
        device: u32,
        address: usize,
        len: usize,
    ) -> Result<Span, Fail> {
        let found = self.device.range(..=address).next_back();
        let Some((_, (owner, _, allocation))) = found else {
            return Err(not_within("device", address, len));
        };
        let span = span(allocation, address, len);
        let span = span.ok_or_else(|| not_within("device", address, len))?;
        if *owner != device {
            let text = format!("{address:#x} belongs to device {owner}, not {device}");
            return Err(Fail::new(code::RT_PARAM_INVALID, text));
        }
        Ok(span)
    }

    /// `len` bytes of pinned memory from an address on; `None` when the address is not pinned.
    ///
    /// # Errors
    /// When they go past the end.
    pub(super) fn pinned_span(&self, address: usize, len: usize) -> Option<Result<Span, Fail>> {
        let (_, allocation) = self.pinned.range(..=address).next_back()?;
        span(allocation, address, 1)?;
        Some(span(allocation, address, len).ok_or_else(|| not_within("pinned", address, len)))
    }

    /// How many pieces of device and pinned memory are not freed, and their bytes.
    pub(super) fn leaks(&self) -> [(usize, usize); 2] {
        let device = self.device.values().map(|(_, _, allocation)| allocation.len).sum();
        let pinned = self.pinned.values().map(|allocation| allocation.len).sum();
        [(self.device.len(), device), (self.pinned.len(), pinned)]
    }

    /// Frees everything.
    pub(super) fn clear(&mut self) {
        for (_, _, allocation) in std::mem::take(&mut self.device).into_values() {
            allocation.freed.store(true, Ordering::Release);
        }
        for allocation in std::mem::take(&mut self.pinned).into_values() {
            allocation.freed.store(true, Ordering::Release);
        }
        self.used.fill(0);
    }

    /// Free addresses for `len` bytes, 64-byte aligned but not 128, with a guard on either side.
    fn place(&mut self, len: usize) -> Option<usize> {
        let reserved = self.reserved.as_ref()?;
        let start = reserved.base.addr().get();
        let end = start.checked_add(reserved.len)?;
        let room = len.checked_add(ALIGNMENT)?.checked_next_multiple_of(PAGE)?.checked_add(PAGE)?;
        let page =
            self.first_gap(self.cursor, end, room).or_else(|| self.first_gap(start, end, room))?;
        self.cursor = page + room;
        Some(page + ALIGNMENT)
    }

    fn first_gap(&self, from: usize, end: usize, room: usize) -> Option<usize> {
        let before = self.device.range(..from).next_back();
        let mut candidate = from;
        let after = self.device.range(from..);
        for (address, (_, _, allocation)) in before.into_iter().chain(after) {
            if *address >= candidate && address - ALIGNMENT >= candidate.checked_add(room)? {
                break;
            }
            let past = (address + allocation.len).next_multiple_of(PAGE) + PAGE;
            candidate = candidate.max(past);
        }
        (candidate.checked_add(room)? <= end).then_some(candidate)
    }
}

impl Mapping {
    fn writable(len: usize) -> Option<Self> {
        Self::new(len.max(1), libc::PROT_READ | libc::PROT_WRITE)
    }

    fn fill_with_garbage(&self, len: usize) {
        if len <= GARBAGE_LIMIT.min(self.len) {
            // SAFETY: the mapping is writable, `len` bytes are within it, and nobody else has seen
            // it yet.
            unsafe { self.base.as_ptr().write_bytes(0xff, len) };
        }
    }
}

fn span(allocation: &Arc<Allocation>, address: usize, len: usize) -> Option<Span> {
    let offset = address.checked_sub(allocation.address)?;
    let end = offset.checked_add(len)?;
    (end <= allocation.len).then(|| Span { allocation: Arc::clone(allocation), offset, len })
}

fn not_within(what: &str, address: usize, len: usize) -> Fail {
    let text = format!("{len} bytes at {address:#x} are not within one piece of {what} memory");
    Fail::new(code::RT_PARAM_INVALID, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(limit: u64) -> Memory {
        let mut memory = Memory::new();
        memory.set_up(1, limit).unwrap();
        memory
    }

    #[test]
    fn allocations_are_apart_and_aligned_to_64_only() {
        let mut memory = memory(1 << 20);
        let mut ends = 0;
        for len in [1, 4096, 5000, 64] {
            let address = memory.allocate(0, len).unwrap();
            assert_eq!(address % 128, 64);
            assert!(address >= ends + PAGE || ends == 0);
            ends = address + len;
        }
    }

    #[test]
    fn freed_addresses_are_used_again_when_the_rest_is() {
        let mut memory = memory(64 << 30);
        let big = 32 << 30;
        let first = memory.allocate(0, big).unwrap();
        memory.free(0, first).unwrap();
        let mut seen = Vec::new();
        for _ in 0..8 {
            let address = memory.allocate(0, big).unwrap();
            assert!(memory.is_device_address(address + big - 1));
            seen.push(address);
            memory.free(0, address).unwrap();
        }
        assert!(seen.contains(&first) && seen.iter().any(|address| *address != first));
        assert_eq!(memory.info(0), (64 << 30, 64 << 30));
    }

    #[test]
    fn live_ranges_are_never_given_out_twice() {
        let mut memory = memory(64 << 30);
        let quarter = 25 << 30;
        let a = memory.allocate(0, quarter).unwrap();
        let b = memory.allocate(0, quarter).unwrap();
        for _ in 0..20 {
            let c = memory.allocate(0, 12 << 30).unwrap();
            for (other, len) in [(a, quarter), (b, quarter)] {
                assert!(c >= other + len || c + (12 << 30) <= other);
            }
            memory.free(0, c).unwrap();
        }
    }

    #[test]
    fn the_limit_tells_never_from_not_now() {
        let mut memory = memory(1 << 20);
        let address = memory.allocate(0, 1 << 19).unwrap();
        assert_eq!(memory.allocate(0, 1 << 19).unwrap_err().code, code::RT_DEVICE_OOM);
        assert_eq!(memory.allocate(0, 1 << 21).unwrap_err().code, code::RT_MEMORY_ALLOCATION);
        memory.free(0, address).unwrap();
        assert_eq!(memory.free(0, address).unwrap_err().code, code::RT_MEMORY_FREE);
        assert!(memory.allocate(0, 1 << 19).is_ok());
    }

    #[test]
    fn spans_stay_within_one_allocation() {
        let mut memory = memory(1 << 20);
        let address = memory.allocate(0, 100).unwrap();
        assert_eq!(memory.device_span(0, address + 10, 90).unwrap().len(), 90);
        for (from, len) in [(address + 10, 91), (address - 1, 2), (address, usize::MAX)] {
            assert!(memory.device_span(0, from, len).is_err());
        }
        assert!(memory.device_span(1, address, 1).is_err());
    }
}
