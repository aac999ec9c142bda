#!/bin/sh
# Installs into an image's environment, /opt/lacuna: exact versions from the lock, wheels of /media before any index,
# certificates and pip's configuration from build secrets where they are given. What no image needs is left out of the
# layer; bytecode is put in where the image's Python looks for it beside the sources.
#
#   install.sh [--other-torch] [OPTION …] REQUIREMENT …    what `uv pip install` takes; a torch that is not the lock's
#   install.sh --group NAME                                a dependency group of pyproject.toml
#   install.sh --ours                                      our own wheel from /media, without dependencies
#   install.sh --wheel SOURCE FOLDER                       nothing installed: builds our own wheel
set -eu

tools=$(dirname "$(dirname "$(readlink -f "$0")")")
site=$(echo /opt/lacuna/lib/python3*/site-packages)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -f /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi
if [ -f /run/secrets/pip ]; then
    configured() { PIP_CONFIG_FILE=/run/secrets/pip "$tools/opt/uv/bin/python3" -m pip config get "global.$1" 2> /dev/null; }
    if url=$(configured index-url); then export UV_DEFAULT_INDEX="$url"; fi
    if url=$(configured extra-index-url); then export UV_INDEX="$url"; fi
fi
# Whichever index has the lock's version will do: PyTorch's also has some of everybody's packages, in versions of its own.
export UV_INDEX_STRATEGY=unsafe-best-match
# Whatever is written to a home or a cache is gone with the layer.
export HOME="$work" TMPDIR="$work" PYTHONDONTWRITEBYTECODE=1
export UV_CACHE_DIR="$work/cache" UV_PYTHON=/opt/lacuna/bin/python3 UV_PYTHON_DOWNLOADS=never

uv() { "$tools/opt/uv/bin/uv" "$@"; }

# What a layer just brought, and nothing of the layers below it, which a change would copy.
new() { find "$site" -type f -cnewer "$work/before" "$@"; }

strip_new() {
    # Test suites, headers, type stubs and sources of compiled parts: read by nobody here.
    find "$site" -depth -type d \( -name tests -o -name test \) \
        -not -path '*/torch/*' -not -path '*/ray/*' -not -path '*/numpy/*' -exec rm -rf {} +
    rm -rf "$site"/numpy/*/tests "$site"/pyarrow/include "$site"/pyarrow/src
    find "$site" \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.cpp' \) -delete
    # Arrow's network protocol; botocore's description of 400 services beside S3.
    rm -f "$site"/pyarrow/*flight*
    if [ -d "$site/botocore/data" ]; then
        find "$site/botocore/data" -mindepth 1 -maxdepth 1 -type d \
            -not -name s3 -not -name sts -not -name sso -not -name sso-oidc -exec rm -rf {} +
    fi
    # The page needs plotly's script and nothing that draws in Python.
    if [ -d "$site/plotly" ]; then
        find "$site/plotly" -mindepth 1 -maxdepth 1 -not -name __init__.py -not -name package_data -exec rm -rf {} +
        find "$site/plotly/package_data" -type f -not -name plotly.min.js -delete
        : > "$site/plotly/__init__.py"
    fi
    # Ray's other libraries, Java's side of it, and the map of its page's script.
    rm -rf "$site"/ray/rllib "$site"/ray/llm "$site"/ray/jars "$site"/ray/dashboard/client/build/static/js/*.map
    # transformers reads configurations and tokenises; of its 400 models we train these four.
    if [ -d "$site/transformers" ]; then
        find "$site/transformers/models" \( -name 'modeling_*.py' -o -name 'modular_*.py' -o -name 'convert_*.py' \
            -o -name 'processing_*.py' -o -name '*_processing_*.py' -o -name 'feature_extraction_*.py' \) \
            -not -path '*/models/auto/*' -not -path '*/models/t5/*' -not -path '*/models/vit/*' \
            -not -path '*/models/llama/*' -not -path '*/models/bert/*' -delete
    fi
    # Symbol tables, which many wheels carry along. The libraries in NAME.libs were patched when their wheel was made and
    # do not survive it; torch and Ray stay as they came.
    new -name '*.so*' -not -path '*.libs/*' -not -path '*/torch/*' -not -path '*/nvidia/*' \
        -not -path '*/ray/*' -not -path '*/torch_xla/*' -not -path '*/libtpu/*' -not -path '*/triton/*' \
        -exec env LD_LIBRARY_PATH="$(echo "$tools"/usr/lib/*-linux-gnu)" "$tools/usr/bin/strip" --strip-unneeded {} +
}

case "$1" in
    --wheel)
        uv build --quiet --wheel --find-links /media --out-dir "$3" "$2"
        exit
        ;;
    --group) set -- --group "$tools/src/pyproject.toml:$2" ;;
    --ours) set -- --no-deps --no-index /media/*.whl ;;
esac

lock=$tools/src/requirements.lock
if [ "$1" = --other-torch ]; then
    shift
    grep -v '^torch==' "$lock" > "$work/constraints"
    lock=$work/constraints
fi
touch "$work/before"
uv pip install --quiet --find-links /media --constraint "$lock" "$@"
strip_new
# Which versions are here, for people; scanners read the *.dist-info folders, which stay.
uv pip freeze --quiet > /opt/lacuna/versions.txt
if [ -z "${PYTHONPYCACHEPREFIX:-}" ]; then
    PYTHONDONTWRITEBYTECODE="" /opt/lacuna/bin/python3 "$tools/src/bytecode.py"
fi
