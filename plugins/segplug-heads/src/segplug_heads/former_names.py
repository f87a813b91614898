"""Names of MMSegmentation's configs and their successors: one table for errors, importers and parity tests.

A component without a scope, or of the scope ``mmseg``, has its name here, too. Names of other scopes may have another
meaning there, so each is in the table.
"""

from __future__ import annotations

SAME_SCOPES = ("mmseg", "mmengine", "mmcv")
OTHER_SCOPES = ("mmpretrain", "mmcls", "mmdet")
SCOPED = {
    "mmcls.ConvNeXt": "ConvNeXt",
    "mmcls.PoolFormer": "PoolFormer",
    "mmdet.ClassificationCost": "ClassificationCost",
    "mmdet.CrossEntropyLoss": "QueryCrossEntropyLoss",
    "mmdet.CrossEntropyLossCost": "CrossEntropyLossCost",
    "mmdet.DiceCost": "DiceCost",
    "mmdet.DiceLoss": "QueryDiceLoss",
    "mmdet.FocalLoss": "QueryFocalLoss",
    "mmdet.FocalLossCost": "FocalLossCost",
    "mmdet.HungarianAssigner": "HungarianAssigner",
    "mmdet.MSDeformAttnPixelDecoder": "MSDeformAttnPixelDecoder",
    "mmdet.MaskPseudoSampler": "MaskPseudoSampler",
    "mmdet.PixelDecoder": "PixelDecoder",
    "mmdet.TransformerEncoderPixelDecoder": "TransformerEncoderPixelDecoder",
    "mmpretrain.ConvNeXt": "ConvNeXt",
    "mmpretrain.PoolFormer": "PoolFormer",
}
"""Components of other scopes, and their names here."""

_READING = "data sets read images and labels by themselves: leave it out"
_COLLATING = "samples become batches by themselves: leave it out"
_LOADER = "data.{0} is the data set; data.workers, data.micro_batch and optim.batch_size set how it is loaded"
_TRANSFORMS = "it is data.{0}_transforms"

SECTIONS = {
    "optim_wrapper": "optim: {optimizer: {type: SGD, ...}, clip_grad: ..., paramwise: ...}; accumulation follows from "
    "optim.batch_size, AmpOptimWrapper is engine.amp: true",
    "optimizer": "it is optim.optimizer",
    "optimizer_config": "clip_grad is optim.clip_grad",
    "paramwise_cfg": "it is optim.paramwise",
    "auto_scale_lr": "it is optim.base_batch_size",
    "param_scheduler": "it is schedule.lr, a list of schedules",
    "lr_config": "it is schedule.lr, a list of schedules such as PolyLR and LinearLR",
    "train_cfg": "max_iters is schedule.iterations, val_interval schedule.val_interval",
    "val_cfg": "leave it out: validation is configured by data.val and evaluate",
    "test_cfg": "windows and whole images are model.test_cfg or evaluate.test_cfg",
    "runner": "max_iters is schedule.iterations",
    "train_dataloader": _LOADER.format("train"),
    "val_dataloader": _LOADER.format("val"),
    "test_dataloader": _LOADER.format("test"),
    "train_pipeline": _TRANSFORMS.format("train"),
    "test_pipeline": _TRANSFORMS.format("eval"),
    "tta_pipeline": "it is evaluate.tta: {scales: [...], flip: true}",
    "tta_model": "it is evaluate.tta: {scales: [...], flip: true}",
    "val_evaluator": "it is evaluate.metrics: [{type: IoUMetric}]",
    "test_evaluator": "it is evaluate.metrics: [{type: IoUMetric}]",
    "evaluation": "it is schedule.val_interval, evaluate.metrics and CheckpointHook(best=...)",
    "data_preprocessor": "it is data.preprocess: {mean: ..., std: ..., size: ...}; images are RGB from the file on",
    "img_norm_cfg": "it is data.preprocess: {mean: ..., std: ...}",
    "dataset_type": "it is data.train.type",
    "default_hooks": "every run has default hooks; hooks: [{type: CheckpointHook, ...}] replaces one of them",
    "custom_hooks": "they are hooks: [{type: NAME, ...}]",
    "log_config": "it is hooks: [{type: MeterHook, interval: 50}, {type: TensorBoardHook}]",
    "checkpoint_config": "it is hooks: [{type: CheckpointHook, interval: 4000}]",
    "visualizer": "it is hooks: [{type: TensorBoardHook}], or PicturesHook for pictures of predictions",
    "vis_backends": "it is hooks: [{type: TensorBoardHook}]",
    "randomness": "it is seed, and its deterministic is engine.deterministic: warn or strict",
    "env_cfg": "cudnn_benchmark is engine.cudnn_benchmark, mp_start_method data.start_method, dist_cfg engine.backend",
    "dist_cfg": "its backend is engine.backend, of DDPEngine and FSDPEngine",
    "dist_params": "its backend is engine.backend, of DDPEngine and FSDPEngine",
    "fp16": "it is engine.amp: true",
    "workflow": "leave it out: a run validates every schedule.val_interval, with evaluate.loss: true also the loss",
    "resume": "it is seg-kernel run --resume [CHECKPOINT]",
    "resume_from": "it is seg-kernel run --resume CHECKPOINT",
    "auto_resume": "it is seg-kernel run --resume",
    "cudnn_benchmark": "it is engine.cudnn_benchmark",
    "launcher": "leave it out: torchrun starts the processes of a DDPEngine",
    "default_scope": "leave it out: names are looked up in all installed plugins",
    "log_processor": "leave it out: the interval is MeterHook(interval)",
    "log_level": "it is seg-kernel --log-level",
    "custom_imports": "seg-kernel new-plugin --from FILE makes a plugin of a module; or write type: my_module:MyClass",
}

