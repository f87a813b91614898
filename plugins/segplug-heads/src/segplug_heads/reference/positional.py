"""Descriptions of the positional arguments of commands, which click has for options only."""

from __future__ import annotations

_CHANGES = "Changes of the config: `optim.batch_size=4`; `+KEY=VALUE` adds a key, `~KEY` removes one."
_CONFIG = "A YAML file, or the name of a packaged config."
_TARGET = "A config, and changes of it; none with `--images`."
_RUN = "A run directory."

POSITIONAL = {
    "CONFIG": _CONFIG,
    "[KEY=VALUE]...": _CHANGES,
    "MODEL": "A run directory, a checkpoint, or a config.",
    "compare: A": "A run directory, its `per_image.npz`, or a folder of predictions.",
    "compare: B": "The other, which is compared with A.",
    "completion: [bash|zsh|fish]": "The shell; that of the environment if left out.",
    "convert: FILE": "The weights: a file, an address, or a name.",
    "convert: MODEL": "The config of the model, or the name of a packaged one.",
    "data check: [CONFIG] [KEY=VALUE]...": _TARGET,
    "data stats: [CONFIG] [KEY=VALUE]...": _TARGET,
    "data browse: [CONFIG] [KEY=VALUE]...": _TARGET,
    "data prepare: NAME": "The data set: `seg-kernel data prepare --help` lists the names.",
    "data prepare: SOURCE": "The folder with the downloaded archives or their contents, or one archive.",
    "data prepare: DEST": "The folder to write.",
    "data pack: [CONFIG]": _CONFIG,
    "data pack: [DEST]": "The folder to write.",
    "explain: NAME...": "The name; that of a subcommand has two words.",
    "init: FOLDER": "The folder of images and masks or annotations, or the name of a published data set.",
    "launch: PROCESSES": "Number of processes on this machine.",
    "launch: ARGUMENTS...": "The command and its arguments, without `seg-kernel`.",
    "merge-checkpoint: CHECKPOINT": "A sharded checkpoint.",
    "merge-checkpoint: FILE": "The file to write.",
    "models download: NAME": "A published name.",
    "models list: [GLOB]": "Part of the names, or a pattern such as `segformer*ade20k*`.",
    "models show: NAME": "The name of a packaged config, or a YAML file.",
    "plot: RUN...": "Run directories, which are drawn together.",
    "plugins check: [DISTRIBUTION]": "A package; all if left out.",
    "plugins show: DISTRIBUTION": "A package: `segplug-heads`.",
    "predict: MODEL": "A run directory, a checkpoint, an exported file, or a config.",
    "predict: IMAGE... [KEY=VALUE]...": "Images or folders of images, and changes of the config.",
    "replay: RUN": "A run directory, or the file of one recorded batch.",
    "rerun: RUN": _RUN,
    "runs: [FOLDER]": "The folder that contains the runs.",
    "serve: MODEL...": "Run directories, checkpoints, exported files or published names; `NAME=MODEL` names one.",
    "sweep: [KEY=VALUE | KEY=[A,B]]...": "Changes for all runs, and lists of values, of which all combinations run.",
    "test: CONFIG": "A config, or a run directory or checkpoint without WEIGHTS.",
    "test: [WEIGHTS] [KEY=VALUE]...": "A checkpoint or an exported file, and changes of the config.",
}
"""By ``command: ARGUMENT``, or by the argument alone where it means the same in all commands."""
