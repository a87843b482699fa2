//! Where a library keeps the client's random: learned from what lies in its objects.
//!
//! The functions in which C libraries write key logs are given the connection's object, not the
//! client's random. Where in it that stands differs from build to build; the randoms of connections
//! that were seen on the wire tell.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::SecretBytes;

/// Randoms stand at multiples of this.
const ALIGNMENT: usize = 4;
const RANDOM_LEN: usize = 32;
/// So many connections must show the same place.
const CONNECTIONS: usize = 3;
/// Files that are learned about at a time; there are more only when thousands of libraries are used.
const MOST_FILES: usize = 1024;

/// A place in an object or in something that the object points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectPath {
    /// Where in the object the pointer stands that is to be followed; none where the object itself
    /// holds what is looked for.
    pub pointer: Option<u16>,
    /// How far behind that.
    pub offset: u16,
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer {
            None => write!(f, "{:#x}", self.offset),
            Some(pointer) => write!(f, "{pointer:#x} -> {:#x}", self.offset),
        }
    }
}

/// What lay in a connection's object when a secret was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// The file whose code told it, as the probes number files.
    pub file: u32,
    /// The object's first bytes.
    pub own: SecretBytes,
    /// What its pointers lead to, by the place where each stands.
    pub behind: Vec<(u16, SecretBytes)>,
}

impl Object {
    /// Everything that may be the client's random.
    pub(crate) fn randoms(&self) -> impl Iterator<Item = (ObjectPath, [u8; RANDOM_LEN])> {
        let own = [(None, &self.own)].into_iter();
        let behind = self.behind.iter().map(|(pointer, bytes)| (Some(*pointer), bytes));
        own.chain(behind).flat_map(|(pointer, bytes)| {
            let windows = bytes.0.windows(RANDOM_LEN).enumerate().step_by(ALIGNMENT);
            windows.filter_map(move |(offset, window)| {
                let path = ObjectPath { pointer, offset: u16::try_from(offset).ok()? };
                Some((path, window.try_into().ok()?))
            })
        })
    }

    /// Where this stands.
    pub(crate) fn places_of(&self, random: &[u8; RANDOM_LEN]) -> Vec<ObjectPath> {
        let places = self.randoms().filter(|(_, found)| found == random);
        places.map(|(path, _)| path).collect()
    }
}

/// What connections have shown, by file.
#[derive(Debug, Default)]
pub(crate) struct Lessons {
    files: BTreeMap<u32, Lesson>,
    learned: Vec<(u32, ObjectPath)>,
}

#[derive(Debug, Default)]
struct Lesson {
    randoms: Vec<[u8; RANDOM_LEN]>,
    /// Where all of these stood.
    places: Vec<ObjectPath>,
}

impl Lessons {
    /// A connection's random stands at these places.
    pub(crate) fn add(&mut self, file: u32, random: [u8; RANDOM_LEN], places: Vec<ObjectPath>) {
        let lesson = self.files.entry(file).or_default();
        if lesson.randoms.len() >= CONNECTIONS {
            return;
        }
        if lesson.randoms.is_empty() {
            lesson.places = places;
        } else {
            lesson.places.retain(|place| places.contains(place));
        }
        if !lesson.randoms.contains(&random) {
            lesson.randoms.push(random);
        }
        match lesson.places.iter().min() {
            // A process made something up.
            None => *lesson = Lesson::default(),
            Some(place) if lesson.randoms.len() == CONNECTIONS => self.learned.push((file, *place)),
            Some(_) => {}
        }
        if self.files.len() > MOST_FILES {
            self.files.pop_first();
        }
    }

    /// What was learned since the last call.
    pub(crate) fn take(&mut self) -> Vec<(u32, ObjectPath)> {
        std::mem::take(&mut self.learned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(pointer: Option<u16>, offset: u16) -> ObjectPath {
        ObjectPath { pointer, offset }
    }

    #[test]
    fn a_random_is_found_in_the_object_and_behind_its_pointers() {
        let random = [7; 32];
        let with = |before: usize| SecretBytes([vec![1; before], random.to_vec()].concat());
        let object =
            Object { file: 1, own: with(0x160), behind: vec![(8, with(0)), (16, with(6))] };
        assert_eq!(object.places_of(&random), [path(None, 0x160), path(Some(8), 0)]);
        assert_eq!(object.places_of(&[8; 32]), []);
    }

    #[test]
    fn a_place_is_learned_when_three_connections_agree() {
        let (right, wrong) = (path(Some(0x30), 0x30), path(None, 0x20));
        let mut lessons = Lessons::default();
        lessons.add(1, [1; 32], vec![wrong, right]);
        lessons.add(1, [1; 32], vec![wrong, right]);
        lessons.add(1, [2; 32], vec![wrong, right]);
        lessons.add(1, [2; 32], vec![right]);
        assert_eq!(lessons.take(), []);
        lessons.add(1, [3; 32], vec![wrong, right]);
        lessons.add(1, [4; 32], vec![wrong]);
        assert_eq!(lessons.take(), [(1, right)]);
        assert_eq!(lessons.take(), []);
    }

    #[test]
    fn where_connections_do_not_agree_nothing_is_learned() {
        let mut lessons = Lessons::default();
        for number in 0..50 {
            lessons.add(1, [number; 32], vec![path(None, u16::from(number % 2) * 8)]);
        }
        assert_eq!(lessons.take(), []);
    }
}
