//! What to open and what to close so that exactly the desired namespaces are recorded: pure.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use kuberewind_packet::{NetnsId, Owner};

use crate::namespaces::Target;

/// What is to become of the packets of network namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// They are recorded.
    pub targets: Vec<Target>,
    /// Nobody knows yet: they wait in memory until their namespace is among the other two, or nowhere
    /// any more: then they are let go and counted. The owner is what they are counted under.
    pub undecided: Vec<Target>,
    /// They are not to be recorded. What waits of them is thrown away, and not missed.
    pub unwanted: BTreeSet<NetnsId>,
    /// When it was looked which namespaces there are. The number of one that has ended is given to a
    /// new one at once, but not while a ring is open on it: so this decides about those namespaces
    /// only whose ring was open by then.
    pub as_of: Instant,
}

impl Desired {
    /// These, and nothing else.
    pub fn only(targets: Vec<Target>) -> Self {
        let as_of = Instant::now();
        Self { targets, undecided: Vec::new(), unwanted: BTreeSet::new(), as_of }
    }

    pub(crate) fn target(&self, netns: NetnsId) -> Option<&Target> {
        self.targets.iter().find(|target| target.netns == netns)
    }

    /// Whether anything is asked for this namespace. One that is undecided may have the number of
    /// another, but not its name.
    pub(crate) fn concerns(&self, netns: NetnsId, path: &Path) -> bool {
        let same = |target: &Target| target.netns == netns && target.path == path;
        self.target(netns).is_some() || self.undecided.iter().any(same)
    }

    fn is_undecided(&self, netns: NetnsId) -> bool {
        self.undecided.iter().any(|target| target.netns == netns)
    }
}

/// A namespace that has a ring, or is getting one or losing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) netns: NetnsId,
    pub(crate) owner: Owner,
    pub(crate) phase: Phase,
    /// Nobody had decided about it when its ring was opened: when that was.
    pub(crate) undecided: Option<Instant>,
}

impl Held {
    /// Whether nobody who waits for targets needs to wait for this one.
    pub(crate) fn is_settled(&self) -> bool {
        self.phase == Phase::Open || (self.phase == Phase::Opening && self.undecided.is_some())
    }
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
    /// Open a ring, and keep in memory what comes.
    Hold(Target),
    /// What is kept in memory is to be recorded, and what comes.
    Want(NetnsId, Owner),
    /// What is kept in memory is not to be recorded: close.
    Discard(NetnsId),
}

/// The steps from what is held to what is desired. What is in the middle of opening, growing or
/// closing is left until it is through; `postponed` ones failed a moment ago. Of two targets with the
/// same namespace the first counts: it has one ring.
pub(crate) fn plan(desired: &Desired, held: &[Held], postponed: &BTreeSet<NetnsId>) -> Vec<Step> {
    let open = held.iter().filter(|held| held.phase == Phase::Open);
    let mut steps: Vec<Step> = open.filter_map(|held| next(desired, held)).collect();
    let mut known: BTreeSet<NetnsId> = held.iter().map(|held| held.netns).collect();
    known.extend(postponed);
    // First those that lose packets by waiting; and who is undecided is no target for certain.
    let undecided = desired.undecided.iter().filter(|target| known.insert(target.netns));
    steps.extend(undecided.cloned().map(Step::Hold));
    let missing = desired.targets.iter().filter(|target| known.insert(target.netns));
    steps.extend(missing.cloned().map(Step::Open));
    steps
}

/// The next step with a namespace whose ring is open.
fn next(desired: &Desired, held: &Held) -> Option<Step> {
    let netns = held.netns;
    let target = desired.target(netns);
    let Some(since) = held.undecided else {
        return match target {
            None => Some(Step::Close(netns)),
            Some(target) if target.owner != held.owner => {
                Some(Step::Rename(netns, target.owner.clone()))
            }
            Some(_) => None,
        };
    };
    match target {
        Some(target) if desired.as_of > since => Some(Step::Want(netns, target.owner.clone())),
        None if desired.as_of > since && desired.unwanted.contains(&netns) => {
            Some(Step::Discard(netns))
        }
        None if !desired.is_undecided(netns) && !desired.unwanted.contains(&netns) => {
            Some(Step::Close(netns))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn target(netns: u64, name: &str) -> Target {
        Target {
            owner: Owner::Netns(name.to_owned()),
            netns: NetnsId(netns),
            path: format!("/run/netns/{name}").into(),
        }
    }

    fn held(netns: u64, name: &str, phase: Phase) -> Held {
        let owner = Owner::Netns(name.to_owned());
        Held { netns: NetnsId(netns), owner, phase, undecided: None }
    }

    fn steps(desired: &[Target], held: &[Held]) -> Vec<Step> {
        plan(&Desired::only(desired.to_vec()), held, &BTreeSet::new())
    }

    #[test]
    fn who_is_undecided_waits_until_a_look_that_began_after_its_ring_was_open() {
        let opened = Instant::now();
        let held = [Held { undecided: Some(opened), ..held(1, "cni-1", Phase::Open) }];
        let before = Desired { as_of: opened, ..Desired::only(Vec::new()) };
        let after = Desired { as_of: opened + Duration::from_nanos(1), ..before.clone() };
        let steps = |desired: Desired| plan(&desired, &held, &BTreeSet::new());
        let targets = vec![target(1, "pod")];
        assert_eq!(steps(Desired { targets: targets.clone(), ..before.clone() }), []);
        let want = Step::Want(NetnsId(1), Owner::Netns("pod".to_owned()));
        assert_eq!(steps(Desired { targets, ..after.clone() }), [want]);

        let unwanted = BTreeSet::from([NetnsId(1)]);
        assert_eq!(steps(Desired { unwanted: unwanted.clone(), ..before.clone() }), []);
        let discard = Step::Discard(NetnsId(1));
        assert_eq!(steps(Desired { unwanted, ..after }), [discard]);

        let undecided = vec![target(1, "cni-1")];
        assert_eq!(steps(Desired { undecided, ..before.clone() }), []);
        assert_eq!(steps(before), [Step::Close(NetnsId(1))], "let go");
    }

    #[test]
    fn a_namespace_of_which_nobody_has_decided_is_opened_as_such_even_if_its_number_was_a_targets()
    {
        let undecided = vec![target(1, "cni-1")];
        let desired =
            Desired { undecided, ..Desired::only(vec![target(1, "pod"), target(2, "b")]) };
        let expected = [Step::Hold(target(1, "cni-1")), Step::Open(target(2, "b"))];
        assert_eq!(plan(&desired, &[], &BTreeSet::new()), expected);
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
        assert_eq!(plan(&Desired::only(vec![target(1, "a")]), &[], &postponed), []);
    }
}
