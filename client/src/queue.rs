//! The work queue of the reconcilers (upstream: `client-go/util/workqueue`).
//!
//! Its promises: a key that is added while it waits is worked on once; a key that is added while it is worked on is worked on once more
//! afterwards, never at the same time; a key can be added for later, and the earliest of several times counts; a key that failed comes
//! back after 5 ms, 10 ms, 20 ms and so on up to 1,000 s until [`WorkQueue::forget`].
//! What it holds is bounded by the number of keys, that is of objects. There is no overall rate limit besides the per-key one: upstream's
//! (10 a second, burst 100) only ever slowed down mass failures, where the per-key backoff already does that.

use crate::metrics::{Buckets, Observed};
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The first delay after a failure.
pub const BASE_DELAY: Duration = Duration::from_millis(5);
/// The longest delay after a failure.
pub const MAX_DELAY: Duration = Duration::from_secs(1000);

/// Upper bounds of how long keys wait and are worked on, in seconds: 10 ns to 1,000 s (upstream's).
const DURATIONS: Buckets = Buckets::Exponential { first: 1e-8, factor: 10.0, count: 12 };

/// How long keys have waited and were worked on, in seconds.
#[derive(Clone, Debug)]
pub struct Durations {
    /// From when a key was to be worked on until a worker took it.
    pub waited: Observed,
    /// From then until the work had ended.
    pub worked: Observed,
    /// What is being worked on: for how long, all together.
    pub unfinished: f64,
    /// And the longest.
    pub longest: f64,
}

/// Counters, as upstream's `workqueue_*` metrics have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueMetrics {
    /// Keys waiting to be worked on now.
    pub depth: usize,
    /// Keys waiting for their time.
    pub delayed: usize,
    /// Keys added so far.
    pub adds: u64,
    /// Keys added back after a failure so far.
    pub retries: u64,
}

