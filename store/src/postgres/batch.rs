//! Several requests in one statement, when more arrive than statements are under way: one commit, and one wait for the
//! standbys, serves all of them. A request that finds a free statement does not wait for others.
//!
//! A statement for several is tried once. Unless it succeeds, each request goes its own way, as if it had been alone:
//! every statement can be repeated with the same values.

use std::collections::HashSet;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::connection::Connector;

/// How many statements of one kind are under way at most; further requests wait, and then share one.
const UNDER_WAY: usize = 4;
/// The most requests in one statement.
const MAX_REQUESTS: usize = 64;
/// How many requests wait at most; a service admits fewer connections.
const QUEUE_LEN: usize = 16_384;

/// What a statement for several needs to know of each of them.
pub(super) trait Request: Send + 'static {
    /// What two requests of one statement must not have in common.
    type Key: Hash + Eq;
    /// What all requests of one statement must have in common.
    type Group: PartialEq;
    type Answer: Send;

    fn key(&self) -> Self::Key;
    fn group(&self) -> Self::Group;
}

/// Collects requests of one kind; clones share it.
#[derive(Debug)]
pub(super) struct Batches<R: Request>(mpsc::Sender<Waiting<R>>);

#[derive(Debug)]
struct Waiting<R: Request> {
    request: R,
    answer: oneshot::Sender<R::Answer>,
}

impl<R: Request> Clone for Batches<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Request> Batches<R> {
    /// Collects requests from now on. `run` returns an answer to each of its requests, or `None` if it failed.
    pub(super) fn start<F>(connector: &Connector, run: impl Fn(Vec<R>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Option<Vec<R::Answer>>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        connector.spawn(collect(receiver, run, connector.runtime()));
        Self(sender)
    }

    /// The answer to a request; `None` if the statement for it failed, and it has to be tried alone.
    pub(super) async fn ask(&self, request: R) -> Option<R::Answer> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Waiting { request, answer }).await.ok()?;
        answered.await.ok()
    }
}

async fn collect<R, F>(
    mut queue: mpsc::Receiver<Waiting<R>>,
    run: impl Fn(Vec<R>) -> F,
    runtime: tokio::runtime::Handle,
) where
    R: Request,
    F: Future<Output = Option<Vec<R::Answer>>> + Send + 'static,
{
    let statements = Arc::new(Semaphore::new(UNDER_WAY));
    let mut left_over = None;
    loop {
        // Only then the requests are collected: until a statement may begin, more arrive.
        let Ok(permit) = Arc::clone(&statements).acquire_owned().await else { return };
        let first = match left_over.take() {
            Some(waiting) => waiting,
            None => match queue.recv().await {
                Some(waiting) => waiting,
                None => return,
            },
        };
        let (batch, rest) = take(first, &mut queue);
        left_over = rest;
        let (requests, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Waiting { request, answer }| (request, answer)).unzip();
        let running = run(requests);
        runtime.spawn(async move {
            let found = running.await;
            drop(permit);
            // A dropped sender sends its request its own way.
            for (answer, found) in answers.into_iter().zip(found.into_iter().flatten()) {
                let _ = answer.send(found);
            }
        });
    }
}

/// The requests that can share a statement with the first, and the one that cannot.
fn take<R: Request>(
    first: Waiting<R>,
    queue: &mut mpsc::Receiver<Waiting<R>>,
) -> (Vec<Waiting<R>>, Option<Waiting<R>>) {
    let mut keys = HashSet::from([first.request.key()]);
    let group = first.request.group();
    let mut batch = vec![first];
    while batch.len() < MAX_REQUESTS {
        match queue.try_recv() {
            // Its caller has gone.
            Ok(waiting) if waiting.answer.is_closed() => {}
            Ok(waiting) if waiting.request.group() == group && keys.insert(waiting.request.key()) => {
                batch.push(waiting);
            }
            Ok(waiting) => return (batch, Some(waiting)),
            Err(_) => break,
        }
    }
    (batch, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number(u32, bool);

    impl Request for Number {
        type Key = u32;
        type Group = bool;
        type Answer = ();

        fn key(&self) -> u32 {
            self.0
        }

        fn group(&self) -> bool {
            self.1
        }
    }

    #[test]
    fn requests_that_differ_in_their_keys_and_agree_in_their_group_share_a_statement() {
        let (sender, mut queue) = mpsc::channel(10);
        let mut callers = Vec::new();
        let mut waiting = |request| {
            let (answer, answered) = oneshot::channel();
            callers.push(answered);
            Waiting { request, answer }
        };
        for request in [Number(1, true), Number(2, true), Number(1, true), Number(3, true), Number(4, false)] {
            assert!(sender.try_send(waiting(request)).is_ok());
        }
        let first = queue.try_recv().unwrap();
        let (batch, rest) = take(first, &mut queue);
        assert_eq!(batch.iter().map(|waiting| waiting.request.0).collect::<Vec<_>>(), [1, 2]);
        let (batch, rest) = take(rest.unwrap(), &mut queue);
        assert_eq!(batch.iter().map(|waiting| waiting.request.0).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(rest.unwrap().request.0, 4);
    }
}
