#!/bin/sh
# Three nodes on this machine: installs what is missing, builds, shows the main job, cleans up. See --help.
set -eu
cd "$(dirname "$0")/.."

build() {
	deploy/packages.sh build
	echo "building ..."
	quietly cmake --preset release -DCS_TESTS=OFF -B build/quickstart
	if [ -t 1 ]; then
		cmake --build build/quickstart # ninja's one line that counts
	else
		quietly cmake --build build/quickstart
	fi
}

# What it prints is of interest only if it fails.
quietly() {
	log=$(mktemp)
	"$@" >"$log" 2>&1 || {
		cat "$log" >&2
		rm -f "$log"
		echo "quickstart.sh: failed: $*" >&2
		exit 1
	}
	rm -f "$log"
}

# As main.py knows them, which may have no python before something is installed.
for word; do
	case $word in
	--keep | --clean | --help | -h) ;;
	*)
		echo "quickstart.sh: unknown option '$word'; see deploy/quickstart.sh --help" >&2
		exit 2
		;;
	esac
done
case " $* " in
*" --help "* | *" -h "*) ;;
*)
	if [ "$(id -u)" != 0 ]; then
		echo "quickstart.sh: network namespaces and BPF need root; run it as root (sudo deploy/quickstart.sh)" >&2
		exit 1
	fi
	case " $* " in
	*" --clean "*) ;;
	*) build ;;
	esac
	;;
esac
CS_BUILD=${CS_BUILD:-$PWD/build/quickstart} exec /usr/bin/python3 deploy/quickstart/main.py "$@"
