_base_ = ["_base_/model.py", "_base_/data.py", "_base_/run.py"]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    auxiliary_head=dict(
        type="FCNHead",
        in_channels=1024,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        num_classes=19,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
    ),
)
