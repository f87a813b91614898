"""Load test of ``seg-kernel serve``: throughput beside a plain `Predictor`, latency of many clients, memory.

    OMP_NUM_THREADS=1 python benchmarks/serve_load.py               # a tiny model, 10,000 requests
    OMP_NUM_THREADS=1 python benchmarks/serve_load.py NAME --size 512x1024 --requests 200

NAME is a packaged config, which gets random weights, or a file. Server and clients are two processes that talk over
127.0.0.1; on one core, they share it. `Predictor` does the same work in a loop: decode a JPEG, predict it, encode the
labels as PNG. Loop, one client and many clients take turns; the table has the median of the rounds. CPU time is that of
the loop or of the server, without the clients; other processes disturb it less than the time on the clock.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from segkernel import Predictor, image
from segkernel.cli import SIZE
from segplug_deploy.serve.encode import png

TINY = "model: {type: 'segkernel.testing.toys:ToySegmentor', num_classes: 8}\n"
SERVE = "from segkernel.cli import main; main()"


@dataclass(frozen=True)
class Round:
    """Latencies, and the time on the clock and of the CPU of all images together, in seconds."""

    seconds: list[float]
    wall: float
    cpu: float
    refused: tuple[int, ...] = ()
    """Statuses of the answers that were no labels."""

    @property
    def rate(self) -> float:
        """Images per second."""
        return len(self.seconds) / self.wall

    @property
    def cpu_each(self) -> float:
        """CPU seconds per image."""
        return self.cpu / len(self.seconds)


def photos(size: tuple[int, int], count: int = 8) -> list[bytes]:
    """Return JPEGs of smooth noise."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (size[0] // 16, size[1] // 16, 3)).astype(np.uint8)
        found.append(cv2.imencode(".jpg", cv2.resize(coarse, size[::-1]))[1].tobytes())
    return found


class Loop:
    """Decodes, predicts and encodes one image after the other."""

    def __init__(self, model: str) -> None:
        torch.set_num_threads(1)
        self._predictor = Predictor(model, random_weights=True)

    def run(self, images: list[bytes], total: int) -> Round:
        """Process ``total`` images."""
        cpu, start, seconds = time.process_time(), time.perf_counter(), []
        for index in range(total):
            before = time.perf_counter()
            labels = self._predictor(image.decode(images[index % len(images)], "image")).labels
            png(labels.numpy(), self._predictor.palette)
            seconds.append(time.perf_counter() - before)
        return Round(seconds, time.perf_counter() - start, time.process_time() - cpu)


@contextmanager
def server(model: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run ``seg-kernel serve``; yield the process and its port."""
    arguments = ["serve", f"model={model}", "--random-weights", "--port", "0", "--threads", "1"]
    process = subprocess.Popen([sys.executable, "-c", SERVE, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        yield process, int(line.split("http://127.0.0.1:")[1].split()[0])
    finally:
        process.terminate()
        process.wait()


def client(port: int, images: list[bytes], seconds: list[float], total: int, refused: list[int]) -> None:
    """Send requests one after the other over one connection, until all clients together have had ``total`` answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    while len(seconds) < total:
        start = time.perf_counter()
        connection.request("POST", "/models/model/predict", images[len(seconds) % len(images)])
        answer = connection.getresponse()
        answer.read()
        if answer.status == 200:
            seconds.append(time.perf_counter() - start)
        else:
            refused.append(answer.status)
    connection.close()


def resident(process: subprocess.Popen[str]) -> float:
    """Return the resident memory of a process in MB; NaN where the system has no /proc."""
    try:
        return int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[0]) / 1024
    except OSError:
        return float("nan")


def batch_size(port: int) -> float:
    """Return the mean batch size, from the server's metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    total, count = (float(re.findall(rf"batch_size_{key}{{.*}} (.+)", text)[0]) for key in ("sum", "count"))
    return total / count


def load(process: subprocess.Popen[str], port: int, images: list[bytes], clients: int, total: int) -> Round:
    """Send ``total`` requests from several clients at one time."""
    seconds: list[float] = []
    refused: list[int] = []
    threads = [threading.Thread(target=client, args=(port, images, seconds, total, refused)) for _ in range(clients)]
    cpu, start = cpu_seconds(process), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Round(seconds, time.perf_counter() - start, cpu_seconds(process) - cpu, tuple(refused))


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    """Return the CPU time of a process in seconds; NaN where the system has no /proc."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(name: str, rounds: list[Round], loop: list[Round]) -> None:
    """Print the medians of rounds."""
    rate, cpu = (statistics.median(values) for values in zip(*((r.rate, r.cpu_each) for r in rounds)))
    ratio = statistics.median(plain.cpu_each / r.cpu_each for plain, r in zip(loop, rounds))
    seconds = [value for r in rounds for value in r.seconds]
    p50, p99 = (1000 * np.quantile(seconds, share) for share in (0.5, 0.99))
    print(f"{name:12} {rate:9.1f} {1000 * cpu:9.2f} {ratio:7.2f} {p50:9.1f} {p99:9.1f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="packaged config, or file; a tiny one if left out")
    parser.add_argument("--size", type=SIZE, default=(192, 256), help="height and width of the images")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=10_000, help="of the test of memory")
    parser.add_argument("--round", type=int, default=200, help="images of a round")
    options = parser.parse_args()
    images = photos(options.size)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "model.yaml")
        config.write_text(f"_base_: {options.model}\n" if options.model else TINY)  # without published weights
        model = options.model if options.model and Path(options.model).exists() else str(config)
        loop = Loop(model)
        with server(model) as (process, port):
            rounds: dict[str, list[Round]] = {"loop": [], "1 client": [], f"{options.clients} clients": []}
            for number in range(4):
                taken = [
                    loop.run(images, options.round),
                    *(load(process, port, images, clients, options.round) for clients in (1, options.clients)),
                ]
                for found, each in zip(rounds.values(), taken):
                    found += [each] * (number > 0)  # the first is the warm-up
            print("             images/s    CPU ms   ratio    p50 ms    p99 ms")
            for name, found in rounds.items():
                report(name, found, rounds["loop"])
            print(f"mean batch size {batch_size(port):.1f}, also of single clients\nrequests   memory, MB   refused")
            print(f"{0:8d} {resident(process):12.1f}", flush=True)
            for part in range(1, 6):
                done = load(process, port, images, options.clients, options.requests // 5)
                sent, refused = part * options.requests // 5, f"{len(done.refused)} {set(done.refused) or ''}"
                print(f"{sent:8d} {resident(process):12.1f}   {refused}", flush=True)


if __name__ == "__main__":
    main()
