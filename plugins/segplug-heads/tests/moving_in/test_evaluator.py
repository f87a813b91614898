"""What the evaluator of configs in Python reads, what it refuses, and its limits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from segkernel.errors import ConfigError
from segplug_heads.moving_in.files import read_config

READ = {
    "literals": ("x = [1, -2.5, 'a', None, True, (1, 2)]", [1, -2.5, "a", None, True, [1, 2]]),
    "dict": ("y = dict(b=2)\nx = dict(y, a=1, **{'c': 3})", {"b": 2, "a": 1, "c": 3}),
    "arithmetic": ("x = [2 ** 9, 7 // 2, 7 / 2, [1] * 3, (1,) + (2,), not 0]", [512, 3, 3.5, [1, 1, 1], [1, 2], True]),
    "names": ("a, (b, c) = 1, (2, 3)\nx = [a, b, c]\nx += [4]", [1, 2, 3, 4]),
    "text": ("x = 'a-b'.replace('-', '_').upper() + '{}/{n}'.format(1, n='c') + '%03d' % 7", "A_B1/c007"),
    "f-string": ("n = 3\nx = f'layer{n + 1:02d}_{\"a\"!r}'", "layer04_'a'"),
    "comprehensions": ("x = [{f'k{i}': j for j in range(2)} for i in range(4) if i % 2]", [{"k1": 1}, {"k3": 1}]),
    "functions": ("x = [len('abc'), max(1, 2), sorted([2, 1]), list(zip([1], [2]))]", [3, 2, [1, 2], [[1, 2]]]),
    "loop": ("x = []\nfor i, n in enumerate('ab'):\n    if i == 1:\n        continue\n    x.append(n)", ["a"]),
    "condition": ("if 'a' in 'abc' and 1 < 2 <= 2:\n    x = 1 if None is None else 2\nelse:\n    x = 3", 1),
    "update": ("x = dict(a=dict(b=1))\nx['a'].update(c=2)\nx.update(d=3)", {"a": {"b": 1, "c": 2}, "d": 3}),
    "items": ("x = dict(a=[1, 2, 3])\nx['a'][0] = 9\ndel x['a'][1]\ny = x['a'][::-1]\nx = y", [3, 9]),
    "attributes": ("y = dict(a=dict(b=1))\ny.a.c = 2\nx = y.a", {"b": 1, "c": 2}),
    "comprehension names stay inside": ("i = 5\ny = [i for i in range(3)]\nx = i", 5),
    "file": ("x = '{{ fileBasenameNoExtension }}.{{fileExtname}}'", "config..py"),
    "environment": ("x = '{{$HOME:no}}'", "no"),
    "classes": ("from torch.optim import AdamW\nimport my.heads\nx = [AdamW, my.heads.A]", ["AdamW", "my.heads:A"]),
}  # fmt: skip

REFUSED = {
    "function": ("def f(): pass", 1, "a function is not read in a config"),
    "class": ("x = 1\nclass A: pass", 2, "a class is not read"),
    "lambda": ("x = lambda: 1", 1, "a lambda is not read"),
    "while": ("while True: pass", 1, "a while loop is not read"),
    "call": ("x = 1\n\nx = open('a')", 3, "calls open, which would run code"),
    "module": ("import os\nos.system('a')", 2, "calls os.system, which would run code"),
    "import": ("__import__('os')", 1, "calls __import__"),
    "attribute": ("x = ().__class__", 1, "there is no ().__class__"),
    "format": ("x = '{0.a}'.format(1)", 1, "formats an attribute"),
    "method": ("x = 'a'.encode()", 1, "calls 'a'.encode"),
    "with": ("with open('a') as f: pass", 1, "only 'with read_base():'"),
    "name": ("x = y", 1, "there is no y"),
    "key": ("x = dict(a=1)['b']", 1, "cannot be evaluated: there is no 'b'"),
    "type": ("x = 1 + 'a'", 1, "cannot be evaluated: unsupported operand"),
    "syntax": ("x = 1\ny = (", 2, "is not valid Python"),
    "secret": ("x = '{{$HOME}}'", 1, "the environment variable $HOME is not read"),
    "base": ("x = '{{_base_.a}}'", 1, "there is no 'a'"),
}

TOO_LARGE = {
    "text": "x = 'a' * 10**9",
    "list": "x = [0] * 10**9",
    "power": "x = 10 ** 10 ** 10",
    "shift": "x = 1\nfor i in range(10000): x *= 2",
    "range": "x = list(range(10**12))",
    "nested loops": "x = [1 for a in range(999) for b in range(999) for c in range(999)]",
    "width": "x = f'{1:>999999999}'",
    "percent": "x = '%999999999d' % 1",
    "star": "x = '%*d' % (10**9, 1)",
    "format": "x = ('{0}' * 9999).format('a' * 9999)",
    "join": "x = ('a' * 9999).join(['b'] * 9999)",
    "replace": "x = ('a' * 9999).replace('a', 'b' * 9999)",
    "doubled values": "x = [1]\nfor i in range(99): x = [x, x]",
    "doubled dicts": "x = {}\nfor i in range(99): x = dict(a=x, b=x)\ny = str(x)",
    "doubled list": "x = [1]\nfor i in range(99): x.extend(x)",
    "comparison": "a = [1]\nb = [1]\nfor i in range(99):\n    a = [a, a]\n    b = [b, b]\nx = a == b",
    "itself": "x = []\nx.append(x)",
    "depth": "x = " + "[" * 80 + "]" * 80,
    "operators": "x = " + "-" * 5000 + "1",
    "sum": "x = " + "+".join(["1"] * 5000),
    "many texts": "x = []\nfor i in range(9999): x += ['a' * 49999 + str(i)]",
}


def read(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "config.py"
    path.write_text(text, "utf-8")
    return read_config(path).config


@pytest.mark.parametrize("case", READ)
def test_it_reads(case: str, tmp_path: Path) -> None:
    text, expected = READ[case]
    assert read(tmp_path, text)["x"] == expected


@pytest.mark.parametrize("case", REFUSED)
def test_it_refuses_with_line_and_reason(case: str, tmp_path: Path) -> None:
    text, line, reason = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    problem = caught.value.problems[0]
    assert reason in problem.message
    assert problem.place.startswith(f"{tmp_path / 'config.py'}:{line}:")


@pytest.mark.parametrize("case", TOO_LARGE)
def test_it_has_limits(case: str, tmp_path: Path) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError):
        read(tmp_path, TOO_LARGE[case])
    assert time.process_time() - start < 2


def test_a_large_file_and_a_binary_one_are_refused(tmp_path: Path) -> None:
    for text in ("x = 1\n" * 100_000, "\x00", "x = '\udcff'"):
        path = tmp_path / "config.py"
        path.write_text(text, "utf-8", errors="surrogateescape")
        with pytest.raises(ConfigError, match=r"config\.py"):
            read_config(path)


def test_classes_and_modules_are_no_values_of_a_config(tmp_path: Path) -> None:
    config = read(tmp_path, "import os\nfrom mmseg.models import PSPHead\nx = dict(type=PSPHead)\n_y = 1")
    assert dict(config) == {"x": {"type": "PSPHead"}, "_y": 1}
