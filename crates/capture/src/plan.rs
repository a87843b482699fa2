//! What to open and what to close so that exactly the wanted namespaces are recorded: pure.

use std::collections::BTreeSet;

use kuberewind_packet::{NetnsId, Owner};

use crate::namespaces::Target;

/// A namespace that has a ring, or is getting one or losing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) netns: NetnsId,
    pub(crate) owner: Owner,
    pub(crate) phase: Phase,
}

/// Where a recorded namespace is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its first ring is being opened.
    Opening,
    /// Its packets are taken.
    Open,
    /// A further ring is being opened; its packets are taken.
    Growing,
    /// Its last packets are read, then its rings are closed.
    Closing,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Open(Target),
    Close(NetnsId),
    Rename(NetnsId, Owner),
}

/// The steps from what is held to what is desired. What is in the middle of opening, growing or
/// closing is left until it is through; `postponed` ones failed a moment ago. Of two targets with the
/// same namespace the first counts: it has one ring.
pub(crate) fn plan(desired: &[Target], held: &[Held], postponed: &BTreeSet<NetnsId>) -> Vec<Step> {
    let wanted = |netns| desired.iter().find(|target| target.netns == netns);
    let mut steps: Vec<Step> = held
        .iter()
        .filter(|held| held.phase == Phase::Open)
        .filter_map(|held| match wanted(held.netns) {
            None => Some(Step::Close(held.netns)),
            Some(target) if target.owner != held.owner => {
                Some(Step::Rename(held.netns, target.owner.clone()))
            }
            Some(_) => None,
        })
        .collect();
    let mut known: BTreeSet<NetnsId> = held.iter().map(|held| held.netns).collect();
    known.extend(postponed);
    let missing = desired.iter().filter(|target| known.insert(target.netns));
    steps.extend(missing.cloned().map(Step::Open));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(netns: u64, name: &str) -> Target {
        Target {
            owner: Owner::Netns(name.to_owned()),
            netns: NetnsId(netns),
            path: format!("/run/netns/{name}").into(),
        }
    }

    fn held(netns: u64, name: &str, phase: Phase) -> Held {
        Held { netns: NetnsId(netns), owner: Owner::Netns(name.to_owned()), phase }
    }

    fn steps(desired: &[Target], held: &[Held]) -> Vec<Step> {
        plan(desired, held, &BTreeSet::new())
    }

    #[test]
    fn what_is_missing_is_opened_and_what_is_too_much_is_closed() {
        let desired = [target(1, "a"), target(2, "b")];
        let held = [held(2, "b", Phase::Open), held(3, "c", Phase::Open)];
        let expected = [Step::Close(NetnsId(3)), Step::Open(target(1, "a"))];
        assert_eq!(steps(&desired, &held), expected);
    }

    #[test]
    fn what_is_as_desired_is_left_alone() {
        assert_eq!(steps(&[target(1, "a")], &[held(1, "a", Phase::Open)]), []);
    }

    #[test]
    fn what_is_on_its_way_is_awaited() {
        for phase in [Phase::Opening, Phase::Growing, Phase::Closing] {
            assert_eq!(steps(&[], &[held(1, "a", phase)]), [], "{phase:?}");
            assert_eq!(steps(&[target(1, "a")], &[held(1, "a", phase)]), [], "{phase:?}");
        }
    }

    #[test]
    fn a_namespace_under_two_names_gets_one_ring() {
        let desired = [target(1, "a"), target(1, "b")];
        assert_eq!(steps(&desired, &[]), [Step::Open(target(1, "a"))]);
        assert_eq!(steps(&desired, &[held(1, "a", Phase::Open)]), []);
    }

    #[test]
    fn a_namespace_that_changes_hands_keeps_its_ring() {
        let expected = [Step::Rename(NetnsId(1), Owner::Netns("b".to_owned()))];
        assert_eq!(steps(&[target(1, "b")], &[held(1, "a", Phase::Open)]), expected);
    }

    #[test]
    fn what_just_failed_is_tried_later() {
        let postponed = BTreeSet::from([NetnsId(1)]);
        assert_eq!(plan(&[target(1, "a")], &[], &postponed), []);
    }
}
