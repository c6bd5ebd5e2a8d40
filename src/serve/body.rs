//! The body of a request in memory, and the budget that all bodies together must keep. `http::body` reads them.

use std::ops::Deref;
use std::sync::Arc;

use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// Bytes of all bodies that are being read or worked on, at least; JSON takes some twenty times its text in memory.
const MIN_BUDGET_BYTES: usize = 32 << 20;
/// The unit of the budget.
const UNIT: usize = 1 << 10;

/// The memory for all bodies together.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Semaphore>);

impl BodyBudget {
    /// A budget for several bodies of the largest size.
    pub fn new(body_bytes: usize) -> Self {
        let units = MIN_BUDGET_BYTES.max(body_bytes.saturating_mul(4)) / UNIT;
        Self(Arc::new(Semaphore::new(units.min(u32::MAX as usize))))
    }

    /// A share of the budget, empty at first.
    pub fn share(&self) -> BudgetShare {
        BudgetShare { budget: self.clone(), taken: None }
    }
}

/// What one body takes of the budget, as its bytes come; given back when it is dropped.
#[derive(Debug)]
pub struct BudgetShare {
    budget: BodyBudget,
    taken: Option<OwnedSemaphorePermit>,
}

impl BudgetShare {
    /// Extends the share to `bytes` in all. Nobody waits for it: those who wait would keep what they have.
    ///
    /// # Errors
    /// 503 where the budget is used up.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), ApiError> {
        let have = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(UNIT).saturating_sub(have);
        if more == 0 {
            return Ok(());
        }
        let full = || ApiError::unavailable("the server holds as many requests as it can; try again soon");
        let count = u32::try_from(more).map_err(|_| full())?;
        let taken = Arc::clone(&self.budget.0).try_acquire_many_owned(count).map_err(|_| full())?;
        match &mut self.taken {
            Some(permit) => permit.merge(taken),
            None => self.taken = Some(taken),
        }
        Ok(())
    }
}

/// A request's body, with its share of the budget for as long as it is worked on.
#[derive(Debug)]
pub struct RequestBody {
    bytes: Bytes,
    _share: BudgetShare,
}

impl RequestBody {
    /// A body that was read whole.
    pub fn new(bytes: Bytes, share: BudgetShare) -> Self {
        Self { bytes, _share: share }
    }
}

impl Deref for RequestBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_a_budget_and_give_it_back() {
        let budget = BodyBudget::new(1 << 20);
        let all = MIN_BUDGET_BYTES;
        let mut first = budget.share();
        // Byte by byte costs no more than at once.
        for bytes in 1..5000 {
            first.grow_to(bytes).unwrap();
        }
        assert_eq!(budget.0.available_permits(), all / UNIT - 5);
        let mut second = budget.share();
        second.grow_to(all - 5 * UNIT).unwrap();
        assert_eq!(first.grow_to(5 * UNIT + 1).unwrap_err().status(), 503);
        assert!(budget.share().grow_to(1).is_err());
        drop(second);
        first.grow_to(5 * UNIT + 1).unwrap();
        drop(first);
        assert_eq!(budget.0.available_permits(), all / UNIT);
    }
}
