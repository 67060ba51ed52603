# Training image: NVIDIA's PyTorch (CUDA, NCCL, Transformer Engine, Nsight) with Megatron-Core and the plugin.
# Build from the repository's root: docker build -f docker/training.Dockerfile -t vtrain-training .
ARG BASE=nvcr.io/nvidia/pytorch:25.04-py3
FROM ${BASE}

ARG MEGATRON_CORE=0.16.1
WORKDIR /opt/vtrain
COPY pyproject.toml README.md LICENSE ./
COPY plugin ./plugin
COPY schemas ./schemas
COPY simulator ./simulator
COPY data ./data
# The image's own torch stays as it is: the package does not name torch as a dependency.
RUN python -m pip install --no-cache-dir "megatron-core==${MEGATRON_CORE}" . \
    && python -m pip install --no-cache-dir "nvtx>=0.2.10"

WORKDIR /workspace
ENTRYPOINT ["/bin/bash"]
