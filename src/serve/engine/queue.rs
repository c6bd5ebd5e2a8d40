//! Generations that wait for a slot and for room in the cache: first come, first served, with two exceptions.
//!
//! A generation that fits may overtake one that does not fit yet: a small question need not wait until there is room
//! for a long answer. And HTTP requests with several choices are treated fairly: the request (`group`) with the fewest
//! generations running comes first, and none ever holds every slot or all of the cache. How often a generation may be
//! overtaken is bounded, so that it waits no longer than those running then take.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::native::PAGE;
use crate::rollout::GenerateRequest;

/// How often a generation may be overtaken.
const MAX_OVERTAKES: usize = 32;

/// What one group may hold of `all`: seven eighths, never all, and one in any case.
fn share(all: usize) -> usize {
    (all - all / 8).min(all.saturating_sub(1)).max(1)
}

/// A generation's place among those that a model takes, running or waiting. It is given back when it is dropped: when
/// the generation is done, read or not.
#[derive(Debug)]
pub struct QueuePermit(Arc<AtomicUsize>);

impl QueuePermit {
    /// Takes `count` places among `most`, of which `taken` counts those in use.
    ///
    /// # Errors
    /// The number of places in use, where there are not enough left.
    pub fn acquire(taken: &Arc<AtomicUsize>, count: usize, most: usize) -> Result<Vec<Self>, usize> {
        let take = |now: usize| (now + count <= most).then_some(now + count);
        taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)?;
        Ok((0..count).map(|_| Self(Arc::clone(taken))).collect())
    }
}

impl Drop for QueuePermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct Waiting {
    request: GenerateRequest,
    /// The HTTP request that it belongs to.
    group: u64,
    tokens: usize,
    overtaken: usize,
}

/// What a running generation holds.
#[derive(Debug, Clone, Copy)]
struct Usage {
    group: u64,
    tokens: usize,
}

/// The queue, and what the running generations hold.
#[derive(Debug)]
pub struct FairQueue {
    slots: usize,
    /// Tokens that all running generations may hold together.
    capacity: usize,
    waiting: VecDeque<Waiting>,
    /// Running generations by id.
    running: HashMap<u64, Usage>,
}

impl FairQueue {
    /// An empty queue for `slots` running generations that share a cache of `capacity` tokens.
    pub fn new(slots: usize, capacity: usize) -> Self {
        Self { slots, capacity, waiting: VecDeque::new(), running: HashMap::new() }
    }

    /// Adds a generation of `group`; gives back one that is too large for the whole cache.
    pub fn push(&mut self, request: GenerateRequest, group: u64) -> Option<GenerateRequest> {
        let tokens = (request.prompt.len() + request.max_new_tokens).next_multiple_of(PAGE);
        if tokens > self.capacity {
            return Some(request);
        }
        self.waiting.push_back(Waiting { request, group, tokens, overtaken: 0 });
        None
    }

    /// The next generation that can run; it counts as running until [`FairQueue::remove`].
    pub fn pop(&mut self) -> Option<GenerateRequest> {
        if self.running.len() >= self.slots {
            return None;
        }
        let free = self.capacity - self.running.values().map(|held| held.tokens).sum::<usize>();
        let mut next: Option<(usize, usize)> = None;
        for (place, waiting) in self.waiting.iter().enumerate() {
            // A group that has its share waits for itself alone: it is not overtaken.
            let Some(held) = self.below_share(waiting) else { continue };
            if waiting.tokens <= free && next.is_none_or(|(_, fewest)| held < fewest) {
                next = Some((place, held));
            }
            // Nobody overtakes this one any more, or nobody can have fewer.
            if waiting.overtaken >= MAX_OVERTAKES || next.is_some_and(|(_, fewest)| fewest == 0) {
                break;
            }
        }
        let (next, _) = next?;
        for place in 0..next {
            let overtaken = self.below_share(&self.waiting[place]).is_some();
            self.waiting[place].overtaken += usize::from(overtaken);
        }
        let Waiting { request, group, tokens, .. } = self.waiting.remove(next)?;
        self.running.insert(request.id, Usage { group, tokens });
        Some(request)
    }

    /// How many generations of the same group run; `None` where one more would be above its share.
    fn below_share(&self, waiting: &Waiting) -> Option<usize> {
        let own = self.running.values().filter(|held| held.group == waiting.group);
        let (count, tokens) = own.fold((0, 0), |(count, tokens), held| (count + 1, tokens + held.tokens));
        let below = count < share(self.slots) && tokens + waiting.tokens <= share(self.capacity);
        (count == 0 || below).then_some(count)
    }

