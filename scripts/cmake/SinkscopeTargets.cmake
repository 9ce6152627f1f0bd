# Flags shared by every target, and the two functions that folders use to declare theirs.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(sinkscope_flags INTERFACE)
target_compile_features(sinkscope_flags INTERFACE cxx_std_20)
target_include_directories(sinkscope_flags INTERFACE "${CMAKE_SOURCE_DIR}" "${CMAKE_BINARY_DIR}/generated")
target_compile_options(sinkscope_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${SINKSCOPE_WERROR}>>:-Werror>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${SINKSCOPE_NATIVE}>>:-march=native>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 sees overlaps in std::string concatenation where there are none (GCC bug 105651).
  target_compile_options(sinkscope_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(SINKSCOPE_SANITIZE)
  target_compile_options(sinkscope_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer>)
  target_link_options(sinkscope_flags INTERFACE -fsanitize=address,undefined)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Instrumented standard headers trip this warning; the optimised build keeps it (GCC manual, -fsanitize).
    target_compile_options(sinkscope_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
  endif()
endif()

# sinkscope_library(NAME SOURCES a.cpp ... [DEPENDS lib ...]): one folder, one static library.
# The dependencies a folder names are the only ones it may include.
function(sinkscope_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC sinkscope_flags ${ARG_DEPENDS})
endfunction()

# sinkscope_test(NAME SOURCES a.cpp ... DEPENDS lib ... [LABELS l ...]): one Catch2 program; every
# test case becomes a ctest.
function(sinkscope_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LABELS;DEFINITIONS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE sinkscope_flags sinkscope_catch ${ARG_DEPENDS})
  target_compile_definitions(${name} PRIVATE ${ARG_DEFINITIONS})
  catch_discover_tests(${name} TEST_PREFIX "${name}: "
    # Waiting threads sleep: tests that run side by side would spin each other's time away.
    PROPERTIES TIMEOUT 600 ENVIRONMENT "OMP_WAIT_POLICY=passive" LABELS "${ARG_LABELS}")
endfunction()
