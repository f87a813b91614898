from mmengine.config import read_base
from mmseg.models import UPerHead
from torch.optim import AdamW

with read_base():
    from ._base_.model import *
    from ._base_.run import *
    from ._base_.data import train_dataloader, val_dataloader, test_dataloader, val_evaluator

model["decode_head"].update(type=UPerHead, in_channels=[256, 512, 1024, 2048], in_index=[0, 1, 2, 3])
optim_wrapper.update(optimizer=dict(type=AdamW, lr=1e-4))
del model["test_cfg"]
