//! Work that is given up at an instant.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep_until};

pin_project! {
    /// The result of its work; `None` if the work is not done at the deadline.
    ///
    /// As `tokio::time::timeout_at`, but a timer is set only for work that has to wait.
    #[must_use = "it does nothing until it is polled"]
    pub struct Before<F> {
        #[pin]
        work: F,
        deadline: Instant,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

/// `work`, given up at `deadline`. Must be polled inside a Tokio runtime.
pub fn before<F: Future>(deadline: Instant, work: F) -> Before<F> {
    Before { work, deadline, timer: None }
}

impl<F: Future> Future for Before<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.work.poll(context) {
            return Poll::Ready(Some(result));
        }
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until((*this.deadline).into())));
        timer.as_mut().poll(context).map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_ends_before_its_deadline_or_not_at_all() {
        let later = || Instant::now() + Duration::from_secs(60);
        assert_eq!(before(Instant::now(), ready(1)).await, Some(1), "what is ready needs no time");
        assert_eq!(before(Instant::now(), pending::<()>()).await, None);
        let (sender, receiver) = oneshot::channel();
        let (_, result) = tokio::join!(async { sender.send(2) }, before(later(), receiver));
        assert_eq!(result, Some(Ok(2)));
    }
}
