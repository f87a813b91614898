# seg-kernel serve, for CPUs, from the wheels of this repository:
#
#   python -m pip wheel --no-deps --wheel-dir dist ./kernel ./plugins/*
#   docker build --build-arg TORCH_INDEX=URL --tag seg-kernel-serve .
#   docker run --rm --publish 127.0.0.1:8000:8000 --volume "$PWD/runs:/models:ro" seg-kernel-serve /models/first
#
# URL is the index of CPU builds that pytorch.org shows; without it, pip installs a PyTorch for CUDA, which is larger.
FROM python:3.12-slim-bookworm

# OpenCV's system libraries.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=""
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch

COPY dist/*.whl /wheels/
RUN pip install --no-cache-dir --find-links /wheels \
    seg-kernel segplug-backbones segplug-heads segplug-datasets "segplug-deploy[serve]" segplug-instances

RUN useradd --create-home server
USER server
WORKDIR /home/server

EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=5)"]
ENTRYPOINT ["seg-kernel", "serve", "--host", "0.0.0.0"]
