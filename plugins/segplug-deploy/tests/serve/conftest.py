"""Put this folder on the path, so that tests can import `toy_server`; a client of the application."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

pytest.importorskip("starlette", reason="needs segplug-deploy[serve]")

from starlette.testclient import TestClient
from toy_server import brightness

from segplug_deploy.serve.app import create_app
from segplug_deploy.serve.models import ServedModel
from segplug_deploy.serve.refusal import Limits


@pytest.fixture
def client() -> Iterator[Callable[..., TestClient]]:
    """Start the application with models and limits; return a client."""
    opened = []

    def start(models: Mapping[str, ServedModel] | None = None, hosts: tuple[str, ...] = (), **limits: float):
        app = create_app(models or {"toy": brightness()}, Limits(**limits), hosts)
        found = TestClient(app, raise_server_exceptions=False)
        opened.append(found)
        return found.__enter__()

    yield start
    for each in opened:
        each.__exit__(None, None, None)
