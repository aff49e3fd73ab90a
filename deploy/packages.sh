#!/bin/sh
# Installs the Debian packages that Countersign needs: packages.sh build | test
# "build" is what compiling and running needs, "test" adds what the tests need. Does nothing if all are there.
set -eu

build="gcc clang llvm cmake ninja-build pkg-config bpftool protobuf-c-compiler protobuf-compiler
	libuv1-dev libnghttp2-dev libssl-dev libmbedtls-dev libprotobuf-c-dev libjansson-dev libyaml-dev
	libsqlite3-dev uthash-dev libbpf-dev libmicrohttpd-dev libmimalloc-dev libcap-dev libseccomp-dev libelf-dev linux-libc-dev
	iproute2 iputils-ping openssl python3 procps git ca-certificates"
test="$build clang-format libclang-rt-dev libcmocka-dev python3 python3-pytest python3-grpcio python3-grpc-tools
	python3-protobuf python3-hpack python3-prometheus-client python3-cryptography python3-scapy python3-yaml groff-base nftables tcpdump ethtool procps man-db etcd-server"

case "${1:-}" in
build) wanted=$build ;;
test) wanted=$test ;;
*)
	echo "usage: $0 build|test" >&2
	exit 2
	;;
esac

missing=""
for package in $wanted; do
	dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "packages.sh: these packages are missing and only root can install them:$missing" >&2
	exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# The tests start their own etcd, with directories and ports of its own: the package's service must neither start now nor
# at the next boot. A mask before the package is there is how Debian is told so.
case " $missing " in
*" etcd-server "*)
	mkdir -p /etc/systemd/system
	[ -e /etc/systemd/system/etcd.service ] || ln -s /dev/null /etc/systemd/system/etcd.service
	;;
esac
apt-get update -q >/dev/null
# shellcheck disable=SC2086
apt-get install -q -y --no-install-recommends $missing >/dev/null