/// See the module's description. Shared behind an `Arc`; the lock is never held across an await.
pub struct WorkQueue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    /// In the order in which they are handed out; each also in `dirty`.
    ready: VecDeque<K>,
    /// To be worked on, now or after the current work on them, and since when.
    dirty: HashMap<K, Instant>,
    /// Being worked on, and since when.
    processing: HashMap<K, Instant>,
    waited: Observed,
    worked: Observed,
    /// Times at which keys become ready. An entry counts only while `due` has the same time for its key.
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    timer_keys: HashMap<u64, K>,
    due: HashMap<K, (Instant, u64)>,
    next_timer: u64,
    failures: HashMap<K, u32>,
    adds: u64,
    retries: u64,
    closed: bool,
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashMap::new(),
            waited: Observed::new(DURATIONS),
            worked: Observed::new(DURATIONS),
            timers: BinaryHeap::new(),
            timer_keys: HashMap::new(),
            due: HashMap::new(),
            next_timer: 0,
            failures: HashMap::new(),
            adds: 0,
            retries: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), wake: Notify::new() }
    }

    /// To be worked on as soon as a worker is free.
    pub fn add(&self, key: K) {
        let mut state = self.state.lock();
        if state.add(key) {
            drop(state);
            self.wake.notify_one();
        }
    }

    /// To be worked on after `delay`; an earlier time that is already set for the key stays.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.state.lock();
        if state.add_at(key, Instant::now() + delay) {
            drop(state);
            self.wake.notify_one();
        }
    }

    /// To be worked on again after a failure, later with every failure in a row.
    pub fn add_rate_limited(&self, key: K) {
        let delay = {
            let mut state = self.state.lock();
            state.retries += 1;
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = backoff(*failures);
            *failures = failures.saturating_add(1);
            delay
        };
        self.add_after(key, delay);
    }

    /// The key's failures are over (or given up on): its next failure starts at 5 ms again.
    pub fn forget(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }

    /// How often the key has failed in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The next key, as soon as there is one; `None` once the queue is closed. [`WorkQueue::done`] has to follow.
    pub async fn get(&self) -> Option<K> {
        loop {
            let notified = self.wake.notified();
            let next = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                state.fire_timers(now);
                if let Some(key) = state.ready.pop_front() {
                    if let Some(since) = state.dirty.remove(&key) {
                        state.waited.observe(now.duration_since(since).as_secs_f64());
                    }
                    state.processing.insert(key.clone(), now);
                    // Another worker may be asleep while there is more to do.
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(key);
                }
                state.timers.peek().map(|Reverse((at, _))| *at)
            };
            match next {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = notified => {}
                },
                None => notified.await,
            }
        }
    }

    /// The work on a key that [`WorkQueue::get`] gave has ended.
    pub fn done(&self, key: &K) {
        let mut state = self.state.lock();
        if let Some(since) = state.processing.remove(key) {
            state.worked.observe(since.elapsed().as_secs_f64());
        }
        if state.dirty.contains_key(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Ends every [`WorkQueue::get`] with `None`, now and later.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// The counters.
    pub fn metrics(&self) -> QueueMetrics {
        let state = self.state.lock();
        QueueMetrics { depth: state.ready.len(), delayed: state.due.len(), adds: state.adds, retries: state.retries }
    }

    /// How long it took and takes.
    pub fn durations(&self) -> Durations {
        let state = self.state.lock();
        let running = || state.processing.values().map(|since| since.elapsed().as_secs_f64());
        Durations {
            waited: state.waited.clone(),
            worked: state.worked.clone(),
            unfinished: running().sum(),
            longest: running().fold(0.0, f64::max),
        }
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Whether a worker has to be woken.
    fn add(&mut self, key: K) -> bool {
        if self.closed || self.dirty.contains_key(&key) {
            return false;
        }
        self.dirty.insert(key.clone(), Instant::now());
        self.adds += 1;
        if self.processing.contains_key(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    /// Whether the earliest time changed, so that a sleeping worker has to look again.
    fn add_at(&mut self, key: K, at: Instant) -> bool {
        if self.closed || self.due.get(&key).is_some_and(|(earlier, _)| *earlier <= at) {
            return false;
        }
        let id = self.next_timer;
        self.next_timer += 1;
        if let Some((_, replaced)) = self.due.insert(key.clone(), (at, id)) {
            self.timer_keys.remove(&replaced);
        }
        self.timer_keys.insert(id, key);
        self.timers.push(Reverse((at, id)));
        self.timers.peek().is_some_and(|Reverse((_, first))| *first == id)
    }

    fn fire_timers(&mut self, now: Instant) {
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            // A timer that an earlier one replaced has no key any more.
            if let Some(key) = self.timer_keys.remove(&id) {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }
}

/// The delay after that many failures before this one.
fn backoff(failures: u32) -> Duration {
    BASE_DELAY.checked_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).map_or(MAX_DELAY, |delay| delay.min(MAX_DELAY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn backoff_doubles_from_5_ms_to_1000_s() {
        for (failures, ms) in [(0, 5), (1, 10), (2, 20), (10, 5_120), (17, 655_360), (18, 1_000_000), (40, 1_000_000)] {
            assert_eq!(backoff(failures), Duration::from_millis(ms), "{failures} failures");
        }
    }

    #[tokio::test]
    async fn a_key_waits_once_and_is_never_worked_on_twice_at_a_time() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.get().await, Some("b"));
        assert_eq!(queue.metrics().depth, 0, "a is being worked on");
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
        queue.done(&"b");
        assert_eq!(queue.metrics(), QueueMetrics { depth: 0, delayed: 0, adds: 3, retries: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_of_several_times_counts_and_only_once() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("b", Duration::from_secs(20));
        assert_eq!(queue.get().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 3);
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("b"));
        assert_eq!(start.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_delay_wakes_a_worker_that_sleeps_for_a_longer_one() {
        let queue = Arc::new(WorkQueue::new());
        queue.add_after("late", Duration::from_secs(60));
        let start = Instant::now();
        let worker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.get().await }
        });
        tokio::task::yield_now().await;
        queue.add_after("early", Duration::from_secs(1));
        assert_eq!(worker.await.unwrap(), Some("early"));
        assert_eq!(start.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_until_forgotten() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        for total_ms in [5, 15, 35] {
            queue.add_rate_limited("a");
            assert_eq!(queue.get().await, Some("a"));
            queue.done(&"a");
            assert_eq!(start.elapsed().as_millis(), total_ms);
        }
        assert_eq!(queue.failures(&"a"), 3);
        queue.forget(&"a");
        queue.add_rate_limited("a");
        assert_eq!(queue.get().await, Some("a"));
        assert_eq!(start.elapsed().as_millis(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_and_work_are_timed() {
        let queue = WorkQueue::new();
        queue.add("a");
        tokio::time::advance(Duration::from_secs(2)).await;
        queue.get().await;
        tokio::time::advance(Duration::from_secs(30)).await;
        let shown = |durations: &Durations| {
            let mut text = String::new();
            durations.waited.write(&mut text, "waited", &[]);
            durations.worked.write(&mut text, "worked", &[]);
            text.lines().filter(|line| line.contains("_sum")).map(str::to_owned).collect::<Vec<_>>()
        };
        let durations = queue.durations();
        assert_eq!((durations.unfinished, durations.longest), (30.0, 30.0));
        assert_eq!(shown(&durations), ["waited_sum 2", "worked_sum 0"]);
        queue.done(&"a");
        let durations = queue.durations();
        assert_eq!((durations.unfinished, shown(&durations)), (0.0, vec!["waited_sum 2".to_owned(), "worked_sum 30".to_owned()]));
    }

    #[tokio::test]
    async fn closing_ends_every_worker() {
        let queue = Arc::new(WorkQueue::<u32>::new());
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for worker in workers {
            assert_eq!(worker.await.unwrap(), None);
        }
        assert_eq!(queue.get().await, None);
    }
}
