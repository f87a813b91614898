"""SegFormer for seg-kernel. The code is in `segplug_segformer.model`; importing this package imports no torch."""
