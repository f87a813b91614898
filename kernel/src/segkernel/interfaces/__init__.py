"""The contracts between the kernel and its plugins.

`interfaces.data` needs numpy only (`Dataset`, `Transform`, `Metric`), `interfaces.model` needs torch
(`Backbone`, `Neck`, `Head`, `Loss`, `Segmentor`, `Engine`, `Exporter`), `interfaces.spec` nothing.
"""
