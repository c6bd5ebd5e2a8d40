//! Orders that wait for a slot and for room in the cache. Who comes first is served first, with two exceptions.
//!
//! An order that fits may pass one that does not fit yet: a small question need not wait until there is room for a
//! long answer. And the answers of one request take turns with those of others: the request that has the fewest at
//! work comes first, and none ever holds every slot or all of the cache. How often an order may be passed is bounded,
//! so that it waits no longer than those at work then take.

use std::collections::{HashMap, VecDeque};

use crate::native::PAGE;
use crate::rollout::GenerateRequest;

/// How often an order may be passed.
const PASSES: usize = 32;

/// What one request may hold of something: seven eighths, never all, and one in any case.
fn share(all: usize) -> usize {
    (all - all / 8).min(all.saturating_sub(1)).max(1)
}

#[derive(Debug)]
struct Waiting {
    order: GenerateRequest,
    /// The request that it belongs to.
    group: u64,
    tokens: usize,
    passed: usize,
}

/// What an order at work holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    group: u64,
    tokens: usize,
}

/// The queue, and what those at work hold.
#[derive(Debug)]
pub struct Queue {
    slots: usize,
    /// Tokens that all orders at work may hold together.
    capacity: usize,
    waiting: VecDeque<Waiting>,
    /// Orders at work with the tokens set aside for each.
    at_work: HashMap<u64, Held>,
}

impl Queue {
    /// An empty queue before `slots` places, whose holders share a cache of `capacity` tokens.
    pub fn new(slots: usize, capacity: usize) -> Self {
        Self { slots, capacity, waiting: VecDeque::new(), at_work: HashMap::new() }
    }

    /// Takes an order in; gives back one that is too large for the whole cache.
    pub fn push(&mut self, order: GenerateRequest, group: u64) -> Option<GenerateRequest> {
        let tokens = (order.prompt.len() + order.max_new_tokens).next_multiple_of(PAGE);
        if tokens > self.capacity {
            return Some(order);
        }
        self.waiting.push_back(Waiting { order, group, tokens, passed: 0 });
        None
    }

    /// The next order that can be worked on.
    pub fn pop(&mut self) -> Option<GenerateRequest> {
        if self.at_work.len() >= self.slots {
            return None;
        }
        let free = self.capacity - self.at_work.values().map(|held| held.tokens).sum::<usize>();
        let mut next: Option<(usize, usize)> = None;
        for (place, waiting) in self.waiting.iter().enumerate() {
            // A request that has its share waits for itself alone: it is not passed.
            let Some(held) = self.below_share(waiting) else { continue };
            if waiting.tokens <= free && next.is_none_or(|(_, fewest)| held < fewest) {
                next = Some((place, held));
            }
            // Nobody passes this one any more, or nobody can have fewer.
            if waiting.passed >= PASSES || next.is_some_and(|(_, fewest)| fewest == 0) {
                break;
            }
        }
        let (next, _) = next?;
        for place in 0..next {
            let passed = self.below_share(&self.waiting[place]).is_some();
            self.waiting[place].passed += usize::from(passed);
        }
        let Waiting { order, group, tokens, .. } = self.waiting.remove(next)?;
        self.at_work.insert(order.id, Held { group, tokens });
        Some(order)
    }

    /// How many orders of the same request are at work; `None` where one more would be above its share.
    fn below_share(&self, waiting: &Waiting) -> Option<usize> {
        let own = self.at_work.values().filter(|held| held.group == waiting.group);
        let (count, tokens) = own.fold((0, 0), |(count, tokens), held| (count + 1, tokens + held.tokens));
        let below = count < share(self.slots) && tokens + waiting.tokens <= share(self.capacity);
        (count == 0 || below).then_some(count)
    }

    /// Forgets an order that is done or no longer wanted.
    pub fn remove(&mut self, id: u64) {
        if self.at_work.remove(&id).is_none() {
            self.waiting.retain(|waiting| waiting.order.id != id);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.at_work.clear();
    }

    /// Whether no order waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(queue: &mut Queue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).map(|order| order.id).collect()
    }

    fn order(id: u64, tokens: usize) -> GenerateRequest {
        GenerateRequest::new(id, vec![1; 8], tokens - 8)
    }

    #[test]
    fn a_small_order_passes_one_that_does_not_fit() {
        let mut queue = Queue::new(3, 10 * PAGE);
        for (id, pages) in [(1, 6), (2, 8), (3, 2), (4, 1), (5, 1)] {
            assert!(queue.push(order(id, pages * PAGE), id).is_none());
        }
        assert_eq!(queue.push(order(6, 10 * PAGE + 1), 6).map(|order| order.id), Some(6));
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
    fn one_request_never_holds_every_slot_and_requests_take_turns() {
        let mut queue = Queue::new(8, 800 * PAGE);
        let push = |queue: &mut Queue, ids: std::ops::Range<u64>, group: u64| {
            ids.for_each(|id| assert!(queue.push(order(id, PAGE), group).is_none()));
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
        // However long the others go on, it is not passed for ever.
        for next in 100..200 {
            let at_work: Vec<u64> = queue.at_work.keys().copied().filter(|id| *id >= 16).collect();
            at_work.into_iter().for_each(|id| queue.remove(id));
            push(&mut queue, next..next + 1, next);
            ids(&mut queue);
        }
        assert!(!queue.waiting.iter().any(|waiting| waiting.group == 0 && waiting.passed > PASSES));
        // Nor does one hold all of the cache.
        let mut queue = Queue::new(8, 16 * PAGE);
        (0..4).for_each(|id| assert!(queue.push(order(id, 6 * PAGE), 0).is_none()));
        assert_eq!(ids(&mut queue), [0, 1]);
        assert!(queue.push(order(9, 4 * PAGE), 9).is_none());
        assert_eq!(ids(&mut queue), [9]);
        assert_eq!([1, 2, 3, 16, 64].map(share), [1, 1, 2, 14, 56]);
        // A request of one answer may take all there is.
        let mut queue = Queue::new(1, 4 * PAGE);
        assert!(queue.push(order(1, 4 * PAGE), 1).is_none());
        assert_eq!(ids(&mut queue), [1]);
    }

    #[test]
    fn an_order_is_not_passed_for_ever() {
        let mut queue = Queue::new(8, 10 * PAGE);
        assert!(queue.push(order(0, PAGE), 0).is_none());
        assert_eq!(ids(&mut queue), [0]);
        assert!(queue.push(order(1, 10 * PAGE), 1).is_none());
        let mut passed = 0;
        for id in 2..200 {
            assert!(queue.push(order(id, PAGE), id).is_none());
            let taken = ids(&mut queue);
            passed += taken.len();
            taken.into_iter().for_each(|id| queue.remove(id));
        }
        assert_eq!(passed, PASSES);
        queue.remove(0);
        assert_eq!(queue.pop().map(|order| order.id), Some(1));
        assert!(queue.pop().is_none());
        queue.remove(1);
        queue.remove(199);
        assert_eq!(ids(&mut queue).len(), 8);
    }
}
