//! The Live Update Orchestrator's sessions, files and file-lifecycle-bound objects.

use kho_abi::Name;
use kho_abi::block::MAX_BLOCKS;
use kho_abi::luo::{
    COMPATIBLE, LuoFileSer, LuoFlbHeaderSer, LuoFlbSer, LuoSer, LuoSessionSer, max_flbs,
};
use kho_abi::memfd;
use kho_hal::{FrozenMem, PageSize, PhysAddr, PhysRange};

use crate::incoming::ascending::{NameKey, Sorter, name_key};
use crate::incoming::block::Blocks;
use crate::incoming::map::Map;
use crate::incoming::memfd::Memfd;
use crate::incoming::{Claims, Component, Fault, IncomingError, Part, read};

/// What the predecessor's LUO handed over; checked.
#[derive(Debug)]
pub struct Luo<'a, M> {
    map: Map<'a, M>,
    mem: &'a M,
    ser: &'a LuoSer,
    flbs: &'a [LuoFlbSer],
    /// No chain has more blocks than this; known once all were looked through.
    most: usize,
}

impl_copy!(Luo);

impl<'a, M: FrozenMem> Luo<'a, M> {
    /// Checks the sub-blob `LUO` and all it leads to, and puts it in `found`: as not understood if its
    /// version is not known, or if a session that was reported is wrong.
    pub(crate) fn check(
        mem: &'a M,
        blob: PhysRange,
        claims: &mut Claims<'_, 'a, M>,
        found: &mut Component<Self>,
    ) -> Result<(), IncomingError> {
        let checked = Self::check_all(mem, blob, claims, found);
        claims.or_report(checked).map(|_| ())
    }

    #[inline(never)]
    fn check_all(
        mem: &'a M,
        blob: PhysRange,
        claims: &mut Claims<'_, 'a, M>,
        found: &mut Component<Self>,
    ) -> Result<(), IncomingError> {
        let fault = |fault| Part::Luo.is(fault);
        let at_least = |size: usize| match size as u64 {
            expected if blob.size() < expected => Err(fault(Fault::Mismatch {
                at: blob.start(),
                found: blob.size(),
                expected,
            })),
            _ => Ok(()),
        };
        // The version comes first in every version, and says how long the rest is.
        at_least(size_of::<Name<8>>())?;
        let compatible: Result<&Name<8>, _> = read::object(mem, blob.start());
        if compatible.map_err(|e| fault(e.into()))?.to_str() != Some(COMPATIBLE) {
            *found = Component::NotUnderstood;
            return Ok(());
        }
        at_least(size_of::<LuoSer>())?;
        let ser: &LuoSer = read::object(mem, blob.start()).map_err(|e| fault(e.into()))?;
        let mut luo = Self {
            map: claims.map(),
            mem,
            ser,
            flbs: &[],
            most: MAX_BLOCKS,
        };
        let chain = luo.session_blocks().check(claims).map_err(fault);
        let chain = claims.or_report(chain)?;
        let mut whole = chain.is_some();
        if let Some((mut most, _)) = chain {
            for (at, ser) in luo.session_blocks().at_most(most).iter_at() {
                let session = luo.check_session(at, ser, claims);
                let blocks = claims.or_report(session)?;
                whole &= blocks.is_some();
                most = most.max(blocks.unwrap_or(0));
            }
            luo.most = most;
        }
        let flbs = luo.check_flbs(claims).map_err(fault);
        luo.flbs = claims.or_report(flbs)?.unwrap_or_default();
        *found = Component::found(whole.then_some(luo));
        Ok(())
    }

