//! Tensors as bytes, and as numbers.
//!
//! | Type | What |
//! | --- | --- |
//! | [`Buffer`] | bytes an operator produced, aligned for every element type |
//! | [`Tensor`] | a view of bytes with their type; the bytes may lie anywhere |
//! | [`Rows`] | a tensor read row by row as f32, converted when asked for |
//! | [`Fault`] | what a kernel failed on |
//!
//! Bytes are little-endian, as is every machine CANN runs on.

use std::borrow::Cow;

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::ge::graph::{DataType, Desc};

/// What a kernel failed on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Fault(String);

/// A [`Fault`] as a result.
pub(super) fn fault<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault(what.into()))
}

/// Bytes that an operator produced.
#[derive(Clone, Debug)]
pub(super) struct Buffer {
    words: Vec<u64>,
    num_bytes: usize,
}

impl Buffer {
    pub(super) fn zeroed(num_bytes: usize) -> Self {
        Self { words: vec![0; num_bytes.div_ceil(8)], num_bytes }
    }

    pub(super) fn copied(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    /// The numbers in that type, rounded to nearest even.
    pub(super) fn from_f32s(dtype: DataType, values: &[f32]) -> Result<Self, Fault> {
        let mut buffer = Self::zeroed(values.len() * dtype.size());
        match dtype {
            DataType::Float => buffer.items_mut(values.len()).copy_from_slice(values),
            DataType::Float16 => {
                buffer.items_mut::<f16>(values.len()).convert_from_f32_slice(values);
            }
            DataType::Bf16 => {
                buffer.items_mut::<bf16>(values.len()).convert_from_f32_slice(values);
            }
            DataType::Double => buffer.fill(values, f64::from),
            _ => return fault(format!("expected a floating-point output, got {dtype:?}")),
        }
        Ok(buffer)
    }

    /// The numbers in that type; what does not fit is cut off.
    pub(super) fn from_i64s(dtype: DataType, values: &[i64]) -> Result<Self, Fault> {
        let mut buffer = Self::zeroed(values.len() * dtype.size());
        match dtype {
            DataType::Bool => buffer.fill(values, |value| u8::from(value != 0)),
            DataType::Int8 => buffer.fill(values, |value| value as i8),
            DataType::Uint8 => buffer.fill(values, |value| value as u8),
            DataType::Int16 => buffer.fill(values, |value| value as i16),
            DataType::Uint16 => buffer.fill(values, |value| value as u16),
            DataType::Int32 => buffer.fill(values, |value| value as i32),
            DataType::Uint32 => buffer.fill(values, |value| value as u32),
            DataType::Int64 => buffer.fill(values, |value| value),
            DataType::Uint64 => buffer.fill(values, |value| value as u64),
            DataType::Float | DataType::Float16 | DataType::Bf16 | DataType::Double => {
                return fault(format!("expected an integer output, got {dtype:?}"));
            }
        }
        Ok(buffer)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.num_bytes]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.num_bytes]
    }

    fn items_mut<T: Pod>(&mut self, count: usize) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..count]
    }

    fn fill<A: Copy, T: Pod>(&mut self, values: &[A], convert: impl Fn(A) -> T) {
        for (item, value) in self.items_mut(values.len()).iter_mut().zip(values) {
            *item = convert(*value);
        }
    }
}

