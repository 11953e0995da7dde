"""Compaction goes on until nothing is left to gain, within its bound."""

from discloud.services.compact import PACKS, Compact


async def test_it_goes_on_until_nothing_is_gained() -> None:
    gains = [5, 7, 0, 9]

    async def one() -> int:
        return gains.pop(0)

    assert (await Compact(one).run_once()).freed == 12
    assert gains == [9]


async def test_a_run_is_bounded() -> None:
    async def one() -> int:
        return 1

    assert (await Compact(one).run_once()).freed == PACKS