    fn check_session(
        &self,
        at: PhysAddr,
        ser: &'a LuoSessionSer,
        claims: &mut Claims<'_, 'a, M>,
    ) -> Result<usize, IncomingError> {
        let fault = |fault| Part::Luo.is(fault);
        if ser.name.to_bytes().is_none() {
            return Err(fault(Fault::Name { at }));
        }
        let session = self.session(ser);
        let (blocks, found) = session.file_blocks().check(claims).map_err(fault)?;
        if found != ser.count.get() {
            return Err(fault(Fault::Mismatch {
                at,
                found: ser.count.get(),
                expected: found,
            }));
        }
        for (at, file) in session.file_blocks().at_most(blocks).iter_at() {
            let checked = match file.compatible.to_str() {
                None => Err(fault(Fault::Name { at })),
                Some(memfd::COMPATIBLE) => {
                    let data = PhysAddr::new(file.data.get());
                    let check = Memfd::check(self.mem, self.map, data, claims);
                    check.map_err(|fault| Part::Memfd.is(fault))
                }
                Some(_) => Ok(()),
            };
            claims.or_report(checked)?;
        }
        Ok(blocks)
    }

    #[inline(never)]
    fn check_flbs(&self, claims: &mut Claims<'_, 'a, M>) -> Result<&'a [LuoFlbSer], Fault> {
        let at = PhysAddr::new(self.ser.flbs_pa.get());
        if at == PhysAddr::new(0) {
            return Ok(&[]);
        }
        claims.page(at)?;
        let header: &LuoFlbHeaderSer = read::object(self.mem, at)?;
        if header.pgcnt.get() != 1 {
            return Err(Fault::Mismatch {
                at,
                found: header.pgcnt.get(),
                expected: 1,
            });
        }
        let max = max_flbs(self.map.page()) as u64;
        let count = header.count.get();
        if count > max {
            return Err(Fault::Count {
                at,
                found: count,
                max,
            });
        }
        let first = PhysAddr::new(at.as_u64() + size_of::<LuoFlbHeaderSer>() as u64);
        let flbs: &[LuoFlbSer] = read::array(self.mem, first, count as usize)?;
        for (i, flb) in flbs.iter().enumerate() {
            let at = PhysAddr::new(first.as_u64() + (i * size_of::<LuoFlbSer>()) as u64);
            if flb.name.to_bytes().is_none() {
                return Err(Fault::Name { at });
            }
        }
        Ok(flbs)
    }

    /// Makes sure that session names, names of objects, and tokens in each session, occur once.
    #[inline(never)]
    pub(crate) fn check_names(&self, workspace: &mut [u64]) -> Result<(), Fault> {
        let mut sorter = Sorter::new(workspace);
        let key = |ser: &LuoSessionSer| Self::name_key(&ser.name);
        let sessions = || self.session_blocks().iter_at();
        let names = |list: &mut dyn FnMut(_)| {
            sessions().for_each(|(_, ser)| list(key(ser)));
            Ok(())
        };
        sorter.unique(0, names, |name| {
            second(sessions().filter(|(_, ser)| key(ser) == name))
        })?;
        let names = |list: &mut dyn FnMut(_)| {
            self.flbs
                .iter()
                .for_each(|flb| list(Self::name_key(&flb.name)));
            Ok(())
        };
        sorter.unique(0, names, |_| Fault::Duplicate {
            at: PhysAddr::new(self.ser.flbs_pa.get()),
        })?;
        for (_, session) in sessions() {
            let files = || self.session(session).file_blocks().iter_at();
            let tokens = |list: &mut dyn FnMut(_)| {
                files().for_each(|(_, file)| list(file.token.get()));
                Ok(())
            };
            sorter.unique(0, tokens, |token| {
                second(files().filter(|(_, file)| file.token.get() == token))
            })?;
        }
        Ok(())
    }

    /// A name whose end was checked.
    fn name_key<const N: usize>(name: &Name<N>) -> NameKey {
        name.to_bytes().and_then(name_key).unwrap_or_default()
    }

    fn session_blocks(&self) -> Blocks<'a, LuoSessionSer, M> {
        let head = PhysAddr::new(self.ser.sessions_pa.get());
        Blocks::new(self.mem, self.map.page(), head).at_most(self.most)
    }

    fn session(&self, ser: &'a LuoSessionSer) -> Session<'a, M> {
        Session {
            mem: self.mem,
            map: self.map,
            ser,
            most: self.most,
        }
    }

    /// 1 in the first live update of a chain, one more in each that follows.
    pub fn liveupdate_num(&self) -> u64 {
        self.ser.liveupdate_num.get()
    }

    /// The sessions, in the order of their creation.
    pub fn sessions(&self) -> impl Iterator<Item = Session<'a, M>> + use<'a, M> {
        let luo = *self;
        self.session_blocks()
            .iter()
            .map(move |ser| luo.session(ser))
    }

    /// The session of this name.
    pub fn session_named(&self, name: &str) -> Option<Session<'a, M>> {
        self.sessions()
            .find(|session| session.name() == name.as_bytes())
    }

    /// Pages that hold the file-lifecycle-bound objects: 1, or 0 if there is no room for any.
    pub fn flb_pages(&self) -> u64 {
        u64::from(self.ser.flbs_pa.get() != 0)
    }

    /// The file-lifecycle-bound objects.
    pub fn flbs(&self) -> &'a [LuoFlbSer] {
        self.flbs
    }

    /// The file-lifecycle-bound object of this name.
    pub fn flb(&self, name: &str) -> Option<&'a LuoFlbSer> {
        self.flbs.iter().find(|flb| flb.name.to_str() == Some(name))
    }
}