/// A view of a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor<'a> {
    desc: &'a Desc,
    bytes: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// The first bytes, as many as the type says.
    pub(super) fn new(desc: &'a Desc, bytes: &'a [u8]) -> Result<Self, Fault> {
        match bytes.get(..desc.num_bytes()) {
            Some(bytes) => Ok(Self { desc, bytes }),
            None => fault(format!(
                "expected {} bytes for {:?} {:?}, got {}",
                desc.num_bytes(),
                desc.dtype,
                desc.shape,
                bytes.len()
            )),
        }
    }

    pub(super) const fn dtype(self) -> DataType {
        self.desc.dtype
    }

    pub(super) fn shape(self) -> &'a [usize] {
        &self.desc.shape
    }

    pub(super) const fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn num_elements(self) -> usize {
        self.desc.num_elements()
    }

    /// Sizes of the only shape allowed.
    pub(super) fn sizes<const N: usize>(self, name: &str) -> Result<[usize; N], Fault> {
        match self.shape().try_into() {
            Ok(sizes) => Ok(sizes),
            Err(_) => fault(format!("expected {N} axes of `{name}`, got {:?}", self.shape())),
        }
    }

    /// The numbers as f32.
    pub(super) fn f32s(self) -> Cow<'a, [f32]> {
        match self.dtype() {
            DataType::Float => items(self.bytes),
            DataType::Float16 => Cow::Owned(items::<f16>(self.bytes).to_f32_vec()),
            DataType::Bf16 => {
                Cow::Owned(items::<bf16>(self.bytes).iter().map(|&item| widen(item)).collect())
            }
            DataType::Double => self.collect(|item: f64| item as f32),
            _ => Cow::Owned(self.integers().iter().map(|&item| item as f32).collect()),
        }
    }

    /// The integers.
    pub(super) fn i64s(self) -> Result<Cow<'a, [i64]>, Fault> {
        if is_float(self.dtype()) {
            return fault(format!("expected integers, got {:?}", self.dtype()));
        }
        Ok(self.integers())
    }

    /// The only integer.
    pub(super) fn scalar(self) -> Result<i64, Fault> {
        match *self.i64s()? {
            [value] => Ok(value),
            ref values => fault(format!("expected one integer, got {}", values.len())),
        }
    }

    /// The numbers as integers; those with a fraction lose it.
    pub(super) fn integers(self) -> Cow<'a, [i64]> {
        match self.dtype() {
            DataType::Bool => self.collect(|item: u8| i64::from(item != 0)),
            DataType::Int8 => self.collect(|item: i8| i64::from(item)),
            DataType::Uint8 => self.collect(|item: u8| i64::from(item)),
            DataType::Int16 => self.collect(|item: i16| i64::from(item)),
            DataType::Uint16 => self.collect(|item: u16| i64::from(item)),
            DataType::Int32 => self.collect(|item: i32| i64::from(item)),
            DataType::Uint32 => self.collect(|item: u32| i64::from(item)),
            DataType::Int64 => items(self.bytes),
            DataType::Uint64 => self.collect(|item: u64| item as i64),
            DataType::Double => self.collect(|item: f64| item as i64),
            DataType::Float | DataType::Float16 | DataType::Bf16 => {
                Cow::Owned(self.f32s().iter().map(|&item| item as i64).collect())
            }
        }
    }

    fn collect<A: Pod, T: Clone>(self, convert: impl Fn(A) -> T) -> Cow<'a, [T]> {
        Cow::Owned(items::<A>(self.bytes).iter().map(|&item| convert(item)).collect())
    }
}

/// Whether the type has fractions.
pub(super) const fn is_float(dtype: DataType) -> bool {
    matches!(dtype, DataType::Float | DataType::Float16 | DataType::Bf16 | DataType::Double)
}

/// Elements of bytes at any address: only those that are not aligned are copied.
fn items<T: Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    bytemuck::try_cast_slice(bytes).map_or_else(
        |_| bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect(),
        Cow::Borrowed,
    )
}

fn widen(item: bf16) -> f32 {
    f32::from_bits(u32::from(item.to_bits()) << 16)
}

/// A tensor read row by row.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    items: Items<'a>,
    width: usize,
}

#[derive(Debug)]
enum Items<'a> {
    F32(Cow<'a, [f32]>),
    F16(Cow<'a, [f16]>),
    Bf16(Cow<'a, [bf16]>),
}

impl<'a> Rows<'a> {
    /// Rows of `width` elements.
    pub(super) fn new(tensor: Tensor<'a>, width: usize) -> Self {
        let items = match tensor.dtype() {
            DataType::Float16 => Items::F16(items(tensor.bytes)),
            DataType::Bf16 => Items::Bf16(items(tensor.bytes)),
            _ => Items::F32(tensor.f32s()),
        };
        Self { items, width }
    }

    /// Rows of f32 made elsewhere.
    pub(super) fn from_f32s(values: Cow<'a, [f32]>, width: usize) -> Self {
        Self { items: Items::F32(values), width }
    }

    /// A row; `scratch` has its width and may be used to convert it.
    pub(super) fn row<'s>(&'s self, row: usize, scratch: &'s mut [f32]) -> &'s [f32] {
        let range = row * self.width..(row + 1) * self.width;
        match &self.items {
            Items::F32(items) => return &items[range],
            Items::F16(items) => items[range].convert_to_f32_slice(scratch),
            Items::Bf16(items) => {
                for (wide, &item) in scratch.iter_mut().zip(&items[range]) {
                    *wide = widen(item);
                }
            }
        }
        scratch
    }

    /// Writes a row to `target`, which has its width.
    pub(super) fn copy_row(&self, row: usize, target: &mut [f32]) {
        if let Items::F32(items) = &self.items {
            target.copy_from_slice(&items[row * self.width..(row + 1) * self.width]);
        } else {
            self.row(row, target);
        }
    }
}
