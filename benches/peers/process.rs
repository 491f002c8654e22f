//! Contenders as processes that end with their turn.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a contender may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// An interrupt ends the turn with an error, so that everything is put back on the way out.
pub fn end_on_interrupt() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        signal_hook::flag::register(signal as i32, flag.clone())?;
    }
    Ok(())
}

/// Sleeps, unless interrupted.
pub fn sleep(time: Duration) -> Result<()> {
    std::thread::sleep(time);
    match INTERRUPTED.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => bail!("interrupted"),
        _ => Ok(()),
    }
}

/// A running contender; killed if its turn ends early.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it with its output in a file.
    pub fn start(command: &mut Command, log: PathBuf) -> Result<Running> {
        let file = File::create(&log)?;
        let child = command
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Running { child, log })
    }

    /// Everything it has said.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for something to become true.
    pub fn wait_for(&mut self, mut what: impl FnMut(&str) -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            let output = self.output();
            if what(&output) {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                bail!("it did not come up ({ended:?}); it said:\n{output}");
            }
            sleep(Duration::from_millis(50))?;
        }
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            sleep(Duration::from_millis(50))?;
        }
    }

    /// Asks it to end and waits until it has.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)?;
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > PATIENCE {
                bail!("it does not end; it said:\n{}", self.output());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
