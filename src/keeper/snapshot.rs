//! The processes below the keeper at one moment, and the child to which each belongs.
//!
//! A process belongs to a child if it is in the child's session or group, if it was seen
//! to belong to the child before, if its parent belongs to the child, or if it has the
//! child's marker in its environment. Otherwise it is an orphan and belongs to no child.

use std::collections::{HashMap, HashSet};

use nix::unistd::Pid;

use super::process_table::{Identity, ProcStat};

/// How often the process table is walked again until two walks agree.
const MAX_WALKS: usize = 5;

/// The live descendants of the keeper that lead no child, each with its owner: the leader of
/// the child to which it belongs.
pub(super) struct DescendantSnapshot {
    pub(super) descendants: Vec<ProcStat>,
    pub(super) owners: Vec<Option<Pid>>,
    /// Leaders for which the last two walks did not find the same members.
    unstable: HashSet<Pid>,
}

impl DescendantSnapshot {
    /// The result of one walk.
    pub(super) fn new(descendants: Vec<ProcStat>, owners: Vec<Option<Pid>>) -> Self {
        Self { descendants, owners, unstable: HashSet::new() }
    }

    /// Walks until two walks agree.
    ///
    /// A parent may exit during a walk, and its children then turn up elsewhere. So the
    /// members of a child are complete only if two walks found the same.
    pub(super) fn take(mut walk: impl FnMut() -> Self) -> Self {
        let mut last = walk();
        for _ in 0..MAX_WALKS {
            if last.descendants.is_empty() {
                break;
            }
            let mut next = walk();
            let leaders = last.owners.iter().chain(&next.owners).flatten().copied();
            next.unstable =
                leaders.filter(|leader| !last.members(*leader).eq(next.members(*leader))).collect();
            last = next;
            if last.unstable.is_empty() {
                break;
            }
        }
        last
    }

    /// The processes that belong to the child of this leader, without the leader.
    pub(super) fn members(&self, leader: Pid) -> impl Iterator<Item = &ProcStat> {
        self.owned_by(Some(leader))
    }

    /// The processes that belong to no child.
    pub(super) fn orphans(&self) -> impl Iterator<Item = &ProcStat> {
        self.owned_by(None)
    }

    fn owned_by(&self, owner: Option<Pid>) -> impl Iterator<Item = &ProcStat> {
        let pairs = self.descendants.iter().zip(&self.owners);
        pairs.filter(move |(_, found)| **found == owner).map(|(stat, _)| stat)
    }

    /// Whether the members of this leader are known completely.
    pub(super) fn is_stable(&self, leader: Pid) -> bool {
        !self.unstable.contains(&leader)
    }
}

/// The owner of each of `descendants`, in which parents come before their children.
/// `known` are processes that were seen to belong to a leader before, and `owner_by_marker`
/// reads the environment of a process, which costs more than everything else.
pub(super) fn find_owners(
    descendants: &[ProcStat],
    is_leader: impl Fn(Pid) -> bool,
    known: &HashMap<Identity, Pid>,
    owner_by_marker: impl Fn(Pid) -> Option<Pid>,
) -> Vec<Option<Pid>> {
    let mut owners: HashMap<Pid, Option<Pid>> = HashMap::new();
    for stat in descendants {
        let leader = [stat.session, stat.group].into_iter().find(|leader| is_leader(*leader));
        let owner = leader
            .or_else(|| known.get(&stat.identity()).copied())
            .or_else(|| owners.get(&stat.parent).copied().flatten())
            .or_else(|| owner_by_marker(stat.pid));
        owners.insert(stat.pid, owner);
    }
    descendants.iter().map(|stat| owners[&stat.pid]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::process_table::tests::process;

    const LEADER: i32 = 100;
    const OTHER_LEADER: i32 = 200;

    fn pid(raw: i32) -> Pid {
        Pid::from_raw(raw)
    }

    fn owners(
        descendants: &[ProcStat],
        known: &[(Identity, i32)],
        marked: &[(i32, i32)],
    ) -> Vec<i32> {
        let is_leader = |leader| [pid(LEADER), pid(OTHER_LEADER)].contains(&leader);
        let known = known.iter().map(|(identity, owner)| (*identity, pid(*owner))).collect();
        let by_marker = |process: Pid| {
            let found = marked.iter().find(|(marked, _)| pid(*marked) == process);
            found.map(|(_, owner)| pid(*owner))
        };
        let owners = find_owners(descendants, is_leader, &known, by_marker);
        owners.into_iter().map(|owner| owner.map_or(0, Pid::as_raw)).collect()
    }

    #[test]
    fn session_and_group_decide_the_owner_first() {
        let in_session = ProcStat { session: pid(LEADER), ..process(11, 1) };
        let in_group = ProcStat { group: pid(OTHER_LEADER), ..process(12, 11) };
        let known = [(in_group.identity(), LEADER)];
        assert_eq!(owners(&[in_session, in_group], &known, &[]), [LEADER, OTHER_LEADER]);
    }

    #[test]
    fn process_that_left_its_session_keeps_its_known_owner() {
        let left = process(11, 1);
        let known = [(left.identity(), LEADER)];
        assert_eq!(owners(std::slice::from_ref(&left), &known, &[]), [LEADER]);
        let reused_pid = ProcStat { started: left.started + 1, ..left };
        assert_eq!(owners(&[reused_pid], &known, &[]), [0]);
    }

    #[test]
    fn child_of_a_member_belongs_to_the_same_leader() {
        let member = ProcStat { session: pid(LEADER), ..process(11, 1) };
        let walk = [member, process(12, 11), process(13, 12), process(14, 1)];
        assert_eq!(owners(&walk, &[], &[]), [LEADER, LEADER, LEADER, 0]);
    }

    #[test]
    fn marker_decides_the_owner_of_a_process_with_no_other_tie() {
        let walk = [process(11, 1), process(12, 11)];
        assert_eq!(owners(&walk, &[], &[(11, LEADER)]), [LEADER, LEADER]);
    }

    fn walk(members: &[(i32, i32)]) -> DescendantSnapshot {
        let descendants = members.iter().map(|(member, _)| process(*member, 1)).collect();
        let owners = members.iter().map(|(_, owner)| (*owner != 0).then(|| pid(*owner)));
        DescendantSnapshot::new(descendants, owners.collect())
    }

    #[test]
    fn snapshot_is_the_first_that_two_walks_agree_on() {
        let mut walks =
            [walk(&[(11, LEADER)]), walk(&[(12, LEADER)]), walk(&[(12, LEADER)])].into_iter();
        let snapshot = DescendantSnapshot::take(|| walks.next().unwrap());
        assert!(snapshot.is_stable(pid(LEADER)));
        let members: Vec<Pid> = snapshot.members(pid(LEADER)).map(|stat| stat.pid).collect();
        assert_eq!(members, [pid(12)]);
    }

    #[test]
    fn leader_whose_members_change_in_every_walk_is_unstable() {
        let mut next = 10;
        let snapshot = DescendantSnapshot::take(|| {
            next += 1;
            walk(&[(next, LEADER), (5, OTHER_LEADER), (6, 0)])
        });
        assert!(!snapshot.is_stable(pid(LEADER)));
        assert!(snapshot.is_stable(pid(OTHER_LEADER)));
        assert_eq!(snapshot.orphans().count(), 1);
    }

    #[test]
    fn one_walk_is_enough_where_nothing_is_found() {
        let mut walks = 0;
        DescendantSnapshot::take(|| {
            walks += 1;
            walk(&[])
        });
        assert_eq!(walks, 1);
    }
}
