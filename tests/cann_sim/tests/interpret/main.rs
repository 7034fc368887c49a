//! Operators of the simulated device against their definitions, computed in f64.

mod attention;
mod moves;
mod numbers;
mod places;
mod support;
