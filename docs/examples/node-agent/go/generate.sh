#!/bin/sh
# Makes countersignv1/, the messages, of the protos: ./generate.sh INCLUDE, where INCLUDE/countersign/v1 has them. Needs
# protoc; the plugin for Go is built from the module that go.mod names.
set -eu
include=$1
cd "$(dirname "$0")"
package=countersign/examples/node-agent/countersignv1
plugin=$(mktemp -d)
trap 'rm -rf "$plugin"' EXIT
go build -o "$plugin/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go
${PROTOC:-protoc} -I "$include" --plugin="$plugin/protoc-gen-go" --go_out=. \
	--go_opt=module=countersign/examples/node-agent \
	--go_opt=Mcountersign/v1/common.proto=$package --go_opt=Mcountersign/v1/endpoints.proto=$package \
	countersign/v1/common.proto countersign/v1/endpoints.proto
