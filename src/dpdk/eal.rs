//! DPDK's environment: initialised once per process, undone when the last thing that needs it is gone.
//!
//! DPDK is told to run on no core of its own: workers are ordinary threads that register themselves
//! ([`Eal::register_thread`]), because a registered thread gets a buffer cache and an unregistered one does not. EAL
//! pins the thread that initialises it; the pinning is undone before [`Eal::init`] returns.

use std::ffi::CString;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::error::{Error, attempt, refused};
use super::ffi;

/// How to start DPDK. [`EalOptions::new`] gives a configuration that runs anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EalOptions {
    /// Distinguishes processes on one machine; two with the same prefix exclude each other.
    pub file_prefix: String,
    /// Memory for packet buffers in MiB. Without huge pages this is all there is; with them it is reserved at start
    /// and grows. 0 leaves it to DPDK.
    pub memory_mb: u32,
    /// Use huge pages: anonymous ones, which need no mount and leave nothing behind.
    pub huge: bool,
    /// CPUs for DPDK's own helper threads (link interrupts): the management CPUs. Empty: wherever this thread may run.
    pub control_cpus: Vec<usize>,
    /// Device arguments of PCI devices. Empty: the PCI bus is not looked at.
    pub pci: Vec<String>,
    /// Device arguments of virtual devices to create at start; ports create theirs themselves.
    pub vdevs: Vec<String>,
    /// Further EAL arguments, handed on unread.
    pub extra: Vec<String>,
}

