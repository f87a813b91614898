"""``python -m segkernel`` is ``seg-kernel``."""

from segkernel.cli import main

main()
