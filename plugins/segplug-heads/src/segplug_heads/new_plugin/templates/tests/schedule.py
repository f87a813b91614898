from __future__ import annotations

import pytest

from segplug_my_model.schedule import MyModelSchedule


def test_the_rate_is_halved_at_every_interval() -> None:
    schedule = MyModelSchedule(every=3)
    assert [schedule.rate(0, 8.0, i) for i in range(7)] == pytest.approx([8, 8, 8, 4, 4, 4, 2])
