#!/usr/bin/env bash
# A stand-in for a base with VS Code, for machines that cannot pull one: the starter base (Debian 12 with JupyterLab) with code-server from
# npm in /usr/lib/code-server, where its .deb has it, as an image in a registry. XDG_DATA_HOME is below /tmp, as in Kubeflow's image.
#
#   scripts/stand-in-code-server-base.sh HOST/NAMESPACE
#
# It takes docker with buildx, Node 20 with npm and its headers, a C++ compiler and make, and a registry to push to. The npm package is
# installed without its scripts, which would download; what of it is compiled is compiled here. On stdout is the [base.stand-in-vscode]
# table for images/catalogue.toml.
#
# IMAGEBUILD    the program (default .venv/bin/imagebuild)
# STATE         where the starter base is kept, and code-server once it is made (default .imagebuild of this checkout)
# VERSION       of code-server (default 4.100.3, which has VS Code 1.100.3)
set -euo pipefail

place=${1:-}
[[ $place == */* ]] || {
    printf 'stand-in-code-server-base: error: not a place in a registry: %s\n' "'$place'" >&2
    printf 'stand-in-code-server-base: hint: scripts/stand-in-code-server-base.sh registry.example.com/bases\n' >&2
    exit 2
}
checkout=$(cd "$(dirname "$0")/.." && pwd)
read -ra imagebuild <<<"${IMAGEBUILD:-$checkout/.venv/bin/imagebuild}"
state=${STATE:-$checkout/.imagebuild}
version=${VERSION:-4.100.3}
[[ $(node --version) == v20.* ]] || {
    printf 'stand-in-code-server-base: error: code-server %s takes Node 20, and this machine has %s\n' "$version" "$(node --version)" >&2
    printf 'stand-in-code-server-base: hint: put a Node 20 first on PATH\n' >&2
    exit 3
}

install_code_server() { # FOLDER: npm's folder, with node_modules/code-server in it
    local quiet=(--no-audit --no-fund --loglevel error) code=$1/node_modules/code-server
    npm_config_nodedir=$(node -p 'require("path").dirname(require("path").dirname(require("fs").realpathSync(process.execPath)))')
    export npm_config_nodedir
    npm install --prefix "$1" --ignore-scripts "${quiet[@]}" "code-server@$version" node-gyp
    for part in "$code" "$code/lib/vscode" "$code/lib/vscode/extensions"; do
        (cd "$part" && npm install --ignore-scripts --omit=dev --legacy-peer-deps "${quiet[@]}")
    done
    PATH=$1/node_modules/.bin:$PATH
    (cd "$code" && npm rebuild --build-from-source "${quiet[@]}" argon2)
    # kerberos is for proxies that ask for it, and takes Kerberos' headers.
    (cd "$code/lib/vscode" && npm rebuild --build-from-source "${quiet[@]}" node-pty @vscode/spdlog @parcel/watcher native-watchdog)
}

copy_node() { # FOLDER: root of the image's files
    mkdir -p "$1/usr/lib/code-server/lib"
    cp -L "$(command -v node)" "$1/usr/lib/code-server/lib/node"
    ldd "$1/usr/lib/code-server/lib/node" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | grep -v '/lib\(c\|m\|dl\|pthread\|rt\)\.so' |
        xargs -r cp -L -t "$1/usr/lib/code-server/lib"
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
made=$state/stand-in-code-server-$version
if [[ ! -f $made/whole ]]; then
    rm -rf "$made" && mkdir -p "$made"
    install_code_server "$made" >&2
    touch "$made/whole"
fi
mkdir -p "$folder/images" "$folder/context/root/usr/lib" "$folder/context/root/usr/bin"
ln -s "$state" "$folder/.imagebuild"
printf '[base.starter]\nbuild = "starter"\n' >"$folder/images/catalogue.toml"
starter=$("${imagebuild[@]}" base build starter --root "$folder" | awk '$1 == "digest" { print $2 }')

cp -a "$made/node_modules/code-server" "$folder/context/root/usr/lib/code-server"
rm -rf "$folder/context/root/usr/lib/code-server/node_modules/.bin"
copy_node "$folder/context/root"
cat >"$folder/context/root/usr/bin/code-server" <<'START'
#!/bin/sh
export LD_LIBRARY_PATH=/usr/lib/code-server/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
exec /usr/lib/code-server/lib/node /usr/lib/code-server/out/node/entry.js "$@"
START
chmod 0755 "$folder/context/root/usr/bin/code-server"
cat >"$folder/context/Dockerfile" <<'DOCKERFILE'
FROM starter
USER root
COPY --chown=0:0 root/ /
ENV XDG_DATA_HOME=/tmp/data-jovyan
EXPOSE 8888
USER 1000
CMD ["code-server", "--bind-addr", "0.0.0.0:8888", "--auth", "none", "--disable-telemetry", "--disable-update-check"]
DOCKERFILE
docker buildx build --quiet --output type=registry,oci-mediatypes=true --provenance=false --metadata-file "$folder/made.json" --tag "$place/stand-in-vscode:$version" \
    --build-context "starter=oci-layout://$state/registry@$starter" "$folder/context" >&2
digest=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["containerimage.digest"])' "$folder/made.json")
cat <<TABLE
[base.stand-in-vscode]
reference = "$place/stand-in-vscode"
tag = "$version"
digest = "$digest"
kind = "vscode"
description = "Stand-in for a base with VS Code: Debian 12 with JupyterLab and code-server $version, made by scripts/stand-in-code-server-base.sh"
TABLE
