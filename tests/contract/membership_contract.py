"""What every adapter of ``Membership`` does: nodes live as long as they are heard."""

from __future__ import annotations

from dataclasses import replace

from discloud.core.model import Node, NodeId, NodeState, Role, View
from discloud.ports import Membership


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


ROOT = Node(NodeId("root"), "root", Role.ROOT, "r:7070", "r:7072", "h1", capacity=100, incarnation=1)
NODE = Node(NodeId("node"), "node", Role.ORDINARY, "n:7070", "n:7072", "h2", capacity=100, incarnation=1)


class Beats:
    """Nodes that beat each second, like the real ones."""

    def __init__(self, membership: Membership, clock: Clock) -> None:
        self.membership = membership
        self.clock = clock
        self.count = 0

    async def beat(self, node: Node) -> View:
        self.count += 1
        return await self.membership.announce(replace(node, beat=self.count))

    async def pass_time(self, seconds: int, *nodes: Node) -> View:
        """The root and these nodes beat each second; the root's last view."""
        view = View(0, ())
        for _ in range(seconds):
            self.clock.now += 1
            for node in nodes:
                await self.beat(node)
            view = await self.beat(ROOT)
        return view


def state(view: View, node: Node = NODE) -> NodeState:
    found = view.find(node.id)
    assert found is not None
    return found.state


class MembershipContract:
    """Needs the fixture ``beats``."""

    async def test_who_announces_itself_is_alive_and_known_as_it_says(self, beats: Beats) -> None:
        assert (await beats.membership.announce(ROOT)).nodes == (ROOT,)
        filled = replace(NODE, beat=4, used=7, blobs=2)
        view = await beats.membership.announce(filled)
        assert set(view.nodes) == {ROOT, filled}
        fuller = replace(filled, beat=5, used=50)
        assert (await beats.membership.announce(fuller)).find(NODE.id) == fuller

    async def test_silence_makes_a_node_suspect_then_down_then_lost(self, beats: Beats) -> None:
        await beats.beat(ROOT)
        await beats.beat(NODE)
        assert state(await beats.pass_time(2)) is NodeState.ALIVE
        assert state(await beats.pass_time(1)) is NodeState.SUSPECT
        assert state(await beats.pass_time(6)) is NodeState.SUSPECT
        assert state(await beats.pass_time(1)) is NodeState.DOWN
        assert state(await beats.pass_time(889)) is NodeState.DOWN
        view = await beats.pass_time(1)
        assert state(view) is NodeState.LOST
        assert state(view, ROOT) is NodeState.ALIVE

    async def test_who_comes_back_is_suspect_until_it_is_steady(self, beats: Beats) -> None:
        await beats.beat(NODE)
        await beats.pass_time(12)
        assert state(await beats.pass_time(1, NODE)) is NodeState.SUSPECT
        assert state(await beats.pass_time(2, NODE)) is NodeState.ALIVE

    async def test_who_leaves_is_down_at_once_and_lost_in_time(self, beats: Beats) -> None:
        await beats.beat(NODE)
        await beats.pass_time(5, NODE)
        await beats.membership.leave(NODE.id)
        assert state(await beats.beat(ROOT)) is NodeState.DOWN
        assert state(await beats.pass_time(880)) is NodeState.DOWN
        assert state(await beats.pass_time(30)) is NodeState.LOST

    async def test_who_left_and_starts_again_is_alive_at_once(self, beats: Beats) -> None:
        await beats.beat(NODE)
        await beats.membership.leave(NODE.id)
        await beats.pass_time(20)
        again = replace(NODE, incarnation=2)
        assert state(await beats.membership.announce(again)) is NodeState.ALIVE

    async def test_a_beat_that_was_under_way_does_not_undo_a_goodbye(self, beats: Beats) -> None:
        last = replace(NODE, beat=9)
        await beats.membership.announce(last)
        await beats.membership.leave(NODE.id)
        assert state(await beats.membership.announce(last)) is NodeState.DOWN

    async def test_a_draining_node_that_leaves_is_down(self, beats: Beats) -> None:
        draining = replace(NODE, state=NodeState.DRAINING)
        assert state(await beats.beat(draining)) is NodeState.DRAINING
        await beats.membership.leave(NODE.id)
        assert state(await beats.beat(ROOT)) is NodeState.DOWN

    async def test_the_leave_of_a_stranger_changes_nothing(self, beats: Beats) -> None:
        before = await beats.beat(ROOT)
        await beats.membership.leave(NodeId("stranger"))
        assert [node.id for node in (await beats.beat(ROOT)).nodes] == [node.id for node in before.nodes]

    async def test_an_overtaken_beat_is_not_believed(self, beats: Beats) -> None:
        await beats.membership.announce(replace(NODE, beat=8, used=80))
        for late in (replace(NODE, beat=7, used=70), replace(NODE, incarnation=0, beat=99, used=60)):
            found = (await beats.membership.announce(late)).find(NODE.id)
            assert found is not None
            assert found.used == 80

    async def test_a_folder_that_was_put_back_is_believed_after_a_while(self, beats: Beats) -> None:
        await beats.membership.announce(replace(NODE, incarnation=9))
        await beats.pass_time(12)
        view = await beats.beat(NODE)
        found = view.find(NODE.id)
        assert found is not None
        assert found.incarnation == 1

    async def test_the_epoch_grows_with_each_change_and_only_then(self, beats: Beats) -> None:
        epochs = [(await beats.beat(ROOT)).epoch]
        assert (await beats.beat(ROOT)).epoch == epochs[0]
        epochs.append((await beats.beat(NODE)).epoch)
        assert (await beats.beat(replace(NODE, used=5))).epoch == epochs[-1]
        epochs.append((await beats.pass_time(3)).epoch)
        assert (await beats.pass_time(5)).epoch == epochs[-1]
        epochs.append((await beats.pass_time(3)).epoch)
        await beats.membership.leave(ROOT.id)
        epochs.append((await beats.beat(NODE)).epoch)
        assert epochs == sorted(set(epochs))

    async def test_a_stall_of_the_root_is_not_the_fault_of_the_others(self, beats: Beats) -> None:
        await beats.beat(NODE)
        await beats.pass_time(5, NODE)
        beats.clock.now += 60
        assert state(await beats.beat(ROOT)) is NodeState.ALIVE
        assert state(await beats.beat(NODE)) is NodeState.ALIVE

    async def test_a_stall_hides_nobody_who_is_gone(self, beats: Beats) -> None:
        await beats.beat(NODE)
        await beats.pass_time(5)
        beats.clock.now += 60
        assert state(await beats.beat(ROOT)) is NodeState.SUSPECT
        assert state(await beats.pass_time(6)) is NodeState.DOWN

    async def test_a_stall_does_not_bring_back_who_left(self, beats: Beats) -> None:
        await beats.beat(NODE)
        await beats.membership.leave(NODE.id)
        beats.clock.now += 60
        assert state(await beats.beat(ROOT)) is NodeState.DOWN

    async def test_nothing_is_lost_before_the_root_ran_that_long(self, beats: Beats) -> None:
        await beats.beat(NODE)
        await beats.pass_time(500)
        beats.clock.now += 800
        assert state(await beats.pass_time(300)) is NodeState.DOWN
