//! Offline models: the 256-byte header, the partitions, and what a loaded model is.
