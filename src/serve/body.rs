//! The body of a request, within its limits of size and time; and those of all requests together within theirs.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{BodyDataStream, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use super::fault::Fault;
use super::seat::Seat;

/// Bytes beyond the limit that are still read, and for how long, before a body is refused: a client that has not
/// sent all sees a broken pipe instead of the answer.
const SPILL_BYTES: usize = 8 << 20;
const SPILL_TIME: Duration = Duration::from_secs(5);

/// Bytes of all bodies that are read or at work, at least; JSON takes some twenty times its text in memory.
const TOGETHER_BYTES: usize = 32 << 20;
/// The unit of the count.
const UNIT: usize = 1 << 10;

/// The room for all bodies together.
#[derive(Debug, Clone)]
pub struct Bodies(Arc<Semaphore>);

impl Bodies {
    /// Room for several of the largest.
    pub fn new(body_bytes: usize) -> Self {
        let units = TOGETHER_BYTES.max(body_bytes.saturating_mul(4)) / UNIT;
        Self(Arc::new(Semaphore::new(units.min(u32::MAX as usize))))
    }
}

/// A body, with its room for as long as it is at work.
#[derive(Debug)]
pub struct Held {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What a body takes of the room, as it comes.
#[derive(Debug, Default)]
struct Taking {
    bodies: Option<Bodies>,
    room: Option<OwnedSemaphorePermit>,
}

impl Taking {
    /// Makes sure of the room for `bytes` in all. Nobody waits for it: those who wait would keep what they have.
    fn reach(&mut self, bytes: usize) -> Result<(), Fault> {
        let Some(Bodies(units)) = &self.bodies else { return Ok(()) };
        let have = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(UNIT).saturating_sub(have);
        if more == 0 {
            return Ok(());
        }
        let full = || Fault::unavailable("the server holds as many requests as it can; try again soon");
        let count = u32::try_from(more).map_err(|_| full())?;
        let taken = Arc::clone(units).try_acquire_many_owned(count).map_err(|_| full())?;
        match &mut self.room {
            Some(room) => room.merge(taken),
            None => self.room = Some(taken),
        }
        Ok(())
    }
}

/// Reads a body.
pub async fn read(request: Request, limits: &Limits) -> Result<Held, Fault> {
    let seat = request.extensions().get::<Arc<Seat>>().cloned();
    let mut taking = Taking { bodies: request.extensions().get::<Bodies>().cloned(), room: None };
    let asks_first = request.headers().contains_key(header::EXPECT);
    let body = request.into_body();
    let known = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut body = body.into_data_stream();
    if known > limits.body_bytes {
        // Who asks first has sent nothing yet; of what is larger still, reading a part helps nobody.
        if !asks_first && known - limits.body_bytes <= SPILL_BYTES {
            spill(&mut body, known).await;
        }
        return Err(Fault::too_large(limits.body_bytes));
    }
    let mut bytes = Vec::new();
    let gathered = async {
        while let Some(part) = body.next().await {
            let part = part.map_err(|_| Fault::bad("the body broke off"))?;
            taking.reach(bytes.len() + part.len())?;
            bytes.extend_from_slice(&part);
            if bytes.len() > limits.body_bytes {
                return Err(Fault::too_large(limits.body_bytes));
            }
        }
        Ok(())
    };
    match tokio::time::timeout(limits.body, gathered).await {
        Err(_) => Err(Fault::slow_body()),
        Ok(Ok(())) => {
            if let Some(seat) = seat {
                seat.works();
            }
            Ok(Held { bytes: bytes.into(), _room: taking.room })
        }
        Ok(Err(fault)) => {
            spill(&mut body, SPILL_BYTES).await;
            Err(fault)
        }
    }
}

/// Reads and drops up to `most` bytes.
async fn spill(body: &mut BodyDataStream, most: usize) {
    let dropped = async {
        let mut left = most;
        while let Some(Ok(part)) = body.next().await {
            match left.checked_sub(part.len()) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // What has not come by then is not waited for.
    let _ = tokio::time::timeout(SPILL_TIME, dropped).await;
}

/// Runs what may take a while (parsing, tokenising) apart from the threads that serve connections.
pub async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Fault::failed("the request could not be read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_a_room_and_give_it_back() {
        let bodies = Bodies::new(1 << 20);
        let all = TOGETHER_BYTES;
        let taking = || Taking { bodies: Some(bodies.clone()), room: None };
        let mut first = taking();
        // Byte by byte costs no more than at once.
        for bytes in 1..5000 {
            first.reach(bytes).unwrap();
        }
        assert_eq!(bodies.0.available_permits(), all / UNIT - 5);
        let mut second = taking();
        second.reach(all - 5 * UNIT).unwrap();
        assert_eq!(first.reach(5 * UNIT + 1).unwrap_err().status(), 503);
        assert!(taking().reach(1).is_err());
        drop(second);
        first.reach(5 * UNIT + 1).unwrap();
        drop(first);
        assert_eq!(bodies.0.available_permits(), all / UNIT);
    }
}
