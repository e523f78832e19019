//! File-lifecycle-bound objects: counted by the files that need them.

use alloc::boxed::Box;
use alloc::vec::Vec;

use kho_abi::Name;
use kho_abi::luo::{LuoFlbHeaderSer, LuoFlbSer, max_flbs};
use kho_hal::{PageAlloc, PageSize, PhysAddr, PhysMem};
use zerocopy::IntoBytes;

use crate::outgoing::page::{free_page, new_page};
use crate::outgoing::split::Nodes;
use crate::outgoing::{OutgoingError, Tracker};

/// State that several files need, and that is preserved while one of them is. `T` is the
/// [`Tracker`] that it preserves its memory with.
pub trait Flb<T> {
    /// The name by which files ask for it and the successor finds it, 1 to 47 bytes.
    fn name(&self) -> &str;

    /// Preserves the object, as its first user comes; returns the number by which the successor
    /// finds it.
    ///
    /// # Errors
    /// Any: the object is not preserved then, and neither is the file.
    fn preserve(&mut self, tracker: &T) -> Result<u64, OutgoingError>;

    /// Undoes [`Flb::preserve`], as its last user goes.
    fn unpreserve(&mut self, tracker: &T);

    /// Brings the preserved object up to date for the last time, after all files.
    ///
    /// # Errors
    /// Any: the object is not frozen then, and the update does not take place.
    fn freeze(&mut self, tracker: &T) -> Result<(), OutgoingError> {
        let _ = tracker;
        Ok(())
    }

    /// Undoes [`Flb::freeze`].
    fn unfreeze(&mut self, tracker: &T) {
        let _ = tracker;
    }
}

/// The registered objects, and the page that lists them for the successor.
pub(super) struct Flbs<T> {
    known: Vec<Known<T>>,
    page: PhysAddr,
}

struct Known<T> {
    flb: Box<dyn Flb<T>>,
    name: Name<48>,
    data: u64,
    users: u64,
    frozen: bool,
}

impl<'s, M: PhysMem, A: PageAlloc, N: Nodes> Flbs<Tracker<'s, M, A, N>> {
    pub(super) fn new(tracker: &Tracker<'s, M, A, N>) -> Result<Self, OutgoingError> {
        let mut flbs = Self {
            known: Vec::new(),
            page: new_page(tracker)?,
        };
        if let Err(error) = flbs.clear(tracker) {
            flbs.destroy(tracker);
            return Err(error);
        }
        Ok(flbs)
    }

    pub(super) fn page(&self) -> PhysAddr {
        self.page
    }

    /// Frees the page. Nobody uses an object any more.
    pub(super) fn destroy(&mut self, tracker: &Tracker<'s, M, A, N>) {
        free_page(tracker, self.page);
    }

    pub(super) fn register(
        &mut self,
        flb: Box<dyn Flb<Tracker<'s, M, A, N>>>,
        page: PageSize,
    ) -> Result<(), OutgoingError> {
        let name = Name::new(flb.name())?;
        if self.known.iter().any(|known| known.name == name) {
            return Err(OutgoingError::Exists);
        }
        let max = max_flbs(page);
        if self.known.len() == max {
            return Err(OutgoingError::TooMany { max: max as u64 });
        }
        self.known.push(Known {
            flb,
            name,
            data: 0,
            users: 0,
            frozen: false,
        });
        Ok(())
    }

    pub(super) fn find(&self, name: &str) -> Option<(u64, u64)> {
        let known = self
            .known
            .iter()
            .find(|known| known.name.to_str() == Some(name))?;
        (known.users > 0).then_some((known.data, known.users))
    }

    /// Counts one more user of each of `names`, preserving those that had none.
    pub(super) fn acquire(
        &mut self,
        tracker: &Tracker<'s, M, A, N>,
        names: &[&str],
    ) -> Result<Vec<usize>, OutgoingError> {
        let index = |name: &&str| {
            let found = self
                .known
                .iter()
                .position(|known| known.name.to_str() == Some(*name));
            found.ok_or(OutgoingError::NoHandler)
        };
        let wanted = names.iter().map(index).collect::<Result<Vec<_>, _>>()?;
        for (done, &index) in wanted.iter().enumerate() {
            if let Some(known) = self.known.get_mut(index) {
                if known.users == 0 {
                    match known.flb.preserve(tracker) {
                        Ok(data) => known.data = data,
                        Err(error) => {
                            self.release(tracker, wanted.get(..done).unwrap_or_default());
                            return Err(error);
                        }
                    }
                }
                known.users += 1;
            }
        }
        Ok(wanted)
    }

    /// Undoes [`Flbs::acquire`], the last first.
    pub(super) fn release(&mut self, tracker: &Tracker<'s, M, A, N>, acquired: &[usize]) {
        for &index in acquired.iter().rev() {
            if let Some(known) = self.known.get_mut(index) {
                known.users -= 1;
                if known.users == 0 {
                    known.flb.unpreserve(tracker);
                }
            }
        }
    }

    /// Freezes the objects that are preserved. After an error, those before the one that refused
    /// are frozen.
    pub(super) fn freeze(&mut self, tracker: &Tracker<'s, M, A, N>) -> Result<(), OutgoingError> {
        for known in self.known.iter_mut().filter(|known| known.users > 0) {
            known.flb.freeze(tracker)?;
            known.frozen = true;
        }
        Ok(())
    }

    /// Unfreezes the objects that are frozen, the last first.
    pub(super) fn unfreeze(&mut self, tracker: &Tracker<'s, M, A, N>) {
        for known in self.known.iter_mut().rev().filter(|known| known.frozen) {
            known.flb.unfreeze(tracker);
            known.frozen = false;
        }
    }

    /// Lists the objects that are preserved.
    pub(super) fn write(&self, tracker: &Tracker<'s, M, A, N>) -> Result<(), OutgoingError> {
        let mut place = self.page.as_u64() + size_of::<LuoFlbHeaderSer>() as u64;
        let mut count = 0;
        for known in self.known.iter().filter(|known| known.users > 0) {
            let ser = LuoFlbSer {
                name: known.name,
                data: known.data.into(),
                count: known.users.into(),
            };
            tracker.mem().write(PhysAddr::new(place), ser.as_bytes())?;
            place += size_of::<LuoFlbSer>() as u64;
            count += 1;
        }
        self.write_header(tracker, count)
    }

    /// Lists nothing.
    pub(super) fn clear(&self, tracker: &Tracker<'s, M, A, N>) -> Result<(), OutgoingError> {
        self.write_header(tracker, 0)
    }

    fn write_header(
        &self,
        tracker: &Tracker<'s, M, A, N>,
        count: u64,
    ) -> Result<(), OutgoingError> {
        let header = LuoFlbHeaderSer {
            pgcnt: 1.into(),
            count: count.into(),
        };
        Ok(tracker.mem().write(self.page, header.as_bytes())?)
    }
}
