from __future__ import annotations

from types import SimpleNamespace

from segplug_my_model.hook import MyModelHook


def test_a_run_stops_after_validations_without_improvement() -> None:
    reasons: list[str] = []
    run, hook = SimpleNamespace(stop=reasons.append), MyModelHook(patience=2)
    for value in (10.0, 20.0, 15.0):
        hook.after_validation(run, {"mIoU": value})
    assert reasons == []
    hook.after_validation(run, {"mIoU": 20.0})
    assert reasons == ["mIoU has not exceeded 20.00 for 2 validations"]


def test_a_resumed_run_continues_to_wait() -> None:
    first, second = MyModelHook(), MyModelHook()
    for value in (2.0, 1.0):
        first.after_validation(None, {"mIoU": value})
    second.load_state_dict(first.state_dict())
    assert (second.best, second.waited) == (2.0, 1)
