//! A session: files under tokens.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use kho_abi::Name;
use kho_abi::luo::{LuoFileSer, LuoSessionSer};
use kho_hal::{Order, PageAlloc, PhysAddr, PhysMem};

use super::LiveFile;
use super::flb::Flbs;
use crate::outgoing::split::Nodes;
use crate::outgoing::{BlockSet, OutgoingError, Tracker};

pub(super) struct Session<T> {
    name: Name<64>,
    files: Vec<Preserved<T>>,
    tokens: BTreeSet<u64>,
    file_blocks: BlockSet<LuoFileSer>,
}

struct Preserved<T> {
    file: Box<dyn LiveFile<T>>,
    compatible: Name<48>,
    token: u64,
    data: u64,
    flbs: Vec<usize>,
}

impl<T> Session<T> {
    pub(super) fn new(name: Name<64>) -> Self {
        Self {
            name,
            files: Vec::new(),
            tokens: BTreeSet::new(),
            file_blocks: BlockSet::default(),
        }
    }

    /// The identities of the files.
    pub(super) fn identities(&self) -> impl Iterator<Item = u64> + '_ {
        self.files.iter().map(|preserved| preserved.file.identity())
    }
}

impl<'s, M: PhysMem, A: PageAlloc, N: Nodes> Session<Tracker<'s, M, A, N>> {
    pub(super) fn preserve(
        &mut self,
        tracker: &Tracker<'s, M, A, N>,
        flbs: &mut Flbs<Tracker<'s, M, A, N>>,
        token: u64,
        mut file: Box<dyn LiveFile<Tracker<'s, M, A, N>>>,
    ) -> Result<(), OutgoingError> {
        if self.tokens.contains(&token) {
            return Err(OutgoingError::Exists);
        }
        let compatible = Name::new(file.compatible())?;
        self.file_blocks.resize(tracker, self.files.len() + 1)?;
        let preserved =
            flbs.acquire(tracker, file.flbs())
                .and_then(|acquired| match file.preserve(tracker) {
                    Ok(data) => Ok((data, acquired)),
                    Err(error) => {
                        flbs.release(tracker, &acquired);
                        Err(error)
                    }
                });
        match preserved {
            Ok((data, flbs)) => {
                self.tokens.insert(token);
                self.files.push(Preserved {
                    file,
                    compatible,
                    token,
                    data,
                    flbs,
                });
                Ok(())
            }
            Err(error) => {
                // Should memory fail, it is cut off when the session is frozen.
                let _ = self.file_blocks.resize(tracker, self.files.len());
                Err(error)
            }
        }
    }

    /// The blocks of files, as folios.
    pub(super) fn folios(&self) -> impl Iterator<Item = (PhysAddr, Order)> + Clone + '_ {
        self.file_blocks.folios_from(0)
    }

    /// Unpreserves all files, the last first, and frees the blocks, which are not preserved any
    /// more.
    pub(super) fn destroy(
        mut self,
        tracker: &Tracker<'s, M, A, N>,
        flbs: &mut Flbs<Tracker<'s, M, A, N>>,
    ) {
        while let Some(mut preserved) = self.files.pop() {
            preserved.file.unpreserve(tracker);
            flbs.release(tracker, &preserved.flbs);
        }
        self.file_blocks.free_from(tracker, 0);
    }

    /// Freezes all files and writes them out; on an error none is frozen.
    pub(super) fn freeze(&mut self, tracker: &Tracker<'s, M, A, N>) -> Result<(), OutgoingError> {
        self.file_blocks.resize(tracker, self.files.len())?;
        for i in 0..self.files.len() {
            let frozen = self.freeze_file(tracker, i);
            if let Err((error, done)) = frozen {
                self.unfreeze_first(tracker, done);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Freezes file `i`. An error comes with the number of files that are frozen.
    fn freeze_file(
        &mut self,
        tracker: &Tracker<'s, M, A, N>,
        i: usize,
    ) -> Result<(), (OutgoingError, usize)> {
        let Some(preserved) = self.files.get_mut(i) else {
            return Ok(());
        };
        let data = preserved.file.freeze(tracker, preserved.data);
        let data = data.map_err(|error| (error, i))?;
        let ser = LuoFileSer {
            compatible: preserved.compatible,
            data: data.into(),
            token: preserved.token.into(),
        };
        self.file_blocks
            .write(tracker, i, &ser)
            .map_err(|error| (error, i + 1))
    }

    pub(super) fn unfreeze(&mut self, tracker: &Tracker<'s, M, A, N>) {
        self.unfreeze_first(tracker, self.files.len());
    }

    /// Unfreezes the first `count` files, the last first.
    fn unfreeze_first(&mut self, tracker: &Tracker<'s, M, A, N>, count: usize) {
        for preserved in self.files.iter_mut().take(count).rev() {
            preserved.file.unfreeze(tracker);
        }
    }

    /// The entry of this session.
    pub(super) fn ser(&self) -> LuoSessionSer {
        LuoSessionSer {
            name: self.name,
            files: self.file_blocks.head().as_u64().into(),
            count: (self.files.len() as u64).into(),
        }
    }
}
