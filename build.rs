//! Builds the C shim over DPDK and its bindings; without the feature `dpdk` there is nothing to build.
//!
//! The flags come from `pkg-config` itself, not from the crate of that name alone: the crate drops
//! `-include rte_config.h` and `-march=…`, without which DPDK's headers do not compile. bindgen reads `shim.h` only,
//! which includes no DPDK header, so that the installed libclang does not matter. Linking is dynamic: drivers are
//! plugins that DPDK loads at run time.

fn main() {
    #[cfg(feature = "dpdk")]
    if let Err(message) = shim::build() {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
        std::process::exit(1);
    }
}

#[cfg(feature = "dpdk")]
mod shim {
    use std::env;
    use std::path::PathBuf;
    use std::process::Command;

    const HEADER: &str = "dpdk/shim.h";
    const SOURCE: &str = "dpdk/shim.c";
    const OLDEST: &str = "22.11";
    const INSTALL: &str = "apt-get install --no-install-recommends libdpdk-dev dpdk-dev pkg-config clang libclang-dev";

    /// Compiles the shim, writes its bindings to `$OUT_DIR/shim.rs` and tells cargo what to link.
    pub fn build() -> Result<(), String> {
        println!("cargo::rerun-if-changed={HEADER}");
        println!("cargo::rerun-if-changed={SOURCE}");
        println!("cargo::rerun-if-changed=build.rs");
        println!("cargo::rerun-if-env-changed=PKG_CONFIG");

        let flags = dpdk_flags()?;
        let mut compiler = cc::Build::new();
        compiler
            .file(SOURCE)
            .include("dpdk")
            .warnings(true)
            .extra_warnings(true)
            .opt_level(2);
        for flag in &flags {
            compiler.flag(flag);
        }
        compiler.try_compile("natgate_shim").map_err(|error| {
            format!("{SOURCE} does not compile against the installed DPDK: {error}")
        })?;
        // After the shim, so that the linker knows what is needed when it comes to these.
        pkg_config::Config::new()
            .atleast_version(OLDEST)
            .env_metadata(true)
            .probe("libdpdk")
            .map_err(|_| missing())?;
        // The bonding driver is a plugin with functions of its own, which pkg-config does not count among DPDK's libraries.
        println!("cargo::rustc-link-lib=rte_net_bond");
        bindings()
    }

    /// What `pkg-config --cflags libdpdk` says, word by word.
    fn dpdk_flags() -> Result<Vec<String>, String> {
        let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
        let output = Command::new(program)
            .args(["--cflags", &format!("libdpdk >= {OLDEST}")])
            .output()
            .map_err(|_| missing())?;
        if !output.status.success() {
            return Err(missing());
        }
        Ok(String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .map(String::from)
            .collect())
    }

    fn missing() -> String {
        format!(
            "natgate needs DPDK {OLDEST} or newer and found none through pkg-config.\n\
             On Debian and Ubuntu: {INSTALL}\n\
             Without devices (tests of the translation itself): cargo build --no-default-features"
        )
    }

    fn bindings() -> Result<(), String> {
        let out = env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?;
        let path = PathBuf::from(out).join("shim.rs");
        bindgen::Builder::default()
            .header(HEADER)
            .allowlist_function("ng_.*")
            .allowlist_type("ng_.*")
            .allowlist_var("NG_.*")
            .rust_edition(bindgen::RustEdition::Edition2024)
            .use_core()
            .derive_debug(false)
            .derive_default(true)
            .layout_tests(true)
            .generate()
            .map_err(|error| {
                format!("bindgen over {HEADER} failed: {error}\nIt needs libclang: {INSTALL}")
            })?
            .write_to_file(&path)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}
