# Simulator image: catalog and simulator only, no torch.
# Build from the repository's root: docker build -f docker/simulator.Dockerfile -t vtrain .
FROM python:3.11-slim

WORKDIR /opt/vtrain
COPY pyproject.toml README.md LICENSE ./
COPY plugin ./plugin
COPY schemas ./schemas
COPY simulator ./simulator
COPY data ./data
RUN python -m pip install --no-cache-dir . \
    && useradd --create-home --uid 1000 vtrain

USER 1000
WORKDIR /home/vtrain
ENTRYPOINT ["vtrain-sim"]
CMD ["--help"]
