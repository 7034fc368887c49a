//! `cann_sim install DIR`, and `atc` when it is called by that name.

fn main() -> std::process::ExitCode {
    ascendcl::atc::main(std::env::args_os())
}
