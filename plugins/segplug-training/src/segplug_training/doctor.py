"""``seg-kernel doctor``: what is wrong with this installation and this machine, and what to do.

seg-kernel doctor
seg-kernel doctor --json
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Literal

import click
from packaging.requirements import InvalidRequirement, Requirement

from segkernel import __version__
from segkernel.catalog import KERNEL, Catalog
from segkernel.cli import table
from segkernel.files import cache_folder
from segplug_training.cores import available_cores

GIB = 2**30
LEAST_SHARED = 0.25 * GIB
"""Bytes of shared memory; Docker's default of 64 MiB is too little for the batches of data-loader workers."""
LEAST_DISK = 1.0 * GIB
"""Bytes for checkpoints."""
LEAST_FILES = 256
"""Open files: each worker needs some for every batch it passes on."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        about: What was looked at.
        state: ``wrong`` makes the command fail, ``note`` does not.
        text: What was found.
        cure: What to do, empty when it is ok.
    """

    about: str
    state: Literal["ok", "note", "wrong"]
    text: str
    cure: str = ""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> int:
    """Check versions, plugins, GPU, threads, shared memory and disk; the exit code is 1 when something is wrong.

    \b
    Examples:
      seg-kernel doctor
      seg-kernel doctor --json
    """
    findings = examine()
    wrong = [finding for finding in findings if finding.state == "wrong"]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
        return int(bool(wrong))
    click.echo(table([(each.state, each.about, each.text) for each in findings]))
    for finding in findings:
        if finding.cure:
            click.echo(f"\n{finding.about}: {finding.text}\n    {finding.cure}")
    click.echo(f"\n{len(wrong)} things are wrong" if wrong else "\nnothing is wrong\nnext: seg-kernel run quickstart")
    return int(bool(wrong))


def examine() -> list[Finding]:
    """Return the findings of all checks, in order; a check that fails itself is a finding."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (_versions, _plugins, _requirements, _opencv, _torch)
    return [finding for check in (*checks, _shared_memory, _open_files, _disk) for finding in _safely(check)]


def _safely(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # a broken installation can make anything raise
        about = check.__name__.strip("_").replace("_", " ")
        yield Finding(about, "wrong", f"{type(error).__name__}: {error}", "reinstall the package that is named")


def _versions() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()}, {platform.platform()}")
    yield Finding("seg-kernel", "ok", __version__)


def _plugins() -> Iterator[Finding]:
    rows = [row for row in Catalog.discover().rows if row.distribution != KERNEL]
    if not rows:
        yield Finding("plugins", "wrong", "none is installed", "pip install segplug-heads segplug-datasets")
    for row in {row.distribution: row for row in rows}.values():
        text = f"{row.version}, accepts seg-kernel {row.requires or 'any'}"
        if row.status == "ok":
            yield Finding(row.distribution, "ok", text)
        elif row.status == "disabled":
            yield Finding(row.distribution, "note", "is hidden by SEGKERNEL_DISABLE", "unset SEGKERNEL_DISABLE")
        else:
            yield Finding(row.distribution, "wrong", text, f"pip install --upgrade {row.distribution}")


def _requirements() -> Iterator[Finding]:
    """Check what the kernel and its plugins require against what is installed."""
    names = [KERNEL, *dict.fromkeys(row.distribution for row in Catalog.discover().rows)]
    unmet = [problem for name in dict.fromkeys(names) for problem in unmet_requirements(name)]
    for text, requirement in unmet:
        yield Finding("requirements", "wrong", text, f"pip install '{requirement}'")
    if not unmet:
        yield Finding("requirements", "ok", "all are installed")


def unmet_requirements(distribution: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with each unmet requirement of a distribution, and the requirement."""
    for line in metadata.requires(distribution) or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            if requirement.name == "opencv-python" and _has("opencv-python-headless"):
                continue
            yield f"{distribution} needs {wanted}, which is not installed", wanted
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{distribution} needs {wanted}, but {version} is installed", wanted


