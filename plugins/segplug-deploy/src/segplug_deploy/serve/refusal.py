"""Limits of the server, and the error of a request that it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What the server accepts.

    Args:
        megabytes: Size of a request's body, in 10^6 bytes.
        megapixels: Size of an image, and of a batch, in 10^6 pixels.
        seconds: Time for a client to send a request, and again for the server to answer it.
        queue: Requests of one model that are received, waiting or being computed at one time.
        batch: Images that are computed together.
        wait: Seconds for which a batch waits for requests that are being received.
    """

    megabytes: float = 32
    megapixels: float = 25
    seconds: float = 60
    queue: int = 64
    batch: int = 8
    wait: float = 0.005

    @property
    def bytes(self) -> int:
        """Largest body, in bytes."""
        return int(self.megabytes * 1e6)

    @property
    def pixels(self) -> int:
        """Largest image, in pixels."""
        return int(self.megapixels * 1e6)


class Refusal(Exception):
    """A request that is refused.

    Args:
        status: HTTP status, 400 to 599.
        message: What is wrong and what to do; it is sent to the client.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.message, self.headers = status, message, dict(headers or {})
        super().__init__(f"{status}: {message}")


def busy(status: int, message: str) -> Refusal:
    """Return a refusal that asks the client to try again."""
    return Refusal(status, message, {"Retry-After": "1"})
