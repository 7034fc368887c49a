//! The C interface of `libascendcl.so`, over a device that is made of threads and host memory.
//!
//! ```text
//!  extern "C" (abi) --call--> State: contexts, streams, events, memory, models, datasets
//!    scripted failure,           |
//!    init and context rules,     | submit            .--> memory: shadow bytes of the device
//!    log, recent message         v                   |
//!                             Stream: queue --thread-+--> execute: interpret::run
//!                                                    `--> event: recorded, waited for
//! ```
//!
//! | Module | What |
//! | --- | --- |
//! | `abi` | the exported functions, grouped as the headers group them |
//! | `call` | what happens around every call: script, preconditions, log, error text |
//! | `state` | everything that is alive, and the summary of what was not freed |
//! | `handle` | opaque handles, which are looked up and never followed |
//! | `memory` | device addresses the host cannot touch, the bytes behind them, pinned memory |
//! | `stream`, `task`, `event` | queues with a thread each, and what they work off |
//! | `model`, `dataset`, `execute` | offline models, their inputs and outputs, running them |
//! | `config`, `script`, `names` | `CANN_SIM_*` variables, failures on order |
//! | `error`, `log`, `plog` | codes and texts, the call log, the toolkit's own log |
//!
//! | Variable | Meaning | Without it |
//! | --- | --- | --- |
//! | `CANN_SIM_SOC` | the device's name | `Ascend910B3` |
//! | `CANN_SIM_CANN` | the runtime's version | that of the toolkit the library lies in, else `9.0.0` |
//! | `CANN_SIM_DEVICES`, `CANN_SIM_HBM_BYTES` | devices, and the memory of each | 1, 8 GiB |
//! | `CANN_SIM_SEED`, `CANN_SIM_DELAY_US` | random delays before tasks, and the longest | 0, 20 |
//! | `CANN_SIM_EXECUTE` | `noop`: models run without computing, outputs are zero | `interpret` |
//! | `CANN_SIM_FAIL` | failures on order: `aclrtMalloc:3=207001,aclmdlExecuteAsync:2=async:507015` | none |
//! | `CANN_SIM_LOG` | a file to which every call adds a line | none |
//!
//! They are read by `aclInit`. Where the real library is lenient and a program could come to depend
//! on it, this one refuses. What it deliberately does not do: collective communication, dynamic
//! shapes, queues, capture of streams.

pub mod abi;

mod call;
mod config;
mod context;
mod dataset;
mod error;
mod event;
mod execute;
mod handle;
mod log;
mod memory;
mod model;
mod names;
mod plog;
mod script;
mod state;
mod stream;
mod task;
mod version;

pub use names::FUNCTIONS;
