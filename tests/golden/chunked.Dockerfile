# Team golden, 2026q4-09d7d4068c21. Rendered by imagebuild from the team's lock; do not edit.
# Build it by hand, from this folder: docker buildx build --build-context wheels=wheels .
FROM registry.example/bases/tiny@sha256:3abc8aed447a0742456421aeb7db08a97e60f970d17de29a49d44562cb4523f6
USER root
RUN --network=none --mount=type=bind,from=wheels,target=/run/imagebuild \
    set -eu; \
    export HOME=/run/imagebuild-home TMPDIR=/dev/shm SOURCE_DATE_EPOCH=1790812800 PIP_CONFIG_FILE=/dev/null PYTHONDONTWRITEBYTECODE=1; \
    unset PIP_CONSTRAINT PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_REQUIREMENT PIP_TARGET PIP_USER; \
    umask 022; \
    /usr/bin/python3 /run/imagebuild/install.py /usr/include/python3.11 /usr/local -- --isolated --no-cache-dir --disable-pip-version-check install --no-index --find-links /run/imagebuild --no-deps --require-hashes --only-binary :all: --break-system-packages --root-user-action ignore --no-warn-script-location -r /run/imagebuild/requirements.txt; \
    mkdir -p /etc/imagebuild; \
    cp /run/imagebuild/constraints.txt /etc/imagebuild/constraints.txt; \
    chmod 0644 /etc/imagebuild/constraints.txt
ENV PIP_CONSTRAINT="/etc/imagebuild/constraints.txt"
LABEL dev.imagebuild.base="tiny"
LABEL dev.imagebuild.format="1"
LABEL dev.imagebuild.key="sha256:09d7d4068c214e60d9307e1730d6f3862c6216fa8e5d6284e5f975803a16f9a4"
LABEL dev.imagebuild.kind="jupyter"
LABEL dev.imagebuild.lock="sha256:3e77dd723b2da0fa3fa3038876236ecfa65503658c8982e9e0d1c2b1f6b7d499"
LABEL dev.imagebuild.owners="[\"ml@golden.example\"]"
LABEL dev.imagebuild.packages="{\"demo\":\"1.0\"}"
LABEL dev.imagebuild.port="8888"
LABEL dev.imagebuild.python="3.11.2"
LABEL dev.imagebuild.quarter="2026q4"
LABEL dev.imagebuild.team="golden"
LABEL org.opencontainers.image.base.digest="sha256:3abc8aed447a0742456421aeb7db08a97e60f970d17de29a49d44562cb4523f6"
LABEL org.opencontainers.image.base.name="registry.example/bases/tiny:1"
LABEL org.opencontainers.image.created="2026-10-01T00:00:00Z"
LABEL org.opencontainers.image.description="One tiny image"
LABEL org.opencontainers.image.title="Golden"
LABEL org.opencontainers.image.version="2026q4-09d7d4068c21"
USER 1000
