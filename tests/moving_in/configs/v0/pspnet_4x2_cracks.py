norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    pretrained="open-mmlab://resnet50_v1c",
    backbone=dict(
        type="ResNetV1c",
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=norm_cfg,
        norm_eval=False,
        style="pytorch",
        contract_dilation=True,
    ),
    decode_head=dict(
        type="PSPHead",
        in_channels=2048,
        in_index=3,
        channels=512,
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
)
train_cfg = dict()
test_cfg = dict(mode="slide", crop_size=(512, 512), stride=(341, 341))
img_norm_cfg = dict(mean=[120.0, 110.0, 100.0], std=[58.395, 57.12, 57.375], to_rgb=True)
crop_size = (512, 512)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="Resize", img_scale=(2048, 512), ratio_range=(0.5, 2.0)),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="Normalize", **img_norm_cfg),
    dict(type="Pad", size=crop_size, pad_val=0, seg_pad_val=255),
    dict(type="DefaultFormatBundle"),
    dict(type="Collect", keys=["img", "gt_semantic_seg"]),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="MultiScaleFlipAug",
        img_scale=(2048, 512),
        img_ratios=[0.75, 1.0, 1.25],
        flip=True,
        transforms=[
            dict(type="Resize", keep_ratio=True),
            dict(type="RandomFlip"),
            dict(type="Normalize", **img_norm_cfg),
            dict(type="ImageToTensor", keys=["img"]),
            dict(type="Collect", keys=["img"]),
        ],
    ),
]
data = dict(
    samples_per_gpu=2,
    workers_per_gpu=2,
    train=dict(
        type="CustomDataset",
        data_root="data",
        reduce_zero_label=True,
        img_dir=["a/img", "b/img"],
        ann_dir=["a/mask", "b/mask"],
        classes=["road", "crack"],
        palette=[[0, 0, 0], [255, 0, 0]],
        pipeline=train_pipeline,
    ),
    val=dict(
        type="CustomDataset",
        data_root="data",
        reduce_zero_label=True,
        img_dir="val/img",
        ann_dir="val/mask",
        split="val.txt",
        classes=["road", "crack"],
        pipeline=test_pipeline,
    ),
    test=dict(
        type="CustomDataset",
        data_root="data",
        reduce_zero_label=True,
        img_dir="val/img",
        ann_dir="val/mask",
        split="val.txt",
        classes=["road", "crack"],
        pipeline=test_pipeline,
    ),
)
optimizer = dict(type="AdamW", lr=6e-5, weight_decay=0.01, paramwise_cfg=dict(custom_keys={"head": dict(lr_mult=10.0)}))
optimizer_config = dict(type="Fp16OptimizerHook", loss_scale=512.0, grad_clip=dict(max_norm=1.0))
lr_config = dict(
    policy="poly", warmup="linear", warmup_iters=1500, warmup_ratio=1e-6, power=1.0, min_lr=0.0, by_epoch=False
)
runner = dict(type="IterBasedRunner", max_iters=80000)
checkpoint_config = dict(by_epoch=False, interval=2000)
evaluation = dict(interval=8000, metric=["mIoU", "mDice"], pre_eval=True, save_best="mIoU")
log_config = dict(interval=50, hooks=[dict(type="TextLoggerHook", by_epoch=False), dict(type="TensorboardLoggerHook")])
dist_params = dict(backend="nccl")
log_level = "INFO"
load_from = None
resume_from = None
workflow = [("train", 1)]
cudnn_benchmark = True
seed = 3