def _has(distribution: str) -> bool:
    return any(True for _ in metadata.distributions(name=distribution))


def _opencv() -> Iterator[Finding]:
    try:
        version = importlib.import_module("cv2").__version__
    except ImportError as error:
        cure = "pip uninstall opencv-python; pip install opencv-python-headless"
        yield Finding("opencv", "wrong", f"cannot be imported: {error}", cure)
    else:
        yield Finding("opencv", "ok", version)


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "wrong", f"cannot be imported: {error}", "pip install torch")
        return
    yield Finding("torch", "ok", f"{torch.__version__}, CUDA {torch.version.cuda or 'not compiled in'}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _gpu(torch, index)
    elif Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
        cure = "install the build of torch for CUDA, see pytorch.org"
        if torch.version.cuda:
            cure = f"update the NVIDIA driver to one for CUDA {torch.version.cuda}, and check CUDA_VISIBLE_DEVICES"
        yield Finding("gpu", "wrong", "there is an NVIDIA GPU that torch cannot use", cure)
    elif torch.backends.mps.is_available():
        yield Finding("gpu", "ok", "Apple GPU (mps)")
    else:
        yield Finding("gpu", "note", "none: models train on the CPU")
    yield _threads(torch.get_num_threads(), available_cores())


def _gpu(torch: ModuleType, index: int) -> Finding:
    cuda = torch.cuda
    about, name = f"gpu {index}", cuda.get_device_name(index)
    try:
        torch.ones(1, device=f"cuda:{index}").add(1).item()  # a kernel that is not compiled for the GPU raises
        free, total = cuda.mem_get_info(index)
    except RuntimeError as error:
        cure = "install a build of torch that supports this GPU, or stop what uses it (nvidia-smi)"
        return Finding(about, "wrong", f"{name}: {str(error).splitlines()[0]}", cure)
    text = f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < total / 2:
        return Finding(about, "note", text, "another program uses it: nvidia-smi lists them")
    return Finding(about, "ok", text)


def _threads(threads: int, cores: int) -> Finding:
    text = f"{threads} of torch on {cores} usable cores"
    if threads > cores:
        return Finding("threads", "wrong", text, f"more threads than cores are slow: OMP_NUM_THREADS={cores}")
    if threads < cores / 2:
        cure = "torch uses a part of the cores: unset OMP_NUM_THREADS if this is not intended"
        return Finding("threads", "note", text, cure)
    return Finding("threads", "ok", text)


def _shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    if not folder.is_dir():  # other systems than Linux
        return
    size, free = shutil.disk_usage(folder).total, shutil.disk_usage(folder).free
    text = f"{free / GIB:.2f} of {size / GIB:.2f} GiB free"
    if free < LEAST_SHARED:
        cure = "data-loader workers need it: docker run --shm-size=8g, or data.workers=0"
        yield Finding("shared memory", "wrong", text, cure)
    else:
        yield Finding("shared memory", "ok", text)


def _open_files() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= limit < LEAST_FILES:
        yield Finding("open files", "wrong", f"at most {limit}", "ulimit -n 4096")
    else:
        yield Finding("open files", "ok", f"at most {limit if limit >= 0 else 'unlimited'}")


def _disk() -> Iterator[Finding]:
    for about, folder, cure in (
        ("work directory", Path.cwd() / "work_dirs", "free space, or choose another disk: --work-dir DIR"),
        ("cache", cache_folder(), "free space, or set SEGKERNEL_CACHE to a folder on another disk"),
    ):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        text = f"{folder}, {free / GIB:.1f} GiB free"
        if not os.access(there, os.W_OK):
            yield Finding(about, "wrong", f"{folder} is not writable", cure.partition(", or ")[2])
        elif free < LEAST_DISK:
            yield Finding(about, "wrong", text, cure)
        else:
            yield Finding(about, "ok", text)
