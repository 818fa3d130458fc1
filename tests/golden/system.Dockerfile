# Team golden, 2026q4-db9eaca12961. Rendered by imagebuild from the team's lock; do not edit.
# Build it by hand, from this folder: docker buildx build --build-context wheels=wheels .
FROM registry.example/bases/tiny@sha256:3abc8aed447a0742456421aeb7db08a97e60f970d17de29a49d44562cb4523f6
USER root
RUN --mount=type=bind,from=wheels,target=/run/imagebuild \
    --mount=type=tmpfs,target=/var/lib/apt/lists \
    --mount=type=tmpfs,target=/var/cache/apt \
    --mount=type=tmpfs,target=/var/log/apt \
    --mount=type=tmpfs,target=/var/cache/ldconfig \
    --mount=type=secret,id=apt-sources,target=/run/imagebuild-apt/sources.list,mode=0444 \
    --mount=type=secret,id=apt-keyring,target=/run/imagebuild-apt/keyring.gpg,mode=0444 \
    --mount=type=secret,id=apt-auth,target=/run/imagebuild-apt/auth.conf,mode=0444 \
    --mount=type=secret,id=apt-ca,target=/run/imagebuild-apt/ca.pem,mode=0444 \
    set -eu; \
    export HOME=/run/imagebuild-home TMPDIR=/dev/shm SOURCE_DATE_EPOCH=1790812800 PIP_CONFIG_FILE=/dev/null PYTHONDONTWRITEBYTECODE=1; \
    unset PIP_CONSTRAINT PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_REQUIREMENT PIP_TARGET PIP_USER; \
    umask 022; \
    export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8; \
    touch /dev/shm/started; \
    set -- -o DPkg::Options::=--log=/dev/null -o DPkg::Options::=--force-confold -o APT::Update::Error-Mode=any; \
    if [ -s /run/imagebuild-apt/sources.list ]; then . /etc/os-release; sed "s/@SUITE@/$VERSION_CODENAME/g" /run/imagebuild-apt/sources.list > /dev/shm/sources.list; set -- "$@" -o Dir::Etc::SourceList=/dev/shm/sources.list -o Dir::Etc::SourceParts=/dev/null; fi; \
    if [ -s /run/imagebuild-apt/auth.conf ]; then set -- "$@" -o Dir::Etc::netrc=/run/imagebuild-apt/auth.conf; fi; \
    if [ -s /run/imagebuild-apt/ca.pem ]; then set -- "$@" -o Acquire::https::CAInfo=/run/imagebuild-apt/ca.pem; fi; \
    apt-get "$@" -qq update; \
    apt-get "$@" -qq -y --no-install-recommends install a2ps=1:4.14-7 graphviz; \
    find /var/log -type f -newer /dev/shm/started -delete; \
    rm -f /var/cache/debconf/*-old /var/lib/dpkg/*-old /dev/shm/started /dev/shm/sources.list; \
    /usr/bin/python3 /run/imagebuild/install.py /usr/include/python3.11 /usr/local -- --isolated --no-cache-dir --disable-pip-version-check install --no-index --find-links /run/imagebuild --no-deps --require-hashes --only-binary :all: --break-system-packages --root-user-action ignore --no-warn-script-location -r /run/imagebuild/requirements.txt; \
    mkdir -p /etc/imagebuild; \
    cp /run/imagebuild/constraints.txt /etc/imagebuild/constraints.txt; \
    chmod 0644 /etc/imagebuild/constraints.txt
ENV PIP_CONSTRAINT="/etc/imagebuild/constraints.txt"
LABEL dev.imagebuild.base="tiny"
LABEL dev.imagebuild.format="1"
LABEL dev.imagebuild.key="sha256:db9eaca12961e83ad65438e4215779cf8b82fc7f9056da3ee79988a5eac8683f"
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
LABEL org.opencontainers.image.version="2026q4-db9eaca12961"
USER 1000
