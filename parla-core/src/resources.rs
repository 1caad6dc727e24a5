//! What a task may claim of a device while it is placed there, counted in integers so that nothing drifts.

use thiserror::Error;

/// Virtual compute units of a device, in thousandths: 1 000 is one whole device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vcus(pub u32);

impl Vcus {
    /// One whole device.
    pub const WHOLE: Self = Self(1000);
}

/// Resources a task holds from its start to its end, and gives back while it awaits other tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Share of the device's compute units.
    pub vcus: Vcus,
    /// Bytes of the device's memory.
    pub memory: u64,
}

impl Claim {
    /// Whether nothing is claimed (the common case: such a task needs no ledger).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A claim that no schedule can ever satisfy.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClaimError {
    /// More compute units than the device has.
    #[error("task claims {} vcus, the device has {}", f64::from(wanted.0) / 1000.0, f64::from(capacity.0) / 1000.0)]
    Vcus {
        /// What the task asks for.
        wanted: Vcus,
        /// What the whole device has.
        capacity: Vcus,
    },
    /// More memory than the device has beside what is reserved for the program's own use.
    #[error(
        "task claims {wanted} bytes of memory, the device has {capacity}, of which {held} are reserved"
    )]
    Reserved {
        /// What the task asks for, in bytes.
        wanted: u64,
        /// What the whole device has, in bytes.
        capacity: u64,
        /// What is reserved, in bytes.
        held: u64,
    },
    /// More memory than the device has.
    #[error("task claims {wanted} bytes of memory, the device has {capacity}")]
    Memory {
        /// What the task asks for, in bytes.
        wanted: u64,
        /// What the whole device has, in bytes.
        capacity: u64,
    },
}

/// The account of one device. Invariant: `claimed <= capacity`, component by component.
#[derive(Clone, Debug)]
pub struct Ledger {
    capacity: Claim,
    claimed: Claim,
}

impl Ledger {
    /// An account with nothing claimed.
    #[must_use]
    pub fn new(capacity: Claim) -> Self {
        Self {
            capacity,
            claimed: Claim::default(),
        }
    }

    /// What the whole device has.
    #[must_use]
    pub fn capacity(&self) -> Claim {
        self.capacity
    }

    /// What is claimed at this moment.
    #[must_use]
    pub fn claimed(&self) -> Claim {
        self.claimed
    }

    /// Whether `claim` could be granted on the empty device.
    ///
    /// # Errors
    /// [`ClaimError`] with both numbers when it could not.
    pub fn check(&self, claim: &Claim) -> Result<(), ClaimError> {
        self.check_beside(claim, 0)
    }

    /// Whether `claim` could be granted on a device of which nothing but `held` bytes of memory is taken. Those are in somebody else's account.
    ///
    /// # Errors
    /// [`ClaimError`] with the numbers when it could not.
    pub fn check_beside(&self, claim: &Claim, held: u64) -> Result<(), ClaimError> {
        if claim.vcus > self.capacity.vcus {
            return Err(ClaimError::Vcus {
                wanted: claim.vcus,
                capacity: self.capacity.vcus,
            });
        }
        if claim.memory > self.capacity.memory {
            return Err(ClaimError::Memory {
                wanted: claim.memory,
                capacity: self.capacity.memory,
            });
        }
        if claim.memory > self.capacity.memory.saturating_sub(held) {
            return Err(ClaimError::Reserved {
                wanted: claim.memory,
                capacity: self.capacity.memory,
                held,
            });
        }
        Ok(())
    }

    /// Whether `claim` fits into what is free now.
    #[must_use]
    pub fn fits(&self, claim: &Claim) -> bool {
        self.fits_beside(claim, 0)
    }

    /// Whether `claim` fits into what is free now, of which `held` bytes of memory are taken in somebody else's account.
    #[must_use]
    pub fn fits_beside(&self, claim: &Claim, held: u64) -> bool {
        let free = self.capacity.memory - self.claimed.memory;
        claim.vcus.0 <= self.capacity.vcus.0 - self.claimed.vcus.0
            && (claim.memory == 0 || claim.memory <= free.saturating_sub(held))
    }

    /// Grants `claim` if it fits into what is free now.
    #[must_use]
    pub fn try_claim(&mut self, claim: &Claim) -> bool {
        let fits = self.fits(claim);
        if fits {
            self.claimed.vcus.0 += claim.vcus.0;
            self.claimed.memory += claim.memory;
        }
        fits
    }

    /// Gives back what [`try_claim`](Self::try_claim) granted.
    ///
    /// # Panics
    /// When more is given back than was claimed: the account would be wrong from then on.
    pub fn release(&mut self, claim: &Claim) {
        let balanced = claim.vcus <= self.claimed.vcus && claim.memory <= self.claimed.memory;
        assert!(balanced, "released {claim:?} of {:?}", self.claimed);
        self.claimed.vcus.0 -= claim.vcus.0;
        self.claimed.memory -= claim.memory;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(vcus: u32, memory: u64) -> Claim {
        Claim {
            vcus: Vcus(vcus),
            memory,
        }
    }

    #[test]
    fn fractions_add_up_exactly() {
        let mut ledger = Ledger::new(claim(1000, 0));
        let third = claim(333, 0);
        for _ in 0..100_000 {
            assert!(
                ledger.try_claim(&third) && ledger.try_claim(&third) && ledger.try_claim(&third)
            );
            assert!(!ledger.try_claim(&third));
            (0..3).for_each(|_| ledger.release(&third));
        }
        assert_eq!(ledger.claimed(), Claim::default());
    }

    #[test]
    fn impossible_claims_name_the_numbers() {
        let ledger = Ledger::new(claim(1000, 24));
        let text = |c| ledger.check(&c).map_err(|e| e.to_string());
        assert_eq!(text(claim(1000, 24)), Ok(()));
        assert_eq!(
            text(claim(1500, 0)),
            Err("task claims 1.5 vcus, the device has 1".into())
        );
        assert_eq!(
            text(claim(0, 30)),
            Err("task claims 30 bytes of memory, the device has 24".into())
        );
    }

    #[test]
    fn a_refused_claim_changes_nothing() {
        let mut ledger = Ledger::new(claim(1000, 10));
        assert!(ledger.try_claim(&claim(500, 8)));
        assert!(!ledger.try_claim(&claim(100, 3)));
        assert_eq!(ledger.claimed(), claim(500, 8));
    }

    #[test]
    #[should_panic(expected = "released")]
    fn giving_back_twice_is_refused() {
        let mut ledger = Ledger::new(claim(1000, 10));
        assert!(ledger.try_claim(&claim(500, 8)));
        ledger.release(&claim(500, 8));
        ledger.release(&claim(500, 8));
    }
}
