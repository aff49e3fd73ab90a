# cs_bpf_skeleton(<target> <source.bpf.c>): an INTERFACE library whose users can include <source>.skel.h.
function(cs_bpf_skeleton target source)
	get_filename_component(name ${source} NAME_WE)
	set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.bpf.o)
	set(skeleton ${CMAKE_CURRENT_BINARY_DIR}/${name}.skel.h)
	file(GLOB headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.h ${CMAKE_SOURCE_DIR}/include/countersign/*.h)
	add_custom_command(OUTPUT ${object}
		COMMAND ${CLANG} -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror -I${CMAKE_SOURCE_DIR}/include
			-idirafter /usr/include/${CMAKE_C_LIBRARY_ARCHITECTURE} -idirafter /usr/include/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu
			-c ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object}
		DEPENDS ${source} ${headers} VERBATIM)
	add_custom_command(OUTPUT ${skeleton}
		COMMAND sh -c "${BPFTOOL} gen skeleton ${object} name ${name}_bpf > ${skeleton}"
		DEPENDS ${object} VERBATIM)
	add_custom_target(${target}-gen DEPENDS ${skeleton})
	add_library(${target} INTERFACE)
	add_dependencies(${target} ${target}-gen)
	target_include_directories(${target} SYSTEM INTERFACE ${CMAKE_CURRENT_BINARY_DIR})
	target_link_libraries(${target} INTERFACE PkgConfig::BPF)
endfunction()
