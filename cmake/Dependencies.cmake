find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(UV REQUIRED IMPORTED_TARGET libuv)
pkg_check_modules(NGHTTP2 REQUIRED IMPORTED_TARGET libnghttp2)
pkg_check_modules(OPENSSL REQUIRED IMPORTED_TARGET openssl>=3.0)
pkg_check_modules(PROTOBUFC REQUIRED IMPORTED_TARGET libprotobuf-c)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)
pkg_check_modules(SQLITE REQUIRED IMPORTED_TARGET sqlite3)
pkg_check_modules(BPF REQUIRED IMPORTED_TARGET libbpf>=1.1)
pkg_check_modules(MICROHTTPD REQUIRED IMPORTED_TARGET libmicrohttpd)

# mbedTLS 2.28 (Debian 12) has no pkg-config file.
find_path(MBEDTLS_INCLUDE mbedtls/x509_crt.h REQUIRED)
find_library(MBEDX509 mbedx509 REQUIRED)
find_library(MBEDCRYPTO mbedcrypto REQUIRED)
add_library(mbedx509 INTERFACE)
target_include_directories(mbedx509 SYSTEM INTERFACE ${MBEDTLS_INCLUDE})
target_link_libraries(mbedx509 INTERFACE ${MBEDX509} ${MBEDCRYPTO})

# A handshake makes some 3,500 allocations: this allocator takes 4 % off it. Sanitizers bring their own.
if(NOT CS_SANITIZE)
	find_library(MIMALLOC mimalloc REQUIRED)
endif()

find_program(PROTOC_C protoc-c REQUIRED)
find_program(CLANG clang REQUIRED)
find_program(BPFTOOL bpftool REQUIRED HINTS /usr/sbin)
