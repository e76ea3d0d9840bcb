//! Connections by number, and nothing by a number that was somebody else's.

use super::reply::Key;

/// Things in numbered slots. A slot is used again, a [`Key`] never.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Option<(u64, T)>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub fn new() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new() }
    }

    pub fn insert(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        let key = Key::new(slot);
        self.slots[slot as usize] = Some((key.generation, make(key)));
        key
    }

    /// What is in a slot, whoever it is.
    pub fn at(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.as_mut().map(|(_, thing)| thing)
    }

    pub fn get(&mut self, key: Key) -> Option<&mut T> {
        let (generation, thing) = self.slots.get_mut(key.slot as usize)?.as_mut()?;
        (*generation == key.generation).then_some(thing)
    }

    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let (_, thing) = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(thing)
    }

    /// All there are, with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, thing)| Some((slot as u32, &thing.as_ref()?.1)))
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How many slots there are, used or not.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_somebody_elses() {
        let mut slab = Slab::new();
        let (a, b) = (slab.insert(|_| "a"), slab.insert(|_| "b"));
        assert_eq!(slab.remove(a.slot), Some("a"));
        assert_eq!(slab.remove(a.slot), None);
        let c = slab.insert(|_| "c");
        assert_eq!(c.slot, a.slot);
        assert_eq!(slab.len(), 2);
        assert_eq!(slab.iter().collect::<Vec<_>>(), [(0, &"c"), (1, &"b")]);
        assert_eq!(slab.get(a), None);
        assert_eq!(slab.get(b), Some(&mut "b"));
        assert_eq!(slab.at(a.slot), Some(&mut "c"));
        let mut another = Slab::new();
        another.insert(|_| "other");
        assert_eq!(another.get(Key { slot: 0, ..c }), None, "keys of another slab mean nothing here");
    }
}
