//! Pool of id buffers.
//!
//! A buffer belongs to one request from tokenising until its row is packed into a batch: exclusive use, which is what a
//! pool is for. Never blocks: with the pool empty a request gets a new buffer, and the pool keeps at most `kept` of them.

use std::ops::{Deref, DerefMut};

use deadpool::unmanaged::{Object, Pool};

/// Ids that a buffer may keep room for after use: one very long text must not hold its memory for ever.
const KEPT_IDS: usize = 16 * 1024;

/// A pool of empty `Vec<u32>` with memory from earlier use. Clones share the pool.
#[derive(Clone)]
pub struct TokenBuffers(Pool<Vec<u32>>);

impl TokenBuffers {
    /// A pool that keeps at most `kept` buffers (at least one).
    pub fn new(kept: usize) -> Self {
        Self(Pool::new(kept.max(1)))
    }

    /// An empty buffer; it returns to the pool when dropped.
    pub fn take(&self) -> TokenBuffer {
        if let Ok(ids) = self.0.try_get() {
            return TokenBuffer(Inner::Pooled(ids));
        }
        // The first requests fill the pool; after that, what exceeds it is freed on drop.
        match self.0.try_add(Vec::new()).map(|()| self.0.try_get()) {
            Ok(Ok(ids)) => TokenBuffer(Inner::Pooled(ids)),
            _ => TokenBuffer(Inner::Spare(Vec::new())),
        }
    }
}

/// A borrowed `Vec<u32>`, empty when taken.
pub struct TokenBuffer(Inner);

enum Inner {
    Pooled(Object<Vec<u32>>),
    Spare(Vec<u32>),
}

impl Deref for TokenBuffer {
    type Target = Vec<u32>;

    fn deref(&self) -> &Vec<u32> {
        match &self.0 {
            Inner::Pooled(ids) => ids,
            Inner::Spare(ids) => ids,
        }
    }
}

impl DerefMut for TokenBuffer {
    fn deref_mut(&mut self) -> &mut Vec<u32> {
        match &mut self.0 {
            Inner::Pooled(ids) => ids,
            Inner::Spare(ids) => ids,
        }
    }
}

impl Drop for TokenBuffer {
    fn drop(&mut self) {
        self.clear();
        self.shrink_to(KEPT_IDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_empty_and_keeps_its_memory() {
        let pool = TokenBuffers::new(1);
        let mut first = pool.take();
        first.extend(0..100);
        let address = first.as_ptr();
        drop(first);
        let again = pool.take();
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), address);
    }

    #[test]
    fn an_empty_pool_still_gives_buffers() {
        let pool = TokenBuffers::new(1);
        let (mut one, mut two) = (pool.take(), pool.take());
        one.push(1);
        two.push(2);
        assert_eq!((one[0], two[0]), (1, 2));
    }

    #[test]
    fn a_huge_buffer_does_not_keep_its_memory() {
        let pool = TokenBuffers::new(1);
        pool.take().resize(10 * KEPT_IDS, 0);
        assert!(pool.take().capacity() <= KEPT_IDS);
    }
}
