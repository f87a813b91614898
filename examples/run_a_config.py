"""Load a config, change it and run it, as ``seg-kernel run`` does.

python examples/run_a_config.py [KEY=VALUE ...]
"""

import logging
import sys

from segkernel import load_config, run


def main(overrides: list[str]) -> None:
    """Run the quick start, with changes."""
    config = load_config("quickstart", overrides)
    print(config["model"]["backbone"])  # ordinary dicts inside
    print("\n".join(config.explain("optim.optimizer.lr")))  # every value knows where it was set

    runner = run(config)
    print({name: round(value, 2) for name, value in runner.metrics.items() if "." not in name})
    print(runner.best_checkpoint())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(sys.argv[1:])