ARGUMENTS = {
    "batch_size": "optim.batch_size is the total over all devices, data.micro_batch that of one step of one device",
    "samples_per_gpu": "data.micro_batch; optim.batch_size is the total over all devices",
    "num_workers": "it is data.workers",
    "workers_per_gpu": "it is data.workers",
    "accumulative_counts": "it follows from optim.batch_size and data.micro_batch",
    "max_iters": "it is schedule.iterations",
    "max_epochs": "it is schedule.epochs",
    "by_epoch": "AsyncCheckpointHook has it; or without interval, CheckpointHook saves with every validation, and with "
    "schedule.epochs, schedule.val_interval counts epochs",
    "pipeline": "the transforms are data.train_transforms and data.eval_transforms, not a data set's",
    "init_cfg": "its checkpoint is pretrained, of the model or a part; otherwise leave it out: parts initialise as "
    "published",
    "deterministic": "it is engine.deterministic: warn or strict",
    "bgr_to_rgb": "leave it out: images are RGB from the file on",
    "pad_val": "leave it out: padding is 0 after normalisation, and 255 in labels",
    "seg_pad_val": "leave it out: padding is 0 after normalisation, and 255 in labels",
    "use_IN1": "it is stem_norm_cfg: {type: IN}",
}

TRANSFORMS = {
    "LoadImageFromFile": _READING,
    "LoadAnnotations": _READING,
    "LoadImageFromNDArray": _READING,
    "PackSegInputs": _COLLATING,
    "DefaultFormatBundle": _COLLATING,
    "Collect": _COLLATING,
    "ImageToTensor": _COLLATING,
    "MultiScaleFlipAug": "it is evaluate.tta: {scales: [...], flip: true}",
    "TestTimeAug": "it is evaluate.tta: {scales: [...], flip: true}",
}

HOOKS = {
    "IterTimerHook": "it is MeterHook, which every run has",
    "LoggerHook": "it is MeterHook and ProgressHook, which every run has, each with an interval",
    "TextLoggerHook": "it is MeterHook and ProgressHook, which every run has, each with an interval",
    "TensorboardLoggerHook": "it is TensorBoardHook",
    "WandbLoggerHook": "it is WandbHook",
    "MlflowLoggerHook": "it is MLflowHook",
    "CheckInvalidLossHook": "it is FiniteLossHook, which every run has",
    "RuntimeInfoHook": "it is MeterHook, which every run has",
    "ParamSchedulerHook": "leave it out: schedule.lr is applied without it",
    "DistSamplerSeedHook": "leave it out: order follows from seed and epoch",
    "SyncBuffersHook": "leave it out: engines give all ranks the same buffers for evaluation and checkpoints",
    "SegVisualizationHook": "it is PicturesHook",
}

