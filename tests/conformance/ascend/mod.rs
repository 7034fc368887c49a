//! The Ascend backend on a simulated toolkit: the one device of this process.
//!
//! | Part | What it holds |
//! | --- | --- |
//! | here | the device; how it runs the cases, and what it refuses |
//! | `steps` | steps that one layout of a batch takes and another does not |
//! | `invariance` | a sequence's result does not depend on the rest of the batch, bit for bit |
//! | `random` | random graphs: refused, or computed as the CPU does |
//! | `damage` | damaged artifacts are refused or load |

mod damage;
mod invariance;
mod random;
mod steps;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cairn::backend::ascend::logs::LogPlaces;
use cairn::backend::ascend::{AscendBackend, AscendOptions, CannRelease, Purpose};
use cairn::backend::{Backend, BackendError};

use cairn::ir::Graph;

use super::backends::Configuration;
use super::case::bucket;
use super::toolkit::Toolkit;

/// What the device refuses, whatever the release of CANN.
const REFUSED: &[(&str, &str)] = &[
    // Graphs know no blocks of quantised weights.
    ("linear of f32 by q", "block-quantised weights"),
    ("gather by ids: f32 of q", "block-quantised weights"),
    ("gather by ids outside: f32 of q", "block-quantised weights"),
    // Both operands of a matrix product have one type.
    ("linear of f32 by f16", "must have the same type"),
    ("linear of f32 by bf16", "must have the same type"),
    // The device would read foreign memory, or end the process.
    ("gather by ids outside", "picks row"),
    // Attention has kernels for caches in f16 and bf16.
    ("paged_attention over f32", "attention over a float cache"),
    ("kv_write, read out by paged_attention over f32", "attention over a float cache"),
];

/// The backend for the release that is installed, which is the newest, and for the oldest one.
struct Device {
    newest: Arc<dyn Backend>,
    oldest: Arc<dyn Backend>,
}

/// The one device of this process: its library can be loaded only once.
fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let folder = folder();
        let toolkit = Toolkit::install_in(&folder, &[]);
        let open = |cann| -> Arc<dyn Backend> {
            Arc::new(AscendBackend::open(options(&toolkit, &folder, cann)).unwrap())
        };
        let device = Device { newest: open(None), oldest: open(Some(CannRelease::OLDEST)) };
        // The toolkit is needed to the end of the process, which drops nothing that is static.
        std::mem::forget(toolkit);
        device
    })
}

/// The backend with the newest release.
pub(crate) fn backend() -> &'static Arc<dyn Backend> {
    &device().newest
}

fn options(toolkit: &Toolkit, folder: &Path, cann: Option<CannRelease>) -> AscendOptions {
    AscendOptions {
        homes: vec![toolkit.home()],
        soc: None,
        cann,
        device: 0,
        purpose: Purpose::Run,
        scratch: folder.join("scratch"),
        custom_operators: Vec::new(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        compile_jobs: 1,
        compile_timeout: Duration::from_mins(2),
        device_timeout: Duration::from_mins(2),
        logs: LogPlaces::default(),
    }
}

/// A folder for this process; those of processes that have ended are removed.
fn folder() -> PathBuf {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    std::fs::create_dir_all(&parent).unwrap();
    for entry in std::fs::read_dir(&parent).unwrap().flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            // Another process may be removing it, too.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let folder = parent.join(std::process::id().to_string());
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Checks that a graph, with some sizes, becomes an artifact that loads, or is refused.
pub(crate) fn compiles_or_refuses(graph: &Graph) {
    let sizes = vec![5; graph.symbols().len()];
    match backend().compile(&bucket(graph, &sizes)) {
        Ok(artifact) => drop(backend().load(&artifact.files()).unwrap()),
        Err(BackendError::Unsupported { what, .. }) => assert!(!what.is_empty()),
        Err(error) => panic!("{error}\n{graph}"),
    }
}

/// How the device runs the cases.
pub(crate) fn configurations() -> [Configuration; 2] {
    let of = |name, backend: &Arc<dyn Backend>, only, refused| Configuration {
        name,
        backend: Arc::clone(backend),
        is_static: true,
        is_optimised: true,
        computes_nothing: false,
        leaves_padding: true,
        max_steps: 3,
        only,
        refused,
    };
    let device = device();
    [
        of("ascend", &device.newest, "", REFUSED),
        // Of a graph, only the layout of the batch depends on the release.
        of("ascend, oldest release", &device.oldest, "paged_attention", REFUSED_BY_OLDEST),
    ]
}

/// What the device refuses with the oldest release.
const REFUSED_BY_OLDEST: &[(&str, &str)] = &[
    ("paged_attention over f32", "attention over a float cache"),
    ("paged_attention of a packed batch", "in one step: that needs CANN 9.0"),
];
