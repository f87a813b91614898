"""Nondeterministic operations are reported with their module; unpooling is one on the CPU."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from torch import nn

from segkernel import build
from segkernel.errors import ConfigError, UsageError
from segkernel.testing.toys import ToySegmentor
from segplug_training.cuda import CUDAEngine
from segplug_training.deterministic import modules_of


class Unpool(nn.Module):
    def forward(self, features):
        small, places = nn.functional.max_pool2d(features, 2, return_indices=True)
        return nn.functional.max_unpool2d(small, places, 2)


class Unpooling(ToySegmentor):
    def __init__(self):
        super().__init__()
        self.backbone.stages[0].append(Unpool())

    def loss(self, images, targets):
        warnings.warn("of another kind", stacklevel=1)
        return super().loss(images, targets)


@pytest.fixture(autouse=True)
def torch_as_it_was():
    yield
    torch.use_deterministic_algorithms(False)


def engine(mode):
    return CUDAEngine("cpu", deterministic=mode)


def test_warn_names_operation_and_module_once(make_runner, caplog):
    runner = make_runner(model=Unpooling(), engine=engine("warn"), validate=False)
    with caplog.at_level(logging.WARNING), warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        runner.train()
    said = [message for message in caplog.messages if "deterministic" in message]
    assert len(said) == 1
    assert "max_unpooling2d_forward_out (backbone.stages.0.2) is not repeatable" in said[0]
    assert any("of another kind" in str(each.message) for each in others)
    assert not any("deterministic" in str(each.message) for each in others)


def test_strict_mode_ends_the_run(make_runner):
    runner = make_runner(model=Unpooling(), engine=engine("strict"), validate=False)
    with pytest.raises(UsageError, match=r"strict, and max_unpooling2d_forward_out \(backbone.stages.0.2\) has no"):
        runner.train()


def test_a_deterministic_model_trains_in_strict_mode_without_warnings(make_runner, caplog):
    make_runner(engine=engine("strict"), validate=False).train()
    assert torch.are_deterministic_algorithms_enabled()
    assert not [message for message in caplog.messages if "deterministic" in message]


def test_a_backward_pass_is_of_the_modules_whose_forward_pass_it_undoes():
    used = {"upsample_bilinear2d": ["decode_head", "neck"], "_adaptive_avg_pool2d": ["pool"], "upsample": ["other"]}
    assert modules_of("upsample_bilinear2d_backward_out_cuda", used) == ["decode_head", "neck"]
    assert modules_of("adaptive_avg_pool2d_backward_cuda", used) == ["pool"]
    assert modules_of("cumsum_cuda_kernel", used) == []


def test_a_choice_by_time_is_refused_beside_it():
    with pytest.raises(ConfigError, match="cudnn_benchmark"):
        build("engines", {"type": "CUDAEngine", "device": "cpu", "deterministic": "warn", "cudnn_benchmark": True})
