//! A turn with the library, and a small model.

use std::ffi::c_void;
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ascendcl::acl::abi::*;
use ascendcl::ge::graph::{Attr, DataType, Desc, Edge, GeGraph, Input, Node};
use ascendcl::ge::memory::plan;
use ascendcl::om::{OmParts, write};
use tempfile::TempDir;

/// A call of a C function.
macro_rules! acl {
    ($call:expr) => {{
        // SAFETY: tests pass null, handles, or pointers to their own variables.
        let result = unsafe { $call };
        result
    }};
}

/// A call that must work.
macro_rules! ok {
    ($call:expr) => {
        assert_eq!(acl!($call), 0, "{}: {:?}", stringify!($call), $crate::support::message())
    };
}

static TURN: Mutex<()> = Mutex::new(());

/// A turn: initialised, with device 0.
pub(crate) struct Session {
    pub(crate) folder: TempDir,
    variables: Vec<&'static str>,
    is_open: bool,
    _turn: MutexGuard<'static, ()>,
}

impl Session {
    /// Takes a turn with these variables set, but initialises nothing.
    pub(crate) fn prepare(variables: &[(&'static str, &str)]) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("calls.log");
        let plog = folder.path().join("plog");
        let defaults = [
            ("CANN_SIM_LOG", log.to_str().unwrap()),
            ("ASCEND_PROCESS_LOG_PATH", plog.to_str().unwrap()),
        ];
        let mut names = Vec::new();
        for (name, value) in defaults.iter().chain(variables) {
            // SAFETY: all tests that read or write variables hold the turn.
            unsafe { std::env::set_var(name, value) };
            names.push(*name);
        }
        Self { folder, variables: names, is_open: false, _turn: turn }
    }

    /// Takes a turn and makes device 0 current on this thread.
    pub(crate) fn start(variables: &[(&'static str, &str)]) -> Self {
        let mut session = Self::prepare(variables);
        ok!(aclInit(ptr::null()));
        session.is_open = true;
        ok!(aclrtSetDevice(0));
        session
    }

    /// Ends the turn; the call log.
    pub(crate) fn end(mut self) -> String {
        ok!(aclrtResetDevice(0));
        ok!(aclFinalize());
        self.is_open = false;
        std::fs::read_to_string(self.folder.path().join("calls.log")).unwrap()
    }

    /// Ends the turn, in which nothing may have been forgotten or broken.
    pub(crate) fn end_clean(self) {
        let log = self.end();
        assert!(log.ends_with("leaks: 0\nviolations: 0\n"), "{log}");
    }

    /// What the toolkit's own logs say.
    pub(crate) fn plog(&self) -> String {
        let folder = self.folder.path().join("plog/debug/plog");
        let Ok(files) = std::fs::read_dir(folder) else {
            return String::new();
        };
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.is_open {
            let _ = acl!(aclFinalize());
        }
        for name in &self.variables {
            // SAFETY: the turn is still held.
            unsafe { std::env::remove_var(name) };
        }
    }
}

/// What `aclGetRecentErrMsg` says.
pub(crate) fn message() -> Option<String> {
    let text = acl!(aclGetRecentErrMsg());
    if text.is_null() {
        return None;
    }
    // SAFETY: the library's string lives until the next call of this thread.
    let text = unsafe { std::ffi::CStr::from_ptr(text) };
    Some(text.to_str().unwrap().to_owned())
}

/// A handle, made by a function with an out parameter.
pub(crate) fn made(make: impl FnOnce(*mut *mut c_void) -> i32) -> *mut c_void {
    let mut handle = ptr::null_mut();
    assert_eq!(make(&raw mut handle), 0, "{:?}", message());
    assert!(!handle.is_null());
    handle
}

pub(crate) fn stream() -> *mut c_void {
    made(|out| acl!(aclrtCreateStreamWithConfig(out, 0, 3)))
}

pub(crate) fn event(flags: u32) -> *mut c_void {
    made(|out| acl!(aclrtCreateEventWithFlag(out, flags)))
}

pub(crate) fn device(size: usize) -> *mut c_void {
    made(|out| acl!(aclrtMalloc(out, size, 0)))
}

pub(crate) fn pinned(bytes: &[u8]) -> *mut c_void {
    let memory = made(|out| acl!(aclrtMallocHost(out, bytes.len())));
    // SAFETY: the memory has that many bytes, and is no test's variable.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory.cast(), bytes.len()) };
    memory
}

/// Device memory with that in it.
pub(crate) fn upload(bytes: &[u8]) -> *mut c_void {
    let memory = device(bytes.len());
    ok!(aclrtMemcpy(memory, bytes.len(), bytes.as_ptr().cast(), bytes.len(), 1));
    memory
}

pub(crate) fn download(memory: *mut c_void, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ok!(aclrtMemcpy(bytes.as_mut_ptr().cast(), len, memory, len, 2));
    bytes
}

pub(crate) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The graph that sets row `index` of `state` to `x` and returns `x + x`.
///
/// Inputs by index: `x` f32 [1, 2], `index` int32 [1, 1], `state` f32 [4, 2].
pub(crate) fn graph() -> GeGraph {
    let desc = |dtype, shape: &[usize]| Desc { dtype, shape: shape.to_vec() };
    let node = |name: &str, op: &str, inputs: &[(&str, usize)], port: &str, output| Node {
        name: name.to_owned(),
        op: op.to_owned(),
        attrs: [].into(),
        inputs: inputs
            .iter()
            .map(|(name, node)| Input {
                name: (*name).to_owned(),
                edge: Edge { node: *node, output: 0 },
            })
            .collect(),
        output_names: vec![port.to_owned()],
        outputs: vec![output],
    };
    let row = desc(DataType::Float, &[1, 2]);
    let state = desc(DataType::Float, &[4, 2]);
    let scatter = [("var", 2), ("indices", 1), ("updates", 0)];
    let mut nodes = vec![
        node("x", "Data", &[], "y", row.clone()),
        node("index", "Data", &[], "y", desc(DataType::Int32, &[1, 1])),
        node("state", "RefData", &[], "y", state.clone()),
        node("write", "ScatterNdUpdate", &scatter, "var", state),
        node("sum", "Add", &[("x1", 0), ("x2", 0)], "y", row),
    ];
    for (index, node) in nodes.iter_mut().take(3).enumerate() {
        node.attrs.insert("index".to_owned(), Attr::Int(index as i64));
    }
    GeGraph { nodes, inputs: vec![0, 1, 2], outputs: vec![Edge { node: 4, output: 0 }] }
}

/// The model of [`graph`] for a chip and a toolkit.
pub(crate) fn om_for(soc: &str, cann: &str) -> Vec<u8> {
    let graph = graph();
    let memory = plan(&graph);
    write(&OmParts {
        name: "small",
        graph: &graph,
        soc,
        cann,
        memory_size: memory.total + WORKSPACE as u64,
        zero_copy_memory_size: memory.total,
        weight_size: 0,
        is_dynamic: false,
        has_tiling_sink: false,
        cmdline: "",
    })
}

/// What the small model needs besides its inputs and outputs.
pub(crate) const WORKSPACE: usize = 4096;

pub(crate) fn om() -> Vec<u8> {
    om_for("Ascend910B3", "9.0.0")
}

/// A loaded small model with datasets over device memory.
pub(crate) struct Loaded {
    pub(crate) id: u32,
    pub(crate) memory: [*mut c_void; 4],
    pub(crate) inputs: *mut c_void,
    pub(crate) outputs: *mut c_void,
    pub(crate) buffers: [*mut c_void; 4],
}

/// Loads without anything given.
pub(crate) fn load(om: &[u8]) -> u32 {
    let mut id = 0;
    ok!(aclmdlLoadFromMem(om.as_ptr().cast(), om.len(), &raw mut id));
    id
}

/// The memory of the small model: x, index, state, sum.
const SIZES: [usize; 4] = [8, 4, 32, 8];

impl Loaded {
    pub(crate) fn new(id: u32) -> Self {
        let memory = [
            upload(&floats(&[1.5, -2.0])),
            upload(&2_i32.to_le_bytes()),
            upload(&floats(&[0.0; 8])),
            device(8),
        ];
        let mut buffers = [ptr::null_mut(); 4];
        for (buffer, (memory, size)) in buffers.iter_mut().zip(memory.iter().zip(SIZES)) {
            *buffer = acl!(aclCreateDataBuffer(*memory, size));
        }
        let (inputs, outputs) = (acl!(aclmdlCreateDataset()), acl!(aclmdlCreateDataset()));
        for buffer in &buffers[..3] {
            ok!(aclmdlAddDatasetBuffer(inputs, *buffer));
        }
        ok!(aclmdlAddDatasetBuffer(outputs, buffers[3]));
        Self { id, memory, inputs, outputs, buffers }
    }

    pub(crate) fn run(&self, stream: *mut c_void) -> i32 {
        acl!(aclmdlExecuteAsync(self.id, self.inputs, self.outputs, stream))
    }

    /// Everything but the model.
    pub(crate) fn drop_datasets(self) {
        ok!(aclmdlDestroyDataset(self.inputs));
        ok!(aclmdlDestroyDataset(self.outputs));
        for buffer in self.buffers {
            ok!(aclDestroyDataBuffer(buffer));
        }
        for memory in self.memory {
            ok!(aclrtFree(memory));
        }
    }

    pub(crate) fn unload(self) {
        ok!(aclmdlUnload(self.id));
        self.drop_datasets();
    }
}

/// Runs one ignored test of this program in a process of its own, with a call log in that folder;
/// the log. The caller holds a turn: the child has the variables of this process.
pub(crate) fn in_child(test: &str, folder: &Path) -> String {
    let log = folder.join("child.log");
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("CANN_SIM_LOG", &log)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{test}: {status}");
    std::fs::read_to_string(log).unwrap()
}
