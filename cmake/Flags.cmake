# snprintf is how strings are cut here on purpose: no -Wformat-truncation.
add_compile_options(-Wall -Wextra -Werror -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wformat-security
	-Wundef -Wvla $<$<C_COMPILER_ID:GNU>:-Wno-format-truncation> -fno-strict-aliasing -fstack-protector-strong)
add_compile_definitions(_GNU_SOURCE CS_VERSION="${PROJECT_VERSION}")

if(CS_SANITIZE)
	add_compile_options(-fsanitize=${CS_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
	add_link_options(-fsanitize=${CS_SANITIZE})
elseif(NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
	add_compile_options(-D_FORTIFY_SOURCE=2)
endif()
if(CS_FUZZ)
	add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64")
	add_compile_options(-fcf-protection)
endif()
add_link_options(-Wl,-z,relro,-z,now,-z,noexecstack)
set(CMAKE_EXE_LINKER_FLAGS "${CMAKE_EXE_LINKER_FLAGS} -pie")

# cs_room(<target> <dir>...): headers are found by quoted includes only, and only by those who link the target.
function(cs_room target)
	foreach(dir IN LISTS ARGN)
		target_compile_options(${target} PUBLIC "SHELL:-iquote ${dir}")
	endforeach()
endfunction()
