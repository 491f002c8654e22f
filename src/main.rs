//! The `natgate` binary; everything lives in the library.

fn main() -> std::process::ExitCode {
    natgate::cli::main()
}
