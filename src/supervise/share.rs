//! Work that is done once for all clients that want its result.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// Makes a value for all clients that ask for it before the making begins. Its cost does not
/// depend on their number, and each gets a value that was made after it asked.
#[derive(Debug)]
pub struct Shared<T>(mpsc::UnboundedSender<oneshot::Sender<Arc<T>>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + Sync + 'static> Shared<T> {
    /// `make` makes the value, or fails for good; after each there is a pause of `rest`. Needs
    /// a tokio runtime.
    #[must_use]
    pub fn new<F>(
        mut make: impl FnMut() -> F + Send + 'static,
        rest: impl Fn(&T) -> Duration + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Option<T>> + Send,
    {
        let (sender, mut asking) = mpsc::unbounded_channel::<oneshot::Sender<Arc<T>>>();
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            while asking.recv_many(&mut waiting, usize::MAX).await > 0 {
                let Some(value) = make().await.map(Arc::new) else { return };
                for one in waiting.drain(..) {
                    // The client may have left.
                    let _ = one.send(Arc::clone(&value));
                }
                let rest = rest(&value);
                drop(value);
                if rest > Duration::ZERO {
                    sleep(rest).await;
                }
            }
        });
        Self(sender)
    }

    /// The value; none if it can't be made any more.
    pub async fn get(&self) -> Option<Arc<T>> {
        let (answer, value) = oneshot::channel();
        self.0.send(answer).ok()?;
        value.await.ok()
    }
}
