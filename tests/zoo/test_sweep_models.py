"""Models of the zoo side by side: one data part and schedule, from random weights, and what is still not equal."""

from __future__ import annotations

from segkernel import load_config
from segplug_training.combinations import combinations, unequal


def test_models_share_data_and_schedule_and_start_from_random_weights() -> None:
    entries = combinations("4xb2-20k_streetscenes", ["schedule.iterations=300"], 2, ["stdc1", "fast_scnn"])
    assert [(entry.varied["model"], entry.seed) for entry in entries] == [
        (model, seed) for model in ("stdc1", "fast_scnn") for seed in (0, 1)
    ]
    for entry in entries:
        config = load_config(entry.config, entry.overrides)
        assert config["schedule"]["iterations"] == 300
        assert "pretrained" not in {**config["model"], **config["model"]["backbone"]}
    kept = combinations("4xb2-20k_streetscenes", [], 1, ["stdc1"], pretrained=True)
    assert not any("pretrained" in override for override in kept[0].overrides)


def test_what_is_not_equal_is_said() -> None:
    entries = combinations("4xb2-20k_streetscenes", [], 1, ["fast_scnn", "stdc1"])
    entries[1].overrides.append("optim.batch_size=2")
    assert "optim.batch_size: 8, but 2 for stdc1" in unequal(entries)