impl EalOptions {
    /// No huge pages, 256 MiB, no PCI.
    pub fn new(file_prefix: &str) -> EalOptions {
        EalOptions {
            file_prefix: file_prefix.to_string(),
            memory_mb: 256,
            huge: false,
            control_cpus: Vec::new(),
            pci: Vec::new(),
            vdevs: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// The EAL's arguments, program name first.
    fn arguments(&self, cpus: &[usize]) -> Vec<String> {
        let cpus = if self.control_cpus.is_empty() {
            cpus
        } else {
            &self.control_cpus
        };
        let cpus = cpus
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(",");
        // One lcore, floating over a set of CPUs: helper threads then stay off the others.
        let mut arguments: Vec<String> = vec![
            "natgate".into(),
            format!("--lcores=0@({cpus})"),
            format!("--file-prefix={}", self.file_prefix),
            "--no-telemetry".into(),
        ];
        if self.memory_mb > 0 {
            arguments.extend(["-m".into(), self.memory_mb.to_string()]);
        }
        // DPDK refuses --in-memory together with --no-huge.
        match self.huge {
            false => arguments.extend(["--no-huge".into(), "--no-shconf".into()]),
            true => arguments.push("--in-memory".into()),
        }
        if self.pci.is_empty() {
            arguments.push("--no-pci".into());
        }
        for device in &self.pci {
            arguments.extend(["-a".into(), device.clone()]);
        }
        for device in &self.vdevs {
            arguments.push(format!("--vdev={device}"));
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }
}

/// The initialised environment. Clones share it; ports and pools hold one each, so it outlives them.
#[derive(Clone, Debug)]
pub struct Eal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    huge: bool,
}

static ATTEMPTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK. Possible once per process.
    ///
    /// # Errors
    /// [`Error::AlreadyInitialised`] the second time; [`Error::Dpdk`] with DPDK's own reason otherwise.
    pub fn init(options: &EalOptions) -> Result<Eal, Error> {
        if ATTEMPTED.swap(true, Ordering::SeqCst) {
            return Err(Error::AlreadyInitialised);
        }
        let before = sched_getaffinity(Pid::from_raw(0)).map_err(|error| {
            Error::Device(format!("cannot read this thread's CPU set: {error}"))
        })?;
        let allowed: Vec<usize> = (0..CpuSet::count())
            .filter(|&cpu| before.is_set(cpu).unwrap_or(false))
            .collect();
        let mut arguments = Vec::new();
        for argument in options.arguments(&allowed) {
            let text = CString::new(argument)
                .map_err(|_| Error::Device("an EAL argument contains a NUL byte".into()))?;
            // DPDK may keep pointers to its arguments, so they are never freed.
            arguments.push(text.into_raw());
        }
        let count = arguments.len() as i32;
        arguments.push(std::ptr::null_mut());
        let arguments = Vec::leak(arguments);

        attempt(
            || "cannot redirect DPDK's log".into(),
            // SAFETY: takes no arguments; called once, before anything logs.
            || unsafe { ffi::ng_log_capture() },
        )?;
        let started = attempt(
            || {
                format!(
                    "cannot start DPDK with {:?}",
                    options.arguments(&allowed)[1..].join(" ")
                )
            },
            // SAFETY: `count` NUL-terminated strings and a final null pointer, leaked above, so valid forever; the
            // flag above makes this the only call of the process.
            || unsafe { ffi::ng_eal_init(count, arguments.as_mut_ptr()) },
        );
        // Threads started from here on inherit the CPU set.
        let restored = sched_setaffinity(Pid::from_raw(0), &before);
        started?;
        // DPDK makes a directory although it keeps nothing in it in these modes. Best gone at once: then a killed process
        // leaves nothing behind. One that is not empty is not ours to remove.
        let _ = std::fs::remove_dir(runtime_dir(&options.file_prefix));
        let eal = Eal {
            inner: Arc::new(Inner { huge: options.huge }),
        };
        restored.map_err(|error| {
            Error::Device(format!("cannot restore this thread's CPU set: {error}"))
        })?;
        Ok(eal)
    }

    /// Makes the calling thread known to DPDK until the returned guard is dropped on the same thread. Every thread that
    /// receives, sends or frees many packets wants this: it brings a buffer cache of its own.
    ///
    /// # Errors
    /// [`Error::Dpdk`] when 128 threads are registered already.
    pub fn register_thread(&self) -> Result<ThreadRegistration, Error> {
        // SAFETY: the environment is initialised, because `self` exists.
        let code = unsafe { ffi::ng_thread_register() };
        if code < 0 {
            return Err(refused(
                "cannot register a worker thread with DPDK".into(),
                code,
            ));
        }
        Ok(ThreadRegistration {
            _eal: self.clone(),
            _this_thread: PhantomData,
        })
    }

    /// Whether it was started with huge pages.
    pub fn huge(&self) -> bool {
        self.inner.huge
    }

    /// Ports DPDK knows, opened or not.
    pub fn port_count(&self) -> usize {
        // SAFETY: the environment is initialised, because `self` exists.
        usize::try_from(unsafe { ffi::ng_port_count() }).unwrap_or(0)
    }

    /// DPDK's version, for example `DPDK 22.11.11`.
    pub fn version() -> String {
        // SAFETY: the shim returns a static NUL-terminated string.
        unsafe { std::ffi::CStr::from_ptr(ffi::ng_version()) }
            .to_string_lossy()
            .into_owned()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the last owner is gone, so no port, pool or registration is left that could still call DPDK.
        unsafe { ffi::ng_eal_cleanup() };
    }
}

/// Where DPDK makes a directory for a process, even when it then keeps nothing in it.
fn runtime_dir(prefix: &str) -> PathBuf {
    let base = if nix::unistd::getuid().is_root() {
        PathBuf::from("/var/run")
    } else {
        std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
    };
    base.join("dpdk").join(prefix)
}

/// The calling thread is known to DPDK while this lives. Stays on its thread.
#[derive(Debug)]
pub struct ThreadRegistration {
    _eal: Eal,
    _this_thread: PhantomData<*const ()>,
}

impl Drop for ThreadRegistration {
    fn drop(&mut self) {
        // SAFETY: this thread registered itself, and the type cannot leave it.
        unsafe { ffi::ng_thread_unregister() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_fit_the_memory_and_the_devices() {
        let mut options = EalOptions::new("test");
        let plain = options.arguments(&[0, 1]).join(" ");
        assert!(
            plain.contains("--no-huge --no-shconf") && plain.contains("--no-pci"),
            "{plain}"
        );
        assert!(
            plain.contains("--lcores=0@(0,1)") && !plain.contains("--in-memory"),
            "{plain}"
        );
        options.huge = true;
        options.control_cpus = vec![2];
        options.pci = vec!["0000:3b:00.0".into()];
        let card = options.arguments(&[0, 1]).join(" ");
        assert!(
            card.contains("--in-memory") && card.contains("-a 0000:3b:00.0"),
            "{card}"
        );
        assert!(
            card.contains("--lcores=0@(2)") && !card.contains("--no-pci"),
            "{card}"
        );
    }
}
