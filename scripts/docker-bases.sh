#!/usr/bin/env bash
# Makes two images that the Dockerfile can be built on where none can be pulled: `docker-bases.sh BUILDER RUNTIME`. Their
# content is Debian's packages and the Rust toolchain of this machine. What is there already is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
builder="$1"
runtime="$2"

have() { docker image inspect "$1" >/dev/null 2>&1; }
have "$builder" && have "$runtime" && exit

root="$(mktemp -d)"
trap 'rm -rf "$root"' EXIT
# From where this machine's own packages come.
release="$(. /etc/os-release && echo "$VERSION_CODENAME")"
mirror="$(apt-get indextargets --format '$(SITE)' "Codename: $release" | head -n 1)"
debootstrap --variant=minbase --include=ca-certificates,cmake,gcc,libc6-dev,make "$release" "$root" ${mirror:+"$mirror"} >&2
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

# As small as what it stands for: the C library, libgcc, certificates, and no shell. /lib is a link to /usr/lib.
{
    printf '%s\n' lib lib64 usr/lib64 tmp etc/passwd etc/group etc/ssl/certs/ca-certificates.crt
    cat "$root"/var/lib/dpkg/info/libc6:*.list "$root"/var/lib/dpkg/info/libgcc-s1:*.list |
        sed -n -E 's#^/(lib[^/]*/.+)#usr/\1#p; s#^/((etc|usr)(/.*)?)$#\1#p'
} | sort -u | tar -C "$root" --no-recursion -c -T - |
    docker import --message "$release: libc6 libgcc-s1 ca-certificates" - "$runtime" >&2

toolchain="$(rustc --print sysroot)"
tar -C "$toolchain" -c bin/cargo bin/rustc lib | tar -C "$root/usr/local" -x
tar -C "$root" -c . | docker import --message "$release: Rust and a C compiler" - "$builder" >&2
