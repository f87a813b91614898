"""Train on two hosts, network namespaces with an address each; kill one after four iterations, and start it again.

unshare --map-root-user --net python tests/parallel/two_hosts.py CONFIG WORK_DIR
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PORT, FIRST, SECOND = 29411, "10.9.0.1", "10.9.0.2"


def connect() -> list[str]:
    """Make the second host, on the other end of a cable; return what runs a command there."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stderr=subprocess.DEVNULL)
    atexit.register(holder.kill)
    there = ["nsenter", "--target", str(holder.pid), "--net", "--"]
    own = Path("/proc/self/ns/net").readlink()
    while Path(f"/proc/{holder.pid}/ns/net").readlink() == own:
        time.sleep(0.01)
    for command in (
        "ip link set lo up",
        "ip link add veth0 type veth peer name veth1",
        f"ip link set veth1 netns {holder.pid}",
        f"ip addr add {FIRST}/24 dev veth0",
        "ip link set veth0 up",
    ):
        subprocess.run(command.split(), check=True)
    for command in ("ip link set lo up", f"ip addr add {SECOND}/24 dev veth1", "ip link set veth1 up"):
        subprocess.run([*there, *command.split()], check=True)
    return there


def launch(address: str, device: str, command: Sequence[str], on: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start torchrun with one process on a host."""
    options = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", f"--local-addr={address}"]
    meeting = ["--rdzv-backend=c10d", "--rdzv-id=test", f"--rdzv-endpoint={FIRST}:{PORT}"]
    meeting += [f"--rdzv-conf=is_host={int(address == FIRST)}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *options, *meeting, "-m", "segkernel"]
    # A store that torchrun shares has no address for hosts that come later.
    settings = {"GLOO_SOCKET_IFNAME": device, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen([*on, *torchrun, *command], env={**os.environ, **settings})


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it has started, as when a machine goes off."""
    found = [process.pid]
    for each in found:
        found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    for each in found:
        os.kill(each, signal.SIGKILL)
    process.wait()


def main(config: str, work_dir: str) -> int:
    """Return the exit code of the first host."""
    there = connect()
    command = ["run", config, f"--work-dir={work_dir}"]
    first = launch(FIRST, "veth0", command)
    second = launch(SECOND, "veth1", command, there)
    while first.poll() is None and not list(Path(work_dir, "checkpoints").glob("iter_*[4-9].pt")):
        time.sleep(0.02)
    kill(second)
    time.sleep(20)  # a machine starts no sooner; torchrun misses it after 15 seconds
    second = launch(SECOND, "veth1", command, there)
    return first.wait() or second.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
