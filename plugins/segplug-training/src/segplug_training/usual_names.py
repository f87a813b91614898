"""Commands and keys as other tools call them, and their names here, for the messages about unknown ones.

usual_name("lr")                    # "it is optim.optimizer.lr"
usual_name("seg-kernel train")      # "it is seg-kernel run CONFIG ..."
"""

from __future__ import annotations

_RUN = "it is seg-kernel run CONFIG, which trains, validates and tests"
_TEST = "it is seg-kernel test CONFIG WEIGHTS; a run validates by itself, every schedule.val_interval"
_PREDICT = "it is seg-kernel predict MODEL IMAGE..."
_ZERO = "FSDPEngine does what DeepSpeed's ZeRO does: it shards parameters, gradients and optimiser states"
_INIT = "it is seg-kernel init FOLDER, which writes a config for the images and masks in FOLDER"
_STOP = "it is hooks: [{type: EarlyStoppingHook, patience: 5}]"

COMMANDS = {
    "help": "it is seg-kernel --help, or seg-kernel COMMAND --help",
    "version": "it is seg-kernel --version",
    **dict.fromkeys(("train", "fit", "start"), _RUN),
    **dict.fromkeys(("val", "valid", "validate", "validation", "eval", "evaluate"), _TEST),
    **dict.fromkeys(("infer", "inference", "segment", "demo"), _PREDICT),
    **dict.fromkeys(("new", "create", "setup"), _INIT),
    **dict.fromkeys(("resume", "continue"), "it is seg-kernel run CONFIG --resume"),
    **dict.fromkeys(("zoo", "list", "configs"), "it is seg-kernel models"),
    **dict.fromkeys(("stats", "browse", "pack", "prepare"), "it is a command of seg-kernel data; see its --help"),
    "check": "it is seg-kernel config check CONFIG, or seg-kernel data check CONFIG",
    "show": "it is seg-kernel config show CONFIG, or seg-kernel models show NAME",
    "env": "it is seg-kernel doctor",
    "onnx": "it is seg-kernel export MODEL",
    "curves": "it is seg-kernel plot RUN...",
    "history": "it is seg-kernel runs [FOLDER]",
}
"""Commands of other tools."""

KEYS = {
    **dict.fromkeys(("lr", "learning_rate", "base_lr"), "it is optim.optimizer.lr"),
    "weight_decay": "it is optim.optimizer.weight_decay",
    "momentum": "it is optim.optimizer.momentum",
    **dict.fromkeys(
        ("epochs", "num_epochs"), "it is schedule.epochs; remove schedule.iterations if set: ~schedule.iterations"
    ),
    **dict.fromkeys(("iterations", "iters", "steps", "max_steps", "num_iterations"), "it is schedule.iterations"),
    "val_interval": "it is schedule.val_interval",
    **dict.fromkeys(
        ("early_stop", "early_stopping", "patience"), "it is hooks: [{type: EarlyStoppingHook, patience: 5}]"
    ),
    "workers": "it is data.workers",
    "device": "it is engine.device, or the option --device of run",
    "amp": "it is engine.amp, or the option --amp of run",
    **dict.fromkeys(("checkpoint", "weights", "init_from"), "weights to start from are load_from"),
    **dict.fromkeys(("deepspeed", "DeepSpeed", "DeepSpeedEngine", "DeepSpeedStrategy", "zero_optimization"), _ZERO),
    **dict.fromkeys(("MMDeepSpeedEngineWrapper", "DeepSpeedOptimWrapper"), _ZERO),
    **dict.fromkeys(("gpus", "devices", "num_gpus", "nproc_per_node"), "processes are started by --launch N"),
}
"""Keys that other tools have at the top of a config, or as options, and their engines."""


def usual_name(name: str) -> str:
    """Return what a key, or a command written ``seg-kernel NAME``, is called here; "" for other names."""
    before, _, command = name.partition("seg-kernel ")
    return COMMANDS.get(command, "") if command and not before else KEYS.get(name, "")
