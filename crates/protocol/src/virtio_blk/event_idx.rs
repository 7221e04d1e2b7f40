//! When a notification is due: the arithmetic of indices that wrap at 2^16 (virtio 2.7.7.2, 2.7.10).

/// Whether the step from `old` to `new` passes the event that the other side asked for: it wants to hear of the entry
/// with index `event`, that is, when the index becomes `event + 1`.
#[must_use]
pub fn is_due(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::is_due;
    use proptest::prelude::*;

    proptest! {
        /// By counting: one of the steps from `old` to `new` makes the entry `event`.
        #[test]
        fn due_is_when_one_of_the_steps_makes_the_entry(event: u16, old: u16, steps in 0u16..1025) {
            let made = (0..steps).any(|step| old.wrapping_add(step) == event);
            prop_assert_eq!(is_due(event, old.wrapping_add(steps), old), made);
        }
    }

    #[test]
    fn it_wraps() {
        assert!(is_due(u16::MAX, 0, u16::MAX));
        assert!(!is_due(0, 0, u16::MAX));
        assert!(is_due(0, 1, u16::MAX));
    }
}
