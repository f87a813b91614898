# a config of one's own: other data, a head of an own package, mixed precision, accumulation
_base_ = "./pspnet_4xb2-40k_cityscapes.py"
custom_imports = dict(imports=["cracks.heads"], allow_failed_imports=False)
names = ["background", "crack", "joint"]
root = "{{ fileDirname }}/data"
size = 2**9
model = dict(
    data_preprocessor=dict(size=(size, size)),
    decode_head=dict(_delete_=True, type="CrackHead", in_channels=2048, channels=256, num_classes=len(names)),
    auxiliary_head=dict(num_classes=len(names)),
)
pipeline = {{_base_.train_pipeline}}
pipeline[3].update(crop_size=(size, size))
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        _delete_=True,
        type="BaseSegDataset",
        data_root=root,
        metainfo=dict(classes=names),
        img_suffix=".jpg",
        seg_map_suffix=".png",
        data_prefix=dict(img_path="img/train", seg_map_path="mask/train"),
        pipeline=pipeline,
    ),
)
optim_wrapper = dict(
    _delete_=True,
    type="AmpOptimWrapper",
    accumulative_counts=2,
    loss_scale="dynamic",
    optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={f"backbone.layer{i}": dict(lr_mult=0.1 * i) for i in range(1, 3)}),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1000),
    dict(type="PolyLR", eta_min=0.0, power=1.0, begin=1000, end=20000, by_epoch=False),
]
train_cfg = dict(max_iters=20000, val_interval=2000)
default_hooks = dict(checkpoint=dict(interval=1000, save_best="mFscore", max_keep_ckpts=2))
custom_hooks = [dict(type="EMAHook", momentum=0.001)]
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(vis_backends=vis_backends)
val_evaluator = dict(iou_metrics=["mIoU", "mFscore"])
randomness = dict(seed=7)
load_from = "weights.pth"
resume = True