OTHER_COMPONENTS = {
    "SegDataPreProcessor": "it is data.preprocess, without a type",
    "SegTTAModel": "it is evaluate.tta: {scales: [...], flip: true}",
    "IterBasedTrainLoop": "it is schedule: {iterations: ...}",
    "EpochBasedTrainLoop": "it is schedule: {epochs: ...}",
    "InfiniteSampler": "leave it out: training always draws without end",
    "DefaultSampler": "leave it out: it is how samples are drawn",
    "MMDistributedDataParallel": "it is DDPEngine",
    "MMFullyShardedDataParallel": "it is FSDPEngine",
    "OptimWrapper": "it is optim, without a type",
    "AmpOptimWrapper": "it is engine.amp: true",
    "LayerDecayOptimizerConstructor": "it is optim.paramwise.layer_decay",
    "LearningRateDecayOptimizerConstructor": "it is optim.paramwise.layer_decay",
}

TOOLS = {
    "tools/train.py": "it is seg-kernel run CONFIG",
    "tools/test.py": "it is seg-kernel test CONFIG WEIGHTS",
    "tools/dist_train.sh": "it is seg-kernel run CONFIG --launch N, or torchrun -m segkernel run CONFIG",
    "tools/dist_test.sh": "it is seg-kernel test CONFIG WEIGHTS --launch N",
    "tools/slurm_train.sh": "it is srun seg-kernel run CONFIG",
    "tools/slurm_test.sh": "it is srun seg-kernel test CONFIG WEIGHTS",
    "tools/analysis_tools/analyze_logs.py": "it is seg-kernel plot RUN...",
    "tools/analysis_tools/benchmark.py": "it is seg-kernel benchmark MODEL",
    "tools/analysis_tools/browse_dataset.py": "it is seg-kernel data browse CONFIG",
    "tools/analysis_tools/confusion_matrix.py": "it is hooks: [{type: EvaluationReport}]",
    "tools/analysis_tools/get_flops.py": "it is seg-kernel models show NAME, and by module seg-kernel profile MODEL",
    "tools/analysis_tools/visualization_cam.py": "it is seg-kernel activations MODEL IMAGE --class NAME",
    "tools/dataset_converters": "it is seg-kernel data prepare NAME",
    "tools/deployment/pytorch2onnx.py": "it is seg-kernel export MODEL",
    "tools/deployment/pytorch2torchscript.py": "it is seg-kernel export MODEL --format torchscript",
    "tools/misc/browse_dataset.py": "it is seg-kernel data browse CONFIG",
    "tools/misc/print_config.py": "it is seg-kernel config show CONFIG",
    "tools/misc/publish_model.py": "it is seg-kernel publish CHECKPOINT",
    "tools/model_converters": "leave it out: weights are converted when loaded; seg-kernel convert writes a file",
    "tools/torchserve/mmseg2torchserve.py": "it is seg-kernel serve MODEL",
    "init_model": "it is segkernel.Predictor(CONFIG, WEIGHTS)",
    "inference_model": "it is segkernel.Predictor(CONFIG, WEIGHTS)(IMAGE)",
    "MMSegInferencer": "it is segkernel.Predictor(NAME)",
}

TABLES = {
    "Sections": SECTIONS,
    "Arguments": ARGUMENTS,
    "Transforms": TRANSFORMS,
    "Hooks": HOOKS,
    "Other components": {**OTHER_COMPONENTS, **{name: f"it is {ours}" for name, ours in SCOPED.items()}},
    "Tools and functions": TOOLS,
}
"""The tables of the page on these names, by their headings."""
MOVED = SECTIONS | ARGUMENTS | TRANSFORMS | HOOKS | OTHER_COMPONENTS | TOOLS
"""Keys, components and tools with another name here, or without an equivalent."""


PAGE = "moving-in-names/"
"""The address of the page on these names, relative to that of the documentation site."""

GUIDE = "moving-in/"
"""The address of the page on configs, checkpoints and results."""


def former_name(name: str) -> str:
    """Return the equivalent of a name from MMSegmentation and its packages, with the page; "" for other names."""
    found = equivalent(name)
    return found and f"{found} (docs: {PAGE})"


def equivalent(name: str) -> str:
    """Return the equivalent of a name from MMSegmentation and its packages; "" for other names."""
    scope, _, short = name.rpartition(".")
    if name in SCOPED or (scope in SAME_SCOPES and short not in MOVED):
        return f"it is {SCOPED.get(name, short)} here"
    if scope in OTHER_SCOPES:
        return f"names have no scope here; without {scope}. it is {short}, if an installed plugin offers that"
    return MOVED.get(short if scope in SAME_SCOPES else name, "")
