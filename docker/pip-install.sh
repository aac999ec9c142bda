#!/bin/sh
# pip as the build uses it: exact versions from the lock, nothing cached, certificates and configuration from build
# secrets where they are given, wheels of the WHEELS_IMAGE before any index.
#
#   pip-install [OPTION …] REQUIREMENT …    install
#   pip-install --other-torch …             install, with a torch that is not the lock's
#   pip-install --wheel SOURCE FOLDER       build our own wheel
#   pip-install --ours FOLDER               install our own wheel without dependencies, and strip
#   pip-install --strip                     leave out what no image needs
#   pip-install --compile                   put bytecode in, for images whose processes start often
set -eu

if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi
if [ -f /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

strip() {
    site=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
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
    # Without torch transformers only tokenises; its models could not even be imported. What chooses among them stays:
    # the choice of a tokenizer reads it.
    if [ -d "$site/transformers" ] && [ ! -d "$site/torch" ]; then
        find "$site/transformers/models" \( -name 'modeling_*.py' -o -name 'modular_*.py' -o -name 'convert_*.py' \
            -o -name 'processing_*.py' -o -name '*_processing_*.py' -o -name 'feature_extraction_*.py' \) \
            -not -path '*/models/auto/*' -delete
    fi
    # Symbol tables, which many wheels carry along. The libraries in NAME.libs were patched when their wheel was made and
    # do not survive it; torch and Ray stay as they came.
    find "$site" -type f -name '*.so*' -not -path '*.libs/*' -not -path '*/torch/*' -not -path '*/nvidia/*' \
        -not -path '*/ray/*' -not -path '*/torch_xla/*' -not -path '*/libtpu/*' -not -path '*/triton/*' \
        -exec strip --strip-unneeded {} +
    # Which versions are here, for people; scanners read the *.dist-info folders, which stay.
    pip freeze --quiet > /opt/lacuna/versions.txt
    pip uninstall --yes --quiet pip setuptools 2>/dev/null || true
    find /opt/lacuna -name __pycache__ -prune -exec rm -rf {} +
}

case "${1:-}" in
    --wheel) exec pip wheel --quiet --no-deps --find-links /wheels --wheel-dir "$3" "$2" ;;
    --ours)
        pip install --quiet --no-deps --no-index --no-compile "$2"/*.whl
        strip
        exit ;;
    --strip) strip; exit ;;
    --compile)
        # A few files of torch and Ray are for other Pythons and do not compile, which is no matter.
        python3 -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/lacuna/lib || true
        exit
        ;;
esac

lock=/src/requirements.lock
constraints=/tmp/constraints.txt
trap 'rm -f $constraints' EXIT
: > "$constraints"
if [ "${1:-}" = --other-torch ]; then
    shift
    grep -v '^torch==' "$lock" > "$constraints"
elif [ -f "$lock" ]; then
    cat "$lock" > "$constraints"
fi
pip install --quiet --no-compile --find-links /wheels --constraint "$constraints" "$@"
