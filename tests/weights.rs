//! Weights from the outside: what the reference libraries wrote is read back, and what no library
//! would write is refused with a message that names the place.
//!
//! | Part | What it holds |
//! | --- | --- |
//! | `golden` | files and blocks made by `golden/make_weights.py` |
//! | `safetensors` | one table of damaged files |
//! | `gguf` | the same for GGUF |
//! | `folders` | folders, shards, links, pipes, pickles |
//! | `damage` | cuts at every length and seeded bit flips: no panic, no endless loop |
//! | `files` | builders of valid and invalid files |

#[path = "weights/damage.rs"]
mod damage;
#[path = "weights/files.rs"]
mod files;
#[path = "weights/folders.rs"]
mod folders;
#[path = "weights/gguf.rs"]
mod gguf;
#[path = "weights/golden.rs"]
mod golden;
#[path = "weights/safetensors.rs"]
mod safetensors;
