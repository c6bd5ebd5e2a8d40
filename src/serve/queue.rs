//! Orders that wait for a slot and for room in the cache. Who comes first is served first, except that an order that
//! fits may pass one that does not fit yet: a small question need not wait until there is room for a long answer.
//! How often an order may be passed is bounded, so that it waits no longer than those at work then take.

use std::collections::{HashMap, VecDeque};

use super::engine::Order;
use crate::native::PAGE;

/// How often an order may be passed.
const PASSES: usize = 32;

#[derive(Debug)]
struct Waiting {
    order: Order,
    tokens: usize,
    passed: usize,
}

/// The queue, and what those at work hold.
#[derive(Debug)]
pub struct Queue {
    slots: usize,
    /// Tokens that all orders at work may hold together.
    capacity: usize,
    waiting: VecDeque<Waiting>,
    /// Orders at work with the tokens set aside for each.
    at_work: HashMap<u64, usize>,
}

impl Queue {
    /// An empty queue before `slots` places, whose holders share a cache of `capacity` tokens.
    pub fn new(slots: usize, capacity: usize) -> Self {
        Self { slots, capacity, waiting: VecDeque::new(), at_work: HashMap::new() }
    }

    /// Takes an order in; gives back one that is too large for the whole cache.
    pub fn push(&mut self, order: Order) -> Option<Order> {
        let tokens = (order.prompt.len() + order.max_new_tokens).next_multiple_of(PAGE);
        if tokens > self.capacity {
            return Some(order);
        }
        self.waiting.push_back(Waiting { order, tokens, passed: 0 });
        None
    }

    /// The next order that can be worked on.
    pub fn pop(&mut self) -> Option<Order> {
        if self.at_work.len() >= self.slots {
            return None;
        }
        let free = self.capacity - self.at_work.values().sum::<usize>();
        let mut next = 0;
        while self.waiting.get(next)?.tokens > free {
            if self.waiting[next].passed >= PASSES {
                return None;
            }
            next += 1;
        }
        self.waiting.iter_mut().take(next).for_each(|waiting| waiting.passed += 1);
        let Waiting { order, tokens, .. } = self.waiting.remove(next)?;
        self.at_work.insert(order.id, tokens);
        Some(order)
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

    fn order(id: u64, tokens: usize) -> Order {
        Order::new(id, vec![1; 8], tokens - 8)
    }

    #[test]
    fn a_small_order_passes_one_that_does_not_fit() {
        let mut queue = Queue::new(3, 10 * PAGE);
        for (id, pages) in [(1, 6), (2, 8), (3, 2), (4, 1), (5, 1)] {
            assert!(queue.push(order(id, pages * PAGE)).is_none());
        }
        assert_eq!(queue.push(order(6, 10 * PAGE + 1)).map(|order| order.id), Some(6));
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
    fn an_order_is_not_passed_for_ever() {
        let mut queue = Queue::new(8, 10 * PAGE);
        assert!(queue.push(order(0, PAGE)).is_none());
        assert_eq!(ids(&mut queue), [0]);
        assert!(queue.push(order(1, 10 * PAGE)).is_none());
        let mut passed = 0;
        for id in 2..200 {
            assert!(queue.push(order(id, PAGE)).is_none());
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
