"""Make the modules of this folder importable; they are no package, so that ``compare.py`` runs as a script."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # after tests/zoo, which has a compare, too
