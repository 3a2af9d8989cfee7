"""What a fit is told to need is near what it takes."""

from blemish.memory.plan import RUNTIME_MB, plan


def test_memory_stops_growing_at_the_budget() -> None:
    few, many, more = (
        plan(images, 1024, 152, 3072, embed_seconds=0.003, budget_mb=512) for images in (10, 10_000, 20_000)
    )
    assert RUNTIME_MB < few.megabytes < many.megabytes == more.megabytes
    assert few.seconds < many.seconds < more.seconds
    assert few.rows == 3072


def test_a_tiny_set_remembers_all() -> None:
    expected = plan(2, 9, 152, 3072, embed_seconds=0.003, budget_mb=512)
    assert expected.rows == expected.vectors == 18
    assert "18 patch vectors of 152 values, of which 18 are remembered" in str(expected)
