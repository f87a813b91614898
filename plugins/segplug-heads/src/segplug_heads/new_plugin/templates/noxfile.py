"""``nox`` tests this package with the oldest and the newest seg-kernel and torch that it supports; ``nox --list``.

In an environment that has everything:  nox --no-venv --no-install -s 'tests(newest)'
"""

from __future__ import annotations

import nox

NAME = "segplug-my-model"
KERNEL_PACKAGES = ("seg-kernel", "segplug-heads", "segplug-backbones", "segplug-datasets", "segplug-training")
VERSIONS = {
    "newest": [],
    "oldest-kernel": [f"{name}==0.3.*" for name in KERNEL_PACKAGES],
    "oldest-torch": ["torch==2.4.*", "numpy<2.3"],
}
"""Requirements beyond those of the package, by name; the bounds are those in pyproject.toml."""


@nox.session
@nox.parametrize("versions", list(VERSIONS), ids=list(VERSIONS))
def tests(session: nox.Session, versions: str) -> None:
    """The conformance kit and the package's own tests."""
    session.install(".[test]", *VERSIONS[versions])
    session.run("python", "-m", "pytest", "tests", f"--segkernel-conformance={NAME}", *session.posargs, external=True)