/// That the second of these has what the first has.
fn second<T>(mut same: impl Iterator<Item = (PhysAddr, T)>) -> Fault {
    let at = same.nth(1).map(|(at, _)| at).unwrap_or_default();
    Fault::Duplicate { at }
}

/// A named set of preserved files.
#[derive(Debug)]
pub struct Session<'a, M> {
    mem: &'a M,
    map: Map<'a, M>,
    ser: &'a LuoSessionSer,
    most: usize,
}

impl_copy!(Session);

impl<'a, M: FrozenMem> Session<'a, M> {
    fn file_blocks(&self) -> Blocks<'a, LuoFileSer, M> {
        let head = PhysAddr::new(self.ser.files.get());
        Blocks::new(self.mem, self.map.page(), head).at_most(self.most)
    }

    /// The name: 1 to 63 bytes, unique among the sessions.
    pub fn name(&self) -> &'a [u8] {
        self.ser.name.to_bytes().unwrap_or_default()
    }

    /// Number of files.
    pub fn count(&self) -> u64 {
        self.ser.count.get()
    }

    /// The files, in the order in which they were preserved.
    pub fn files(&self) -> impl Iterator<Item = File<'a, M>> + use<'a, M> {
        let Self { mem, map, .. } = *self;
        self.file_blocks()
            .iter()
            .map(move |ser| File { mem, map, ser })
    }

    /// The file with this token.
    pub fn file(&self, token: u64) -> Option<File<'a, M>> {
        self.files().find(|file| file.token() == token)
    }
}

/// A preserved file.
#[derive(Debug)]
pub struct File<'a, M> {
    mem: &'a M,
    map: Map<'a, M>,
    ser: &'a LuoFileSer,
}

impl_copy!(File);

impl<'a, M: FrozenMem> File<'a, M> {
    /// The name of the handler that understands the file.
    pub fn compatible(&self) -> &'a str {
        self.ser.compatible.to_str().unwrap_or_default()
    }

    /// The key of the file in its session.
    pub fn token(&self) -> u64 {
        self.ser.token.get()
    }

    /// The handler's own number; for a memfd the address of its descriptor.
    pub fn data(&self) -> u64 {
        self.ser.data.get()
    }

    /// The file as a memory file, if it is one.
    pub fn memfd(&self) -> Option<Memfd<'a, M>> {
        if self.compatible() != memfd::COMPATIBLE {
            return None;
        }
        Memfd::new(self.mem, self.map, PhysAddr::new(self.data())).ok()
    }

    /// The page size of the handover.
    pub fn page_size(&self) -> PageSize {
        self.map.page()
    }
}
