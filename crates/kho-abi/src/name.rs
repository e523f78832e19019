//! Fixed-size names, as C keeps them in structures.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `char[N]`: a NUL-terminated string and zeroes after it.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct Name<const N: usize>([u8; N]);

/// A string is not a name of `max` bytes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameError {
    /// The largest length allowed, in bytes without the NUL.
    pub max: usize,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a name has 1 to {} bytes and no NUL", self.max)
    }
}

impl core::error::Error for NameError {}

impl<const N: usize> Name<N> {
    /// No name: all zeroes.
    pub const EMPTY: Self = Self([0; N]);

    /// The name `text`.
    ///
    /// # Errors
    /// [`NameError`] if it is empty, holds a NUL, or leaves no room for the final NUL.
    pub const fn new(text: &str) -> Result<Self, NameError> {
        let error = NameError { max: N - 1 };
        let text = text.as_bytes();
        if text.is_empty() || text.len() >= N {
            return Err(error);
        }
        let mut name = [0; N];
        let (used, _) = name.split_at_mut(text.len());
        used.copy_from_slice(text);
        let mut rest: &[u8] = text;
        while let [first, tail @ ..] = rest {
            if *first == 0 {
                return Err(error);
            }
            rest = tail;
        }
        Ok(Self(name))
    }

    /// The bytes before the first NUL, or `None` if there is no NUL or nothing before it.
    pub fn to_bytes(&self) -> Option<&[u8]> {
        let len = self.0.iter().position(|&byte| byte == 0)?;
        self.0.get(..len).filter(|name| !name.is_empty())
    }

    /// The text before the first NUL, or `None` as in [`Name::to_bytes`] or if it is not UTF-8.
    pub fn to_str(&self) -> Option<&str> {
        core::str::from_utf8(self.to_bytes()?).ok()
    }
}

impl<const N: usize> fmt::Debug for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl<const N: usize> fmt::Display for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(N);
        self.0.get(..end).unwrap_or_default().escape_ascii().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leaves_room_for_its_nul() {
        assert_eq!(Name::<8>::new("luo-v5").unwrap().0, *b"luo-v5\0\0");
        assert_eq!(Name::<4>::new("abc").unwrap().to_str(), Some("abc"));
        for bad in ["", "abcd", "a\0b"] {
            assert_eq!(Name::<4>::new(bad), Err(NameError { max: 3 }));
        }
        assert_eq!(Name(*b"abcd").to_bytes(), None);
        assert_eq!(Name(*b"\0bcd").to_bytes(), None);
        assert_eq!(Name(*b"\xff\0\0\0").to_str(), None);
    }
}
