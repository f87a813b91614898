"""Import configs with random changes: no raw traceback, nothing executed, none takes long.

    python tests/moving_in/mutate.py --count 3000 --seed 0 [--folder mmseg/.mim/configs]

Values, names and lines are exchanged, removed and repeated, and hostile expressions are put in their places. The exit
code is 1 if a file was not imported or refused with a message, ran anything, or took more than 2 s of processor time.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segkernel.errors import ConfigError
from segplug_heads.moving_in.importing import import_config
from segplug_heads.moving_in.written import written

CONFIGS = Path(__file__).with_name("configs")
MOST_SECONDS = 2.0

HOSTILE = (
    *("__import__('os').system('touch ran')", "open('ran', 'w')", "eval('1')", "exec('1')", "().__class__.__base__"),
    *("(lambda: 1)()", "[0] * 10**9", "'a' * 10**9", "10**10**10", "2**100000", "1 << 10**9", "list(range(10**12))"),
    *("[i for i in range(10**9)]", "f'{1:>999999999}'", "'%999999999d' % 1", "'{:999999999}'.format(1)", "9**9**9"),
    *("{**{}}", "[[[[[[[[[[]]]]]]]]]]", "-" * 500 + "1", "(" * 90 + ")" * 90, "'{0.__class__}'.format(1)"),
    *("[[0] * 999 for i in range(999)]", "{i: i for i in range(10**7)}", "round(1, -10**9)", "'a'.join(['b'] * 10**8)"),
    *("{{_base_.nothing}}", "'{{ fileDirname }}'", "{{$HOME}}", "getattr(dict, 'x')", "print", "dict", "None", "True"),
    *("-1", "0", "1e308", "float('nan')", "float('inf')", "''", "'x'", "[]", "{}", "()", "[None]", "[[]]", "[1, 'a']"),
    *("dict(type=3)", "dict(type='PSPHead')", "dict(type=None)", "[dict(type='mmdet.X')]", "dict(type='a.b.c:d')"),
    *(
        "dict(_delete_=True)",
        "'${model}'",
        "'${data.nothing}'",
        "'a: b\\n# c'",
        "'\\x00'",
        "'\\ud800'",
        "dict(a={1: 2})",
    ),
)
LINES = (
    *(
        "import os; os.system('touch ran')",
        "while True: pass",
        "for i in range(10**9): pass",
        "def f(): pass",
        "del model",
    ),
    *("class A: pass", "raise SystemExit", "with open('ran', 'w') as f: pass", "x = x", "_base_ = __file__", "yield 1"),
    *(
        "a = [1]\nfor i in range(99): a = [a, a]",
        "a = [1]\na.append(a)\nmodel = a",
        "a = 'x'\nfor i in range(99): a += a",
    ),
    *(
        "a = [1]\nfor i in range(60): a.extend(a)",
        "a = dict()\na['a'] = a\nmodel.update(a)",
        "@f\ndef g(): ...",
        "\x00",
    ),
    *(
        "a = {}\nfor i in range(99): a = dict(a=a, b=a)\nmodel = a",
        "assert False",
        "import this",
        "from os import system",
    ),
    *("a = [1]\nfor i in range(99): a = [a, a]\nb = [1]\nfor i in range(99): b = [b, b]\nc = a == b", "train_cfg = 3"),
    *(
        "model = 3",
        "data = []",
        "optim_wrapper = 'x'",
        "train_dataloader = [1]",
        "param_scheduler = 1",
        "\tx = 1",
        "((((",
    ),
)


def mutated(text: str, rng: random.Random) -> str:
    """Return the text of a config with one to four changes."""
    for _ in range(rng.randint(1, 4)):
        lines = text.splitlines()
        at = rng.randrange(len(lines) + 1)
        kind = rng.choice((0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5))
        values = list(re.finditer(r"(?<==)[^=,()\[\]{}\n]+|(?<=[\[(, ])[\d.]+(?=[,\])])", text))
        if kind == 0 and values:
            value = rng.choice(values)
            text = text[: value.start()] + rng.choice(HOSTILE) + text[value.end() :]
        elif kind == 1 and len(values) > 1:
            one, other = sorted(rng.sample(values, 2), key=lambda match: match.start())
            between = text[one.end() : other.start()]
            text = text[: one.start()] + other[0] + between + one[0] + text[other.end() :]
        elif kind == 2:
            text = "\n".join([*lines[:at], rng.choice(LINES), *lines[at:]])
        elif kind == 3 and lines:
            text = "\n".join(lines[: at - 1] + lines[at:])
        elif kind == 4 and lines:
            text = "\n".join(lines[:at] + lines[max(at - 1, 0) :])
        else:
            cut = rng.randrange(len(text) + 1)
            text = text[:cut] + rng.choice("()[]{},='\"#*:.\n \\") + text[cut + rng.randint(0, 2) :]
    return text


class Watch:
    """Records what Python reports as executed while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if self.on and (writes or event in ("exec", "os.system", "subprocess.Popen", "os.exec", "socket.connect")):
            self.seen.append(f"{event} {arguments!r}"[:200])


def failures(configs: Path, count: int, seed: int) -> Iterator[str]:
    """Yield what went wrong in ``count`` changed configs, after a warm-up that imports all modules."""
    rng, watch = random.Random(seed), Watch()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(shutil.copytree(configs, Path(folder, "configs")))
        paths = [path for path in sorted(root.rglob("*.py")) if "_base_" not in path.parts]
        for path in paths[:5]:
            written(import_config(path))
        slowest, outcomes = 0.0, {"imported": 0, "refused": 0}
        for number in range(count):
            source = rng.choice(paths)
            text = mutated(source.read_text("utf-8"), rng)
            path = source.with_name(f"mutated_{source.name}")
            path.write_text(text, "utf-8", errors="surrogatepass")
            start, watch.on = time.process_time(), True
            try:
                written(import_config(path))
                outcomes["imported"] += 1
            except ConfigError:
                outcomes["refused"] += 1
            except Exception:
                yield f"{number} {source.name}: {traceback.format_exc()}\n"
            finally:
                watch.on = False
            seconds = time.process_time() - start
            slowest = max(slowest, seconds)
            if seconds > MOST_SECONDS:
                yield f"{number} {source.name}: took {seconds:.1f} s\n{text}"
            path.unlink()
        yield from watch.seen
    print(f"{count} configs: {outcomes}, slowest {slowest:.2f} s", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=CONFIGS)
    options = parser.parse_args(arguments)
    found = 0
    for failure in failures(options.folder, options.count, options.seed):
        found += 1
        print(failure)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
