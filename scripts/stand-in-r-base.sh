#!/usr/bin/env bash
# A stand-in for a base with R, for machines that cannot pull one: the starter base (Debian 12 with JupyterLab) with Debian's R, as
# an image in a registry. R is Debian's r-base-core in /usr/lib/R; there is no RStudio, so its kind is jupyter.
#
#   scripts/stand-in-r-base.sh HOST/NAMESPACE [OPTION...]      OPTION: for imagebuild, as in --cache-dir FOLDER
#
# It takes docker with buildx, mmdebstrap and a registry to push to. On stdout is the [base.stand-in-r] table for images/catalogue.toml.
#
# IMAGEBUILD    the program (default .venv/bin/imagebuild)
# STATE         where the starter base is kept (default .imagebuild of this checkout)
set -euo pipefail

place=${1:-}
[[ $place == */* ]] || {
    printf 'stand-in-r-base: error: not a place in a registry: %s\n' "'$place'" >&2
    printf 'stand-in-r-base: hint: scripts/stand-in-r-base.sh registry.example.com/bases\n' >&2
    exit 2
}
shift
checkout=$(cd "$(dirname "$0")/.." && pwd)
read -ra imagebuild <<<"${IMAGEBUILD:-$checkout/.venv/bin/imagebuild}"
state=${STATE:-$checkout/.imagebuild}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/images/stand-in-r" "$folder/lockfiles" "$state"
ln -s "$state" "$folder/.imagebuild"
printf '[base.starter]\nbuild = "starter"\n' >"$folder/images/catalogue.toml"
printf 'base = "starter"\nengine = "docker"\n[system]\npackages = ["r-base-core", "libpython3.11"]\n' >"$folder/images/stand-in-r/team.toml"
: >"$folder/images/stand-in-r/requirements.in"
"${imagebuild[@]}" image stand-in-r --root "$folder" --registry "$place" --copy-base --json "$@" >"$folder/made.json"
python3 - "$folder/made.json" <<'PYTHON'
import json, sys

(made,) = json.load(open(sys.argv[1]))
print(f"""[base.stand-in-r]
reference = "{made['image']}"
tag = "{made['tag']}"
digest = "{made['digest']}"
kind = "jupyter"
description = "Stand-in for a base with R: Debian 12 with JupyterLab and Debian's R, made by scripts/stand-in-r-base.sh\"""")
PYTHON
