"""Importing modules of this package is cheap, as data-loader workers and listings do it often."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution

HEAVY = {"torch", "cv2"}


def test_no_component_module_imports_torch_or_opencv() -> None:
    groups = ("segkernel.datasets", "segkernel.samplers", "segkernel.transforms", "segkernel.metrics")
    points = [point for point in distribution("segplug-datasets").entry_points if point.group in groups]
    modules = {point.value.partition(":")[0] for point in points} | {"segplug_datasets.street.scene"}
    code = f"import sys, importlib; [importlib.import_module(m) for m in {sorted(modules)}]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_importing_the_package_imports_no_other_segplug_package() -> None:
    code = "import sys; before = set(sys.modules); import segplug_datasets; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in loaded if name.startswith("seg")] == ["segplug_datasets"]
    assert not HEAVY & set(loaded)
