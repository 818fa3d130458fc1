#!/usr/bin/env bash
# imagebuild's own image, made by imagebuild: this checkout as the one package of a team on the starter base, with the versions that
# requirements.lock has. It runs as any user, on a read-only root file system, without privileges: docs/ci.md, "On Kubernetes".
#
#   scripts/tool-image.sh [OPTIONS]       options of `imagebuild image`, as in: --registry registry.example.com/tools --copy-base
#
# The project that it builds is put together in .imagebuild/tool, with a layout folder of its own: no catalogue of teams lists it.
#
# IMAGEBUILD            the program (default .venv/bin/imagebuild)
# IMAGEBUILD_CACHE      the cache folder (default .imagebuild/cache)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=${IMAGEBUILD:-.venv/bin/imagebuild}
cache=${IMAGEBUILD_CACHE:-$PWD/.imagebuild/cache}
project=$PWD/.imagebuild/tool
team=$project/images/imagebuild
package=$team/packages/imagebuild

rm -rf "$project/images" "$project/lockfiles"
mkdir -p "$package" "$project/.imagebuild"
cp scripts/tool-image/catalogue.toml "$project/images/"
cp scripts/tool-image/team.toml "$team/"
cp requirements.lock "$team/constraints.txt"
printf -- '-c constraints.txt\n' >"$team/requirements.in"
cp -R imagebuild pyproject.toml README.md LICENSE "$package/"
find "$package" -name __pycache__ -prune -exec rm -rf {} +

# The starter base that is there already need not be made again. Blobs and index are never written in place: links do.
if [ ! -d "$project/.imagebuild/registry" ] && [ -d .imagebuild/registry/blobs ]; then
    cp -Rl .imagebuild/registry "$project/.imagebuild/registry"
fi

imagebuild() { "$program" "$@" --root "$project" --cache-dir "$cache"; }

# A commit is made of the same files until its own date, whenever that is: its image has one tag.
moment=$(git log -1 --format=%cI 2>/dev/null || date -u +%Y-%m-%dT%H:%M:%SZ)
imagebuild base build starter >/dev/null
imagebuild lock imagebuild --as-of "$moment" >/dev/null
imagebuild image imagebuild --locked "$@"
