//! The thread on which clients are answered: however much they ask, the engine has a thread
//! of its own.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The number of threads beside it for slow work, such as reading files and `/proc`:
/// one for the planner, and two for clients, which leaves the machine to the app.
const WORKERS: usize = 3;

/// A thread for clients, until this is dropped.
#[derive(Debug)]
pub struct Thread {
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl Thread {
    /// Starts it.
    pub fn start() -> io::Result<Self> {
        let mut builder = Builder::new_current_thread();
        builder.enable_io().enable_time();
        let runtime =
            builder.max_blocking_threads(WORKERS).thread_name("control-worker").build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name("control".into()).spawn(move || {
            let _: Result<(), _> = runtime.block_on(ended);
            // Tasks that still run are not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, _end: end })
    }

    /// Runs a future on it.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }
}
