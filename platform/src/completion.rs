//! Work that is finished even if its caller is gone.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tracing::Instrument as _;

/// A future that runs in the task that polls it. If that task drops it unfinished, a task of its own finishes it, so that
/// the usual case needs none. That task works in the span in which this is dropped; `Instrumented` drops its future in the
/// same span in which it polls it.
///
/// If the work panics, it is over.
#[must_use = "it begins when it is polled or dropped"]
pub struct RunToCompletion<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> RunToCompletion<T> {
    /// Must be dropped inside a Tokio runtime, or `work` is given up.
    pub fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl<T: Send + 'static> Future for RunToCompletion<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Taken out, so that work that panics is not polled again.
        let Some(mut work) = self.0.take() else { return Poll::Pending };
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for RunToCompletion<T> {
    fn drop(&mut self) {
        if let Some((work, runtime)) = self.0.take().zip(Handle::try_current().ok()) {
            drop(runtime.spawn(work.in_current_span()));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_is_finished_after_its_caller_has_dropped_it() {
        let (go, gone) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        let mut work = RunToCompletion::new(async move {
            let _ = gone.await;
            done.send("finished").unwrap();
        });
        assert!(poll_once(&mut work).is_pending());
        drop(work);
        go.send(()).unwrap();
        assert_eq!(finished.await, Ok("finished"));
    }

    #[tokio::test]
    async fn work_that_panicked_is_over() {
        let mut work = RunToCompletion::new(async { panic!("once") });
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poll_once(&mut work)));
        assert!(panicked.is_err());
        assert!(poll_once::<()>(&mut work).is_pending(), "it is not polled again");
    }

    fn poll_once<T: Send + 'static>(work: &mut RunToCompletion<T>) -> Poll<T> {
        Pin::new(work).poll(&mut Context::from_waker(std::task::Waker::noop()))
    }
}
