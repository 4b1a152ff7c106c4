//! Answers whoever asks over the socket.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::api::About;
use super::planner::Orders;
use super::routes::{App, refusals, router};
use crate::supervise::command::Handle;

/// So many clients at once; the others wait.
const CLIENTS: usize = 128;
/// And so many of them that wait for something to happen, or follow what is said.
pub(super) const LASTING: usize = 96;
/// So much of what was said may wait to be read, in KiB.
const MEMORY: usize = 128 << 10;
/// So long a request may take to arrive.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// So long ganger waits at its end for those who still read their answers, and so long
/// for the next piece that one of them takes.
const FAREWELL: Duration = Duration::from_secs(2);
const NEXT_PIECE: Duration = Duration::from_millis(100);
/// So long it may be.
pub(super) const LONGEST: usize = 64 << 10;

/// Who is being answered.
#[derive(Clone, Debug)]
pub struct Answers {
    /// How many.
    open: watch::Sender<usize>,
    /// How many pieces of lasting answers they have taken.
    taken: Arc<AtomicU64>,
}

impl Answers {
    /// Waits until all that was asked is answered, as long as somebody still reads: who
    /// doesn't, keeps nobody from leaving.
    pub async fn finish(&self) {
        let until = Instant::now() + FAREWELL;
        let mut open = self.open.subscribe();
        loop {
            let before = self.taken.load(Ordering::Relaxed);
            let all = timeout(NEXT_PIECE, open.wait_for(|open| *open == 0)).await;
            let stuck = self.taken.load(Ordering::Relaxed) == before;
            if all.is_ok() || stuck || Instant::now() > until {
                return;
            }
        }
    }

    /// Somebody has room for the next piece of a lasting answer.
    pub(super) fn note_taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection, which counts once it has asked something.
struct Answering {
    answers: Answers,
    asked: OnceLock<()>,
}

impl Answering {
    fn begin(&self) {
        self.asked.get_or_init(|| self.answers.open.send_modify(|open| *open += 1));
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.asked.get().is_some() {
            self.answers.open.send_modify(|open| *open -= 1);
        }
    }
}

/// Answers on `listener` for ever, about the app in the folder `root`; needs a tokio
/// runtime.
pub fn start(
    listener: std::os::unix::net::UnixListener,
    engine: Handle,
    orders: Orders,
    root: &std::path::Path,
) -> io::Result<Answers> {
    let listener = UnixListener::from_std(listener)?;
    let about = About {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        root: root.display().to_string(),
    };
    let answers = Answers { open: watch::Sender::new(0), taken: Arc::default() };
    let lasting = Arc::new(Semaphore::new(LASTING));
    let memory = Arc::new(Semaphore::new(MEMORY));
    let app =
        App { engine, orders, about: Arc::new(about), lasting, memory, answers: answers.clone() };
    tokio::spawn(accept(listener, app, answers.clone()));
    Ok(answers)
}

async fn accept(listener: UnixListener, app: App, answers: Answers) {
    let router = router(app);
    let room = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is left for it: others have to leave first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let router = if may_ask(&stream) { router.clone() } else { refusals() };
        let answering = Answering { answers: answers.clone(), asked: OnceLock::new() };
        tokio::spawn(async move {
            let router = TowerToHyperService::new(router);
            let answer = service_fn(|request| {
                answering.begin();
                router.call(request)
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(LONGEST)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            // A client that breaks off is no news.
            let _ = connection.await;
            drop(permit);
        });
    }
}

/// This user and root may, whatever the modes of files say.
fn may_ask(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == geteuid().as_raw() || peer.uid() == 0)
}
