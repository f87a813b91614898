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

MOVED = {
    # sections
    "optim_wrapper": "optim: {optimizer: {type: SGD, ...}, clip_grad: ..., paramwise: ...}; accumulation follows from "
    "optim.batch_size, AmpOptimWrapper is engine.amp: true",
    "optimizer": "it is optim.optimizer",
    "optimizer_config": "clip_grad is optim.clip_grad",
    "paramwise_cfg": "it is optim.paramwise",
    "auto_scale_lr": "it is optim.base_batch_size",
    "accumulative_counts": "it follows from optim.batch_size and data.micro_batch",
    "param_scheduler": "it is schedule.lr, a list of schedules",
    "lr_config": "it is schedule.lr, a list of schedules such as PolyLR and LinearLR",
    "train_cfg": "max_iters is schedule.iterations, val_interval schedule.val_interval",
    "val_cfg": "leave it out: validation is configured by data.val and evaluate",
    "test_cfg": "windows and whole images are model.test_cfg or evaluate.test_cfg",
    "runner": "max_iters is schedule.iterations",
    "max_iters": "it is schedule.iterations",
    "max_epochs": "it is schedule.epochs",
    "default_hooks": "every run has default hooks; hooks: [{type: CheckpointHook, ...}] replaces one of them",
    "custom_hooks": "they are hooks: [{type: NAME, ...}]",
    "log_config": "it is hooks: [{type: MeterHook, interval: 50}, {type: TensorBoardHook}]",
    "checkpoint_config": "it is hooks: [{type: CheckpointHook, interval: 4000}]",
    "evaluation": "it is schedule.val_interval, evaluate.metrics and CheckpointHook(best=...)",
    "train_dataloader": _LOADER.format("train"),
    "val_dataloader": _LOADER.format("val"),
    "test_dataloader": _LOADER.format("test"),
    "batch_size": "optim.batch_size is the total over all devices, data.micro_batch that of one step of one device",
    "samples_per_gpu": "data.micro_batch; optim.batch_size is the total over all devices",
    "num_workers": "it is data.workers",
    "workers_per_gpu": "it is data.workers",
    "train_pipeline": _TRANSFORMS.format("train"),
    "test_pipeline": _TRANSFORMS.format("eval"),
    "pipeline": "the transforms are data.train_transforms and data.eval_transforms, not a data set's",
    "tta_pipeline": "it is evaluate.tta: {scales: [...], flip: true}",
    "tta_model": "it is evaluate.tta: {scales: [...], flip: true}",
    "val_evaluator": "it is evaluate.metrics: [{type: IoUMetric}]",
    "test_evaluator": "it is evaluate.metrics: [{type: IoUMetric}]",
    "data_preprocessor": "it is data.preprocess: {mean: ..., std: ..., size: ...}; images are RGB from the file on",
    "img_norm_cfg": "it is data.preprocess: {mean: ..., std: ...}",
    "dataset_type": "it is data.train.type",
    "randomness": "it is seed, and its deterministic is engine.deterministic: warn or strict",
    "deterministic": "it is engine.deterministic: warn or strict",
    "resume": "it is seg-kernel run --resume [CHECKPOINT]",
    "resume_from": "it is seg-kernel run --resume CHECKPOINT",
    "auto_resume": "it is seg-kernel run --resume",
    "cudnn_benchmark": "it is engine.cudnn_benchmark",
    "env_cfg": "cudnn_benchmark is engine.cudnn_benchmark, mp_start_method data.start_method, dist_cfg engine.backend",
    "dist_cfg": "its backend is engine.backend, of DDPEngine and FSDPEngine",
    "dist_params": "its backend is engine.backend, of DDPEngine and FSDPEngine",
    "bgr_to_rgb": "leave it out: images are RGB from the file on",
    "pad_val": "leave it out: padding is 0 after normalisation, and 255 in labels",
    "seg_pad_val": "leave it out: padding is 0 after normalisation, and 255 in labels",
    "use_IN1": "it is stem_norm_cfg: {type: IN}",
    "workflow": "leave it out: a run validates every schedule.val_interval, with evaluate.loss: true also the loss",
    "by_epoch": "AsyncCheckpointHook has it; or without interval, CheckpointHook saves with every validation, and with "
    "schedule.epochs, schedule.val_interval counts epochs",
    "fp16": "it is engine.amp: true",
    "launcher": "leave it out: torchrun starts the processes of a DDPEngine",
    "default_scope": "leave it out: names are looked up in all installed plugins",
    "log_processor": "leave it out: the interval is MeterHook(interval)",
    "log_level": "it is seg-kernel --log-level",
    "visualizer": "it is hooks: [{type: TensorBoardHook}] or {type: PicturesHook}",
    "vis_backends": "it is hooks: [{type: TensorBoardHook}]",
    "custom_imports": "seg-kernel new-plugin --from FILE makes a plugin of a module; or write type: my_module:MyClass",
    # components
    "LoadImageFromFile": _READING,
    "LoadAnnotations": _READING,
    "LoadImageFromNDArray": _READING,
    "PackSegInputs": _COLLATING,
    "DefaultFormatBundle": _COLLATING,
    "Collect": _COLLATING,
    "ImageToTensor": _COLLATING,
    "MultiScaleFlipAug": "it is evaluate.tta: {scales: [...], flip: true}",
    "TestTimeAug": "it is evaluate.tta: {scales: [...], flip: true}",
    "SegDataPreProcessor": "it is data.preprocess, without a type",
    "SegTTAModel": "it is evaluate.tta: {scales: [...], flip: true}",
    "IterBasedTrainLoop": "it is schedule: {iterations: ...}",
    "EpochBasedTrainLoop": "it is schedule: {epochs: ...}",
    "InfiniteSampler": "leave it out: training always draws without end",
    "DefaultSampler": "leave it out: it is how samples are drawn",
    "IterTimerHook": "it is MeterHook, which every run has",
    "LoggerHook": "it is MeterHook and ProgressHook, which every run has, each with an interval",
    "TextLoggerHook": "it is MeterHook and ProgressHook, which every run has, each with an interval",
    "TensorboardLoggerHook": "it is TensorBoardHook",
    "WandbLoggerHook": "it is WandbHook",
    "MlflowLoggerHook": "it is MLflowHook",
    "CheckInvalidLossHook": "it is FiniteLossHook, which every run has",
    "RuntimeInfoHook": "it is MeterHook, which every run has",
    "SyncBuffersHook": "leave it out: engines give all ranks the same buffers for evaluation and checkpoints",
    "MMDistributedDataParallel": "it is DDPEngine",
    "MMFullyShardedDataParallel": "it is FSDPEngine",
    "ParamSchedulerHook": "leave it out: schedule.lr is applied without it",
    "DistSamplerSeedHook": "leave it out: order follows from seed and epoch",
    "SegVisualizationHook": "it is PicturesHook",
    "OptimWrapper": "it is optim, without a type",
    "AmpOptimWrapper": "it is engine.amp: true",
    "LayerDecayOptimizerConstructor": "it is optim.paramwise.layer_decay",
    "LearningRateDecayOptimizerConstructor": "it is optim.paramwise.layer_decay",
}
"""Keys and components with another name here, or without an equivalent."""


def former_name(name: str) -> str:
    """Return the equivalent of a name from MMSegmentation and its packages; "" for other names."""
    scope, _, short = name.rpartition(".")
    if name in SCOPED or (scope in SAME_SCOPES and short not in MOVED):
        return f"it is {SCOPED.get(name, short)} here"
    if scope in OTHER_SCOPES:
        return f"names have no scope here; without {scope}. it is {short}, if an installed plugin offers that"
    return MOVED.get(short if scope in SAME_SCOPES else name, "")