    /// Drops a generation that is done or no longer wanted.
    pub fn remove(&mut self, id: u64) {
        if self.running.remove(&id).is_none() {
            self.waiting.retain(|waiting| waiting.request.id != id);
        }
    }

    /// Drops every generation, waiting or running.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.running.clear();
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(queue: &mut FairQueue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).map(|request| request.id).collect()
    }

    fn request(id: u64, tokens: usize) -> GenerateRequest {
        GenerateRequest::new(id, vec![1; 8], tokens - 8)
    }

    #[test]
    fn a_small_request_passes_one_that_does_not_fit() {
        let mut queue = FairQueue::new(3, 10 * PAGE);
        for (id, pages) in [(1, 6), (2, 8), (3, 2), (4, 1), (5, 1)] {
            assert!(queue.push(request(id, pages * PAGE), id).is_none());
        }
        assert_eq!(queue.push(request(6, 10 * PAGE + 1), 6).map(|request| request.id), Some(6));
        // The fourth finds room too; then the slots are taken.
        assert_eq!(ids(&mut queue), [1, 3, 4]);
        queue.remove(1);
        // Room for the large one first comes with the end of the third.
        assert_eq!(ids(&mut queue), [5]);
        queue.remove(3);
        assert_eq!(ids(&mut queue), [2]);
        assert!(queue.is_empty());
    }

    #[test]
    fn one_group_never_holds_every_slot_and_requests_take_turns() {
        let mut queue = FairQueue::new(8, 800 * PAGE);
        let push = |queue: &mut FairQueue, ids: std::ops::Range<u64>, group: u64| {
            ids.for_each(|id| assert!(queue.push(request(id, PAGE), group).is_none()));
        };
        push(&mut queue, 0..16, 0);
        assert_eq!(ids(&mut queue), [0, 1, 2, 3, 4, 5, 6]);
        // Another finds a slot at once, and its second answer comes before the ninth of the first.
        push(&mut queue, 20..24, 20);
        assert_eq!(ids(&mut queue), [20]);
        queue.remove(3);
        assert_eq!(ids(&mut queue), [21]);
        queue.remove(4);
        push(&mut queue, 30..31, 30);
        assert_eq!(ids(&mut queue), [30]);
        // However long the others run, it is served in the end.
        for next in 100..200 {
            let running: Vec<u64> = queue.running.keys().copied().filter(|id| *id >= 16).collect();
            running.into_iter().for_each(|id| queue.remove(id));
            push(&mut queue, next..next + 1, next);
            ids(&mut queue);
        }
        assert!(!queue.waiting.iter().any(|waiting| waiting.group == 0 && waiting.overtaken > MAX_OVERTAKES));
        // Nor does one hold all of the cache.
        let mut queue = FairQueue::new(8, 16 * PAGE);
        (0..4).for_each(|id| assert!(queue.push(request(id, 6 * PAGE), 0).is_none()));
        assert_eq!(ids(&mut queue), [0, 1]);
        assert!(queue.push(request(9, 4 * PAGE), 9).is_none());
        assert_eq!(ids(&mut queue), [9]);
        assert_eq!([1, 2, 3, 16, 64].map(share), [1, 1, 2, 14, 56]);
        // A request of one answer may take all there is.
        let mut queue = FairQueue::new(1, 4 * PAGE);
        assert!(queue.push(request(1, 4 * PAGE), 1).is_none());
        assert_eq!(ids(&mut queue), [1]);
    }

    #[test]
    fn an_request_is_not_passed_for_ever() {
        let mut queue = FairQueue::new(8, 10 * PAGE);
        assert!(queue.push(request(0, PAGE), 0).is_none());
        assert_eq!(ids(&mut queue), [0]);
        assert!(queue.push(request(1, 10 * PAGE), 1).is_none());
        let mut passed = 0;
        for id in 2..200 {
            assert!(queue.push(request(id, PAGE), id).is_none());
            let taken = ids(&mut queue);
            passed += taken.len();
            taken.into_iter().for_each(|id| queue.remove(id));
        }
        assert_eq!(passed, MAX_OVERTAKES);
        queue.remove(0);
        assert_eq!(queue.pop().map(|request| request.id), Some(1));
        assert!(queue.pop().is_none());
        queue.remove(1);
        queue.remove(199);
        assert_eq!(ids(&mut queue).len(), 8);
    }
}
